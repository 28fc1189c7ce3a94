"""Saved pipelines: whole or not at all, in their stored format, open in plain diffusers."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from obsdiff import PruningConfig, UserError, prune_, save_pruned
from obsdiff.errors import RunFailed
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from obsdiff.pipelines.record import read_record
from obsdiff.pipelines.save import cast_, whole_folder

from ..conftest import PROMPTS, sd, sd3

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "guidance_scale": 3.0}
DRAW = {"output_type": "latent", **QUICK}


@pytest.mark.slow
def test_a_saved_pipeline_loads_in_plain_diffusers_and_draws_the_same(tmp_path):
    pipe = sd()
    report = prune_(pipe, PROMPTS[:2], PruningConfig(packages=1, **QUICK))
    folder = save_pruned(pipe, tmp_path / "out", report)
    again = DiffusionPipeline.from_pretrained(folder)
    pictures = [
        p("fish", generator=torch.Generator().manual_seed(0), **DRAW).images for p in (pipe, again)
    ]
    assert torch.equal(*pictures)
    record = read_record(folder)
    assert record["config"]["method"] == "obs"
    assert len(record["layers"]) == 40
    assert "40 linear layers in `unet` are zero" in (folder / "README.md").read_text()


def test_nothing_but_safetensors_json_and_text_is_written(tmp_path):
    pipe = sd3()
    folder = save_pruned(
        pipe, tmp_path / "out", prune_(pipe, PROMPTS[:1], PruningConfig(packages=1, **QUICK))
    )
    assert {f.suffix for f in folder.rglob("*") if f.is_file()} <= {
        ".safetensors",
        ".json",
        ".md",
        ".txt",
    }


@pytest.mark.slow
def test_stored_half_precision_is_computed_in_float32_on_a_cpu_and_saved_as_stored(
    sd3_folder, tmp_path
):
    pipe, formats = load_pipeline(open_folder(Path(sd3_folder)), device="cpu")
    assert pipe.transformer.dtype == torch.float32
    assert set(formats.values()) == {"float16"}
    report = prune_(pipe, PROMPTS[:1], PruningConfig(packages=1, **QUICK))
    cast_(pipe, formats)
    folder = open_folder(save_pruned(pipe, tmp_path / "out", report))
    assert {t.dtype for t in folder.components.values()} == {"float16"}
    pipe, formats = load_pipeline(folder, dtype="bfloat16", device="cpu")
    assert pipe.transformer.dtype == torch.bfloat16
    assert set(formats.values()) == {"bfloat16"}


@pytest.mark.slow
def test_an_existing_folder_is_refused_or_replaced_whole(tmp_path):
    pipe = sd3()
    report = prune_(pipe, PROMPTS[:1], PruningConfig(packages=1, **QUICK))
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(UserError, match="exists already"):
        save_pruned(pipe, out, report)
    assert [f.name for f in out.iterdir()] == ["mine"]
    with pytest.raises(UserError, match="holds mine, which obsdiff did not write"):
        save_pruned(pipe, out, report, overwrite=True)
    assert [f.name for f in out.iterdir()] == ["mine"]
    (out / "mine").unlink()
    save_pruned(pipe, out, report, overwrite=True)
    (out / "vae").rename(out / "old")
    save_pruned(pipe, tmp_path / "again", report)
    (tmp_path / "again" / "README.md").write_text("the owner's card")
    save_pruned(pipe, tmp_path / "again", report, overwrite=True)
    assert (tmp_path / "again" / "README.md").read_text() != "the owner's card"
    with pytest.raises(UserError, match="holds old/"):
        save_pruned(pipe, out, report, overwrite=True)
    assert json.loads((out / "obsdiff.json").read_text())["schema"] == 1
    assert sorted(f.name for f in tmp_path.iterdir()) == ["again", "out"]


@pytest.mark.slow
def test_a_pipeline_does_not_replace_the_folder_it_came_from(tmp_path):
    pipe = sd3()
    report = prune_(pipe, PROMPTS[:1], PruningConfig(packages=1, **QUICK))
    out = save_pruned(pipe, tmp_path / "out", report)
    loaded, _ = load_pipeline(open_folder(out), device="cpu")
    with pytest.raises(UserError, match="overlap"):
        save_pruned(loaded, out, report, overwrite=True)
    assert save_pruned(loaded, tmp_path / "new", report) == tmp_path / "new"


def test_a_lora_added_after_pruning_is_refused(tmp_path):
    """diffusers would write the wrapped layers under names that it can't load."""
    peft = pytest.importorskip("peft")
    pipe = sd3()
    report = prune_(pipe, PROMPTS[:1], PruningConfig(packages=1, **QUICK))
    pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(UserError, match="fuse_lora"):
        save_pruned(pipe, tmp_path / "out", report)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_fails_half_way_leaves_nothing_behind(tmp_path):
    def fail() -> None:
        with whole_folder(tmp_path / "out", overwrite=False) as inside:
            (inside / "half").touch()
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_appears_meanwhile_is_kept(tmp_path):
    def race() -> None:
        with whole_folder(tmp_path / "out", overwrite=False):
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").touch()

    with pytest.raises(UserError, match="appeared meanwhile"):
        race()
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["theirs"]


