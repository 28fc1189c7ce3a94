"""`modulation`: folded, measured, refused, recorded, saved, verified, opened, exported."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from obsdiff import CalibrationWarning, PruningConfig, UserError, prune_, save_pruned
from obsdiff.calibration import modulation
from obsdiff.cli.export import require_pruned_shapes
from obsdiff.errors import RunFailed
from obsdiff.evaluation.metrics import relative_latent_error
from obsdiff.export.padded import export_padded
from obsdiff.export.shapes import require_plain_layers
from obsdiff.layerwise import modulation as folding
from obsdiff.models.folded import folded_ranks
from obsdiff.models.modulation_table import modulation_layers
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.record import sealed
from obsdiff.pipelines.verify import verify_folder
from obsdiff.runtime.file_hashing import file_hash

from ..conftest import PROMPTS, flux, sd, sd3
from ..coverage_of_models import build
from ..support.direct import DirectPipeline

FILE = "transformer/diffusion_pytorch_model.safetensors"
SETTINGS = {
    "num_prompts": 4, "num_inference_steps": 2, "height": 16, "width": 16, "batch_size": 2,
    "target": "modulation",
}  # fmt: skip
# models whose modulation reads the time step alone, with a range in which random weights are smooth
BY_TIME = {
    "AuraFlowTransformer2DModel": 0.004,
    "CogView4Transformer2DModel": 32,
    "HunyuanVideo15Transformer3DModel": 4.0,
    "QwenImageTransformer2DModel": 0.004,
}


@pytest.fixture(autouse=True)
def few_times(monkeypatch):
    """Fewer times of the range."""
    monkeypatch.setattr(modulation, "TIMES", 16)


def direct(cls: str, top: float) -> DirectPipeline:
    """A tiny denoiser whose calls go from the time step `top` to half of it."""
    model, make = build(cls)
    given, at = make(), iter([top, top / 2] * 99)

    def arguments():
        return given | {"timestep": torch.full_like(given["timestep"], next(at))}

    return DirectPipeline(model, arguments)


@pytest.mark.parametrize("cls", BY_TIME)
@pytest.mark.slow
def test_where_the_time_step_alone_enters_a_fold_is_nearly_exact_at_other_steps(cls, monkeypatch):
    monkeypatch.setattr(folding, "MOST_ERROR", 0.01)  # of few times, and random weights
    top = BY_TIME[cls]
    pipe, dense = direct(cls, top), direct(cls, top)
    config = {"target": "modulation", "modulation": 0.6, "num_prompts": 2}
    report = prune_(pipe, [{}, {}], PruningConfig(**config))
    found = report.modulation
    assert not found["reads_prompt"]
    assert found["prompts"] == 2
    layers = modulation_layers(cls, dict(dense.transformer.named_modules()))
    ranks = {row["name"]: row["rank"] for row in found["layers"]}
    assert ranks == folded_ranks(pipe.transformer)
    assert set(ranks) == set(layers)
    for row in found["layers"]:
        outputs, inputs = row["shape"]
        assert row["rank"] <= max(1, 0.6 * outputs * inputs / (outputs + inputs))
        assert row["error"] < 1e-4
        assert row["held_out_error"] < 0.01
        assert row["inputs"] > 2
    assert report.parameters["after"] < report.parameters["before"]
    assert "modulation layers are folded" in repr(report)
    given = dense.arguments() | {
        "timestep": torch.full_like(dense.arguments()["timestep"], 0.7 * top)
    }
    torch.manual_seed(0)
    with torch.no_grad():
        wanted, drawn = (p.transformer(**given, return_dict=False)[0] for p in (dense, pipe))
    wanted, drawn = (x[0] if isinstance(x, list) else x for x in (wanted, drawn))
    assert relative_latent_error(drawn, wanted)["value"] < 1e-2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny SD3 of which N:M zeros and folds are saved; the bound is loose for random weights."""
    pipe, folder = sd3(), tmp_path_factory.mktemp("modulation") / "out"
    config = PruningConfig(**SETTINGS | {"target": "ffn", "pattern": "2:4", "modulation": "60%"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "MOST_ERROR", 10.0)
        report = prune_(pipe, PROMPTS, config)
    save_pruned(pipe, folder, report)
    return pipe, report, folder


def test_a_fold_goes_together_with_other_pruning_and_is_verified(made):
    pipe, report, folder = made
    found = report.modulation
    assert found["reads_prompt"]
    assert found["prompts"] == 4
    assert len(found["layers"]) == 6
    assert {row.name.split(".")[2] for row in report.layers} <= {"ff", "ff_context"}
    assert verify_folder(folder).layers == len(report.layers) + len(found["layers"])
    opened = type(pipe).from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    wanted = pipe.transformer.state_dict()
    assert all(torch.equal(opened.transformer.state_dict()[key], wanted[key]) for key in wanted)
    card = (folder / "README.md").read_text()
    assert "import obsdiff" in card
    assert "modulation layers of `transformer` are two linear layers each" in card
    assert "Not in ComfyUI" in card
    assert "held-out time steps and prompts" in card
    with pytest.raises(UserError, match="no plain modulation layer left"):
        prune_(opened, PROMPTS, PruningConfig(**SETTINGS))


def test_a_missing_or_changed_factor_is_found(made, tmp_path):
    _, report, folder = made
    shutil.copytree(folder, tmp_path / "out")
    file = tmp_path / "out" / FILE
    tensors = load_file(file)
    names = [row["name"] for row in report.modulation["layers"]]
    tensors.pop(f"{names[0]}.down.weight")
    tensors[f"{names[1]}.up.weight"] = tensors[f"{names[1]}.up.weight"][:, 1:].contiguous()
    save_file(tensors, file)
    record = json.loads((tmp_path / "out" / "obsdiff.json").read_text())
    record["hashes"]["files"][FILE] = file_hash(file)
    (tmp_path / "out" / "obsdiff.json").write_text(json.dumps(sealed(record)))
    with pytest.raises(RunFailed, match=r"down.weight is missing.*up.weight is \("):
        verify_folder(tmp_path / "out")


def test_exports_refuse_it_by_name_or_make_one_layer_again(made, tmp_path):
    pipe, _, folder = made
    opened = open_folder(folder)
    with pytest.raises(UserError, match="6 modulation layers folded into two each"):
        require_plain_layers(opened, "transformer")
    require_pruned_shapes(opened)
    assert export_padded(opened, tmp_path / "padded") == ["transformer"]
    found = load_file(tmp_path / "padded" / FILE)
    assert found.keys() == sd3().transformer.state_dict().keys()
    name = next(iter(folded_ranks(pipe.transformer)))
    layer = pipe.transformer.get_submodule(name)
    torch.testing.assert_close(found[f"{name}.weight"], layer.up.weight @ layer.down.weight)


@pytest.mark.parametrize("make", [sd3, flux])
def test_where_pooled_text_enters_it_is_refused_with_layer_rank_and_error(make):
    pipe = make()
    before = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    expected = (
        r"norm\S* folded to rank \d+ has a relative error of \S+ on held-out inputs, expected"
    )
    with pytest.raises(UserError, match=expected) as caught:
        prune_(pipe, PROMPTS, PruningConfig(**SETTINGS))
    assert "depend on the prompt" in str(caught.value)
    assert "\n" not in str(caught.value)
    after = pipe.transformer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_what_does_not_vary_is_stated(monkeypatch):
    monkeypatch.setattr(folding, "MOST_ERROR", 10.0)
    with pytest.warns(CalibrationWarning, match="modulation reads guidance, too"):
        report = prune_(flux(), PROMPTS, PruningConfig(**SETTINGS))
    assert report.modulation["fixed"] == ["guidance"]
    assert not report.layers


def test_the_range_begins_above_a_schedule_that_leaves_its_top_out():
    scheduler = SimpleNamespace(
        timesteps=torch.tensor([801.0, 401.0]), config=SimpleNamespace(num_train_timesteps=1000)
    )
    run = SimpleNamespace(scheduler="scheduler", pipe=SimpleNamespace(scheduler=scheduler))
    reader = modulation.Reader(SimpleNamespace(run=run), [], top=0.801)
    assert reader.span() == pytest.approx(1.0)
    assert not set(modulation.ends()) & set(modulation.middles())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"modulation": 0}, "modulation: expected between 0 and 1, as 0.1 or 10%, or auto, fo"),
        ({"modulation": 32}, "found 32"),
        ({"modulation": "some"}, "or auto, found 'some'"),
        ({"modulation": 0.1, "pattern": "depth"}, "pattern depth removes whole blocks"),
        ({"target": "modulation", "sparsity": 0.3}, "sparsity: target modulation prunes no other"),
        ({"target": "modulation", "preset": "best"}, "preset: target modulation prunes no other"),
        ({"target": "modulation", "pattern": "2:4"}, "pattern: target modulation prunes no other"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, expected):
    with pytest.raises(UserError, match=expected):
        PruningConfig(**settings)


