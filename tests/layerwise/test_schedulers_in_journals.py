"""Every scheduler of diffusers in a journal: written as strict JSON, resumed with the same one."""

import json
import math
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

from obsdiff import PruningConfig, UserError
from obsdiff.calibration.plan import plan_pruning
from obsdiff.cli.main import main
from obsdiff.layerwise.fingerprint import as_json, fingerprint, schedulers
from obsdiff.layerwise.journal import FINGERPRINT, Journal
from obsdiff.pipelines.record import RECORD
from obsdiff.pipelines.replaceable import WORK

from ..conftest import PROMPTS, sd
from ..support.lanes import first_quick

STEPS = {"num_inference_steps": 2, "height": 16, "width": 16}
FLAGS = [part for name, v in STEPS.items() for part in (f"--{name.replace('_', '-')}", str(v))]
NAMES = sorted(name for name in dir(diffusers) if name.endswith("Scheduler"))


def scheduler(name: str):
    """A scheduler with its defaults; skipped if it can't be made here."""
    try:
        return getattr(diffusers, name)()
    except (ImportError, TypeError, ValueError) as error:
        pytest.skip(f"{name}: {error}")


def strict(text: str):
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.mark.parametrize("name", NAMES)
def test_a_journal_holds_it_and_resumes(tmp_path, name):
    made = scheduler(name)
    pipe = SimpleNamespace(components={"scheduler": made, "name": None})
    found = {"scheduler": schedulers(pipe)}
    assert found["scheduler"] == {"scheduler": as_json(made.config)}
    Journal(tmp_path, found)
    strict((tmp_path / FINGERPRINT).read_text())
    Journal(tmp_path, {"scheduler": schedulers(pipe)})
    first = next(key for key, value in made.config.items() if isinstance(value, int | float))
    pipe.components["scheduler"].register_to_config(**{first: 12345})
    with pytest.raises(UserError, match=rf"another scheduler\.scheduler\.{first}"):
        Journal(tmp_path, {"scheduler": schedulers(pipe)})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_setting_that_is_no_number_is_one_error(value):
    pipe = sd()
    pipe.scheduler.register_to_config(beta_start=value)
    plan = plan_pruning(pipe, PROMPTS[:1], PruningConfig(**STEPS))
    with pytest.raises(UserError, match=f"scheduler: beta_start is {value}"):
        fingerprint(pipe, plan)


def test_settings_become_json_in_full():
    long = np.linspace(0, 1, 2000)
    found = as_json({"betas": long, 3: torch.ones(2), "kind": torch.float16, "pair": (1, None)})
    assert found == {
        "betas": long.tolist(),
        "3": [1.0, 1.0],
        "kind": "torch.float16",
        "pair": [1, None],
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", first_quick(["DPMSolverMultistepScheduler", "SASolverScheduler"]))
def test_the_whole_road_with_an_infinite_setting(tmp_path, monkeypatch, capsys, prompts_file, name):
    model, output = tmp_path / "model", tmp_path / "out"
    pipe = sd()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    pipe.save_pretrained(model)
    argv = ["prune", str(model), "--output", str(output), "--prompts", prompts_file, *FLAGS]
    write = Journal.write

    def killed(journal, task, result):
        write(journal, task, result)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "write", killed)
        assert main(argv) == 1
    (file,) = (tmp_path / "out.part" / WORK).rglob(FINGERPRINT)
    assert strict(file.read_text())["scheduler"]["scheduler"]["lambda_min_clipped"]
    assert main([*argv, "--resume"]) == 0, capsys.readouterr().err
    strict((output / RECORD).read_text())
    assert main(["verify", str(output)]) == 0
