"""Settings that are NaN or infinite: one line with their name, unless that is their default."""

import inspect
import json
import math
import shutil

import diffusers
import pytest

from obsdiff import UserError
from obsdiff.cli.main import main
from obsdiff.pipelines.finite_configs import INFINITE, require_finite
from obsdiff.pipelines.folder import open_folder


def test_the_infinite_defaults_are_those_of_the_schedulers_of_diffusers():
    kinds = [getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")]
    infinite = {
        (name, parameter.default)
        for kind in kinds
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if isinstance(parameter.default, float) and not math.isfinite(parameter.default)
    }
    assert infinite == set(INFINITE.items())


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"shift": math.nan}, "shift is nan"),
        ({"shift": math.inf}, "shift is inf"),
        ({"lambda_min_clipped": math.inf}, "lambda_min_clipped is inf"),
        ({"lambda_min_clipped": math.nan}, "lambda_min_clipped is nan"),
        ({"deep": {"list": [0.0, [-math.inf]]}}, r"deep\.list\[1\]\[0\] is -inf"),
    ],
)
def test_a_setting_that_is_no_number_is_named(config, name):
    with pytest.raises(UserError, match=name):
        require_finite(config, "scheduler")


def test_the_defaults_pass():
    require_finite(INFINITE | {"shift": 1.0, "a": None, "b": ["x", True, {}]}, "scheduler")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("scheduler/scheduler_config.json", "NaN"),
        ("scheduler/scheduler_config.json", "1e999"),
        ("vae/config.json", "-Infinity"),
        ("text_encoder_2/config.json", "NaN"),
        ("tokenizer/tokenizer_config.json", "NaN"),
        ("model_index.json", "NaN"),
    ],
)
def test_a_folder_with_such_a_setting_is_refused_and_nothing_is_left(
    sd3_folder, tmp_path, capsys, file, text
):
    changed = tmp_path / "model" / file
    shutil.copytree(sd3_folder, tmp_path / "model")
    found = json.loads(changed.read_text()) | {"odd": {"x": ["PLACE"]}}
    changed.write_text(json.dumps(found).replace('"PLACE"', text))
    with pytest.raises(UserError, match=r"odd\.x\[0\] is"):
        open_folder(tmp_path / "model")
    assert main(["prune", str(tmp_path / "model"), "--output", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert str(changed) in lines[0]
    assert [place.name for place in tmp_path.iterdir()] == ["model"]
