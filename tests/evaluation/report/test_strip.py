"""The strip: the first pictures of dense and runs in one PNG."""

import numpy as np
import pytest
from PIL import Image

from obsdiff.cli.main import main
from obsdiff.errors import UserError
from obsdiff.evaluation.report.strip import LABEL, SMALLEST, write_strip
from obsdiff.pipelines.published import is_strip

from ...support.page_runs import another, change, renamed


@pytest.mark.usefixtures("without_plots")
def test_a_strip_has_a_row_for_dense_and_each_run(run, capsys):
    words = ["report", str(run), "--output", str(run / "page.html")]
    assert main([*words, "--strip", str(run / "strip.png")]) == 0
    assert is_strip(run / "strip.png")
    pixels = np.asarray(Image.open(run / "strip.png").convert("RGB"))
    assert pixels.shape == (2 * (SMALLEST + LABEL), 2 * SMALLEST, 3)
    assert tuple(pixels[LABEL + 5, 5]) == (20, 180, 60)
    assert tuple(pixels[-5, -5]) == (220, 40, 40)
    assert pixels[:LABEL].min() < 100 < pixels[0].min()  # a name in black on white
    mine = run / "mine.png"
    Image.new("RGB", (4, 4)).save(mine)
    assert main([*words, "--overwrite", "--strip", str(mine)]) == 2
    assert "is no strip that obsdiff wrote" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--strip", str(run / "strip.jpg")]) == 2
    assert "ends in .png" in capsys.readouterr().err


def test_a_strip_of_runs_without_pictures_has_their_names(run):
    change(run, dense_images=[], runs=[renamed(run, "\ud800 odd", images=[])])
    write_strip([run], run / "strip.png")
    assert Image.open(run / "strip.png").size == (SMALLEST, 2 * (SMALLEST + LABEL))


def test_runs_that_do_not_compare_have_no_strip(run):
    second = another(run, "second", seeds=[3, 4])
    with pytest.raises(UserError, match=r"expected runs that compare. Not merged with .* seeds"):
        write_strip([run, second], run / "strip.png")
    assert not (run / "strip.png").exists()
