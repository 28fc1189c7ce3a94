"""Pictures in files: whole, never through a link, with the modes of the umask."""

import os
import stat

import pytest
from PIL import Image

from obsdiff.evaluation.stored_batch import save_images


@pytest.fixture(params=[0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_pictures_are_new_files_with_the_modes_of_the_umask(tmp_path, umask):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").symlink_to(precious)
    save_images(
        [Image.new("RGB", (2, 2), color) for color in ("red", "blue")],
        tmp_path,
        ["a/0.png", "b/1.png"],
    )
    assert precious.read_text() == "precious"
    for name, color in (("a/0.png", (255, 0, 0)), ("b/1.png", (0, 0, 255))):
        file = tmp_path / name
        assert stat.S_IMODE(file.lstat().st_mode) == 0o666 & ~umask
        with Image.open(file, formats=["PNG"]) as image:
            assert image.getpixel((0, 0)) == color
    assert len(list(tmp_path.rglob("*"))) == 5  # nothing beside them
