"""Pictures are opened as PNG, WEBP or JPEG, whatever their names say."""

import io
import os
import re
from pathlib import Path

import pytest
from PIL import Image

import obsdiff
from obsdiff.errors import UserError
from obsdiff.evaluation.judges.features import real_picture
from obsdiff.evaluation.judges.files import picture_files
from obsdiff.evaluation.judges.weights import MetricUnavailable
from obsdiff.evaluation.picture_files import FORMATS, read_picture

OTHERS = ("EPS", "BMP", "GIF", "TIFF", "PPM", "PCX", "TGA", "ICO", "PDF")
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_the_three_formats_are_read(kind, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(kind))
    assert read_picture(tmp_path / "a.png", "again").size == (9, 9)


@pytest.mark.parametrize("kind", OTHERS)
def test_any_other_format_is_refused_under_the_name_of_a_picture(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "system", None)
    (tmp_path / "a.png").write_bytes(POSTSCRIPT if kind == "EPS" else encoded(kind))
    with pytest.raises(UserError, match=r"a\.png can't be read as a picture.*; again"):
        read_picture(tmp_path / "a.png", "again")


def test_a_damaged_picture_is_refused(tmp_path):
    whole = encoded("PNG")
    for content in (b"", whole[:20], whole[: len(whole) // 2]):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(UserError, match="can't be read as a picture"):
            read_picture(tmp_path / "a.png", "again")


def test_a_pipe_among_real_pictures_is_the_reason_of_the_metric(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert picture_files(tmp_path) == [tmp_path / "a.png"]
    with pytest.raises(MetricUnavailable, match="a pipe"):
        real_picture(tmp_path / "a.png")


def test_no_other_file_of_the_package_opens_pictures():
    package = Path(obsdiff.__file__).parent
    opening = [f for f in package.rglob("*.py") if re.search(r"Image\.open\(", f.read_text())]
    assert opening == [package / "evaluation" / "picture_files.py"]
