"""`obsdiff pack` and `unpack`: smaller, opened as the same model, and back bit for bit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

import obsdiff
from obsdiff import PruningConfig
from obsdiff.cli.main import main
from obsdiff.pipelines.record import sealed
from obsdiff.runtime.file_hashing import file_hash

from ..conftest import PROMPTS, sd3

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
FILE = "transformer/diffusion_pytorch_model.safetensors"
LAYER = "transformer_blocks.0.attn.to_q"
QUICK = {"num_inference_steps": 1, "height": 16, "width": 16, "packages": 1}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    pipe = sd3()
    report = obsdiff.prune_(pipe, PROMPTS[:1], PruningConfig(pattern="2:4", **QUICK))
    return obsdiff.save_pruned(pipe, tmp_path_factory.mktemp("pack") / "plain", report)


@pytest.fixture(scope="module")
def packed(plain) -> Path:
    assert main(["pack", str(plain), "--output", str(plain.parent / "packed")]) == 0
    return plain.parent / "packed"


def test_a_packed_folder_is_smaller_opens_and_goes_back(plain, packed, tmp_path, capsys):
    assert (packed / FILE).stat().st_size < 0.9 * (plain / FILE).stat().st_size
    assert main(["verify", str(packed)]) == 0
    assert "obsdiff unpack" in capsys.readouterr().err
    absent = {"text_encoder_3": None, "tokenizer_3": None}
    dense = StableDiffusion3Pipeline.from_pretrained(plain, **absent)
    pipe = StableDiffusion3Pipeline.from_pretrained(packed, **absent)
    assert type(pipe.transformer) is type(dense.transformer)
    weights = dense.transformer.state_dict()
    assert pipe.transformer.state_dict().keys() == weights.keys()
    for name, value in pipe.transformer.state_dict().items():
        assert torch.equal(value, weights[name]), name
    with torch.no_grad():
        pipe.transformer.get_submodule(LAYER).weight.fill_(1.0)
    obsdiff.apply_masks_(pipe, packed)
    mask = pipe.transformer.get_submodule(LAYER).weight != 0
    assert torch.equal(mask, weights[f"{LAYER}.weight"] != 0)
    card = (packed / "README.md").read_text()
    for part in ("library_name: obsdiff", "import obsdiff", "obsdiff unpack DIR"):
        assert part in card
    pipe.save_pretrained(tmp_path / "saved")  # a plain folder
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "SD3Transformer2DModel"]

    again = tmp_path / "again"
    assert main(["unpack", str(packed), "--output", str(again)]) == 0
    assert main(["verify", str(again)]) == 0
    files = [file.relative_to(plain) for file in plain.rglob("*") if file.is_file()]
    for file in files:
        there, here = (plain / file).read_bytes(), (again / file).read_bytes()
        if file.name in ("config.json", "model_index.json"):
            assert json.loads(there) == json.loads(here), file
        elif file.name != "obsdiff.json":  # which has the hashes of these
            assert there == here, file
    capsys.readouterr()
    lora = tmp_path / "lora.safetensors"
    save_file({"transformer.proj_out.lora_A.weight": torch.zeros(1, 32)}, lora)
    unpack = f"run: obsdiff unpack {packed} --output OUT"
    for words, problem in (
        (f"pack {packed}", "packed already"),
        (f"unpack {plain}", "no need"),
        (f"pack {tmp_path / 'saved'}", "expected a folder that obsdiff prune wrote"),
        (f"prune {packed}", unpack),
        (f"export {packed} --to padded", unpack),
        (f"lora {lora} --for {packed}", unpack),
        (f"inspect {packed}", unpack),
        (f"plan {packed}", unpack),
    ):
        more = [] if words.startswith(("inspect", "plan")) else ["--output", str(tmp_path / "no")]
        more = ["--output", str(tmp_path / "no.safetensors")] if "lora" in words else more
        assert main([*words.split(), *more]) == 2, words
        line = capsys.readouterr().err.strip()
        assert problem in line
        assert "\n" not in line


def change(folder: Path, tensors=None, **layer) -> None:
    """Change the file and the config of a packed folder, and the hashes in its record."""
    stored = load_file(folder / FILE)
    if tensors:
        tensors(stored)
        save_file(stored, folder / FILE, {"format": "pt"})
    config = json.loads((folder / "transformer" / "config.json").read_text())
    config["bitmask"]["layers"][LAYER] |= layer
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    record = json.loads((folder / "obsdiff.json").read_text())
    for name in (FILE, "transformer/config.json"):
        record["hashes"]["files"][name] = file_hash(folder / name)
    (folder / "obsdiff.json").write_text(json.dumps(sealed(record)))


def shorter(stored):
    stored[f"{LAYER}.weight_bits"] = stored[f"{LAYER}.weight_bits"][1:].clone()


def other_bits(stored):
    stored[f"{LAYER}.weight_bits"] ^= 255
    stored[f"{LAYER}.weight_bits"][0] |= 255


def both(stored):
    stored[f"{LAYER}.weight"] = torch.zeros(32, 32)


def unknown(stored):
    stored["proj_out.weight_bits"] = torch.zeros(3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("tensors", "layer", "problem"),
    [
        (shorter, {}, "weight_bits of length"),
        (other_bits, {}, "set bits among"),
        (both, {}, "a weight beside them"),
        (unknown, {}, "is not in config.json"),
        (None, {"kept": 3}, "weight_values of length 3"),
        (None, {"shape": [2**30, 2**30]}, "weight_bits of length"),
        (None, {"shape": "large"}, "the shape of a weight"),
    ],
)
def test_hostile_folders_are_one_line(packed, tmp_path, capsys, tensors, layer, problem):
    folder = Path(shutil.copytree(packed, tmp_path / "hostile"))
    change(folder, tensors, **layer)
    for command in (["verify"], ["unpack", "--output", str(tmp_path / "out")]):
        assert main([*command, str(folder)]) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith("error: bitmask: ")
        assert problem in line
        assert "\n" not in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_prune_packs_in_one_step_what_the_other_commands_read(tmp_path, capsys):
    sd3().save_pretrained(tmp_path / "dense")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    call = ["--num-inference-steps", "1", "--height", "16", "--width", "16"]
    given = ["--pattern", "2:4", "--num-prompts", "1", "--prompts", str(prompts), *call]
    for store in ("plain", "bitmask"):
        output = ["--store", store, "--output", str(tmp_path / store)]
        assert main(["prune", str(tmp_path / "dense"), *given, *output]) == 0
    capsys.readouterr()
    folders = [str(tmp_path / store) for store in ("plain", "bitmask")]
    size = [(Path(folder) / FILE).stat().st_size for folder in folders]
    assert size[1] < 0.9 * size[0]
    assert main(["verify", folders[1]]) == 0
    record = json.loads((tmp_path / "bitmask" / "obsdiff.json").read_text())
    assert record["config"]["store"] == "bitmask"
    assert "obsdiff unpack DIR" in (tmp_path / "bitmask" / "README.md").read_text()
    again = str(tmp_path / "again")
    assert main(["unpack", folders[1], "--output", again]) == 0
    assert (Path(again) / FILE).read_bytes() == (Path(folders[0]) / FILE).read_bytes()

    picture = ["--output", str(tmp_path / "picture.png")]
    assert main(["draw", folders[1], PROMPTS[0], *call, *picture]) == 0
    run = ["--against", folders[1], "--output", str(tmp_path / "run"), "--rounds", "0"]
    few = ["--prompts", str(prompts), "--num-prompts", "2", *call]
    assert main(["evaluate", *folders, *run, *few]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    plain, packed = results["runs"]
    assert packed["weights"] == plain["weights"] == results["dense_weights"]
    assert packed["metrics"]["relative_latent_error"]["value"] == 0
    costs = plain["cost"], packed["cost"]
    assert costs[1].pop("bytes_on_disk") < 0.9 * costs[0].pop("bytes_on_disk")
    assert {c.pop("seconds") is None for c in costs} == {False}
    assert costs[0] == costs[1]


def test_too_few_zeros_are_stored_plainly_and_said(tmp_path, capsys):
    pipe = sd3()
    config = PruningConfig(sparsity=0.02, store="bitmask", **QUICK)
    report = obsdiff.prune_(pipe, PROMPTS[:1], config)
    folder = obsdiff.save_pruned(pipe, tmp_path / "few", report)
    assert "too few zeros" in capsys.readouterr().err
    assert "bitmask" not in (folder / "transformer" / "config.json").read_text()
    index = json.loads((folder / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "SD3Transformer2DModel"]
