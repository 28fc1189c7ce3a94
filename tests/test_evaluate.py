"""obsdiff evaluate through the real command line on tiny pipelines: figures, resuming, refusals."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from obsdiff import PruningConfig, prune_, save_pruned
from obsdiff.cli import main
from obsdiff.costs import step_macs
from obsdiff.drawing import denoiser_call, draw
from obsdiff.metrics import relative_latent_error
from obsdiff.peak_memory import peak_memory
from obsdiff.timing import compared, interleaved

from .conftest import PROMPTS, sd, sd3

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16}
FLAGS = ["--num-prompts", "3", "--num-inference-steps", "2", "--guidance-scale", "3", "--height", "16", "--width", "16", "--batch-size", "2"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A dense pipeline, a structured and an unstructured one, and another class."""
    folder = tmp_path_factory.mktemp("models")
    sd3().save_pretrained(folder / "whole")
    sd().save_pretrained(folder / "unet")
    for name, changes in {"narrow": {"pattern": "structured", "sparsity": 0.4}, "sparse": {"sparsity": 0.5}}.items():
        pipe = sd3()
        save_pruned(pipe, folder / name, prune_(pipe, PROMPTS[:2], PruningConfig(packages=1, **changes, **QUICK)))
    return {name: folder / name for name in ("whole", "unet", "narrow", "sparse")}


@pytest.fixture
def argv(models, prompts_file, tmp_path) -> list[str]:
    runs = [str(models["narrow"]), str(models["sparse"])]
    return ["evaluate", *runs, "--against", str(models["whole"]), "--output", str(tmp_path / "run"), "--prompts", prompts_file, *FLAGS]


def test_figures_are_those_of_the_pipelines(argv, models, tmp_path, capsys):
    assert main([*argv, "--rounds", "1", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["schema"] == 1
    assert [run["name"] for run in results["runs"]] == ["narrow", "sparse"]
    record = json.loads((models["narrow"] / "obsdiff.json").read_text())
    narrow, sparse = (run["cost"] for run in results["runs"])
    assert narrow["heads"] == {"removed": 2, "total": 4}
    assert narrow["neurons"]["removed"] == sum(len(g["removed"]) for g in record["groups"] if g["kind"] == "neurons")
    dense = results["dense_cost"]
    assert narrow["parameters"] < dense["parameters"] == sparse["parameters"]
    assert narrow["macs"]["total"] < dense["macs"]["total"] == sparse["macs"]["total"]
    assert sparse["zeros"] > 0.1 * sparse["parameters"]
    for cost in (narrow, sparse):
        assert cost["step"]["rounds"] == 4
        assert cost["picture"]["rounds"] == 1
        assert cost["step"]["low"] <= cost["step"]["speedup"] <= cost["step"]["high"]
        assert cost["memory"]["peak_bytes"] > cost["memory"]["weights_bytes"] > 0
    files = sorted(str(f.relative_to(tmp_path / "run")) for f in (tmp_path / "run").rglob("*") if f.is_file())
    pictures = [image for run in results["runs"] for image in run["images"]] + results["dense_images"]
    assert files == sorted([*pictures, "results.json"])
    assert main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "page.html")]) == 0


def test_the_error_is_that_of_drawing_by_hand(argv, models, tmp_path, capsys):
    from diffusers import DiffusionPipeline

    assert main([*argv, "--rounds", "0"]) == 0
    table = capsys.readouterr().out
    run = json.loads((tmp_path / "run" / "results.json").read_text())["runs"][1]
    latents = []
    for name in ("sparse", "whole"):
        pipe = DiffusionPipeline.from_pretrained(models[name], text_encoder_3=None, tokenizer_3=None)
        latents.append(draw(pipe, PROMPTS[:3], [1_000_000 + i for i in range(3)], QUICK, 2)[1])
    by_hand = relative_latent_error(*latents)
    assert run["metrics"]["relative_latent_error"]["value"] == pytest.approx(by_hand["value"], rel=1e-3)
    assert f"{by_hand['value']:.4f}" in table
    assert "step" not in run["cost"]
    assert "speed of a step" not in table  # what was not measured has no column


