"""What a killed run has finished is taken by the same run alone, and only if it is not damaged."""

import json
import shutil
from pathlib import Path

import pytest

from obsdiff.cli.main import main
from obsdiff.pipelines.record import RECORD, sealed
from obsdiff.runtime.file_hashing import file_hashes

from ..conftest import sd3
from ..support.lanes import first_quick

QUICK = ["--num-inference-steps", "2", "--height", "16", "--width", "16", "--num-prompts", "2"]
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def argv(sd3_folder, tmp_path, prompts_file) -> list[str]:
    """A run, without --resume."""
    output = str(tmp_path / "out")
    return ["prune", sd3_folder, "--output", output, "--prompts", prompts_file, *QUICK]


def killed_at(monkeypatch, argv: list[str], name: str, calls: int = 1) -> None:
    """Run the command, and kill it in one of the calls of a function of cli/prune.py."""
    import obsdiff.cli.prune as command

    done, real = [], getattr(command, name)

    def dies(*args, **kwargs):
        done.append(1)
        if len(done) == calls:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(command, name, dies)
        assert main(argv) == 1
    assert len(done) == calls


def refused(capsys, argv: list[str], *words: str) -> None:
    """The command ends with exit code 2 and one line with the words."""
    capsys.readouterr()
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def others(tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    """Arguments of other runs, and the words of what differs."""
    prompts = tmp_path / "other.txt"
    prompts.write_text("something else\nand more\n")
    return {
        "prompts": (["--prompts", str(prompts)], "another prompts"),
        "method": (["--method", "magnitude"], "config.method (obs there, magnitude here)"),
        "pattern": (["--pattern", "structured"], "config.pattern"),
        "damping": (["--damping", "0.1"], "config.damping (0.01 there, 0.1 here)"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prompts", "method", "pattern", "damping"])
@pytest.mark.parametrize("place", ["part", "output"])
def test_a_finished_pruning_is_not_that_of_another_run(
    monkeypatch, capsys, tmp_path, argv, name, place
):
    if place == "part":
        killed_at(monkeypatch, argv, "put_in_place")
    else:
        assert main(argv) == 0
    folder = tmp_path / "out.part" if place == "part" else tmp_path / "out"
    before = file_hashes(folder)
    more, words = others(tmp_path)[name]
    refused(capsys, [*argv, *more, "--resume"], "resume: ", str(folder), words, "--overwrite")
    assert file_hashes(folder) == before
    assert (tmp_path / "out").exists() == (place == "output")
    assert main([*argv, "--resume"]) == 0
    assert (tmp_path / "out" / RECORD).is_file()
    assert not (tmp_path / "out.part").exists()


@pytest.mark.slow
def test_a_finished_pruning_is_not_that_of_another_model(monkeypatch, capsys, tmp_path, argv):
    killed_at(monkeypatch, argv, "put_in_place")
    sd3(dual=(0,)).save_pretrained(tmp_path / "other")
    refused(capsys, [argv[0], str(tmp_path / "other"), *argv[2:], "--resume"], "model.transformer")


@pytest.mark.slow
def test_one_of_several_is_kept_for_the_same_run_alone(monkeypatch, capsys, tmp_path, argv):
    argv = [*argv, "--sparsity", "0.3", "0.5"]
    assert main([*argv[:3], str(tmp_path / "whole"), *argv[4:]]) == 0
    killed_at(monkeypatch, argv, "write_whole", calls=2)
    first = tmp_path / "out.part" / "new" / "0.30"
    before = {file: file.stat().st_mtime_ns for file in first.rglob("*.safetensors")}
    refused(capsys, [*argv, *others(tmp_path)["prompts"][0], "--resume"], "another prompts")
    assert main([*argv, "--resume"]) == 0
    for name in ("0.30", "0.50"):
        found, expected = (file_hashes(tmp_path / run / name) for run in ("out", "whole"))
        assert found[WEIGHTS] == expected[WEIGHTS]
    kept = {tmp_path / "out" / "0.30" / f.relative_to(first): time for f, time in before.items()}
    assert kept == {file: file.stat().st_mtime_ns for file in kept}


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flip(raw: bytes) -> bytes:
    place = len(raw) * 2 // 3
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


@pytest.mark.parametrize(
    ("name", "damage"),
    first_quick(
        [
            (WEIGHTS, flip),
            ("vae/config.json", cut),
            ("model_index.json", lambda raw: b""),
            ("README.md", lambda raw: b""),
            ("scheduler/scheduler_config.json", None),
        ]
    ),
)
@pytest.mark.slow
def test_a_damaged_file_of_a_finished_pruning_is_written_again(
    monkeypatch, capsys, tmp_path, argv, name, damage
):
    killed_at(monkeypatch, argv, "put_in_place")
    before = file_hashes(tmp_path / "out.part" / "new")
    file = tmp_path / "out.part" / "new" / name
    file.write_bytes(damage(file.read_bytes())) if damage else file.unlink()
    assert main([*argv, "--resume"]) == 0
    assert f"{name} is damaged; it is pruned again" in capsys.readouterr().err
    found = file_hashes(tmp_path / "out")
    assert found.keys() == before.keys()
    unlike = {key for key in before if found[key] != before[key]}
    assert unlike <= {RECORD, "README.md"}  # which have seconds
    assert (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("damage", first_quick([cut, flip, lambda raw: b"", None]))
def test_a_damaged_record_is_one_line_and_nothing_is_placed(
    monkeypatch, capsys, tmp_path, argv, damage
):
    killed_at(monkeypatch, argv, "put_in_place")
    file = tmp_path / "out.part" / "new" / RECORD
    file.write_bytes(damage(file.read_bytes())) if damage else file.unlink()
    refused(capsys, [*argv, "--resume"], "obsdiff.json is damaged", f"delete {file.parent}")
    assert not (tmp_path / "out").exists()
    shutil.rmtree(file.parent)
    assert main([*argv, "--resume"]) == 0
    assert main(["verify", str(tmp_path / "out")]) == 0


@pytest.mark.slow
def test_a_finished_output_says_so_and_is_left_alone(capsys, tmp_path, argv):
    assert main(argv) == 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    capsys.readouterr()
    assert main([*argv, "--resume", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "was finished already" in err
    assert json.loads(out) == json.loads((tmp_path / "out" / RECORD).read_text())
    assert main([*argv, "--resume", "--overwrite"]) == 0
    assert "was finished already" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")} == before
    (tmp_path / "out" / "README.md").write_text("mine")
    assert main([*argv, "--resume"]) == 0
    file = tmp_path / "out" / WEIGHTS
    file.write_bytes(flip(file.read_bytes()))
    assert main([*argv, "--resume"]) == 1
    assert f"{WEIGHTS} is not as recorded" in capsys.readouterr().err


@pytest.mark.slow
def test_an_output_of_another_run_is_replaced_if_both_are_asked_for(tmp_path, argv):
    assert main(argv) == 0
    assert main([*argv, "--damping", "0.1", "--resume", "--overwrite"]) == 0
    assert json.loads((tmp_path / "out" / RECORD).read_text())["config"]["damping"] == 0.1


@pytest.mark.slow
def test_a_folder_of_no_known_run_is_not_called_finished(capsys, tmp_path, argv):
    assert main(argv) == 0
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    (tmp_path / "out" / RECORD).write_text(json.dumps(sealed(record | {"fingerprint": {}})))
    refused(capsys, [*argv, "--resume"], "does not say which run it is of")


@pytest.mark.slow
def test_an_output_that_has_its_name_already_is_of_the_same_run(
    monkeypatch, capsys, tmp_path, argv
):
    with monkeypatch.context() as patched:

        def dies(part):
            raise KeyboardInterrupt

        patched.setattr("obsdiff.pipelines.partial_output.remove", dies)
        assert main(argv) == 1
    assert (tmp_path / "out" / RECORD).is_file()
    assert (tmp_path / "out.part").is_dir()
    refused(capsys, [*argv, *others(tmp_path)["method"][0], "--resume"], "config.method")
    assert main([*argv, "--resume"]) == 0
    assert "was finished already" in capsys.readouterr().err
    assert not (tmp_path / "out.part").exists()
