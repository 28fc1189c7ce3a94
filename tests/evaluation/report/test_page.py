"""The page from results.json: complete, self-contained, and nothing in it is markup."""

import base64
import hashlib
import json
import random
import re
from pathlib import Path

import pytest

from obsdiff.cli.main import main
from obsdiff.errors import UserError
from obsdiff.evaluation.report.page import write_page
from obsdiff.evaluation.report.tables import removed_cell

from ...support.page_runs import change, evil, figure, page_of, renamed, results_of


@pytest.mark.slow
def test_the_page_needs_nothing_else(run):
    assert main(["report", str(run), "--output", str(run / "page.html")]) == 0
    page = (run / "page.html").read_text()
    assert len(re.findall(r"data:image/(?:png|webp);base64,", page)) == 4
    assert page.count('<svg role="img"') == 4  # nothing was timed, and there is no second metric
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


@pytest.mark.slow
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
        dense_metrics={
            "clip_score": {"value": 20.5, **near},
            "dpg": {"value": 20.0, **near, "parts": {"entity": {"value": 30.0, "count": 7}}},
        },
    )
    write_page([run], run / "page.html")
    page = (run / "page.html").read_text()
    assert '<th scope="col">CLIP score</th>' in page
    assert '<td data-value="20.5">20.50<br>' in page  # dense, the best
    assert '<td data-value="20.0">20.00~<br>' in page  # inside the noise of dense
    assert '<td data-value="10.0">10.00<br>' in page  # outside
    assert '<th scope="col">PickScore</th>' not in page
    assert "PickScore: not run: no CLIP was given &lt;here&gt;" in page
    assert "DPG-Bench of dense: entity 30.00 (7)<" in page
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


@pytest.mark.slow
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
def test_flawed_pictures_and_what_was_left_out_are_said(run):
    flawed = [{"picture": 1, "why": "have NaN or infinite latents"}]
    gone = {"value": None, "low": None, "high": None, "why_not": "1 of 2 pictures have NaN"}
    runs = [renamed(run, "bad", metrics={"ssim": gone}, flawed=flawed), renamed(run, "good")]
    change(run, runs=runs, dense_flawed=flawed, without=["safety_checker"])
    page = page_of(run)
    assert "drawn and measured without safety_checker" in page
    assert page.count("1 of 2 pictures have NaN or infinite latents; they are crossed out") == 2
    assert "SSIM of bad: not run: 1 of 2 pictures have NaN" in page


@pytest.mark.slow
def test_speed_is_plotted_where_it_was_measured(run):
    cost = results_of(run)["runs"][0]["cost"]
    timed = renamed(run, "timed", cost=cost | {"step": {"speedup": 1.25, "low": 1.2, "high": 1.3}})
    change(run, runs=[timed, renamed(run, "untimed")])
    page = page_of(run)
    assert page.count('<svg role="img"') == 5
    assert "measured time of a step, dense = 1" in page
    assert "Not shown (not measured): untimed." in page


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
    assert "<svg role" not in page_of(run)
    change(run, runs=[bare])
    page = page_of(run)
    assert "<svg role" not in page
    assert "data:image" not in page


@pytest.mark.slow
def test_every_text_is_text(run):
    page = evil(run)
    assert page.count("<script") == page.count("</script") == page.count("<style") == 1
    assert " style=" not in page
    assert "<img src=x" not in page
    assert 'onerror="' not in page
    assert "{{ 7 * 7 }}" in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    for tag in ("script", "style"):  # nothing else would run, or change how the page looks
        inside = re.search(rf"<{tag}>(.*)</{tag}>", page, re.DOTALL)[1]
        found = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{found}'" in policy
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; img-src data:;")


@pytest.mark.slow
def test_a_name_is_text_in_plots_too(run):
    results = json.loads((run / "results.json").read_text())
    change(run, runs=[results["runs"][0] | {"name": "$\\x$ <b>"}])
    write_page([run], run / "page.html")
    assert "<b>" not in (run / "page.html").read_text().replace("&lt;b&gt;", "")


@pytest.mark.slow
def test_rounded_and_folded_layers_have_a_column_and_a_line_of_the_card(run):
    results = json.loads((run / "results.json").read_text())
    first = results["runs"][0]
    cost = first["cost"] | {"rounded": {"layers": 45, "bits": 8}}
    change(run, runs=[first | {"cost": cost}])
    write_page([run], run / "page.html")
    page = (run / "page.html").read_text()
    assert "rounded, folded" in page
    assert page.count("45 layers in 8 bits") == 2


def test_removed_channels_are_written_like_heads():
    found = removed_cell(
        {"channels": {"removed": 8, "total": 32}, "heads": {"removed": 1, "total": 4}}
    )
    assert (found["text"], found["value"]) == ("1 of 4 heads and 8 of 32 channels", "0.25")