@pytest.mark.parametrize(
    ("names", "left"),
    [
        ({"exclude": "*norm1_context*"}, 3),
        ({"include": "transformer_blocks.1.norm1.linear"}, 1),
        ({"include": "*.0.*", "exclude": "*context*"}, 1),
    ],
)
def test_wildcards_choose_the_layers_to_fold(names, left, monkeypatch):
    monkeypatch.setattr(folding, "MOST_ERROR", 10.0)
    pipe = sd3()
    report = prune_(pipe, PROMPTS, PruningConfig(**SETTINGS, **names))
    assert len(folded_ranks(pipe.transformer)) == len(report.modulation["layers"]) == left


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"include": "*.ff.*"}, r"no modulation layer matches '\*.ff.\*'; names look like transf"),
        ({"exclude": "*"}, r"include \[\] and exclude \['\*'\] leave none of 6 layers"),
        (
            {"target": "ffn", "modulation": 0.1, "include": "*.ff.*"},
            "leave none of 6 layers; name some, such as transformer_blocks.0.norm1.linear",
        ),
        ({"target": "ffn", "modulation": 0.1, "exclude": "proj_out"}, "no prunable layer matches"),
    ],
)
def test_wildcards_that_leave_nothing_to_fold_are_refused(settings, expected):
    with pytest.raises(UserError, match=expected):
        prune_(sd3(), PROMPTS, PruningConfig(**SETTINGS | settings))


def test_a_model_without_such_layers_and_too_few_prompts_are_refused():
    assert PruningConfig(target="modulation").modulation == "auto"
    with pytest.raises(
        UserError, match="found UNet2DConditionModel: its blocks have no modulation"
    ):
        prune_(sd(), PROMPTS, PruningConfig(**SETTINGS))
    with pytest.raises(UserError, match="expected at least 4 prompts, since the layers"):
        prune_(sd3(), PROMPTS[:2], PruningConfig(**SETTINGS | {"num_prompts": 2}))
    with pytest.raises(UserError, match="expected at least 2 prompts"):
        prune_(sd3(), PROMPTS[:1], PruningConfig(**SETTINGS | {"num_prompts": 1}))
