"""LoRAs for folders from which blocks were removed: numbered anew, or refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from obsdiff import UserError
from obsdiff.cli.main import main
from obsdiff.export.lora_blocks import kept_blocks, renumbered
from obsdiff.models.depth import remove_blocks_, stacks_of
from obsdiff.models.lora import cut_lora
from obsdiff.pipelines.record import RECORD

from ..conftest import sd, sd3
from ..support.cut_heads import cut_
from ..support.loras import peft_lora

RECORDED = {
    "component": "transformer",
    "config": {"pattern": "depth"},
    "depth": {"kept": {"transformer_blocks": [0, 2]}},
    "groups": [{"owner": "transformer_blocks", "kind": "blocks", "total": 3, "kept": 2}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny SD3 without its second block, with what the record says about it."""
    pipe, place = sd3(), tmp_path_factory.mktemp("depth") / "out"
    remove_blocks_(pipe.transformer, stacks_of(pipe.transformer), ["transformer_blocks.1"])
    pipe.save_pretrained(place)
    (place / RECORD).write_text(json.dumps(RECORDED))
    return place


def test_a_file_gets_the_numbers_of_the_blocks_that_are_left(folder, tmp_path, capsys):
    lora = peft_lora(sd3().transformer, "transformer.", "attn.to_q", "proj_out")
    save_file(lora, tmp_path / "lora.safetensors")
    output = tmp_path / "out.safetensors"
    words = [tmp_path / "lora.safetensors", "--for", folder, "--output", output]
    assert main(["lora", *map(str, words)]) == 0
    assert "blocks numbered anew, 2 tensors of transformer left out" in capsys.readouterr().err
    start, numbers = "transformer.transformer_blocks.", {"0": "0", "2": "1"}
    expected = {
        name if not name.startswith(start) else f"{start}{numbers[name[len(start)]]}{rest}": tensor
        for name, tensor in lora.items()
        if (rest := name[len(start) + 1 :]) and not name.startswith(f"{start}1.")
    }
    found = load_file(output)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_lora_of_the_model_before_an_earlier_run_is_refused(folder, tmp_path, capsys):
    lora = peft_lora(sd3(layers=4).transformer, "transformer.", "attn.to_q")
    save_file(lora, tmp_path / "lora.safetensors")
    words = [tmp_path / "lora.safetensors", "--for", folder, "--output", tmp_path / "o.safetensors"]
    assert main(["lora", *map(str, words)]) == 2
    assert "expected blocks of transformer_blocks below 3" in capsys.readouterr().err


def test_other_names_stay():
    names = {"text_encoder.layers.1.q": 1, "transformer.proj_out.x": 2, "transformer.other.1.x": 3}
    assert renumbered(names, "transformer", {"transformer_blocks": [0]}) == names


def test_lists_inside_a_module_have_dotted_names():
    start = "unet.up_blocks.0.attentions.1.transformer_blocks"
    names = {f"{start}.{i}.attn1.to_q.lora_A.weight": i for i in range(3)}
    kept = {"up_blocks.0.attentions.1.transformer_blocks": [0, 2]}
    assert renumbered(names, "unet", kept) == {
        f"{start}.0.attn1.to_q.lora_A.weight": 0,
        f"{start}.1.attn1.to_q.lora_A.weight": 2,
    }
    assert renumbered(names, "unet", {"up_blocks.0.attentions.1.transformer_blocks": []}) == {}


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (3, "depth.kept"),
        ({"transformer_blocks": ["0"]}, "transformer_blocks"),
        ({"transformer_blocks": [2, 0]}, "expected ascending numbers"),
        ({"transformer_blocks": [-1, 0]}, "expected ascending numbers"),
    ],
)
def test_a_tampered_record_is_one_line(kept, words, tmp_path):
    (tmp_path / RECORD).write_text(json.dumps(RECORDED | {"depth": {"kept": kept}}))
    with pytest.raises(UserError, match="the blocks that are left are unknown") as error:
        kept_blocks(tmp_path)
    assert words in str(error.value)


def test_a_folder_whose_neurons_have_another_order_is_refused(folder, tmp_path, capsys):
    before = (folder / RECORD).read_text()
    record = {"config": {"pattern": "2:4", "permute": True}, "permutation": {"layers": 3}}
    save_file(peft_lora(sd3().transformer, "transformer.", "to_q"), tmp_path / "lora.safetensors")
    try:
        (folder / RECORD).write_text(json.dumps(record))
        output = str(tmp_path / "out.safetensors")
        words = [str(tmp_path / "lora.safetensors"), "--for", str(folder), "--output", output]
        assert main(["lora", *words]) == 2
    finally:
        (folder / RECORD).write_text(before)
    assert "found a result of --permute" in capsys.readouterr().err


def test_a_lora_for_more_blocks_is_refused():
    """Heads were removed from a model without one of its blocks: its LoRA is of that model."""
    pipe = sd3()
    lora = peft_lora(pipe.transformer, "", "attn.to_q")
    remove_blocks_(pipe.transformer, stacks_of(pipe.transformer), ["transformer_blocks.1"])
    cut_(pipe.transformer, "heads")
    with pytest.raises(UserError, match=r"transformer_blocks\.2 is not part of this .* has 2"):
        cut_lora(pipe.transformer, lora)


def test_a_lora_for_more_blocks_of_a_unet_is_refused():
    unet = sd().unet
    lora = peft_lora(unet, "", "attn1.to_q")
    first = "down_blocks.0.attentions.0.transformer_blocks"
    remove_blocks_(unet, stacks_of(unet), [f"{first}.0"])
    with pytest.raises(UserError, match=rf"{first}\.0 is not part of this .* has 0 {first}"):
        cut_lora(unet, lora)
