"""The command `sweep`: prunings, evaluation, page and recommendation; killed, it continues."""

import json

import pytest

from obsdiff.cli import sweep
from obsdiff.cli.arguments import parse
from obsdiff.cli.main import main
from obsdiff.cli.sweep import sweep_targets
from obsdiff.errors import RunStopped

QUICK = [
    *("--num-prompts", "1", "--num-inference-steps", "2", "--height", "16", "--width", "16"),
    *("--evaluation-num-prompts", "2", "--quick", "--blocks", "1"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
def test_a_sweep_that_was_stopped_continues_and_is_whole(
    sd3_folder, prompts_file, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    prompts = ["--prompts", prompts_file, "--evaluation-prompts", prompts_file]
    argv = [
        "sweep",
        sd3_folder,
        "--sparsity",
        "0.25",
        "0.5",
        "--output",
        str(out),
        *prompts,
        *QUICK,
    ]
    evaluate = sweep.run_evaluation

    def stopped(args):
        raise RunStopped("the disk is full")

    monkeypatch.setattr(sweep, "run_evaluation", stopped)
    assert main(argv) == 1
    assert "continue with --resume" in capsys.readouterr().err
    assert not out.exists()
    model = tmp_path / "out.part" / "new" / "models" / "0.25" / "obsdiff.json"
    written = model.stat().st_mtime_ns
    monkeypatch.setattr(sweep, "run_evaluation", evaluate)
    assert main([*argv, "--resume", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["path"] for run in found["results"]["runs"]] == ["models/0.25", "models/0.50"]
    assert len(found["results"]["prompts"]) == 2
    assert (out / "models" / "0.25" / "obsdiff.json").stat().st_mtime_ns == written
    assert sorted(path.name for path in out.iterdir()) == ["models", "run", "sweep.html"]
    assert not (tmp_path / "out.part").exists()
    assert main(["verify", str(out / "models" / "0.50")]) == 0

    monkeypatch.setattr(sweep, "run_evaluation", stopped)
    assert main([*argv, "--resume"]) == 0  # was finished already
    out_text, err = capsys.readouterr()
    assert found["recommendation"]["sentence"] == out_text.splitlines()[-1]
    assert "was finished already" in err
    last = err.splitlines()[-1]
    assert last.startswith("next: open ")
    assert ("keeps the recommended one" in last) == bool(found["recommendation"]["name"])
    assert main(argv) == 2
    (out / "notes.txt").write_text("mine")
    assert main([*argv, "--overwrite"]) == 2
    assert "notes.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", ["0.10", "0.20", "0.30", "0.40"]),
        ("--preset best --sparsity 0.3 0.5", ["0.30", "0.50"]),
        ("--pattern 2:4 4:8", ["2-4", "4-8"]),
        ("--pattern 2:4 structured --sparsity 0.3", ["2-4", "structured-0.30"]),
    ],
)
def test_a_sweep_is_structured_unless_told_otherwise(words, names):
    args = parse(["sweep", "emoji-sd3", "--output", "out", *words.split()])
    targets = sweep_targets(args)
    assert [target.name for target in targets] == names
    assert (targets[0].config.pattern == "structured") == (not words)


def test_one_pruning_is_no_sweep(capsys, tmp_path):
    argv = ["sweep", "emoji-sd3", "--sparsity", "0.3", "--output", str(tmp_path / "out")]
    assert main(argv) == 2
    assert "several values" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_wrong_judge_is_refused_before_anything_is_pruned(sd3_folder, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["sweep", sd3_folder, "--sparsity", "0.25", "0.5", "--output", str(out), *QUICK]
    assert main([*argv, "--pickscore", "no-such/model"]) == 2
    err = capsys.readouterr().err
    assert "pickscore: expected a folder or a model in the hub's cache" in err
    assert "package" not in err
    assert not out.exists()
