"""The pictures of a page: as large and as many as fit, those that differ most first."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from obsdiff.errors import UserError
from obsdiff.evaluation.report import render
from obsdiff.evaluation.report.pictures import data_url, worst_first

from ...support.page_runs import another, noisy, page_of, renamed


@pytest.mark.slow
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
    monkeypatch.setattr(render, "LARGEST_PAGE", 2_500_000)
    page = page_of(run, small)
    assert 2_000_000 < len(page.encode()) <= 2_500_000
    shown = page.count('<div class="prompt">prompt ')
    assert 8 <= shown < 14
    words = f"The {shown} of 14 prompts that differ most, to keep the page small; all are in "
    assert f"{words}{run.name}/images." in page
    assert page.count("data:image") == 3 * shown + 2  # the small comparison has all of its pictures
    monkeypatch.setattr(render, "LARGEST_PAGE", 600_000)
    page = page_of(run, small)
    assert len(page.encode()) <= 600_000
    assert (
        page.count('<div class="prompt">prompt ') >= 8
    )  # smaller pictures rather than fewer prompts than these
    monkeypatch.setattr(render, "LARGEST_PAGE", 60_000)
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


def test_the_worst_prompt_of_every_run_comes_first():
    assert worst_first([[0.9, 0.5, 0.8, 0.7], [], [0.6, 0.9, 0.95, 0.8]], 4) == [1, 0, 3, 2]
    assert worst_first([[], []], 3) == [0, 1, 2]
