"""The code of a model card runs as it is written, and opens what was saved."""

import json
import re

import pytest
import torch

from obsdiff import PruningConfig, prune_, save_pruned
from obsdiff.cli.main import main
from obsdiff.pipelines.loading_code import PLACE, dtype_code

from ..conftest import PROMPTS, ddpm, flux, sd, sd3, sdxl
from ..support.lanes import first_quick

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {"num_inference_steps": 2, "packages": 1}
STRUCTURED = {"pattern": "structured", "sparsity": 0.4}


def opened(folder) -> tuple[str, object]:
    """The code on a card, and the pipeline that it makes."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    assert PLACE in code
    names: dict[str, object] = {}
    exec(code.replace(PLACE, str(folder)), names)
    return code, names["pipe"]


def assert_equal(pipe, again):
    """Both pipelines have the same modules with the same weights in the same formats."""
    assert type(again) is type(pipe)
    for name, part in pipe.components.items():
        other = getattr(again, name)
        assert (part is None) == (other is None)
        if isinstance(part, torch.nn.Module):
            weights = other.state_dict()
            assert all(
                value.dtype == weights[key].dtype and torch.equal(value, weights[key])
                for key, value in part.state_dict().items()
            )


@pytest.mark.parametrize("make", first_quick([sd, sdxl, sd3, flux]), ids=lambda make: make.__name__)
@pytest.mark.parametrize("settings", [{}, STRUCTURED], ids=["zeros", "structured"])
@pytest.mark.slow
def test_the_code_opens_every_kind_of_result(make, settings, tmp_path):
    pipe = make()
    report = prune_(pipe, PROMPTS[:1], PruningConfig(**QUICK | settings))
    code, again = opened(save_pruned(pipe, tmp_path / "out", report))
    assert_equal(pipe, again)
    assert ("import obsdiff" in code) == bool(settings)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"library_name: {'obsdiff' if settings else 'diffusers'}\n" in card
    assert ("pip install obsdiff" in card) == bool(settings)


@pytest.mark.slow
def test_zeros_in_a_structured_model_still_need_obsdiff(tmp_path):
    pipe = sd()
    prune_(pipe, PROMPTS[:1], PruningConfig(**QUICK, **STRUCTURED))
    report = prune_(pipe, PROMPTS[:1], PruningConfig(**QUICK))
    folder = save_pruned(pipe, tmp_path / "out", report)
    assert json.loads((folder / "model_index.json").read_text())["unet"][0] == "obsdiff"
    code, again = opened(folder)
    assert "import obsdiff" in code
    assert_equal(pipe, again)


def test_the_stored_number_formats_are_stated(tmp_path):
    pipe = sd()
    report = prune_(pipe, PROMPTS[:1], PruningConfig(**QUICK))
    pipe.to(torch.bfloat16)
    pipe.vae.to(torch.float32)
    code, again = opened(save_pruned(pipe, tmp_path / "out", report))
    assert '"vae": torch.float32' in code
    assert_equal(pipe, again)


def test_a_pipeline_without_text(tmp_path):
    pipe = ddpm()
    prompts = [{"batch_size": 1}]
    report = prune_(pipe, prompts, PruningConfig(**QUICK))
    assert_equal(pipe, opened(save_pruned(pipe, tmp_path / "out", report))[1])


def test_one_format_or_one_for_each_component():
    assert dtype_code({"a": "float16", "b": "float16"}) == "torch.float16"
    assert dtype_code({"a": "float16", "b": "float32", "c": "float16"}) == (
        '{"default": torch.float16, "b": torch.float32}'
    )


@pytest.mark.slow
def test_the_code_of_the_command_line_states_what_is_stored(tmp_path, sd3_folder, prompts_file):
    """On a CPU half precision is computed in float32, and saved as it was stored."""
    flags = ["--num-prompts", "1", "--num-inference-steps", "2", "--prompts", prompts_file]
    assert main(["prune", sd3_folder, "--output", str(tmp_path / "out"), *flags]) == 0
    code, again = opened(tmp_path / "out")
    assert "dtype=torch.float16" in code
    assert "text_encoder_3=None" in code
    assert again.transformer.dtype == torch.float16