def test_a_weight_that_its_format_does_not_hold_is_named(sd3_folder):
    pipe, formats = load_pipeline(open_folder(Path(sd3_folder)), device="cpu")
    pipe.transformer.transformer_blocks[1].attn.to_q.weight.data[0, 0] = 1e5
    with pytest.raises(
        RunFailed,
        match=r"transformer_blocks\.1\.attn\.to_q\.weight: it has inf or NaN in float16",
    ):
        cast_(pipe, formats)


def test_weights_in_another_memory_order_are_saved_and_stay_so(tmp_path):
    pipe = sd()
    pipe.unet.to(memory_format=torch.channels_last)
    report = prune_(pipe, PROMPTS[:1], PruningConfig(calibration="single", **QUICK))
    folder = save_pruned(pipe, tmp_path / "out", report)
    again = DiffusionPipeline.from_pretrained(folder)
    assert torch.equal(again.unet.conv_in.weight, pipe.unet.conv_in.weight)
    assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.slow
def test_every_file_has_the_modes_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        pipe = sd3()
        config = PruningConfig(method="magnitude", **QUICK)
        save_pruned(pipe, tmp_path / "out", prune_(pipe, PROMPTS[:1], config))
    finally:
        os.umask(before)
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert {oct(stat.S_IMODE(file.stat().st_mode)) for file in files} == {oct(0o666 & ~umask)}
    folders = [tmp_path / "out", *(p for p in (tmp_path / "out").rglob("*") if p.is_dir())]
    assert {oct(stat.S_IMODE(p.stat().st_mode)) for p in folders} == {oct(0o777 & ~umask)}


def test_all_files_are_on_the_disk_before_the_output_has_its_name(tmp_path, monkeypatch):
    output, before, after = tmp_path / "out", set(), []
    sync = os.fsync

    def noted(opened):
        sync(opened)
        if output.exists():
            after.append(os.fstat(opened).st_ino)
        else:
            before.add(os.fstat(opened).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    with whole_folder(output, overwrite=False) as inside:
        (inside / "deep").mkdir()
        (inside / "deep" / "weights").write_text("x")
    written = [output, output / "deep", output / "deep" / "weights"]
    assert {place.stat().st_ino for place in written} <= before
    assert after == [tmp_path.stat().st_ino]


@pytest.mark.parametrize(
    ("settings", "opens", "refuses"),
    [
        ({}, "diffusers, without obsdiff", None),
        ({"pattern": "structured", "target": "ffn"}, "ComfyUI, where its linear layers", "alone"),
        ({"pattern": "structured"}, "after `import obsdiff`", "Could not detect model type"),
    ],
)
def test_the_card_says_which_programs_open_the_folder(settings, opens, refuses, tmp_path):
    pipe = sd3()
    config = PruningConfig(method="random" if settings else "magnitude", **settings, **QUICK)
    card = save_pruned(pipe, tmp_path / "out", prune_(pipe, PROMPTS[:1], config)) / "README.md"
    lines = card.read_text().split("## Opens in")[1].split("## Figures")[0]
    assert opens in lines
    assert refuses is None or refuses in lines
    assert ("Not in" in lines) == bool(settings)


@pytest.mark.slow
def test_a_folder_of_an_older_version_is_marked_when_it_is_saved_again(tmp_path):
    pipe = sd3()
    structured = PruningConfig(method="random", pattern="structured", packages=1, **QUICK)
    prune_(pipe, PROMPTS[:1], structured)
    config = {k: v for k, v in pipe.transformer.config.items() if k != "head_marker"}
    older = type(pipe.transformer).from_config(config)  # without the marker
    older.load_state_dict(pipe.transformer.state_dict(), strict=False)
    pipe.transformer = older
    report = prune_(pipe, PROMPTS[:1], PruningConfig(method="magnitude", **QUICK))
    folder = save_pruned(pipe, tmp_path / "out", report)
    assert json.loads((folder / "transformer" / "config.json").read_text())["head_marker"] is True
    assert "Could not detect model type" in (folder / "README.md").read_text()
