"""Shards and variants: the chosen files, and the names of missing ones."""

import json
from pathlib import Path

import pytest
import torch

from obsdiff import UserError
from obsdiff.cli.main import main
from obsdiff.pipelines.folder import open_folder
from obsdiff.pipelines.load import load_pipeline
from tests.cli.test_main import refused

from ..conftest import sd3

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = [
    "--num-prompts",
    "1",
    "--num-inference-steps",
    "1",
    "--guidance-scale",
    "1",
    "--packages",
    "1",
]


@pytest.fixture(params=[None, "fp16"], ids=["plain", "fp16"])
def sharded(request, tmp_path) -> tuple[Path, str | None]:
    """The tiny pipeline in shards of every component, half precision, plain or as a variant."""
    sd3().to(torch.float16).save_pretrained(
        tmp_path / "sharded", safe_serialization=True, max_shard_size="16KB", variant=request.param
    )
    assert len(list((tmp_path / "sharded" / "transformer").glob("*.safetensors"))) > 2
    assert len(list((tmp_path / "sharded" / "text_encoder").glob("*.safetensors"))) > 1
    return tmp_path / "sharded", request.param


def test_shards_and_variants_are_read_whole(sharded):
    folder, variant = sharded
    found = open_folder(folder).components
    assert {tensors.variant for tensors in found.values()} == {variant}
    assert set(found["transformer"].shapes) == set(sd3().transformer.state_dict())
    pipe, formats = load_pipeline(open_folder(folder), device="cpu")
    assert set(formats.values()) == {"float16"}
    expected = sd3().to(torch.float16)
    for name in ("transformer", "text_encoder", "vae"):
        weights = getattr(pipe, name).half().state_dict()
        assert all(
            torch.equal(weights[key], w) for key, w in getattr(expected, name).state_dict().items()
        )


@pytest.mark.slow
def test_prune_shards_and_variants(sharded, prompts_file, tmp_path, capsys):
    folder, variant = sharded
    assert (
        main(
            [
                "prune",
                str(folder),
                "--output",
                str(tmp_path / "out"),
                "--prompts",
                prompts_file,
                *QUICK,
            ]
        )
        == 0
    )
    assert ("uses the fp16 files" in capsys.readouterr().err) == (variant is not None)
    assert {tensors.dtype for tensors in open_folder(tmp_path / "out").components.values()} == {
        "float16"
    }


@pytest.mark.parametrize("component", ["transformer", "text_encoder"])
def test_a_missing_shard_is_named(sharded, component, capsys, tmp_path):
    folder, _ = sharded
    shard = sorted((folder / component).glob("*.safetensors"))[1]
    shard.unlink()
    refused(
        capsys, ["prune", str(folder), "--output", str(tmp_path / "out")], shard.name, "is missing"
    )


def test_a_last_shard_and_an_index_that_are_missing(sharded):
    folder, _ = sharded
    (index,) = (folder / "transformer").glob("*.index*.json")
    last = sorted((folder / "transformer").glob("*.safetensors"))[-1]
    data = last.read_bytes()
    last.unlink()
    with pytest.raises(UserError, match="is missing: expected"):
        open_folder(folder)
    last.write_bytes(data)
    content = json.loads(index.read_text())
    index.write_text(
        json.dumps(content | {"weight_map": content["weight_map"] | {"promised.weight": last.name}})
    )
    with pytest.raises(UserError, match=r"lacks promised\.weight"):
        open_folder(folder)
    index.write_text(
        json.dumps(
            content
            | {"weight_map": content["weight_map"] | {"promised.weight": "elsewhere.safetensors"}}
        )
    )
    with pytest.raises(UserError, match=r"shard elsewhere\.safetensors is missing"):
        open_folder(folder)
    index.unlink()
    with pytest.raises(UserError, match="no index"):
        open_folder(folder)


def test_plain_files_come_before_variants_and_a_note_names_both(sd3_folder, tmp_path, capsys):
    sd3().save_pretrained(tmp_path / "both", safe_serialization=True)
    sd3().to(torch.float16).save_pretrained(
        tmp_path / "both", safe_serialization=True, variant="fp16"
    )
    found = open_folder(tmp_path / "both").components["transformer"]
    assert (found.variant, found.variants, found.dtype) == (None, ("fp16",), "float32")
    assert main(["inspect", str(tmp_path / "both")]) == 0
    assert (
        "uses the plain files of text_encoder, text_encoder_2, transformer, vae; "
        "there are fp16 files, too" in capsys.readouterr().out.replace("\n", " ")
    )