def test_a_killed_run_goes_on(argv, tmp_path, capsys, monkeypatch):
    import obsdiff.evaluate

    assert main([*argv, "--rounds", "0"]) == 0
    whole = json.loads((tmp_path / "run" / "results.json").read_text())
    shutil.rmtree(tmp_path / "run")
    drawn = []

    def dying(pipe, prompts, *rest):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(prompts)
        return draw(pipe, prompts, *rest)

    monkeypatch.setattr(obsdiff.evaluate, "draw", dying)
    assert main([*argv, "--rounds", "0"]) == 1
    assert not (tmp_path / "run").exists()
    assert main([*argv, "--rounds", "0"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*argv, "--rounds", "0", "--seed", "7", "--resume"]) == 2
    assert "begun with other seeds" in capsys.readouterr().err
    drawn.clear()
    monkeypatch.setattr(obsdiff.evaluate, "draw", lambda pipe, prompts, *rest: drawn.append(prompts) or draw(pipe, prompts, *rest))
    assert main([*argv, "--rounds", "0", "--resume"]) == 0
    assert len(drawn) == 3  # of 6 batches
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [r["metrics"] for r in again["runs"]] == [r["metrics"] for r in whole["runs"]]
    assert not (tmp_path / "run.part").exists()


def test_what_cannot_be_compared_is_one_line(argv, models, tmp_path, capsys, prompts_file):
    def refused(flags: list[str], *words: str) -> None:
        assert main(flags) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert all(word in err for word in words), err

    common = ["--output", str(tmp_path / "run"), "--prompts", prompts_file]
    refused(["evaluate", str(models["narrow"]), *common], "--against")
    refused(["evaluate", str(models["narrow"]), "--against", str(models["unet"]), *common], "StableDiffusionPipeline", "StableDiffusion3Pipeline", "one class")
    other = Path(shutil.copytree(models["narrow"], tmp_path / "other"))
    config = json.loads((other / "transformer" / "config.json").read_text())
    (other / "transformer" / "config.json").write_text(json.dumps(config | {"sample_size": 64}))
    refused(["evaluate", str(other), "--against", str(models["whole"]), *common], "sample_size 8", "64")
    refused(["evaluate", str(models["narrow"]), str(models["narrow"]), "--against", str(models["whole"]), *common], "twice")
    (tmp_path / "empty.txt").touch()
    refused([*argv, "--prompts", str(tmp_path / "empty.txt")], "empty.txt")
    refused([*argv, "--num-prompts", "0"], "num_prompts")
    (tmp_path / "run").mkdir()
    refused(argv, "--overwrite")


def test_medians_and_ratios_by_hand():
    seconds = {"dense": [4.0, 8.0, 6.0], "pruned": [2.0, 2.0, 6.0]}
    found = compared(seconds, "pruned", "dense")
    assert (found["seconds"], found["dense_seconds"], found["speedup"], found["rounds"]) == (2.0, 6.0, 2.0, 3)
    order = []
    interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b", "a", "b", "b", "a"]


def test_macs_of_a_step_count_both_guidance_halves(sd3_pipe):
    one = step_macs(sd3_pipe.transformer, denoiser_call(sd3_pipe, sd3_pipe.transformer, "fish", QUICK | {"guidance_scale": 1.0}))
    two = step_macs(sd3_pipe.transformer, denoiser_call(sd3_pipe, sd3_pipe.transformer, "fish", QUICK))
    assert two["total"] == 2 * one["total"] > 0


def test_a_model_that_needs_data_says_why_it_is_not_counted(sd3_pipe):
    found = step_macs(sd3_pipe.vae, {"sample": torch.zeros(1, 5, 16, 16)})
    assert found["total"] is None
    assert "AutoencoderKL" in found["why_not"]


def test_memory_that_cannot_be_measured_says_why(tmp_path):
    found = peak_memory(tmp_path, {}, "fish")
    assert found["peak_bytes"] is None
    assert "model_index.json" in found["why_not"]
