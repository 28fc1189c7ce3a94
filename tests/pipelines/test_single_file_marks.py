"""Marks in single files are compared with the scheduler of the config folder, or refused."""

import json
from pathlib import Path

import pytest

from obsdiff.errors import UserError
from obsdiff.pipelines.single_file_marks import check_marks

EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
PLAIN = {"model.diffusion_model.out.0.weight": EMPTY | {"shape": [4]}}
EPSILON = {"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon"}
V = EPSILON | {"prediction_type": "v_prediction"}
ZERO = V | {"rescale_betas_zero_snr": True}
EDM = {"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"}


def check(tmp_path: Path, scheduler: dict, *marks: str) -> None:
    (tmp_path / "scheduler").mkdir(exist_ok=True)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    check_marks(Path("x.safetensors"), PLAIN | dict.fromkeys(marks, EMPTY), tmp_path)


@pytest.mark.parametrize(
    ("scheduler", "marks"),
    [
        (EPSILON, ()),
        (V, ()),
        (V, ("v_pred",)),
        (ZERO, ("v_pred", "ztsnr")),
        (EDM, ("edm_mean", "edm_std")),
        (EDM | {"prediction_type": "v_prediction"}, ("edm_vpred.sigma_max",)),
    ],
)
def test_marks_that_the_scheduler_fits_are_fine(scheduler, marks, tmp_path):
    check(tmp_path, scheduler, *marks)


@pytest.mark.parametrize(
    ("scheduler", "marks", "words"),
    [
        (EPSILON, ("v_pred",), "expected prediction_type v_prediction"),
        (EPSILON, ("v_pred", "ztsnr"), "found 'epsilon'"),
        ({}, ("v_pred",), "found None"),
        (V, ("v_pred", "ztsnr"), "rescale_betas_zero_snr true"),
        (EPSILON, ("model.diffusion_model.v_pred",), "v_pred"),
        (EPSILON, ("edm_mean",), "expected an EDM scheduler"),
        (V, ("edm_vpred.sigma_min",), "expected an EDM scheduler"),
        (EDM, ("edm_vpred.sigma_min",), "expected prediction_type v_prediction"),
        (EPSILON, ("scaled_fp8",), "scaled 8-bit weights"),
        (EPSILON, ("model.diffusion_model.scaled_fp8",), "scaled 8-bit weights"),
        (EPSILON, ("model.diffusion_model.out.0.scale_weight",), "scaled 8-bit weights"),
        (EPSILON, ("model.diffusion_model.out.0.scale_input",), "scaled 8-bit weights"),
        (EPSILON, ("x_pred",), "a mark that obsdiff does not know"),
    ],
)
def test_marks_that_contradict_are_one_line(scheduler, marks, words, tmp_path):
    with pytest.raises(UserError, match=words):
        check(tmp_path, scheduler, *marks)


def test_a_mark_without_a_scheduler_is_one_line(tmp_path):
    with pytest.raises(UserError, match="is missing"):
        check_marks(Path("x"), {"v_pred": EMPTY}, tmp_path)
