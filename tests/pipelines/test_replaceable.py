"""--overwrite replaces only files that obsdiff wrote, and nothing that overlaps an input."""

import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from obsdiff.cli.main import main
from obsdiff.errors import UserError
from obsdiff.evaluation.report.page import write_page
from obsdiff.pipelines.overlap import check_place
from obsdiff.pipelines.part_owner import MARKER
from obsdiff.pipelines.partial_output import FINISHED, check_output, finish, open_part, put_in_place
from obsdiff.pipelines.replaceable import RESULTS, WORK, check_ours
from obsdiff.pipelines.save import whole_folder
from obsdiff.runtime.json_files import write_json

from ..support.lanes import first_quick

PAGE = "<!doctype html>\n<html><head>\n<title>obsdiff: dense and pruned</title>\n</head></html>\n"
PRUNE = ["--num-prompts", "2", "--num-inference-steps", "2", "--height", "16", "--width", "16"]


def tree(folder: Path) -> dict[str, str]:
    """Every entry below a folder with its contents."""
    return {
        str(p.relative_to(folder)): p.read_text(errors="replace") if p.is_file() else ""
        for p in folder.rglob("*")
    }


def pruned(folder: Path) -> Path:
    """A folder as prune writes it: the record last."""
    files = {"model_index.json": '{"unet": ["a", "b"]}', "unet/w.safetensors": "zeros"}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    (folder / "README.md").write_text("card")
    write_json(folder / "obsdiff.json", {"schema": 1, "hashes": {"files": hashes}})
    return folder


def evaluated(folder: Path) -> Path:
    for name in ("images/00-dense/000.png", "images/01-a/000.png"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    runs = [{"name": "a", "images": ["images/01-a/000.png"]}]
    images = ["images/00-dense/000.png"]
    write_json(folder / RESULTS, {"schema": 1, "dense_images": images, "runs": runs})
    return folder


def demo(folder: Path) -> Path:
    pruned(folder / "models" / "obs-50")
    pruned(folder / "models" / "obs-2of4")
    evaluated(folder / "run")
    (folder / "demo.html").write_text(PAGE)
    return folder


def sweep(folder: Path) -> Path:
    for name in ("0.30", "0.40", "unstructured-0.50", "2-4"):
        pruned(folder / name)
    return folder


def empty(folder: Path) -> Path:
    (folder / "a" / "b").mkdir(parents=True)
    return folder


def refused(output: Path, word: str, inputs: tuple[Path, ...] = ()) -> None:
    """The output is refused with one line, and everything beside it is unchanged."""
    before = tree(output.parent)
    with pytest.raises(UserError, match=word) as error:
        check_output(output, True, inputs)
    assert "\n" not in str(error.value)
    assert tree(output.parent) == before


@pytest.mark.parametrize("make", [pruned, evaluated, demo, sweep, empty])
def test_folders_that_obsdiff_wrote_are_replaced_whole(tmp_path, make):
    out = make(tmp_path / "out")
    check_output(out, overwrite=True)
    with pytest.raises(UserError, match="exists already"):
        check_output(out, overwrite=False)
    with whole_folder(out, overwrite=True) as inside:
        (inside / "new").touch()
    assert list(tree(tmp_path)) == ["out", "out/new"]


@pytest.mark.parametrize("make", [pruned, evaluated, demo, sweep, empty])
@pytest.mark.parametrize("name", ["thesis.txt", ".git/HEAD", "unet/mine.txt", "0.30/x/y", "run/x"])
def test_a_foreign_file_keeps_the_folder(tmp_path, make, name):
    out = make(tmp_path / "out")
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("years of work")
    refused(out, f"holds {name}, which obsdiff did not write")


@pytest.mark.parametrize("make", [pruned, evaluated, demo, sweep, empty])
def test_a_link_or_a_pipe_keeps_the_folder(tmp_path, make):
    out = make(tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    (out / "link").symlink_to(tmp_path / "elsewhere")
    refused(out, "holds link")
    (out / "link").unlink()
    os.mkfifo(out / "pipe")
    with pytest.raises(UserError, match="holds pipe"):
        check_output(out, overwrite=True)
    assert (out / "pipe").is_fifo()


def test_a_link_in_the_place_of_a_recorded_file_keeps_the_folder(tmp_path):
    out = pruned(tmp_path / "out")
    (out / "unet" / "w.safetensors").rename(tmp_path / "w")
    (out / "unet" / "w.safetensors").symlink_to(tmp_path / "w")
    refused(out, "holds unet/w.safetensors")


def test_weights_that_were_trained_further_keep_the_folder(tmp_path):
    out = pruned(tmp_path / "out")
    weights = out / "unet" / "w.safetensors"
    os.utime(out / "obsdiff.json", (1, 1))  # now every file is newer, and its hash counts
    check_output(out, overwrite=True)
    weights.write_text("finetuned")
    refused(out, "holds unet/w.safetensors, .* has changed since")
    (out / "README.md").write_text("the owner's card")
    weights.write_text("zeros")
    check_output(out, overwrite=True)


def test_records_of_early_versions_name_no_files(tmp_path):
    out = pruned(tmp_path / "out")
    write_json(out / "obsdiff.json", {"schema": 1, "config": {}})
    check_output(out, overwrite=True)
    (out / "unet" / "notes.docx").touch()
    refused(out, "holds unet/notes.docx")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"schema": 2}',
        '{"schema": 1, "hashes": {"files": 3}}',
        '{"runs": [{"images": 3}]}',
    ],
)
@pytest.mark.parametrize("name", ["obsdiff.json", "results.json"])
def test_a_foreign_record_makes_no_folder_ours(tmp_path, name, text):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text(text)
    (out / "thesis.txt").touch()
    refused(out, "holds (thesis.txt|obsdiff.json|results.json)")


