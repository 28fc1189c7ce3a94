"""The page from results.json: complete, self-contained, and shown by a real browser."""

import base64
import hashlib
import html
import io
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from obsdiff.cli.main import main
from obsdiff.errors import UserError
from obsdiff.evaluation.report import page as report
from obsdiff.evaluation.report.configuration import group_names
from obsdiff.evaluation.report.merge import merge, unique_names
from obsdiff.evaluation.report.page import read_results, write_page
from obsdiff.evaluation.report.pictures import data_url
from obsdiff.evaluation.report.tables import removed_cell

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of two prompts: dense pictures in green, pruned ones in red."""
    for name, colour in (("dense", (20, 180, 60)), ("half", (220, 40, 40))):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (64, 64), colour).save(tmp_path / name / f"{i:03}.png")
    layers = [
        {"name": f"l{i}", "shape": [8, 4], "sparsity": 0.5, "error": 0.01 * (i + 1), "loss": 1.0}
        for i in range(5)
    ]
    entry = {
        "name": "half",
        "path": "models/half",
        "config": {"method": "obs"},
        "cost": {
            "parameters": 1000,
            "zeros": 400,
            "bytes_on_disk": 2000,
            "seconds": {"calibration": 3.0, "solve": 1.0},
        },
        "metrics": {
            "relative_latent_error": {"value": 0.1234, "low": 0.1, "high": 0.2, "why_not": None}
        },
        "layers": layers,
        "images": ["half/000.png", "half/001.png"],
    }
    results = {
        "schema": 1,
        "dense": "tiny",
        "dense_images": ["dense/000.png", "dense/001.png"],
        "dense_cost": {"parameters": 1000, "zeros": 0, "bytes_on_disk": 2000},
        "runs": [entry],
        "prompts": ["a <b>fish</b>", "moon"],
        "seeds": [1, 2],
        "settings": {"num_inference_steps": 2},
        "versions": {"torch": "2"},
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


@pytest.fixture
def without_plots(monkeypatch) -> None:
    """Pages without plots, which take most of the time of a page."""
    monkeypatch.setattr(report, "plots", lambda comparison: [])


def results_of(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def change(run: Path, **changes) -> None:
    (run / "results.json").write_text(json.dumps(results_of(run) | changes))


def another(run: Path, name: str, **changes) -> Path:
    """A copy of a run in a folder beside its pictures, changed."""
    folder = run / name
    folder.mkdir(parents=True)
    for pictures in ("dense", "half"):
        shutil.copytree(run / pictures, folder / pictures)
    (folder / "results.json").write_text(json.dumps(results_of(run) | changes))
    return folder


def renamed(run: Path, name: str, **changes) -> dict:
    """The run's one entry under another name, changed."""
    return results_of(run)["runs"][0] | {"name": name} | changes


def figure(value: float, width: float = 0.01) -> dict:
    return {"value": value, "low": value - width, "high": value + width, "why_not": None}


def page_of(*runs: Path) -> str:
    page = runs[0] / "page.html"
    write_page(list(runs), page)
    return page.read_text()


def test_the_page_needs_nothing_else(run):
    assert main(["report", str(run), "--output", str(run / "page.html")]) == 0
    page = (run / "page.html").read_text()
    assert len(re.findall(r"data:image/(?:png|webp);base64,", page)) == 4
    assert page.count("<svg") == 3  # nothing was timed, and there is no second metric
    assert "No run was timed" in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert "url(http" not in page
    assert "a &lt;b&gt;fish&lt;/b&gt;" in page  # a prompt is text, never markup
    assert "0.1234" in page
    assert "0.1000 to 0.2000" in page
    assert "PSNR" not in page  # what was not measured has no column
    assert "50.00 % of 5 layers" in page
    assert "40.0 %" in page
    assert "The run: method obs" in page
    assert len(page.encode()) < 1_000_000


