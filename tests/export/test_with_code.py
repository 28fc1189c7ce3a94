"""A modelling file beside the weights: diffusers opens the folder by it without obsdiff."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

import obsdiff
from obsdiff import PruningConfig, prune_, save_pruned
from obsdiff.cli.main import main
from obsdiff.export.modelling_file import changes_of
from obsdiff.pipelines.published import PLACE

from ..conftest import PROMPTS, flux, sd, sd3

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 1, "height": 16, "width": 16}
ALONE = """
import sys
sys.modules["obsdiff"] = None  # importing it fails from here on
import torch
from safetensors.torch import save_file
QUICK = {quick}
for folder, code in {codes}:
    names = {{}}
    exec(code, names)
    pipe = names["pipe"]
    kind = type(getattr(pipe, "transformer", None) or pipe.unet)
    assert kind is vars(sys.modules["diffusers_modules.local.obsdiff"])[kind.__name__]
    noise = torch.Generator().manual_seed(0)
    found = pipe("red apple", generator=noise, output_type="latent", **QUICK)
    save_file({{"latents": found.images}}, folder + ".safetensors")
    pipe.save_pretrained(folder + "-again")
"""


def saved(make, folder, **settings):
    """A pipeline pruned at random, on disk."""
    pipe = make()
    settings = {"pattern": "structured", "sparsity": 0.4, "round_to": 1} | settings
    config = PruningConfig(method="random", packages=1, keep_first_last=False, **settings, **QUICK)
    return save_pruned(pipe, folder, prune_(pipe, PROMPTS[:1], config))


def exported(folder, output) -> int:
    return main(["export", str(folder), "--to", "with-code", "--output", str(output)])


def latents(pipe):
    noise = torch.Generator().manual_seed(0)
    return pipe("red apple", generator=noise, output_type="latent", **QUICK).images


@pytest.mark.slow
def test_diffusers_without_obsdiff_draws_the_same_in_every_bit(tmp_path, capsys):
    codes = []
    for name, make, settings in (
        ("sd3", sd3, {}),
        ("sd", sd, {"target": "conv"}),
        ("flux", flux, {"target": "ffn"}),
    ):
        pruned, coded = saved(make, tmp_path / f"{name}-pruned", **settings), tmp_path / name
        assert exported(pruned, coded) == 0
        assert "which its users have to trust" in capsys.readouterr().err
        assert main(["verify", str(coded)]) == 0
        assert [file.name for file in coded.rglob("*.py")] == ["obsdiff.py"]
        card = (coded / "README.md").read_text()
        assert "library_name: diffusers" in card
        assert "Read that file first" in card
        (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
        assert "import obsdiff" not in code
        codes.append((str(coded), code.replace(PLACE, str(coded))))
    script = ALONE.format(quick=QUICK, codes=codes)
    place = {"HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for folder, _ in codes:
        found = load_file(f"{folder}.safetensors")["latents"]
        pipe = obsdiff.load(folder)
        part = getattr(pipe, "transformer", None) or pipe.unet
        assert type(part).__module__ == "obsdiff"  # the file was not run
        assert torch.equal(latents(pipe), found)
        again = json.loads((tmp_path / f"{folder}-again" / "model_index.json").read_text())
        assert ["obsdiff", type(part).__name__] in again.values()


@pytest.mark.slow
def test_obsdiff_and_diffusers_run_no_code_unasked(tmp_path):
    coded = tmp_path / "coded"
    assert exported(saved(sd3, tmp_path / "pruned"), coded) == 0
    file = coded / "transformer" / "obsdiff.py"
    model = obsdiff.load(coded).transformer
    text = file.read_text()
    assert all(repr(name).replace("'", '"') in text for name in changes_of(model))
    file.write_text("raise SystemExit('it was run')\n")
    assert obsdiff.load(coded).transformer.config["pruned_layout"]
    assert main(["verify", str(coded)]) == 1  # the file is recorded
    absent = {"text_encoder_3": None, "tokenizer_3": None}
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(coded, **absent)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"pattern": "2:4", "sparsity": None}, "it opens without obsdiff as it is"),
        ({"pattern": "2:4", "sparsity": None, "store": "bitmask"}, "obsdiff unpack"),
        ({"pattern": "2:4", "sparsity": None, "low_rank": 0.2}, "found those of --low-rank"),
    ],
)
@pytest.mark.slow
def test_other_results_are_refused_in_one_line(settings, problem, tmp_path, capsys):
    pipe = sd3(layers=2)
    config = PruningConfig(packages=1, **settings, **QUICK)
    folder = save_pruned(pipe, tmp_path / "pruned", prune_(pipe, PROMPTS[:1], config))
    capsys.readouterr()
    assert exported(folder, tmp_path / "coded") == 2
    line = capsys.readouterr().err.strip()
    assert problem in line
    assert "\n" not in line
    assert not (tmp_path / "coded").exists()
