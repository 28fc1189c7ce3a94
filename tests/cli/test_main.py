"""The real command line: its refusals, and its outputs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from obsdiff.cli.main import main
from obsdiff.errors import RunFailed, RunStopped

from ..support.lanes import first_quick

QUICK = ["--num-inference-steps", "2", "--guidance-scale", "3"]
PLAIN = """
import sys, torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
absent = {"text_encoder_3": None, "tokenizer_3": None}
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float32, **absent)
seed = torch.Generator().manual_seed(0)
latents = pipe("fish", num_inference_steps=2, output_type="latent", generator=seed).images
assert latents.isfinite().all() and "obsdiff" not in sys.modules
print(type(pipe).__name__)
"""
CODE = """
import sys
from obsdiff.cli.main import main
code = main(sys.argv[1:])
print(code, "torch" in sys.modules)
"""


def refused(capsys, argv: list[str], *words: str) -> None:
    """The command ends with exit code 2, one line on stderr with the words, an empty stdout."""
    code = main(argv)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sparsity", "-0.1"], ["-0.1"]),
        (["--sparsity", "1.0"], ["1.0"]),
        (["--sparsity", "nan"], ["nan"]),
        (["--sparsity", "half"], ["half"]),
        (["--sparsity", "0.5", "0.5"], ["twice", "0.5"]),
        (["--sparsity", "0.301", "0.302"], ["two decimals", "0.301"]),
        (["--seed", str(2**64)], ["seed", str(2**64)]),
        (["--pattern", "2;4"], ["2;4"]),
        (["--pattern", "5:4"], ["5:4"]),
        (["--pattern", "4:4"], ["4:4"]),
        (["--pattern", "0:4"], ["0:4"]),
        (["--pattern", "2:4", "--sparsity", "0.5"], ["2:4", "0.5"]),
        (["--pattern", "2:5"], ["transformer_blocks.0.attn.to_q", "32", "5"]),
        (["--num-prompts", "0"], ["num_prompts", "0"]),
        (["--num-inference-steps", "0"], ["num_inference_steps", "0"]),
        (["--num-inference-steps", "many"], ["many"]),
        (["--blocks", "2-3"], ["0-2", "2-3"]),
        (["--include", "*.conv"], ["*.conv"]),
        (["--packages", "2", "--memory-budget-gib", "1"], ["packages", "memory_budget_gib"]),
        (["--packages", "100"], ["12", "100"]),
        (["--memory-budget-gib", "1e-9"], ["GiB", "1e-09"]),
        (["--method", "wand"], ["wand"]),
        (["--component", "prior"], ["prior"]),
        (["--prompts", "nowhere.txt"], ["nowhere.txt"]),
        (["--no-such-flag"], ["--no-such-flag"]),
        (["--device", "nonsense"], ["device", "nonsense"]),
        (["--offload-device", "nonsense"], ["offload_device", "nonsense"]),
        (["--round-to", "0"], ["round_to", "0"]),
        (["--height", "13", "--dtype", "float32"], ["height", "13"]),
        (["--method", "l1"], ["l1 does not do pattern unstructured"]),
        (
            ["--method", "magnitude", "--pattern", "structured"],
            ["magnitude does not do pattern structured"],
        ),
        (["--pattern", "structured", "--blocks", "0"], ["nothing is left"]),
    ],
)
def test_wrong_flags_are_one_line_and_write_nothing(
    capsys, sd3_folder, prompts_file, tmp_path, flags, words
):
    prompts = [] if "--prompts" in flags else ["--prompts", prompts_file]
    refused(
        capsys, ["prune", sd3_folder, "--output", str(tmp_path / "out"), *prompts, *flags], *words
    )
    assert not (tmp_path / "out").exists()


def test_wrong_models_and_files(capsys, sd3_folder, prompts_file, tmp_path):
    out = ["--output", str(tmp_path / "out"), "--prompts", prompts_file]
    refused(capsys, ["prune", "no-such-model", *out], "no-such-model")
    refused(capsys, ["prune", str(tmp_path), *out], "model_index.json")
    (tmp_path / "empty.txt").touch()
    refused(
        capsys,
        [
            "prune",
            sd3_folder,
            "--output",
            str(tmp_path / "out"),
            "--prompts",
            str(tmp_path / "empty.txt"),
        ],
        "empty.txt",
    )
    refused(
        capsys,
        ["prune", sd3_folder, "--output", str(tmp_path), "--prompts", prompts_file],
        "--overwrite",
    )
    refused(
        capsys, ["prune", sd3_folder, "--output", "/proc/out", "--prompts", prompts_file], "/proc"
    )
    refused(
        capsys, ["report", str(tmp_path), "--output", str(tmp_path / "page.html")], "results.json"
    )
    broken = Path(shutil.copytree(sd3_folder, tmp_path / "broken"))
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(capsys, ["prune", str(broken), *out], "cut off")
    weights.rename(weights.with_suffix(".bin"))
    refused(capsys, ["prune", str(broken), *out], "pickled")
    index = json.loads((broken / "model_index.json").read_text())
    (broken / "model_index.json").write_text(
        json.dumps({k: v for k, v in index.items() if k != "transformer"})
    )
    refused(capsys, ["prune", str(broken), *out], "no denoiser")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["prune", "MODEL", "--output", "NEW", "--pattern", "5:4"],
        ["inspect", "no-such-model"],
        ["evaluate", "MODEL", "--against", "MODEL", "--output", "MODEL"],
        ["evaluate", "typo", "--against", "MODEL", "--output", "NEW"],
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_checks_take_no_heavy_import(sd3_folder, tmp_path, argv):
    """Wrong input is refused before torch is imported: measured by the loaded modules."""
    argv = [{"MODEL": sd3_folder, "NEW": str(tmp_path / "o")}.get(word, word) for word in argv]
    assert (
        subprocess.run(
            [sys.executable, "-c", CODE, *argv], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "2 False"
    )


@pytest.mark.parametrize(
    ("pattern", "n", "m"), first_quick([("2:4", 2, 4), ("4:8", 4, 8), ("1:4", 1, 4)])
)
@pytest.mark.slow
def test_groups_on_disk(sd3_folder, prompts_file, tmp_path, pattern, n, m):
    out = tmp_path / "out"
    assert (
        main(
            [
                "prune",
                sd3_folder,
                "--output",
                str(out),
                "--prompts",
                prompts_file,
                "--pattern",
                pattern,
                "--num-prompts",
                "2",
                *QUICK,
            ]
        )
        == 0
    )
    record = json.loads((out / "obsdiff.json").read_text())
    weights = load_file(out / "transformer" / "diffusion_pytorch_model.safetensors")
    for row in record["layers"]:
        assert (weights[row["name"] + ".weight"].unflatten(1, (-1, m)) != 0).sum(2).max() <= n


@pytest.mark.slow
def test_a_pruned_folder_loads_in_a_python_without_obsdiff(
    capsys, sd3_folder, prompts_file, tmp_path
):
    out = tmp_path / "out"
    assert (
        main(
            [
                "prune",
                sd3_folder,
                "--output",
                str(out),
                "--prompts",
                prompts_file,
                "--num-prompts",
                "2",
                "--json",
                *QUICK,
            ]
        )
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "obsdiff.json").read_text())
    weights = load_file(out / "transformer" / "diffusion_pytorch_model.safetensors")
    for row in printed["layers"]:
        assert (weights[row["name"] + ".weight"] == 0).float().mean() == pytest.approx(
            0.5, abs=1e-3
        )
        assert weights[row["name"] + ".weight"].dtype == torch.float16
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(out)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "StableDiffusion3Pipeline"


@pytest.mark.slow
def test_quantised_models_and_single_files_are_refused_before_torch_is_imported(
    sd3_folder, tmp_path
):
    quantised = Path(shutil.copytree(sd3_folder, tmp_path / "quantised"))
    file = quantised / "transformer" / "config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": "gguf"}})
    )
    (tmp_path / "model.gguf").touch()
    (tmp_path / "model.ckpt").touch()
    for model, words in (
        (quantised, "quantization_config of 'gguf'"),
        (tmp_path / "model.gguf", "GGUF"),
        (tmp_path / "model.ckpt", "can run code"),
    ):
        argv = [sys.executable, "-c", CODE, "prune", str(model), "--output", str(tmp_path / "out")]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.stdout.strip() == "2 False"
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert words in done.stderr


@pytest.mark.slow
def test_several_sparsities_make_several_folders(sd3_folder, prompts_file, tmp_path):
    out = tmp_path / "out"
    common = [
        "prune",
        "--sparsity",
        "0.3",
        "60%",
        sd3_folder,
        "--prompts",
        prompts_file,
        "--num-prompts",
        "1",
        "--packages",
        "1",
        *QUICK,
    ]
    assert main([*common, "--output", str(out), "--dtype", "fp32"]) == 0
    found = {
        folder.name: json.loads((folder / "obsdiff.json").read_text())["sparsity"]
        for folder in out.iterdir()
    }
    assert found == {"0.30": pytest.approx(0.3, abs=2e-3), "0.60": pytest.approx(0.6, abs=2e-3)}


@pytest.mark.slow
def test_several_patterns_share_one_calibration(tmp_path, sd3_folder, prompts_file):
    out = tmp_path / "out"
    common = [
        "prune",
        sd3_folder,
        "--prompts",
        prompts_file,
        "--num-prompts",
        "2",
        "--calibration",
        "single",
        *QUICK,
    ]
    assert (
        main(
            [
                *common,
                "--output",
                str(out),
                "--pattern",
                "unstructured",
                "2:4",
                "structured",
                "--sparsity",
                "0.3",
                "0.6",
            ]
        )
        == 0
    )
    assert sorted(folder.name for folder in out.iterdir()) == [
        "2-4",
        "structured-0.30",
        "structured-0.60",
        "unstructured-0.30",
        "unstructured-0.60",
    ]
    alone = tmp_path / "alone"
    assert main([*common, "--output", str(alone), "--pattern", "2:4"]) == 0
    weights = [
        load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
        for folder in (alone, out / "2-4")
    ]
    assert all(torch.equal(w, weights[1][name]) for name, w in weights[0].items())


@pytest.mark.parametrize(("calibration", "passes"), [("live", 4), ("single", 1), ("replay", 2.5)])
def test_inspect_counts_the_passes_of_each_calibration(capsys, sd3_folder, calibration, passes):
    assert (
        main(
            [
                "inspect",
                sd3_folder,
                "--json",
                "--num-prompts",
                "10",
                "--num-inference-steps",
                "4",
                "--calibration",
                calibration,
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["denoiser_passes"] == passes * 10 * 4


def test_inspect_prints_the_hessians_that_a_budget_stores_on_disk(capsys, sd3_folder):
    assert (
        main(["inspect", sd3_folder, "--calibration", "single", "--memory-budget-gib", "4.5e-4"])
        == 0
    )
    assert re.search(
        r"memory      Hessians .* GiB, .* of them on disk, solving at most .* GiB, "
        r"of a budget of 0\.00045;",
        capsys.readouterr().out,
    )


def test_inspect_runs_nothing_and_prints_the_plan(capsys, sd3_folder):
    assert (
        main(
            [
                "inspect",
                sd3_folder,
                "--json",
                "--num-prompts",
                "10",
                "--num-inference-steps",
                "5",
                "--calibration",
                "live",
            ]
        )
        == 0
    )
    plan = json.loads(capsys.readouterr().out)
    assert (plan["path"], plan["layers"], plan["units"], len(plan["packages"])) == (
        sd3_folder,
        33,
        12,
        4,
    )
    assert plan["denoiser_passes"] == 4 * 10 * 5
    assert plan["uncovered"] == []
    assert plan["memory"]["hessians_gib"] == max(
        package["hessian_gib"] for package in plan["packages"]
    )
    taps = {tap["layers"][0]: tap for package in plan["packages"] for tap in package["taps"]}
    assert taps["transformer_blocks.0.attn.to_q"]["tokens_per_column"] == 2 * 16 * 50 / 32
    assert (
        taps["transformer_blocks.0.attn.add_q_proj"]["tokens_per_column"]
        == 2 * (24 + 256) * 50 / 32
    )
    first = sum(4 * (t["columns"] ** 2 + t["columns"]) for t in plan["packages"][0]["taps"])
    assert plan["packages"][0]["hessian_gib"] == pytest.approx(first / 2**30)
    assert main(["inspect", sd3_folder]) == 0
    assert "3 x joint attention" in capsys.readouterr().out


def test_a_run_of_another_schema_or_half_written_makes_no_page(capsys, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    argv = ["report", str(run), "--output", str(tmp_path / "page.html")]
    refused(capsys, argv, "results.json")
    for text, word in (
        ('{"schema": 2, "runs": []}', "found 2"),
        ('{"runs": []}', "found None"),
        ('{"schema": 1, "runs": [', "JSON"),
    ):
        (run / "results.json").write_text(text)
        refused(capsys, argv, "results.json", word)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("method", first_quick(["wanda", "dsnot", "magnitude"]))
@pytest.mark.parametrize("pattern", first_quick(["unstructured", "2:4", "4:8"]))
@pytest.mark.slow
def test_baselines_from_the_command_line(sd3_folder, prompts_file, tmp_path, method, pattern):
    """The record has the settings, and the kept weights are the dense ones, bit by bit."""
    out = tmp_path / "out"
    flags = [
        "--method",
        method,
        "--pattern",
        pattern,
        "--num-prompts",
        "1",
        "--packages",
        "1",
        *QUICK,
    ]
    assert main(["prune", sd3_folder, "--output", str(out), "--prompts", prompts_file, *flags]) == 0
    record = json.loads((out / "obsdiff.json").read_text())
    assert (record["config"]["method"], record["config"]["pattern"]) == (method, pattern)
    dense, pruned = (
        load_file(Path(folder) / "transformer" / "diffusion_pytorch_model.safetensors")
        for folder in (sd3_folder, out)
    )
    for row in record["layers"]:
        before, after = (weights[row["name"] + ".weight"] for weights in (dense, pruned))
        assert torch.equal(after, torch.where(after == 0, 0, before))
        assert (after == 0).float().mean() == pytest.approx(0.5, abs=2e-3)


def test_a_failed_run_ends_with_one_line(capsys, sd3_folder, prompts_file, tmp_path):
    from safetensors.torch import save_file

    broken = Path(shutil.copytree(sd3_folder, tmp_path / "broken"))
    file = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["transformer_blocks.1.ff.net.2.weight"][0, 0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    assert (
        main(
            [
                "prune",
                str(broken),
                "--output",
                str(tmp_path / "out"),
                "--prompts",
                prompts_file,
                *QUICK,
            ]
        )
        == 1
    )
    assert (
        capsys.readouterr().err.strip().splitlines()[-1]
        == "failed: transformer_blocks.1.ff.net.2: its weight has inf or NaN"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            MemoryError(),
            "failed: out of memory (MemoryError); set a smaller --memory-budget-gib or "
            "--batch-size; continue with --resume",
        ),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: "
                "you tried to allocate 9 bytes."
            ),
            "failed: out of memory ([enforce fail] ",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            "failed: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.); set "
            "--offload model or group, a smaller --batch-size, or --calibration live with more "
            "--packages; continue with --resume",
        ),
        (
            RunStopped("out.part can't be written: No space left on device"),
            "failed: out.part can't be written: No space left on device; continue with --resume",
        ),
        (KeyboardInterrupt(), "interrupted; continue with --resume"),
    ],
)
def test_a_run_stopped_from_outside_ends_with_one_line_that_names_resume(
    capsys, monkeypatch, tmp_path, sd3_folder, error, line
):
    def stopped(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("obsdiff.prune.prune_", stopped)
    output = tmp_path / "out"
    assert main(["prune", sd3_folder, "--output", str(output), *QUICK]) == 1
    printed = [
        text
        for text in capsys.readouterr().err.splitlines()
        if text.startswith(("failed", "interrupted"))
    ]
    assert len(printed) == 1
    assert printed[0].startswith(line)
    assert not output.exists()
    assert (tmp_path / "out.part").exists()


def test_a_run_that_would_fail_again_leaves_no_part(capsys, monkeypatch, tmp_path, sd3_folder):
    def failed(*_args, **_kwargs):
        raise RunFailed("transformer_blocks.0.attn.to_q: not positive definite")

    monkeypatch.setattr("obsdiff.prune.prune_", failed)
    assert main(["prune", sd3_folder, "--output", str(tmp_path / "out"), *QUICK]) == 1
    assert "failed: transformer_blocks.0.attn.to_q" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_unexpected_error_is_not_hidden(monkeypatch, tmp_path, sd3_folder):
    def broken(*_args, **_kwargs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("obsdiff.prune.prune_", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        main(["prune", sd3_folder, "--output", str(tmp_path / "out"), *QUICK])
