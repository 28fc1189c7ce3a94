"""The page from results.json: complete, self-contained, and what a real browser shows of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from obsdiff.cli import main
from obsdiff.errors import UserError
from obsdiff.report import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of two prompts: dense pictures in green, pruned ones in red."""
    for name, colour in (("dense", (20, 180, 60)), ("half", (220, 40, 40))):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (64, 64), colour).save(tmp_path / name / f"{i:03}.png")
    layers = [{"name": f"l{i}", "shape": [8, 4], "sparsity": 0.5, "error": 0.01 * (i + 1), "loss": 1.0} for i in range(5)]
    entry = {
        "name": "half",
        "path": "models/half",
        "config": {"method": "obs"},
        "cost": {"parameters": 1000, "zeros": 400, "bytes_on_disk": 2000, "seconds": {"calibration": 3.0, "solve": 1.0}},
        "metrics": {"relative_latent_error": {"value": 0.1234, "low": 0.1, "high": 0.2, "why_not": None}},
        "layers": layers,
        "images": ["half/000.png", "half/001.png"],
    }
    results = {
        "schema": 1, "dense": "tiny", "dense_images": ["dense/000.png", "dense/001.png"], "dense_cost": {"parameters": 1000, "zeros": 0, "bytes_on_disk": 2000},
        "runs": [entry], "prompts": ["a <b>fish</b>", "moon"], "seeds": [1, 2], "settings": {"num_inference_steps": 2}, "versions": {"torch": "2"},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def change(run: Path, **changes) -> None:
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | changes))


def test_the_page_needs_nothing_else(run):
    assert main(["report", str(run), "--output", str(run / "page.html")]) == 0
    html = (run / "page.html").read_text()
    assert html.count("data:image/png;base64,") == 4
    assert html.count("<svg") == 3
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", html)
    assert "url(http" not in html
    assert "a &lt;b&gt;fish&lt;/b&gt;" in html  # a prompt is text, never markup
    assert "0.1234" in html
    assert "0.1000 to 0.2000" in html
    assert "PSNR" not in html  # what was not measured has no column
    assert "50.00 % of 5 layers" in html
    assert "40.0 %" in html
    assert len(html) < 10_000_000


def test_every_measured_metric_has_a_column_and_the_others_a_reason(run):
    entry = json.loads((run / "results.json").read_text())["runs"][0]
    figure = {"low": 19.0, "high": 21.0, "why_not": None}
    missing = {"value": None, "low": None, "high": None, "why_not": "no CLIP was given <here>"}
    metrics = entry["metrics"] | {"clip_score": {"value": 20.0, **figure}, "pickscore": missing}
    other = entry | {
        "name": "third",
        "metrics": entry["metrics"] | {"clip_score": {"value": 10.0, "low": 9.0, "high": 11.0, "why_not": None}, "pickscore": missing},
    }
    change(run, runs=[entry | {"metrics": metrics}, other], dense_metrics={"clip_score": {"value": 20.5, **figure}})
    write_page([run], run / "page.html")
    html = (run / "page.html").read_text()
    assert "<th>CLIP score</th>" in html
    assert "<td>20.50<br>" in html  # dense, the best
    assert "<td>20.00~<br>" in html  # inside the noise of dense
    assert "<td>10.00<br>" in html  # outside
    assert "<th>PickScore</th>" not in html
    assert "PickScore: not run: no CLIP was given &lt;here&gt;" in html


def test_what_is_no_run_is_refused(run, capsys):
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
    with pytest.raises(UserError, match="does not follow schema 1: KeyError"):
        write_page([run], page)
    whole = {"dense_images": [], "runs": []}
    for changes, word in (
        ({"runs": None}, "TypeError"),
        ({"seeds": [1]}, "2 prompts and 1 seeds"),
        ({"settings": [1]}, "UndefinedError"),
        ({"dense_cost": {"zeros": 1}}, "Error"),
        ({"runs": [{"name": 3}]}, "no text"),
    ):
        change(run, **(whole | changes))
        with pytest.raises(UserError, match=f"does not follow schema 1: .*{word}"):
            write_page([run], page)
        change(run, settings={}, dense_cost={}, seeds=[1, 2])
    for place in (run / "results.json", run, "/proc/x.html", run / "results.json" / "x.html"):
        assert main(["report", str(run), "--output", str(place), "--overwrite"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert json.loads((run / "results.json").read_text())["schema"] == 1
    (run / "results.json").write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object"):
        write_page([run], page)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_pictures_in_light_and_dark(run, tmp_path, dark):
    write_page([run], run / "page.html")
    shot = tmp_path / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,1600", f"--screenshot={shot}", (run / "page.html").as_uri()]
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
