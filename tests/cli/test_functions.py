"""The commands as functions: what they return is what the command line prints and writes."""

import json

import pytest

import obsdiff
from obsdiff import UserError
from obsdiff.cli.main import main
from obsdiff.cli.python_words import python_words

from ..conftest import PROMPTS

SIZE = {"num_inference_steps": 2, "height": 16, "width": 16}
FLAGS = ["--num-inference-steps", "2", "--height", "16", "--width", "16"]


def test_inspect_returns_the_plan_that_the_command_prints(capsys, sd3_folder):
    plan = obsdiff.inspect(sd3_folder, sparsity=0.3, num_prompts=4, **SIZE)
    capsys.readouterr()
    assert (
        main(["inspect", sd3_folder, "--sparsity", "0.3", "--num-prompts", "4", "--json", *FLAGS])
        == 0
    )
    assert json.loads(json.dumps(plan.to_dict())) == json.loads(capsys.readouterr().out)
    assert repr(plan).startswith(f"<plan of {sd3_folder}: unstructured, ")
    assert "\n" not in repr(plan)


def test_wrong_arguments_are_one_line(sd3_folder, tmp_path):
    with pytest.raises(
        UserError, match=r"inspect: found no argument sparsty; did you mean sparsity\?"
    ):
        obsdiff.inspect(sd3_folder, sparsty=0.3)
    with pytest.raises(UserError, match="sparsity: expected 0 <= sparsity < 1"):
        obsdiff.inspect(sd3_folder, sparsity=2)
    with pytest.raises(UserError, match="none"):
        obsdiff.load(tmp_path / "none")
    with pytest.raises(UserError, match="dtype: expected one of"):
        obsdiff.load(sd3_folder, dtype="int8")
    with pytest.raises(
        UserError, match="pickscore: expected a folder or a model in the hub's cache"
    ):
        obsdiff.evaluate(
            sd3_folder, sd3_folder, tmp_path / "run", pickscore="no-such/model", download=False
        )
    with pytest.raises(UserError, match="found no argument round; did you mean rounds"):
        obsdiff.evaluate(tmp_path, sd3_folder, tmp_path / "run", round=0)


def test_messages_speak_of_arguments_and_functions(sd3_folder, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"or pass overwrite=True to replace it$"):
        obsdiff.evaluate(sd3_folder, sd3_folder, tmp_path / "run")
    with pytest.raises(UserError, match=r"make a run with obsdiff\.evaluate$"):
        obsdiff.report_page(tmp_path / "run", tmp_path / "page.html")
    with pytest.raises(UserError, match="paper-count needs pattern structured"):
        obsdiff.inspect(sd3_folder, paper_count=True)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("make a run with obsdiff evaluate p1 --against MODEL", "make a run with obsdiff.evaluate"),
        (
            "resume it with obsdiff evaluate ... --output run --resume",
            "resume it with obsdiff.evaluate(..., resume=True)",
        ),
        ("pass --num-prompts, or --download", "pass num_prompts, or download=True"),
        ("run: obsdiff unpack a --output OUT", "run: obsdiff unpack a --output OUT"),
        ("models--a--b is a file", "models--a--b is a file"),
    ],
)
def test_flags_become_arguments(typed, words):
    assert python_words(typed) == words


def test_fewer_prompts_than_asked_for_are_said_before_the_run(
    sd3_folder, tmp_path, capsys, monkeypatch
):
    def run(job, *_):
        raise UserError("began")

    monkeypatch.setattr("obsdiff.evaluation.evaluate.evaluate", run)
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    words = ["--output", str(tmp_path / "run"), "--prompts", str(tmp_path / "prompts.txt")]
    argv = ["evaluate", sd3_folder, "--against", sd3_folder, *words, "--num-prompts", "9"]
    assert main(argv) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("prompts: 2 read from ")
    assert first.endswith("; all are used")
    assert second == "error: began"


@pytest.mark.slow
def test_a_pipeline_is_pruned_saved_evaluated_and_shown(sd3_folder, tmp_path):
    pipe = obsdiff.load(sd3_folder, device="cpu")
    report = obsdiff.prune_(pipe, PROMPTS, num_prompts=2, **SIZE)
    obsdiff.save_pruned(pipe, tmp_path / "half", report)
    assert type(obsdiff.load(tmp_path / "half")) is type(pipe)
    results = obsdiff.evaluate(
        tmp_path / "half", sd3_folder, tmp_path / "run", prompts=PROMPTS[:2], rounds=0, **SIZE
    )
    assert results["prompts"] == PROMPTS[:2]
    assert [run["name"] for run in results["runs"]][-1] == "half"
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert stored["prompts"] == results["prompts"]
    page = obsdiff.report_page(tmp_path / "run", tmp_path / "page.html")
    assert "half" in page.read_text()
    with pytest.raises(UserError, match="exists already"):
        obsdiff.report_page([tmp_path / "run"], page)