def test_every_measured_metric_has_a_column_and_the_others_a_reason(run):
    entry = json.loads((run / "results.json").read_text())["runs"][0]
    near = {"low": 19.0, "high": 21.0, "why_not": None}
    missing = {"value": None, "low": None, "high": None, "why_not": "no CLIP was given <here>"}
    metrics = entry["metrics"] | {"clip_score": {"value": 20.0, **near}, "pickscore": missing}
    other = entry | {
        "name": "third",
        "metrics": entry["metrics"]
        | {
            "clip_score": {"value": 10.0, "low": 9.0, "high": 11.0, "why_not": None},
            "pickscore": missing,
        },
    }
    change(
        run,
        runs=[entry | {"metrics": metrics}, other],
        dense_metrics={"clip_score": {"value": 20.5, **near}},
    )
    write_page([run], run / "page.html")
    page = (run / "page.html").read_text()
    assert '<th scope="col">CLIP score</th>' in page
    assert '<td data-value="20.5">20.50<br>' in page  # dense, the best
    assert '<td data-value="20.0">20.00~<br>' in page  # inside the noise of dense
    assert '<td data-value="10.0">10.00<br>' in page  # outside
    assert '<th scope="col">PickScore</th>' not in page
    assert "PickScore: not run: no CLIP was given &lt;here&gt;" in page
    assert "CLIP score against sparsity" in page


@pytest.mark.usefixtures("without_plots")
def test_errors_on_held_out_prompts_have_a_column_where_a_run_has_them(run):
    write_page([run], run / "page.html")
    assert "held-out" not in (run / "page.html").read_text()
    entry = results_of(run)["runs"][0]
    judged = [row | {"held_out_error": 0.02 * (i + 1)} for i, row in enumerate(entry["layers"])]
    unasked = [row | {"held_out_error": None} for row in entry["layers"]]
    change(run, runs=[entry | {"layers": judged}, entry | {"name": "other", "layers": unasked}])
    write_page([run], run / "page.html")
    page = (run / "page.html").read_text()
    assert '<th scope="col">held-out layer error, median</th>' in page
    assert page.count('data-value="0.06"') == 1
    assert "0.0600" in page
    change(run, runs=[entry | {"layers": [entry["layers"][0] | {"held_out_error": "none"}]}])
    with pytest.raises(
        UserError, match=r"runs\[0\].layers\[0\].held_out_error: expected a number, found 'none'"
    ):
        write_page([run], run / "page.html")


