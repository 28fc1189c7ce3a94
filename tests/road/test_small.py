"""Preset `small`: heads, neurons, folds, 8 bits in one run; recorded, saved, verified, opened."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from obsdiff import CalibrationWarning, PruningConfig, UserError, prune_, save_pruned
from obsdiff.cli.inspect_text import prediction_lines
from obsdiff.cli.prediction import predict
from obsdiff.errors import RunFailed
from obsdiff.evaluation.costs import record_of
from obsdiff.layerwise import modulation as folding
from obsdiff.models.folded import FoldedLinear, folded_ranks
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.low_bits import grid_of
from obsdiff.pipelines.record import sealed
from obsdiff.pipelines.removed import compressed, compressed_in_words
from obsdiff.pipelines.verify import verify_folder
from obsdiff.runtime.file_hashing import file_hash

from ..conftest import PROMPTS, sd, sd3

torchao = pytest.importorskip("torchao", reason="pip install 'obsdiff[torchao]'")
pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
SETTINGS = {
    "preset": "small", "num_prompts": 4, "num_inference_steps": 2, "height": 16, "width": 16,
    "batch_size": 2, "group_size": 32, "allocation_prompts": 1,
}  # fmt: skip
MARKER = "open_with_obsdiff"
FILE = "transformer/diffusion_pytorch_model.safetensors"
OPEN_DRAW_SAVE = """
import sys, torch, obsdiff
from diffusers import StableDiffusion3Pipeline
folder, latents, again = sys.argv[1:]
none = {"text_encoder_3": None, "tokenizer_3": None}
pipe = StableDiffusion3Pipeline.from_pretrained(folder, torch_dtype=torch.float32, **none)
size = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent"}
found = pipe("red apple", generator=torch.Generator().manual_seed(0), **size).images
torch.save(found.float(), latents)
pipe.save_pretrained(again)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny SD3, pruned, folded and rounded; the bound of folds is loose for random weights."""
    pipe, folder = sd3(), tmp_path_factory.mktemp("small") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "MOST_ERROR", 10.0)
        report = prune_(pipe, PROMPTS, PruningConfig(**SETTINGS, modulation="60%"))
    save_pruned(pipe, folder, report)
    return pipe, report, folder


def latents(pipe) -> torch.Tensor:
    """The final latents of one picture."""
    size = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent"}
    return pipe(PROMPTS[0], generator=torch.Generator().manual_seed(0), **size).images.float()


def test_one_run_prunes_folds_and_rounds_every_linear_layer(made):
    pipe, report, _ = made
    model = pipe.transformer
    assert report.gone().endswith("are gone")
    assert len(report.modulation["layers"]) == len(folded_ranks(model)) == 6
    assert report.modulation["kept"] == []
    rounded = {row.name for row in (*report.layers, *report.rounded_too) if row.bits}
    factors = {f"{n}.{part}" for n in folded_ranks(model) for part in ("down", "up")}
    plain = {name: m for name, m in model.named_modules() if type(m) is torch.nn.Linear}
    divided = {name for name, m in plain.items() if m.in_features % 32 == 0}
    assert rounded == divided
    assert rounded & factors
    assert {"proj_out", "context_embedder"} <= {row.name for row in report.rounded_too}
    for row in report.rounded_too:
        assert (grid_of(plain[row.name]) is not None) == bool(row.bits)
        assert row.error < 1e-4
        assert row.shape == tuple(plain[row.name].weight.shape)
    words = compressed_in_words(compressed(report.to_dict()))
    assert words == f"{len(rounded)} layers in 8 bits, 6 modulation layers folded"
    assert f"{len(rounded)} layers are rounded to 8 bits; 6 modulation layers" in repr(report)


@pytest.mark.slow
def test_it_is_verified_and_opens_draws_and_saves_again_in_another_process(made, tmp_path):
    pipe, report, folder = made
    beside = sum(row.bits is not None for row in report.rounded_too)
    assert verify_folder(folder).layers == len(report.layers) + beside + 6
    places = [str(tmp_path / name) for name in ("latents.pt", "again")]
    argv = [sys.executable, "-c", OPEN_DRAW_SAVE, str(folder), *places]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(places[0]), latents(pipe), atol=1e-5, rtol=1e-5)
    again = load_file(tmp_path / "again" / FILE)
    assert all(torch.equal(again[k], v) for k, v in load_file(folder / FILE).items())
    card = (folder / "README.md").read_text()
    for text in ("by nearest rounding", "are two linear layers each", "pip install torchao"):
        assert text in card


@pytest.mark.slow
def test_a_resumed_run_gives_the_same_model(monkeypatch, tmp_path):
    monkeypatch.setattr(folding, "MOST_ERROR", 10.0)
    pipes, reports = (sd3(), sd3()), []
    for pipe in pipes:
        config = PruningConfig(**SETTINGS, modulation="60%")
        reports.append(prune_(pipe, PROMPTS, config, journal=tmp_path / "journal"))
    assert reports[0].rounded_too == reports[1].rounded_too
    wanted, found = (pipe.transformer.state_dict() for pipe in pipes)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_factors_are_stored_as_codes_with_scales_of_half_precision(made):
    _, report, folder = made
    tensors = load_file(folder / FILE)
    for row in report.modulation["layers"]:
        codes = tensors[f"{row['name']}.down._weight_qdata"]
        scale = tensors[f"{row['name']}.down._weight_scale"]
        assert codes.dtype == torch.int8
        assert codes.shape == (row["rank"], row["shape"][1])
        assert scale.dtype == torch.bfloat16
        assert scale.shape == (codes.shape[0], codes.shape[1] // 32)


@pytest.mark.parametrize("part", ["proj_out", "norm1.linear.down"])
def test_a_layer_that_was_rounded_beside_is_verified_too(made, part, tmp_path):
    _, report, folder = made
    shutil.copytree(folder, tmp_path / "out")
    name = next(row.name for row in report.rounded_too if row.bits and row.name.endswith(part))
    file, record = tmp_path / "out" / FILE, tmp_path / "out" / "obsdiff.json"
    tensors = load_file(file)
    tensors[f"{name}._weight_qdata"] = tensors[f"{name}._weight_qdata"][:-1].contiguous()
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file(tensors, file, metadata)
    changed = json.loads(record.read_text())
    changed["hashes"]["files"][FILE] = file_hash(file)
    record.write_text(json.dumps(sealed(changed)))
    with pytest.raises(RunFailed, match=f"{name} is "):
        verify_folder(tmp_path / "out")


@pytest.mark.slow
def test_where_pooled_text_enters_it_says_so_and_goes_on(tmp_path):
    pipe = sd3()
    stays = r"modulation: all 6 layers stay as they are: .*norm.* on held-out inputs, expected"
    with pytest.warns(CalibrationWarning, match=stays):
        report = prune_(pipe, PROMPTS, PruningConfig(**SETTINGS))
    assert report.modulation["layers"] == []
    assert len(report.modulation["kept"]) == 6
    assert "depend on the prompt" in report.modulation["why_kept"]
    assert not any(isinstance(m, FoldedLinear) for m in pipe.transformer.modules())
    kept = {row["name"] for row in report.modulation["kept"]}
    assert kept <= {row.name for row in report.rounded_too if row.bits}
    assert report.groups
    assert "no modulation layer is folded" in repr(report)
    save_pruned(pipe, tmp_path / "out", report)
    verify_folder(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| modulation kept as it was | transformer_blocks." in card


@pytest.mark.slow
def test_too_few_prompts_for_a_fold_are_no_reason_to_stop():
    settings = SETTINGS | {"num_prompts": 2}
    with pytest.warns(CalibrationWarning, match="nothing is folded: expected at least 4 prompts"):
        report = prune_(sd3(), PROMPTS[:2], PruningConfig(**settings))
    assert report.modulation["layers"] == []


@pytest.mark.slow
def test_a_unet_has_nothing_to_fold_and_is_pruned_and_rounded(tmp_path):
    pipe = sd()
    why = "nothing is folded: UNet2DConditionModel has no modulation layers in its blocks"
    with pytest.warns(CalibrationWarning, match=why):
        report = prune_(pipe, PROMPTS, PruningConfig(**SETTINGS))
    assert "time_embedding.linear_2" in {row.name for row in report.rounded_too}
    save_pruned(pipe, tmp_path / "out", report)
    verify_folder(tmp_path / "out")
    opened = type(pipe).from_pretrained(tmp_path / "out", torch_dtype=torch.float32)
    torch.testing.assert_close(latents(opened), latents(pipe), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_excluded_layers_are_neither_folded_nor_rounded():
    pipe = sd3()
    names = ("*norm*", "proj_out", "*.to_q")
    with pytest.warns(CalibrationWarning, match="include and exclude leave no modulation layer"):
        report = prune_(pipe, PROMPTS, PruningConfig(**SETTINGS, exclude=names))
    rounded = {row.name for row in (*report.layers, *report.rounded_too) if row.bits}
    assert not [n for n in rounded if "norm" in n or n == "proj_out" or n.endswith(".to_q")]
    assert {"context_embedder", "transformer_blocks.0.attn.to_k"} <= rounded


@pytest.mark.slow
@pytest.mark.parametrize("bound", [10.0, 0.0])
def test_a_run_leaves_the_parameters_and_bytes_that_were_predicted(bound, monkeypatch, tmp_path):
    monkeypatch.setattr(folding, "MOST_ERROR", bound)
    monkeypatch.setattr(folding, "ENOUGH", 0.0)  # the largest ranks
    pipe = sd3()
    model = dict(pipe.transformer.config) | {"_class_name": "SD3Transformer2DModel"}
    config = PruningConfig(**SETTINGS, allocation="uniform")
    found = predict(model, config, (8, 8), 24, "float32")
    report = prune_(pipe, PROMPTS, config)
    after = found["pruned" if bound else "unfolded"]
    assert after["parameters"] == report.parameters["after"] < found["dense"]["parameters"]
    save_pruned(pipe, tmp_path / "out", report)
    tensors = load_file(tmp_path / "out" / FILE)
    stored = sum(t.numel() * t.element_size() for name, t in tensors.items() if MARKER not in name)
    assert stored == after["bytes"]
    text = "\n".join(prediction_lines(found))
    assert f"-> {found['pruned']['bytes'] / 1e6:.1f} MB on disk" in text
    assert "if no modulation layer can be folded" in text
    words = compressed_in_words(compressed(record_of(open_folder(tmp_path / "out"))))
    assert ("folded" in words) == bool(bound)


def test_the_settings_of_the_preset():
    config = PruningConfig(preset="small")
    assert (config.pattern, config.sparsity, config.bits) == ("structured", 0.2, 8)
    assert (config.modulation, config.unfoldable, config.round_layers) == ("auto", "keep", "all")
    assert (config.allocation, config.calibrating, config.round_to) == ("sensitivity", "single", 64)
    assert PruningConfig(preset="small", group_size=128).round_to == 128
    assert PruningConfig(preset="small", sparsity=0).allocation == "uniform"
    assert PruningConfig(preset="small", target_parameters=0.7).sparsity is None
    assert PruningConfig(**asdict(config)) == config


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"unfoldable": "keep"}, "unfoldable: without modulation nothing is folded"),
        ({"round_layers": "all"}, "round_layers: without bits nothing is rounded"),
        ({"unfoldable": "leave", "modulation": 0.1}, "unfoldable: expected one of refuse, keep"),
        ({"target": "modulation", "unfoldable": "keep"}, "unfoldable: target modulation prunes no"),
        ({"preset": "small", "pattern": "2:4"}, "preset small: expected pattern structured"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, expected):
    with pytest.raises(UserError, match=expected):
        PruningConfig(**settings)
