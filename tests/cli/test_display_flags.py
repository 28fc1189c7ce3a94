"""--quiet and --log-file, and the phases that a command plans."""

import pytest

from obsdiff.cli.main import main
from obsdiff.runtime.display import watching

from ..support.lanes import first_quick

QUICK = ["--num-inference-steps", "2", "--guidance-scale", "3", "--num-prompts", "2"]


@pytest.fixture
def argv(sd3_folder, prompts_file, tmp_path):
    output = ["--output", str(tmp_path / "out")]
    return ["prune", sd3_folder, *output, "--prompts", prompts_file, *QUICK, "--blocks", "0"]


@pytest.mark.slow
def test_quiet_prints_nothing_and_the_log_has_the_remarks(argv, tmp_path, capsys):
    log = tmp_path / "run.log"
    assert main([*argv, "--quiet", "--log-file", str(log)]) == 0
    assert capsys.readouterr() == ("", "")
    assert "zeros in" in log.read_text().splitlines()[-1]
    assert main([*argv, "--quiet"]) == 2  # the output is there
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")


def test_a_log_that_cannot_be_written_is_one_line_and_nothing_runs(argv, tmp_path, capsys):
    assert main([*argv, "--log-file", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: log-file: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "names", "passes"),
    first_quick(
        [
            (["--sparsity", "0.3", "0.5"], ["dense pass"], 1),
            (["--sparsity", "0.3", "0.5", "--allocation", "obs"], ["dense pass", "allocation"], 1),
            (["--calibration", "live", "--packages", "2"], ["calibration"], 2),
            (["--calibration", "replay", "--packages", "2"], ["dense pass", "calibration"], 1),
        ]
    ),
)
@pytest.mark.slow
def test_all_phases_of_all_prunings_are_planned_and_done(argv, flags, names, passes):
    with watching(show=False) as phases:
        assert main([*argv, *flags]) == 0
        assert list(phases.all) == ["loading", *names, "solving", "saving"]
        assert all(phase.finished for phase in phases.all.values())
        prunings = 2 if "0.5" in flags else 1
        assert phases.all["solving"].turns == phases.all["saving"].done == prunings
        assert phases.all[names[0]].total == 2 * passes  # prompts
        assert phases.percent < 100


@pytest.mark.slow
def test_an_evaluation_plans_its_phases_and_a_resumed_one_what_is_left(
    argv, sd3_folder, prompts_file, tmp_path, monkeypatch
):
    assert main([*argv, "--quiet"]) == 0
    run = ["evaluate", str(tmp_path / "out"), "--against", sd3_folder, "--rounds", "0", *QUICK]
    run += ["--prompts", prompts_file, "--output", str(tmp_path / "run")]
    names = ["loading", "drawing dense", "drawing out", "measuring"]
    with monkeypatch.context() as patch, watching(show=False) as phases:
        patch.setattr("obsdiff.evaluation.evaluate.write_json", stopped)
        assert main(run) == 1
        assert list(phases.all) == names
        assert all(phase.finished for phase in phases.all.values())
        assert phases.all["drawing out"].total == 2
    with watching(show=False) as phases:
        assert main([*run, "--resume"]) == 0
        assert list(phases.all) == names
        assert all(phase.finished for phase in phases.all.values())
        assert phases.all["drawing out"].total == phases.all["loading"].total == 0


def stopped(*_: object) -> None:
    """What a user does at the end of a run."""
    raise KeyboardInterrupt
