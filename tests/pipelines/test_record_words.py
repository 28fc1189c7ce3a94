"""What a notebook shows of a report: a few lines, nothing of a name that is markup, a frame."""

import sys

import pytest

import obsdiff
from obsdiff import PruningReport, UserError
from obsdiff.pipelines.record_words import html_of, lines_of

from ..conftest import PROMPTS, sd3


@pytest.fixture(scope="module", params=["unstructured", "structured"])
def report(request):
    return obsdiff.prune_(
        sd3(), PROMPTS[:2], pattern=request.param, sparsity=0.5, num_inference_steps=2
    )


def test_a_report_is_at_most_five_lines(report):
    text = repr(report)
    assert len(text.splitlines()) <= 5
    assert all(len(line) < 200 for line in text.splitlines())
    worst = max(report.layers, key=lambda layer: layer.error)
    assert f"largest {worst.error:.4f} ({worst.name})" in text
    assert "2 prompts, 2 steps" in text
    assert report.config["pattern"] in text
    if report.groups:
        before, after = report.parameters["before"], report.parameters["after"]
        assert f"{after / 1e6:.2f} M of {before / 1e6:.2f} M parameters are left" in text
        assert report.gone().removesuffix(" are gone") in text
    else:
        assert f"{report.sparsity:.2%} of the weights of {len(report.layers)} layers" in text


def test_a_notebook_shows_the_same_lines_and_the_worst_layers(report):
    html = report._repr_html_()
    for name, text in lines_of(report.to_dict()):
        assert name in html
        assert text.split(" (")[0] in html
    assert max(report.layers, key=lambda layer: layer.error).name in html
    assert len(html) < 5000


def test_names_are_escaped():
    report = PruningReport({}, component="<script>", warnings=["a", "b"])
    assert "&lt;script&gt;" in html_of(report.to_dict() | {"sparsity": 0.0})
    assert "<script>" not in html_of(report.to_dict() | {"sparsity": 0.0})


def test_a_report_before_its_first_layer_has_words():
    text = repr(PruningReport({}, warnings=["first", "second", "third"]))
    assert text.splitlines() == [
        "pruned: nothing yet",
        "calibration: 0 prompts, 0 s in all",
        "warning: first (and 2 more in .warnings)",
    ]


def test_a_frame_has_a_row_for_each_layer(report):
    pandas = pytest.importorskip("pandas")
    frame = report.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.index) == [layer.name for layer in report.layers]
    assert list(frame["error"]) == [layer.error for layer in report.layers]
    assert list(PruningReport({}).to_frame().columns) == list(frame.columns)


def test_without_pandas_a_frame_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="to_frame needs pandas: pip install pandas"):
        PruningReport({}).to_frame()