def test_a_folder_of_hand_named_outputs_is_no_output(tmp_path):
    pruned(tmp_path / "models" / "my-best")
    refused(tmp_path / "models", "holds my-best")


def test_pages_of_a_run_are_replaced_with_it_and_other_pages_are_kept(tmp_path):
    run = evaluated(tmp_path / "run")
    (run / "page.html").write_text(PAGE)
    check_output(run, overwrite=True)
    (run / "notes.html").write_text("<title>my notes</title>")
    refused(run, "holds notes.html")


def test_temporary_files_of_a_run_killed_just_before_its_end_are_replaced_with_it(tmp_path):
    run = evaluated(tmp_path / "run")
    (run / WORK / "latents").mkdir(parents=True)
    (run / WORK / "latents" / "0.safetensors").touch()
    refused(run, "holds .work/latents/0.safetensors")
    write_json(run / WORK / "job.json", {})
    check_output(run, overwrite=True)


def make_file(place: Path) -> None:
    place.write_text("precious")


def make_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(place.parent)  # the name of a socket has at most 107 bytes
        made.bind(place.name)
        os.chdir(here)


def make_device(place: Path) -> None:
    try:
        os.mknod(place, 0o020600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no right to make a device node")


KINDS = {
    "a file": make_file,
    "a named pipe": os.mkfifo,
    "a socket": make_socket,
    "a device": make_device,
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("kind", "link"),
    [*itertools.product(KINDS, (False, True)), ("a folder", True), ("nothing", True)],
)
def test_anything_but_a_folder_is_never_replaced(tmp_path, capsys, kind, link, overwrite):
    """Nor is a symlink, whatever its target; in every command that writes a folder."""
    place, real = tmp_path / "out", tmp_path / ("real" if link else "out")
    if kind in KINDS:
        KINDS[kind](real)
    elif kind == "a folder":
        pruned(real)
    if link:
        place.symlink_to(real)
    before = place.lstat()
    flags = ["--output", str(place), *(["--overwrite"] if overwrite else [])]
    runs = ["evaluate", "emoji-unet", "--against", "emoji-unet"]
    for command in (["prune", "emoji-unet"], runs, ["demo"]):
        assert main([*command, *flags]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert ("a symlink" if link else kind) in line
    with pytest.raises(UserError), whole_folder(place, overwrite):
        pass
    after = place.lstat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert not link or kind != "a folder" or (real / "obsdiff.json").is_file()


def test_an_input_is_found_however_it_is_spelled(tmp_path, monkeypatch):
    """obsdiff wrote each output here: it is kept only because it is an input."""
    model = pruned(tmp_path / "models" / "2-4")
    (tmp_path / "link").symlink_to(tmp_path / "models")
    (tmp_path / "one").symlink_to(model)
    empty(tmp_path / "way")
    spelled = (
        model,
        model.parent,
        model / "new",
        tmp_path / "link" / "2-4",
        tmp_path / "link" / "2-4" / "deep" / "new",
        tmp_path / "way" / ".." / "models",
        tmp_path / "link" / ".." / "models" / "2-4",
    )
    for output in spelled:
        for given in (model, tmp_path / "link" / "2-4", tmp_path / "one"):
            for overwrite in (False, True):
                with pytest.raises(UserError, match="overlap"):
                    check_output(output, overwrite, [given])
    monkeypatch.chdir(tmp_path / "way")
    for output in (Path("../models"), Path("../models/2-4/new")):
        with pytest.raises(UserError, match="overlap"):
            check_place(output, [Path("../models/2-4")])
    for output in (tmp_path / "new", tmp_path / "models" / "0.50", tmp_path / "way" / "new"):
        check_output(output, True, [model])


def test_a_model_whose_parts_are_links_into_the_output_keeps_it(tmp_path):
    out = pruned(tmp_path / "out")
    model = tmp_path / "model"
    (model / "vae").mkdir(parents=True)
    (model / "unet").symlink_to(out / "unet")
    refused(out, "overlap", (model,))
    (model / "unet").unlink()
    (model / "vae" / "w.safetensors").symlink_to(out / "unet" / "w.safetensors")
    refused(out, "overlap", (model,))
    inner = pruned(out / "0.30")
    (tmp_path / "by-link").symlink_to(inner)
    refused(out, "overlap", (tmp_path / "by-link",))


def test_a_link_in_the_output_that_names_the_model_keeps_it(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model").symlink_to(pruned(tmp_path / "model"))
    refused(tmp_path / "out", "overlap", (tmp_path / "out" / "model",))


def test_a_model_in_the_folder_of_an_unfinished_run_is_not_cleared(tmp_path):
    model = pruned(tmp_path / "out.part" / FINISHED / "0.30")
    refused(tmp_path / "out", "overlap", (model,))


def test_the_working_folder_is_not_replaced(tmp_path, monkeypatch):
    out = sweep(tmp_path / "out")
    monkeypatch.chdir(out / "0.30")
    for output in (out, Path(".."), Path("../../out"), Path("../0.30")):
        with pytest.raises(UserError, match=r"working folder|name of a folder"):
            check_output(output, overwrite=True)
    check_output(Path("../0.60"), overwrite=True)


@pytest.mark.parametrize("below", ["", "a/b"])
def test_mount_points_are_refused_before_the_run(tmp_path, monkeypatch, below):
    out = empty(tmp_path / "out")
    point = str(out / below) if below else str(out)
    monkeypatch.setattr("os.path.ismount", lambda place: str(place) == point)
    refused(out, "is a mount point")


@pytest.mark.parametrize("below", first_quick(["", "/a/b c"]))
@pytest.mark.parametrize("kind", ["-t tmpfs tmpfs", "--bind other"])
@pytest.mark.slow
def test_real_mounts_are_refused(tmp_path, kind, below):
    """In a new mount namespace; ismount does not detect a bind mount on the same file system."""
    empty(tmp_path / "out")
    (tmp_path / "out" / "a" / "b c").mkdir()
    (tmp_path / "other").mkdir()
    code = f"-m obsdiff demo --output '{tmp_path}/out' --overwrite"
    script = f"mount {kind} '{tmp_path}/out{below}' || exit 77; exec \"$PYTHON\" {code}"
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHON": os.sys.executable, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    if done.returncode in (1, 77) and "obsdiff" not in done.stderr:
        pytest.skip("no right to mount")
    assert done.returncode == 2, done.stderr
    assert f"{tmp_path}/out{below} is a mount point" in done.stderr


@pytest.mark.parametrize("what", ["folder", "pipe", "link"])
def test_anything_that_appears_during_the_run_is_kept(tmp_path, what):
    def appear(output: Path) -> None:
        if what == "folder":
            output.mkdir()
            (output / "thesis.txt").write_text("years of work")
        elif what == "pipe":
            os.mkfifo(output)
        else:
            output.symlink_to(tmp_path)

    outputs = [tmp_path / name for name in ("saved", "pruned", "run")]
    with pytest.raises(UserError), whole_folder(outputs[0], overwrite=True):
        appear(outputs[0])
    for output in outputs[1:]:
        with open_part(output, {}, resume=False, overwrite=True) as part:
            (part / FINISHED).mkdir()
            appear(output)
            before = output.lstat().st_ino
            with pytest.raises(UserError):
                (put_in_place if output.name == "pruned" else finish)(part, output, True)
        assert (part / FINISHED).is_dir()
        assert output.lstat().st_ino == before
    for output in outputs:
        assert what != "folder" or tree(output) == {"thesis.txt": "years of work"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "pruned",
        "pruned.part",
        "run",
        "run.part",
        "saved",
    ]


def test_a_file_that_appears_between_the_check_and_the_rename_is_brought_back(
    tmp_path, monkeypatch
):
    out = pruned(tmp_path / "out")
    rename = Path.rename

    def late(self, target):
        if self == out:
            (out / "thesis.txt").write_text("years of work")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with (
        pytest.raises(UserError, match=r"out holds thesis\.txt"),
        whole_folder(out, overwrite=True),
    ):
        pass
    assert (out / "thesis.txt").read_text() == "years of work"
    assert (out / "unet" / "w.safetensors").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_appears_after_the_old_one_left_is_kept_beside_it(tmp_path, monkeypatch):
    out = pruned(tmp_path / "out")
    rename = Path.rename

    def late(self, target):
        done = rename(self, target)
        if self == out:
            out.mkdir()
            (out / "thesis.txt").write_text("years of work")
        return done

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(UserError, match="can't be replaced"), whole_folder(out, overwrite=True):
        pass
    assert tree(out) == {"thesis.txt": "years of work"}
    assert list(tmp_path.rglob("old/unet/w.safetensors"))  # nothing is lost


def test_a_run_killed_when_it_has_its_name_can_be_replaced(tmp_path, monkeypatch):
    output = evaluated(tmp_path / "run")
    with open_part(output, {}, resume=False, overwrite=False) as part:
        write_json(part / RESULTS, {"schema": 1})
        for name in ("a", "b"):
            (part / WORK / name).mkdir()
            (part / WORK / name / "file").touch()

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            finish(part, output, overwrite=True)
    assert (output / WORK / "old" / RESULTS).is_file()
    check_output(output, overwrite=True)
    assert not part.exists()


def test_foreign_files_in_an_unfinished_run_are_kept(tmp_path):
    output = tmp_path / "out"
    with open_part(output, {}, resume=False, overwrite=False) as part:
        (part / FINISHED).mkdir()
    (part / "mine.txt").write_text("mine")
    with (
        pytest.raises(UserError, match=r"holds mine\.txt"),
        open_part(output, {}, resume=False, overwrite=True),
    ):
        pass
    assert (part / WORK / "job.json").is_file()
    with open_part(output, {}, resume=True, overwrite=False):
        put_in_place(part, output, overwrite=False)
    assert tree(tmp_path) == {"out": "", "out.part": "", "out.part/mine.txt": "mine"}


@pytest.mark.parametrize("resume", [False, True])
def test_a_part_folder_without_a_job_of_ours_is_left_alone(tmp_path, resume):
    work = tmp_path / "out.part" / WORK
    work.mkdir(parents=True)
    (work / "diary.txt").write_text("mine")
    before = tree(tmp_path)
    with (
        pytest.raises(UserError, match=r"out\.part"),
        open_part(tmp_path / "out", {}, resume, overwrite=True),
    ):
        pass
    assert tree(tmp_path) == before


@pytest.mark.parametrize("link", ["out.part", "out.part/.work", "out.part/.work/lock"])
def test_links_in_the_place_of_an_unfinished_run_are_not_followed(tmp_path, link):
    real = tmp_path / "real"
    real.mkdir()
    (real / "job.json").write_text("{}")
    (real / ".work").mkdir()
    (real / ".work" / "job.json").write_text("{}")
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(real / "job.json" if link.endswith("lock") else real)
    before = tree(real)
    with (
        pytest.raises(UserError, match=r"in the way"),
        open_part(tmp_path / "out", {}, resume=False, overwrite=True),
    ):
        pass
    assert tree(real) == before


@pytest.mark.parametrize("killed_at", range(4))
def test_a_run_killed_while_it_clears_another_can_be_started_again(
    tmp_path, monkeypatch, killed_at
):
    output = tmp_path / "out"
    with open_part(output, {"seed": 1}, resume=False, overwrite=False) as part:
        for name in ("pieces/a", "latents/b", "costs/c"):
            (part / WORK / name).mkdir(parents=True)
            (part / WORK / name / "file").touch()
    calls = iter(range(10))
    rmtree = shutil.rmtree

    def killed(place, *args, **kwargs):
        if next(calls) == killed_at:
            raise KeyboardInterrupt
        rmtree(place, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        try:
            with open_part(output, {"seed": 2}, resume=False, overwrite=True):
                assert killed_at == 3
        except KeyboardInterrupt:
            assert killed_at < 3
    with open_part(output, {"seed": 2}, resume=True, overwrite=False) as part:
        left = {p.name for p in (part / WORK).iterdir()}
        assert left == {"lock", "job.json", MARKER}


def test_a_report_replaces_its_own_pages_alone(tmp_path, capsys):
    run, page = evaluated(tmp_path / "run"), tmp_path / "page.html"
    precious = tmp_path / "precious.txt"
    flags = ["report", str(run), "--output", str(page), "--overwrite"]
    for make in (
        lambda: page.write_text("<title>my own page</title>"),
        lambda: page.symlink_to(precious),
        lambda: os.mkfifo(page),
    ):
        precious.write_text(PAGE)
        make()
        before = page.lstat()
        assert main(flags) == 2
        assert "no page that obsdiff report wrote" in capsys.readouterr().err
        with pytest.raises(UserError, match=r"no page|results.json"):
            write_page([run], page)
        assert (page.lstat().st_ino, page.lstat().st_size) == (before.st_ino, before.st_size)
        assert precious.read_text() == PAGE
        page.unlink()


@pytest.mark.slow
def test_the_command_line_replaces_its_own_outputs_and_keeps_the_rest(
    tmp_path, capsys, sd3_folder, prompts_file
):
    """prune, evaluate and report, each over its own output, its input and a foreign folder."""
    model = Path(shutil.copytree(sd3_folder, tmp_path / "models" / "sd3"))
    out, run, page = (tmp_path / name for name in ("pruned", "run", "page.html"))
    mine = tmp_path / "mine"
    (mine / ".git").mkdir(parents=True)
    (mine / ".git" / "HEAD").write_text("ref: refs/heads/main")
    prune = ["prune", str(model), "--prompts", prompts_file, "--calibration", "single", *PRUNE]
    draw = ["--prompts", prompts_file, "--rounds", "0", *PRUNE]
    evaluate = ["evaluate", str(out), "--against", str(model), *draw]
    report = ["report", str(run)]
    for command, output in ((prune, out), (evaluate, run), (report, page)):
        for flags in ([], ["--overwrite"]):
            assert main([*command, "--output", str(output), *flags]) == 0, capsys.readouterr().err
    capsys.readouterr()
    before = tree(tmp_path)
    inputs = [model, model.parent, model / "new", mine]
    for command, outputs in ((prune, inputs), (evaluate, [*inputs, out, out / "run"])):
        for output in outputs:
            assert main([*command, "--output", str(output), "--overwrite"]) == 2
            assert capsys.readouterr().err.count("\n") == 1
    assert tree(tmp_path) == before
    assert json.loads((out / "obsdiff.json").read_text())["schema"] == 1
    sizes = ["--sparsity", "0.3", "0.4", "--output", str(tmp_path / "several")]
    assert main([*prune, *sizes]) == 0
    assert main([*prune, *sizes, "--overwrite"]) == 0
    assert sorted(p.name for p in (tmp_path / "several").iterdir()) == ["0.30", "0.40"]
    check_ours(tmp_path / "several", tmp_path / "several")


def test_a_folder_whose_files_may_not_be_deleted_is_known_before_a_run(tmp_path, monkeypatch):
    out = pruned(tmp_path / "out")
    monkeypatch.setattr(os, "access", lambda place, _mode: Path(place).name != "unet")
    refused(out, "no permission to delete what is in .*out/unet")


def test_a_folder_of_another_user_in_a_shared_one_is_not_replaced(tmp_path, monkeypatch):
    out = pruned(tmp_path / "out")
    check_output(out, overwrite=True)
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: out.stat().st_uid + 1)
    refused(out, "no permission to delete")
