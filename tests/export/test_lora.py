"""LoRA files: cut on disk they are what the pipeline cuts when it loads the uncut file."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from obsdiff import PruningConfig, prune_, save_pruned
from obsdiff.cli.main import main
from obsdiff.export import lora as export_lora

from ..conftest import PROMPTS, sd
from ..support.lanes import first_quick
from ..support.loras import diffusers_names, kohya_names, peft_lora, processor_names

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pipe = sd()
    config = PruningConfig(method="random", packages=1, pattern="structured", **QUICK)
    return save_pruned(
        pipe, tmp_path_factory.mktemp("pruned") / "sd", prune_(pipe, PROMPTS[:1], config)
    )


def fused(folder, file):
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.load_lora_weights(file.parent, weight_name=file.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return pipe.unet.state_dict()


NAMES = {
    "peft": lambda lora: lora,
    "diffusers": diffusers_names,
    "processors": processor_names,
    "kohya": lambda lora: kohya_names(lora, "unet.", 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", first_quick(["kohya", "peft", "diffusers", "processors"]))
def test_a_cut_file_loads_as_the_uncut_one_does(name, folder, tmp_path, capsys):
    pytest.importorskip("peft")
    lora = NAMES[name](peft_lora(sd().unet, "unet.", *ATTENTION))
    save_file(lora, tmp_path / "lora.safetensors", {"author": "me"})
    output = tmp_path / "cut.safetensors"
    words = [tmp_path / "lora.safetensors", "--for", folder, "--output", output]
    assert main(["lora", *map(str, words)]) == 0
    assert "tensors of unet cut" in capsys.readouterr().err
    with safe_open(output, "pt") as opened:
        assert opened.metadata()["author"] == "me"
    assert output.stat().st_size < (tmp_path / "lora.safetensors").stat().st_size
    cut, uncut = fused(folder, output), fused(folder, tmp_path / "lora.safetensors")
    for key, weight in uncut.items():
        assert torch.allclose(cut[key], weight, rtol=1e-6, atol=1e-7), key


def test_text_encoders_keep_their_tensors_and_alphas_count(folder, tmp_path):
    """A file of kohya's with both: the pipeline loads it as it loads the uncut file."""
    lora = kohya_names(peft_lora(sd().unet, "unet.", "to_q"), "unet.", 0.5)
    base = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    up = torch.randn(16, 4)
    lora |= {f"{base}.lora_down.weight": torch.randn(4, 16), f"{base}.lora_up.weight": up}
    save_file(lora | {f"{base}.alpha": torch.tensor(2.0)}, tmp_path / "lora.safetensors")
    output = tmp_path / "cut.safetensors"
    words = [tmp_path / "lora.safetensors", "--for", folder, "--output", output]
    assert main(["lora", *map(str, words)]) == 0
    (found,) = [w for n, w in load_file(output).items() if "text_encoder" in n and ".up." in n]
    assert torch.allclose(found, up / 2)


def refused(capsys, *words) -> str:
    assert main(["lora", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.slow
def test_each_wrong_input_is_one_line(folder, tmp_path, capsys, sd3_folder):
    file, output = tmp_path / "lora.safetensors", tmp_path / "cut.safetensors"
    lora = peft_lora(sd().unet, "unet.", "to_q")
    save_file(lora, file)
    end = ("--for", folder, "--output", output)
    (tmp_path / "lora.bin").write_bytes(b"")
    assert "ends in .safetensors" in refused(capsys, tmp_path / "lora.bin", *end)
    assert "none.safetensors" in refused(capsys, tmp_path / "none.safetensors", *end)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(file.read_bytes()[:-5])
    assert "cut off or damaged" in refused(capsys, broken, *end)
    save_file({"weight": torch.zeros(1)}, broken)
    assert "expected a LoRA, found none in its names" in refused(capsys, broken, *end)
    save_file({"lora_unet_other.lora_down.weight": torch.zeros(2, 2)}, broken)
    assert "diffusers can't read it as a LoRA for StableDiffusion" in refused(capsys, broken, *end)
    save_file({"transformer.a.lora_A.weight": torch.zeros(2, 2)}, broken)
    assert "expected a LoRA with tensors of unet, found none" in refused(capsys, broken, *end)
    save_file({name: tensor.repeat(2, 2) for name, tensor in lora.items()}, broken)
    assert "made for another model" in refused(capsys, broken, *end)
    line = refused(capsys, file, "--for", sd3_folder, "--output", output)
    assert "expected a structured result" in line
    for name, words in {
        "cut.bin": "ends in .safetensors",
        "lora.safetensors": "exists already",
        "none/cut.safetensors": "expected a folder that exists",
        "lora.safetensors/cut.safetensors": "is a file",
    }.items():
        assert words in refused(capsys, file, "--for", folder, "--output", tmp_path / name)
    inside = folder / "cut.safetensors"
    assert "names all its files" in refused(capsys, file, "--for", folder, "--output", inside)
    assert not output.exists()


def test_a_run_that_fails_leaves_nothing(folder, tmp_path, monkeypatch):
    save_file(peft_lora(sd().unet, "unet.", "to_q"), tmp_path / "lora.safetensors")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_lora, "save_file", fail)
    words = [tmp_path / "lora.safetensors", "--for", folder, "--output", tmp_path / "a.safetensors"]
    assert main(["lora", *map(str, words)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["lora.safetensors"]


def test_a_folder_with_a_tampered_layout_is_one_line(folder, tmp_path, capsys):
    file = folder / "unet" / "config.json"
    before = file.read_text()
    config = json.loads(before)
    owner = next(iter(config["pruned_layout"]))
    config["pruned_layout"][owner]["heads_kept"] = "0-999999"
    save_file(peft_lora(sd().unet, "unet.", "to_q"), tmp_path / "lora.safetensors")
    try:
        file.write_text(json.dumps(config))
        words = (
            tmp_path / "lora.safetensors",
            "--for",
            folder,
            "--output",
            tmp_path / "o.safetensors",
        )
        assert f"pruned layout: heads_kept of {owner}" in refused(capsys, *words)
    finally:
        file.write_text(before)