def test_a_folder_that_is_no_run_is_refused(run, capsys):
    page = run / "page.html"
    page.touch()
    assert main(["report", str(run), "--output", str(page)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    change(run, schema=7)
    with pytest.raises(UserError, match="expected schema 1, found 7"):
        write_page([run], page)
    change(run, schema=1, dense_images=["../../etc/passwd", "dense/001.png"])
    with pytest.raises(UserError, match="no picture"):
        write_page([run], page)
    change(run, dense_images=[], runs=[{}])
    with pytest.raises(UserError, match=r"does not follow schema 1: runs\[0\].name is missing"):
        write_page([run], page)
    for place in (run / "results.json", run, "/proc/x.html", run / "results.json" / "x.html"):
        assert main(["report", str(run), "--output", str(place), "--overwrite"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert json.loads((run / "results.json").read_text())["schema"] == 1
    (run / "results.json").write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object"):
        write_page([run], page)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runs": None}, "runs: expected a list, found None"),
        ({"prompts": []}, "prompts: expected at least one"),
        ({"seeds": [1]}, "2 prompts and 1 seeds"),
        ({"settings": [1]}, "settings: expected an object, found [1]"),
        ({"dense_cost": {"zeros": 1}}, "dense_cost.parameters is missing"),
        (
            {"dense_metrics": {"fid": {"value": 1.0, "low": None, "high": 2.0, "why_not": None}}},
            "dense_metrics.fid: expected value, low and high, or none",
        ),
        ({"runs": [{"name": 3}]}, "runs[0].name: expected a text, found 3"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(run, changes, words):
    change(run, **changes)
    with pytest.raises(UserError, match="does not follow schema 1") as found:
        write_page([run], run / "page.html")
    assert words in str(found.value)


@pytest.mark.parametrize(
    ("changes", "fewest", "most"), [(16, 2, 15), pytest.param(40, 6, 34, marks=pytest.mark.slow)]
)
def test_any_results_json_is_a_page_or_one_line_of_error(run, changes, fewest, most):
    change(run, dense_metrics={"clip_score": figure(20.0)}, judges={"clip": "a"}, threads=2)
    cost = results_of(run)["runs"][0]["cost"] | {"step": {"speedup": 1.1, "low": 1.0, "high": 1.2}}
    change(run, runs=[renamed(run, "half", cost=cost)])
    whole = results_of(run)
    draw = random.Random(0)
    lines = []
    for _ in range(changes):
        broken = json.loads(json.dumps(whole))
        holder, key = draw.choice(list(places(broken)))
        holder[key] = draw.choice(
            [
                None,
                -1,
                0,
                1e300,
                10**400,
                float("nan"),
                float("inf"),
                "text",
                "\ud800\x00",
                [],
                {},
                [None],
                True,
                ["dense/000.png"],
            ]
        )
        (run / "results.json").write_text(json.dumps(broken))
        try:
            write_page([run], run / "page.html")
        except UserError as error:
            lines.append(str(error))
    assert fewest <= len(lines) <= most


def places(value):
    """Every (holder, key) of a JSON value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


def test_an_unfinished_run_is_refused_with_the_command_that_resumes_it(tmp_path, capsys):
    def refused(folder: Path) -> str:
        assert main(["report", str(folder), "--output", str(tmp_path / "page.html")]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert line.startswith("error: ")
        return line

    (tmp_path / "run.part" / ".work").mkdir(parents=True)
    for folder in (tmp_path / "run", tmp_path / "run.part"):
        assert (
            f"resume it with obsdiff evaluate ... --output {tmp_path / 'run'} --resume"
            in refused(folder)
        )
    (tmp_path / "pruned").mkdir()
    (tmp_path / "pruned" / "obsdiff.json").write_text("{}")
    assert f"obsdiff evaluate {tmp_path / 'pruned'} --against MODEL" in refused(tmp_path / "pruned")
    (tmp_path / "empty").mkdir()
    assert "found a folder without results.json" in refused(tmp_path / "empty")
    assert "found a file" in refused(tmp_path / "pruned" / "obsdiff.json")
    assert "found nothing" in refused(tmp_path / "nowhere")
    (tmp_path / "empty" / "results.json").write_text('{"schema": 1, "ru')
    assert "can't be read as JSON" in refused(tmp_path / "empty")


@pytest.mark.usefixtures("without_plots")
def test_the_same_folder_twice_and_a_broken_picture_are_refused(run):
    with pytest.raises(UserError, match="the same folder twice"):
        write_page([run, run / "."], run / "page.html")
    (run / "half" / "001.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"001\.png can't be read as a picture"):
        write_page([run], run / "page.html")


@pytest.mark.usefixtures("without_plots")
def test_comparable_runs_are_merged_under_unique_names(run):
    missing = {"value": None, "low": None, "high": None, "why_not": "no CLIP"}
    change(
        run,
        runs=[renamed(run, "0.50", path="models/obs/0.50"), renamed(run, "only")],
        dense_metrics={"clip_score": missing},
    )
    others = [
        renamed(run, "0.50", path="/models/wanda/0.50", metrics={"clip_score": figure(20.0)}),
        renamed(run, "third", images=["half/001.png"]),
    ]
    second = another(
        run, "second", runs=others, dense_metrics={"clip_score": figure(21.0)}, judges={"clip": "a"}
    )
    (one,) = merge([(folder, read_results(folder)) for folder in (run, second)])
    assert [entry["name"] for entry in one.results["runs"]] == [
        "obs/0.50",
        "only",
        "wanda/0.50",
        "third",
    ]
    assert one.homes == {"obs/0.50": run, "only": run, "wanda/0.50": second, "third": second}
    assert one.results["dense_metrics"]["clip_score"]["value"] == 21.0
    page = page_of(run, second)
    assert page.count("<section") == 1
    assert page.count("<h2>Quality</h2>") == 1
    assert "Merged from" in page
    assert "Not merged" not in page


def test_names_that_are_the_same_in_every_folder_still_differ(tmp_path):
    a, b = tmp_path / "x" / "run", tmp_path / "y" / "run"
    half = {"name": "half", "path": "models/half"}
    assert unique_names([(a, half), (b, half)]) == ["x/run/half", "y/run/half"]
    assert unique_names(
        [(a, half), (a, half), (a, {"name": "dense"}), (a, {"name": "quarter"})]
    ) == ["x/run/half", "x/run/half (2)", "run/dense", "quarter"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dense": "other"}, "dense model other, not tiny"),
        (
            {"dense_cost": {"parameters": 2000, "zeros": 0, "bytes_on_disk": 2000}},
            "2,000 parameters in the dense model, not 1,000",
        ),
        (
            {"prompts": ["a fish", "sun"]},
            "other prompts: 2 of 2, the first is &#39;a fish&#39;, "
            "not &#39;a &lt;b&gt;fish&lt;/b&gt;&#39;",
        ),
        ({"prompts": ["a fish"], "seeds": [1]}, "1 prompts, not 2; 1 seeds, not 2"),
        ({"seeds": [1, 3]}, "other seeds: 1 of 2, the first is 3, not 2"),
        ({"settings": {"num_inference_steps": 4}}, "num_inference_steps 4, not 2"),
        ({"judges": {"clip": "b"}}, "clip judged by b, not a"),
        ({"machine": {"device": "NVIDIA H200"}}, "computed with device NVIDIA H200, not cpu"),
    ],
)
@pytest.mark.usefixtures("without_plots")
def test_incomparable_runs_have_their_own_section_with_the_reason(run, changes, why):
    change(run, judges={"clip": "a"}, machine={"device": "cpu", "format": "float32"})
    page = page_of(
        run, another(run, "second", **changes), another(run, "third", versions={"torch": "3"})
    )
    assert page.count("<section") == 2  # the third one compares with the first
    assert "2 comparisons, since not all runs are comparable" in page
    assert f"Not merged with the runs of {run.name}: {why}." in page


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (("model", {"unet": "1", "vae": "2"}), ("./model/", {"unet": "1", "vae": "2"}), ""),
        (("a/model", {"unet": "1"}), ("/b/model", {"unet": "1"}), ""),
        (
            ("model", {"unet": "1", "vae": "2"}),
            ("model", {"unet": "3", "vae": "2"}),
            "dense model model: other weights of unet",
        ),
        (("model", {"unet": "1"}), ("m", {"unet": "3"}), "dense model m, not model: other weights"),
        (("model", {}), ("./model", {}), ""),
        (("model", {}), ("./model", {"unet": "1"}), ""),
        (("model", {"unet": "1"}), ("other", {}), "dense model other, not model"),
    ],
)
@pytest.mark.usefixtures("without_plots")
def test_a_dense_model_is_known_by_its_weights(run, first, second, why):
    change(run, dense=first[0], dense_weights=first[1])
    page = page_of(run, another(run, "second", dense=second[0], dense_weights=second[1]))
    assert page.count("<section") == (2 if why else 1)
    assert why in page


@pytest.mark.usefixtures("without_plots")
def test_a_result_without_hashes_compares_with_one_weight_only(run):
    change(run, dense_weights={})
    known, other = ({"dense_weights": {"unet": each}} for each in "12")
    page = page_of(run, another(run, "second", **known), another(run, "third", **other))
    assert page.count("<section") == 2


@pytest.mark.usefixtures("without_plots")
def test_flawed_pictures_and_what_was_left_out_are_said(run):
    flawed = [{"picture": 1, "why": "have NaN or infinite latents"}]
    gone = {"value": None, "low": None, "high": None, "why_not": "1 of 2 pictures have NaN"}
    runs = [renamed(run, "bad", metrics={"ssim": gone}, flawed=flawed), renamed(run, "good")]
    change(run, runs=runs, dense_flawed=flawed, without=["safety_checker"])
    page = page_of(run)
    assert "drawn and measured without safety_checker" in page
    assert page.count("1 of 2 pictures have NaN or infinite latents; they are crossed out") == 2
    assert "SSIM of bad: not run: 1 of 2 pictures have NaN" in page


def test_only_settings_that_differ_are_in_the_table(run):
    config = {
        "method": "obs",
        "pattern": "unstructured",
        "sparsity": 0.3,
        "damping": 0.01,
        "compensation": True,
    }
    change(
        run,
        runs=[
            renamed(run, "a", config=config),
            renamed(run, "b", config=config | {"sparsity": 0.5}),
            renamed(run, "foreign", config={}, layers=[]),
        ],
    )
    second = another(
        run,
        "second",
        runs=[renamed(run, "c", config=config | {"compensation": False})],
        versions={"torch": "3"},
        threads=4,
    )
    page = page_of(run, second)
    table = page[page.index("<h2>Configuration</h2>") :]
    assert re.findall(r'<th scope="col">([^<]*)</th>', table) == [
        "run",
        "sparsity",
        "compensation",
        "evaluated with torch",
        "evaluated with threads",
    ]
    assert '<td data-value="0.3">0.3</td>' in table
    assert "<td>no</td>" in table
    assert "All share: method obs, pattern unstructured, damping 0.01" in table
    assert "Not shown (no figure, or no record of its layers): foreign." in page


def test_a_line_of_a_plot_holds_runs_that_differ_in_sparsity_alone():
    obs = {"method": "obs", "pattern": "unstructured", "sparsity": 0.3, "compensation": True}
    configs = {
        "a": obs,
        "b": obs | {"sparsity": 0.5, "batch_size": 8},
        "c": obs | {"pattern": "2:4"},
        "foreign": {},
    }
    runs = [{"name": name, "config": config} for name, config in configs.items()]
    assert group_names(runs) == {
        "a": "obs unstructured",
        "b": "obs unstructured",
        "c": "obs 2:4",
        "foreign": "foreign",
    }
    runs.append({"name": "d", "config": obs | {"compensation": False}})
    assert group_names(runs)["a"] == group_names(runs)["b"] == "obs unstructured, compensation yes"
    assert group_names(runs)["d"] == "obs unstructured, compensation no"


def test_speed_is_plotted_where_it_was_measured(run):
    cost = results_of(run)["runs"][0]["cost"]
    timed = renamed(run, "timed", cost=cost | {"step": {"speedup": 1.25, "low": 1.2, "high": 1.3}})
    change(run, runs=[timed, renamed(run, "untimed")])
    page = page_of(run)
    assert page.count("<svg") == 4
    assert "speed of a step, as a multiple of dense" in page
    assert "Not shown (not timed): untimed." in page


def test_a_page_without_runs_or_records_is_a_page(run):
    bare = renamed(
        run,
        "bare",
        config={},
        layers=[],
        images=[],
        cost={"parameters": 0, "zeros": 0, "bytes_on_disk": 0},
        metrics={},
    )
    change(run, runs=[], dense_images=[])
    assert "<svg" not in page_of(run)
    change(run, runs=[bare])
    page = page_of(run)
    assert "<svg" not in page
    assert "<img" not in page


def noisy(run: Path, prompts: int, runs: int, side: int) -> None:
    """Write pictures that don't compress, `runs` of them beside dense for each prompt."""
    rng = np.random.default_rng(0)
    names = [f"noise/{i:03}.png" for i in range(prompts)]
    (run / "noise").mkdir()
    for name in names:
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(run / name)
    entries = [renamed(run, f"run {i}", images=names) for i in range(runs)]
    change(
        run,
        runs=entries,
        dense_images=names,
        prompts=[f"prompt {i} & more" for i in range(prompts)],
        seeds=list(range(prompts)),
    )


@pytest.mark.usefixtures("without_plots")
def test_the_page_stays_below_its_size_and_counts_the_shown_prompts(run, monkeypatch):
    noisy(run, prompts=14, runs=2, side=260)
    small = another(
        run,
        "small",
        prompts=["a", "b"],
        seeds=[1, 2],
        runs=[renamed(run, "one", images=[])],
        dense_images=["dense/000.png", "dense/001.png"],
    )
    assert "to keep the page small" not in page_of(run, small)
    monkeypatch.setattr(report, "LARGEST_PAGE", 2_500_000)
    page = page_of(run, small)
    assert 2_000_000 < len(page.encode()) <= 2_500_000
    shown = page.count('<div class="prompt">prompt ')
    assert 8 <= shown < 14
    assert (
        f"First {shown} of 14 prompts, to keep the page small; all are in {run.name}/images."
        in page
    )
    assert page.count("<img") == 3 * shown + 2  # the small comparison has all of its pictures
    monkeypatch.setattr(report, "LARGEST_PAGE", 600_000)
    page = page_of(run, small)
    assert len(page.encode()) <= 600_000
    assert (
        page.count('<div class="prompt">prompt ') >= 8
    )  # smaller pictures rather than fewer prompts than these
    monkeypatch.setattr(report, "LARGEST_PAGE", 60_000)
    with pytest.raises(UserError, match="without a picture"):
        page_of(run, small)


def test_pictures_are_shown_small_and_small_ones_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (12, 24, 3), dtype=np.uint8)).resize(
        (800, 400), Image.Resampling.BICUBIC
    )
    photo.save(tmp_path / "photo.png")
    shown = Image.open(
        io.BytesIO(base64.b64decode(data_url(tmp_path / "photo.png", 256).split(",")[1]))
    )
    assert shown.size == (256, 128)
    assert (
        np.abs(
            np.asarray(shown.convert("RGB")).astype(float)
            - np.asarray(photo.resize((256, 128), Image.Resampling.LANCZOS))
        ).mean()
        < 4
    )
    Image.fromarray(np.eye(64) > 0).save(tmp_path / "flat.png")
    assert (
        data_url(tmp_path / "flat.png", 256)
        == "data:image/png;base64,"
        + base64.b64encode((tmp_path / "flat.png").read_bytes()).decode()
    )


EVIL = (
    "</script><script>document.title='evil'</script>\"'>"
    "<img src=x onerror=\"document.title='evil'\">{{ 7 * 7 }}$x$"
)


def evil(run: Path) -> str:
    """A page whose every text tries to be markup."""
    cost = results_of(run)["runs"][0]["cost"] | {
        "seconds": {EVIL: 1.0},
        "step": {"speedup": 1.1, "low": 1.0, "high": 1.2},
        "memory": {"why_not": EVIL},
    }
    missing = {"value": None, "low": None, "high": None, "why_not": EVIL}
    config = {"method": EVIL, "pattern": EVIL, EVIL: EVIL}
    entry = renamed(
        run,
        EVIL,
        path=EVIL,
        config=config,
        cost=cost,
        metrics=results_of(run)["runs"][0]["metrics"] | {"fid": missing},
    )
    texts = {
        "dense": EVIL,
        "prompts": [EVIL, EVIL],
        "settings": {EVIL: EVIL},
        "versions": {EVIL: EVIL},
        "judges": {EVIL: EVIL},
    }
    change(run, runs=[entry, entry | {"config": {}}, entry | {"config": {EVIL: 3}}], **texts)
    return page_of(run, another(run, "second", seeds=[3, 4], dense=EVIL + "2"))


def test_every_text_is_text(run):
    page = evil(run)
    assert page.count("<script") == 1
    assert page.count("</script") == 1
    assert "<img src=x" not in page
    assert 'onerror="' not in page
    assert "{{ 7 * 7 }}" in page
    policy = re.search(r"script-src 'sha256-([^']+)'", page)[1]
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)[1]
    assert (
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() == policy
    )  # no other script would run


@in_a_browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_pictures_in_light_and_dark(run, tmp_path, dark):
    write_page([run], run / "page.html")
    shot = tmp_path / "shot.png"
    flags = FLAGS + (
        ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]
        if dark
        else ["--blink-settings=preferredColorScheme=1"]
    )
    command = [
        CHROMIUM,
        *flags,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1100,1600",
        f"--screenshot={shot}",
        (run / "page.html").as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    for colour in ((20, 180, 60), (220, 40, 40)):  # both columns are really drawn
        assert (np.abs(pixels - colour).max(2) < 6).sum() > 5000
    corner = pixels[5, 5].mean()
    assert corner < 60 if dark else corner > 200


def test_a_name_is_text_in_plots_too(run):
    results = json.loads((run / "results.json").read_text())
    change(run, runs=[results["runs"][0] | {"name": "$\\x$ <b>"}])
    write_page([run], run / "page.html")
    assert "<b>" not in (run / "page.html").read_text().replace("&lt;b&gt;", "")


IN_A_FRAME = """<!doctype html><title>waiting</title>
<iframe style="border:0;width:{width}px;height:800px" srcdoc="{page}"></iframe><pre></pre><script>
document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument, view = event.target.contentWindow;
  const answer = (() => {{ {question} }})();
  document.querySelector("pre").textContent = JSON.stringify(answer);
}};
</script>"""


def ask(page: str, question: str, tmp_path: Path, width: int):
    """Return the result of a script, run beside the page in a window of some width."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        IN_A_FRAME.format(width=width, page=html.escape(page), question=question), encoding="utf-8"
    )
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1400,900",
        "--virtual-time-budget=5000",
        "--dump-dom",
        frame.as_uri(),
    ]
    dom = subprocess.run(command, check=True, capture_output=True, timeout=120).stdout.decode()
    return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", dom, re.DOTALL)[1]))


def several(run: Path) -> str:
    """A page of four runs, whose figures sort differently as numbers and as texts."""
    cost = results_of(run)["runs"][0]["cost"]
    rows = [
        ("b", 0.9, 300, "obs"),
        ("a", 0.05, 20, "wanda"),
        ("d", 0.9, 1000, "obs"),
        ("c", 0.1, None, "dsnot"),
    ]
    entries = [
        renamed(
            run,
            name,
            config={"method": method, "sparsity": error},
            metrics={"relative_latent_error": figure(error)},
            cost=cost | {"seconds": {} if seconds is None else {"solve": seconds}},
        )
        for name, error, seconds, method in rows
    ]
    change(run, runs=[*entries, renamed(run, "a_name_without_any_gap_" * 8)])
    return page_of(run)


@in_a_browser
def test_a_click_on_a_title_sorts_its_table(run, tmp_path):
    question = """
      const [quality, , config] = page.querySelectorAll("table.sortable");
      const sorted = (table, i, times) => {
        const head = table.tHead.rows[0].cells[i];
        for (let n = 0; n < times; n++) head.querySelector("button").click();
        const names = [...table.tBodies[0].rows].map(row => row.cells[0].textContent.slice(0, 5));
        const marked = table.querySelectorAll("[aria-sort]").length;
        return [names.join(" "), head.getAttribute("aria-sort"), marked];
      };
      return {
        error: sorted(quality, 1, 1), down: sorted(quality, 1, 1),
        seconds: sorted(quality, 4, 1), longest: sorted(quality, 4, 1),
        names: sorted(quality, 0, 1), method: sorted(config, 1, 1),
        hint: page.querySelector(".hint").hidden,
        focus: (quality.querySelector("button").focus(), page.activeElement.tagName),
      };"""
    found = ask(several(run), question, tmp_path, 1280)
    assert found["error"] == [
        "dense a c a_nam b d",
        "ascending",
        1,
    ]  # the dense pipeline's 0 is sorted like the others
    assert found["down"] == [
        "b d a_nam c a dense",
        "descending",
        1,
    ]  # b and d are equal and stay in their order
    assert found["seconds"] == [
        "a_nam a b d c dense",
        "ascending",
        1,
    ]  # by number, what has none last
    assert found["longest"] == ["d b a a_nam c dense", "descending", 1]
    assert found["names"] == ["a a_nam b c d dense", "ascending", 1]
    assert found["method"][0] == "c b d a_nam a"
    assert found["hint"] is False
    assert found["focus"] == "BUTTON"


@in_a_browser
@pytest.mark.parametrize("width", [390, 800, 1280])
def test_nothing_overflows_the_page(run, tmp_path, width):
    change(run, prompts=["word" * 200, "a long prompt " * 50])
    found = ask(
        several(run),
        "return [page.documentElement.scrollWidth, view.innerWidth, page.images.length,"
        " page.images[0].getBoundingClientRect().width];",
        tmp_path,
        width,
    )
    assert found[0] <= found[1] == width
    assert found[2] == 12
    assert found[3] == (104 if width == 390 else 128)


@in_a_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("runs", [2, 12])
def test_the_names_stay_in_sight_while_scrolling(run, tmp_path, width, runs):
    noisy(run, prompts=16, runs=runs, side=32)
    question = """
      const box = page.querySelector(".pictures"), last = box.querySelector("tbody tr:last-child");
      page.querySelector("h2 + .pictures").scrollIntoView();
      box.scrollTo(200, 1000);
      if (box.scrollTop === 0) view.scrollBy(0, 1000);
      const at = name => {
        const place = box.querySelector(name).getBoundingClientRect();
        return [place.top, place.left];
      };
      return {
        head: at("thead th:last-child"), prompt: at("tbody tr:last-child .prompt"),
        box: [box.getBoundingClientRect().left], inside: box.scrollTop > 0,
      };"""
    found = ask(page_of(run), question, tmp_path, width)
    assert -1 <= found["head"][0] <= 60
    assert 0 <= found["prompt"][1] - found["box"][0] <= 12
    assert found["inside"] is (width == 390 or runs == 12)


@in_a_browser
def test_no_text_becomes_a_script(run, tmp_path):
    found = ask(
        evil(run),
        "return [page.title, page.scripts.length, page.images.length,"
        " page.body.textContent.includes('{{ 7 * 7 }}'), view.origin];",
        tmp_path,
        1280,
    )
    assert found[:4] == ["obsdiff: dense and pruned", 1, 16, True]


@in_a_browser
def test_without_a_script_the_tables_are_whole(run, tmp_path):
    page = re.sub(r"<script>.*</script>", "", several(run), flags=re.DOTALL)
    question = (
        "return [page.querySelectorAll('button').length, page.querySelector('.hint').hidden,"
        " page.querySelector('table.sortable').tBodies[0].rows.length];"
    )
    assert ask(page, question, tmp_path, 1280) == [0, True, 6]


def test_removed_channels_are_written_like_heads():
    found = removed_cell(
        {"channels": {"removed": 8, "total": 32}, "heads": {"removed": 1, "total": 4}}
    )
    assert (found["text"], found["value"]) == ("1 of 4 heads and 8 of 32 channels", "0.25")
