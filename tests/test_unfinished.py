"""The folder of an evaluation that did not end: gone on from only where it is one's own, and whole."""

import pytest

from obsdiff.errors import UserError
from obsdiff.unfinished import JOB, WORK, finish, kept_json, open_part, write_json

TASK = {"prompts": ["a fish"], "seeds": [1]}


def test_a_run_goes_on_with_the_same_job_alone(tmp_path):
    part = open_part(tmp_path / "run", TASK, resume=False, overwrite=False)
    (part / "picture.png").touch()
    with pytest.raises(UserError, match="go on with --resume, or start anew with --overwrite"):
        open_part(tmp_path / "run", TASK, resume=False, overwrite=False)
    assert open_part(tmp_path / "run", TASK, resume=True, overwrite=False) == part
    assert (part / "picture.png").exists()
    with pytest.raises(UserError, match="begun with other seeds"):
        open_part(tmp_path / "run", TASK | {"seeds": [2]}, resume=True, overwrite=False)
    open_part(tmp_path / "run", TASK, resume=False, overwrite=True)
    assert not (part / "picture.png").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_killed_before_its_job_was_written_down_is_nothing_to_go_on_from(tmp_path, resume):
    (tmp_path / "run.part" / WORK).mkdir(parents=True)
    part = open_part(tmp_path / "run", TASK, resume=resume, overwrite=False)
    assert kept_json(part / WORK / JOB) == TASK


def test_a_folder_of_somebody_else_stays(tmp_path):
    other = tmp_path / "run.part" / "thesis.txt"
    other.parent.mkdir()
    other.touch()
    for resume, overwrite, word in ((False, True, "is in the way"), (True, False, "has no .work/job.json"), (False, False, "--resume")):
        with pytest.raises(UserError, match=word):
            open_part(tmp_path / "run", TASK, resume, overwrite)
        assert other.exists()


def test_an_output_is_replaced_whole(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").touch()
    part = open_part(tmp_path / "run", TASK, resume=False, overwrite=False)
    write_json(part / "results.json", {"schema": 1})
    finish(part, tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["results.json"]
    assert not part.exists()
