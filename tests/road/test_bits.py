"""`bits`: rounded, recorded, resumed, saved as torchao's tensors, verified, opened, saved again."""

import json
import re
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from obsdiff import PruningConfig, UserError, prune_, save_pruned
from obsdiff.cli.main import main
from obsdiff.errors import RunFailed
from obsdiff.pipelines.low_bits import grid_of
from obsdiff.pipelines.record import sealed
from obsdiff.pipelines.verify import verify_folder
from obsdiff.runtime.file_hashing import file_hash

from ..conftest import PROMPTS, sd, sd3

torchao = pytest.importorskip("torchao", reason="pip install 'obsdiff[torchao]'")
SETTINGS = {
    "num_prompts": 2, "num_inference_steps": 2, "height": 16, "width": 16, "batch_size": 2,
    "group_size": 32,
}  # fmt: skip
STRUCTURED = {"pattern": "structured", "sparsity": 0.5, "bits": 4, "target": "ffn"}
FILE = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A structured, rounded pipeline, its report, its folder, and the journal of its run."""
    pipe, folder = sd3(), tmp_path_factory.mktemp("bits")
    config = PruningConfig(**SETTINGS | STRUCTURED)
    report = prune_(pipe, PROMPTS, config, journal=folder / "journal")
    save_pruned(pipe, folder / "out", report)
    return pipe, report, folder


def test_a_weight_that_changed_after_rounding_is_not_stored_as_codes(tmp_path):
    pipe = sd3()
    report = prune_(pipe, PROMPTS, PruningConfig(**SETTINGS, sparsity=0, bits=8))
    for dtype in (torch.bfloat16, torch.float32):  # formats alone change no code
        pipe.transformer.to(dtype)
        save_pruned(pipe, tmp_path / str(dtype), report)
    name = report.layers[-1].name
    layer = pipe.transformer.get_submodule(name)
    layer.weight.data[0, 0] += 0.4 * grid_of(layer).scale[0, 0]
    with pytest.raises(UserError, match=re.escape(name) + ".* as after a fused LoRA"):
        save_pruned(pipe, tmp_path / "out", report)
    assert not (tmp_path / "out").exists()


def test_a_rounded_model_is_not_pruned_again(made):
    pipe, _, _ = made
    before = pipe.transformer.state_dict()
    with pytest.raises(UserError, match="expected weights that are not rounded, found 4 bits"):
        prune_(pipe, PROMPTS, PruningConfig(**SETTINGS, sparsity=0.5, bits=8))
    after = pipe.transformer.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def latents(pipe):
    """The final latents of one picture, float32."""
    generator = torch.Generator().manual_seed(0)
    size = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent"}
    return pipe(PROMPTS[0], generator=generator, **size).images.float()


def test_structured_pruning_rounds_consumers_producers_and_the_other_blocks(made):
    pipe, report, _ = made
    rows = {row.name: row for row in report.layers}
    pruned = [row for row in report.layers if not row.only_rounded]
    assert {row.name for row in pruned} == {"transformer_blocks.1.ff.net.2",
                                            "transformer_blocks.1.ff_context.net.2"}  # fmt: skip
    assert {"transformer_blocks.0.ff.net.2", "transformer_blocks.1.ff.net.0.proj"} <= rows.keys()
    assert report.sparsity == 0.5
    assert report.config["round_to"] == 32
    for row in report.layers:
        layer = pipe.transformer.get_submodule(row.name)
        grid = grid_of(layer)
        assert row.bits == grid.bits == 4
        assert torch.equal(grid.values(grid.codes(layer.weight), layer.weight), layer.weight)
        assert row.unrounded_error <= row.error
    assert "layers are rounded to 4 bits" in repr(report)


def test_a_resumed_run_gives_the_same_model(made):
    pipe, report, folder = made
    again = sd3()
    config = PruningConfig(**SETTINGS | STRUCTURED)
    resumed = prune_(again, PROMPTS, config, journal=folder / "journal")
    same = [replace(row, seconds=0) for row in report.layers]
    assert [replace(row, seconds=0) for row in resumed.layers] == same
    wanted, found = pipe.transformer.state_dict(), again.transformer.state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    for row in report.layers:
        grids = [grid_of(each.transformer.get_submodule(row.name)) for each in (pipe, again)]
        assert torch.equal(grids[0].scale, grids[1].scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_folder_is_verified_opens_draws_and_saves_again(made, dtype, tmp_path):
    pipe, report, folder = made
    assert verify_folder(folder / "out").layers == len(report.layers)
    none = {"text_encoder_3": None, "tokenizer_3": None}
    opened = type(pipe).from_pretrained(folder / "out", torch_dtype=dtype, **none)
    stored = opened.transformer.get_submodule(report.layers[0].name).weight
    assert type(stored).__name__ == "IntxUnpackedToInt8Tensor"
    mine = latents(pipe)
    assert (latents(opened) - mine).square().mean() < 0.01 * mine.var()
    if dtype == torch.float32:
        assert torch.equal(latents(opened), mine)
        opened.save_pretrained(tmp_path / "again")
        again = load_file(tmp_path / "again" / FILE)
        assert all(torch.equal(again[k], v) for k, v in load_file(folder / "out" / FILE).items())
        with pytest.raises(UserError, match="expected plain floating-point weights"):
            prune_(opened, PROMPTS, PruningConfig(**SETTINGS | STRUCTURED))
    card = (folder / "out" / "README.md").read_text()
    assert "\npip install obsdiff torchao\n" in card
    assert "after `import obsdiff`" in card


@pytest.mark.parametrize(
    "line", ["export OUT --to padded", "export OUT --to with-code", "pack OUT", "prune OUT"]
)
def test_other_commands_name_the_remedy(made, line, tmp_path, capsys):
    words = line.replace("OUT", str(made[2] / "out")).split()
    assert main([*words, "--output", str(tmp_path / "new")]) == 2
    assert re.search("error: .*expected (weights that are not rounded|unquantised weights)",
                     capsys.readouterr().err)  # fmt: skip
    assert not (tmp_path / "new").exists()


def test_what_is_not_on_the_grid_is_found(made, tmp_path):
    _, report, folder = made
    shutil.copytree(folder / "out", tmp_path / "out")
    file, name = tmp_path / "out" / FILE, report.layers[0].name
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        metadata = {key: text for key, text in opened.metadata().items() if name not in key}
    tensors[f"{name}._weight_qdata"][0, 0] = 9
    tensors[f"{name}._weight_scale"][0, 0] = 0
    save_file(tensors, file, metadata)
    record = json.loads((tmp_path / "out" / "obsdiff.json").read_text())
    record["hashes"]["files"][FILE] = file_hash(file)
    (tmp_path / "out" / "obsdiff.json").write_text(json.dumps(sealed(record)))
    with pytest.raises(RunFailed) as error:
        verify_folder(tmp_path / "out")
    for text in ("codes -8 to 9, expected -8 to 7", "none of them 0", "by the file's metadata"):
        assert text in str(error.value)


@pytest.mark.slow
def test_zeros_corrections_and_their_pattern_remain(tmp_path):
    config = PruningConfig(**SETTINGS | {"pattern": "2:4", "low_rank": 0.3, "bits": 8}, blocks="1")
    pipe = sd3()
    report = prune_(pipe, PROMPTS, config)
    save_pruned(pipe, tmp_path / "out", report)
    assert verify_folder(tmp_path / "out").layers == len(report.layers)
    none = {"text_encoder_3": None, "tokenizer_3": None}
    opened = type(pipe).from_pretrained(tmp_path / "out", torch_dtype=torch.float32, **none)
    for row in report.layers:
        layer = opened.transformer.get_submodule(row.name)
        assert row.rank == len(layer.low_rank_down)
        kept = layer.weight.dequantize().unflatten(1, (-1, 4)) != 0
        assert int(kept.sum(2).max()) <= 2
        assert row.error < 1.1 * row.unrounded_error
    torch.testing.assert_close(latents(opened), latents(pipe), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_rounding_alone_of_a_unet_leaves_what_its_groups_do_not_divide(tmp_path):
    settings = SETTINGS | {"sparsity": 0, "bits": 4, "blocks": "0-1"}
    rows = {}
    for rounding in ("nearest", "gptq"):
        pipe = sd()
        with pytest.warns(match="are not rounded, since group_size 32 does not divide"):
            report = prune_(pipe, PROMPTS, PruningConfig(**settings, rounding=rounding))
        rows[rounding] = [row for row in report.layers if row.bits]
    assert 0 < len(rows["gptq"]) < len(report.layers)
    for gptq, nearest in zip(rows["gptq"], rows["nearest"], strict=True):
        assert gptq.unrounded_error == nearest.unrounded_error == 0
        assert gptq.error < nearest.error
    save_pruned(pipe, tmp_path / "out", report)
    assert verify_folder(tmp_path / "out").layers == len(report.layers)
    assert type(pipe.unet).__name__ == "UNet2DConditionModel"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "diffusers, without obsdiff" in card
    assert asdict(report.layers[0]).keys() >= {"bits", "group_size", "unrounded_error"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bits": 3}, "bits: expected 8 or 4, found 3"),
        ({"bits": 4, "group_size": 48}, "group_size: expected 32, 64, 128 or 256, found 48"),
        ({"group_size": 128}, "group_size: without bits nothing is rounded"),
        ({"rounding": "nearest"}, "rounding: without bits nothing is rounded"),
        ({"bits": 8, "target": "conv"}, "expected linear layers, found target conv"),
        ({"bits": 8, "pattern": "depth"}, "bits: pattern depth removes whole blocks"),
        ({"bits": 8, "target": "modulation"}, "bits: target modulation prunes no other layer"),
        ({"bits": 8, "compensation": False}, "choose rounding nearest"),
        ({"bits": 8, "pattern": "structured", "packages": 2}, "so calibration single; found live"),
        ({"bits": 8, "store": "bitmask"}, "store bitmask: expected weights that are not rounded"),
        ({"bits": 8, "sparsity": 0, "preset": "best"}, "nothing to spread at sparsity 0"),
        (
            {"bits": 8, "pattern": "structured", "target_bytes": 0.5},
            "with bits choose target_parameters",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, expected):
    with pytest.raises(UserError, match=expected):
        PruningConfig(**settings)


def test_widths_are_whole_groups():
    structured = {"pattern": "structured", "bits": 4}
    assert PruningConfig(**structured).round_to == 64
    assert PruningConfig(**structured, group_size=128).round_to == 128
    assert PruningConfig(**structured, round_to=8).round_to == 8
    assert PruningConfig(preset="portable", bits=4).round_to == 256
    assert PruningConfig(pattern="structured").round_to == 8
