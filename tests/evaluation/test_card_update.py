"""An evaluation in the card of a pruned folder: written, written again, refused."""

import pytest

import obsdiff
from obsdiff import PruningConfig
from obsdiff.cli.main import main
from obsdiff.errors import UserError
from obsdiff.pipelines.model_card import with_evaluation
from obsdiff.pipelines.verify import verify_folder

from ..conftest import PROMPTS

SIZE = {"num_inference_steps": 1, "height": 16, "width": 16}


def test_a_section_takes_the_place_of_an_earlier_one():
    card = "---\nlicense: mit\n---\n\n# small\n\ntext\n"
    once = with_evaluation(card, ["| a |", "", "\\1 pictures"])
    assert once == card + "\n## Evaluation\n\n| a |\n\n\\1 pictures\n"
    assert with_evaluation(once, ["| b |"]) == card + "\n## Evaluation\n\n| b |\n"
    more = once + "\n## My notes\n\n## Evaluation of others\n"
    twice = with_evaluation(more, ["| b |"])
    assert twice == (card + "\n## Evaluation\n\n| b |\n\n## My notes\n\n## Evaluation of others\n")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
def test_evaluate_writes_its_figures_into_the_card(sd3_folder, tmp_path, capsys):
    pipe = obsdiff.load(sd3_folder, device="cpu")
    report = obsdiff.prune_(pipe, PROMPTS[:1], PruningConfig(packages=1, **SIZE))
    small = obsdiff.save_pruned(pipe, tmp_path / "small", report)
    before = (small / "README.md").read_text()
    settings = {"prompts": PROMPTS[:1], "rounds": 0, "update_card": True, **SIZE}
    obsdiff.evaluate(small, sd3_folder, tmp_path / "run", **settings)
    card = (small / "README.md").read_text()
    assert card.startswith(before.rstrip("\n"))
    for words in ("## Evaluation", "](strip.png)", "| relative latent error | 0 |", "| SSIM | 1 |"):
        assert words in card
    verify_folder(small)
    obsdiff.evaluate(small, sd3_folder, tmp_path / "run", resume=True, **settings)
    assert (small / "README.md").read_text() == card
    (small / "strip.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"strip\.png is no strip that obsdiff wrote"):
        obsdiff.evaluate(small, sd3_folder, tmp_path / "again", **settings)
    (small / "README.md").unlink()
    argv = ["evaluate", str(small), "--against", str(sd3_folder), "--output", str(tmp_path / "c")]
    assert main([*argv, "--update-card"]) == 2
    assert "with its README.md, found none" in capsys.readouterr().err
    assert not (tmp_path / "c.part").exists()
