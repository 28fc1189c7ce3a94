"""Solvers multiply float32 exactly, whatever switch the user has set, and leave it as it was."""

import traceback

import pytest
import torch
from torch.overrides import TorchFunctionMode

from obsdiff import PruningConfig, prune_
from obsdiff.runtime.precision import (
    EXACT,
    ROUNDED,
    exact_products,
    float32_products,
    product_precision,
    switches,
)

from ..conftest import PROMPTS, sd3

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
PRODUCTS = {"mm", "matmul", "addmm", "addmm_", "cholesky_ex", "__matmul__", "baddbmm_"}
QUICK = {"num_inference_steps": 2, "height": 16, "width": 16, "include": ("*.1.attn.to_*",)}


@pytest.fixture(autouse=True)
def restored():
    """Put torch's switches back, those of the old and of the new kind."""
    yield
    for switch in switches():
        switch.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    for switch in switches():
        switch.fp32_precision = "none"


def state():
    def read(ask):
        try:
            return ask()
        except RuntimeError:
            return "refused"

    return [
        *(switch.fp32_precision for switch in switches()),
        read(lambda: torch.backends.cuda.matmul.allow_tf32),
        read(torch.get_float32_matmul_precision),
    ]


def old_switch():
    torch.backends.cuda.matmul.allow_tf32 = True


SETTINGS = {
    "untouched": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allow_tf32": old_switch,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_products_are_exact_inside_and_the_switches_restored(name):
    SETTINGS[name]()
    before = state()
    with exact_products():
        assert {product_precision(kind) for kind in ("cpu", "cuda")} == {"ieee"}
    assert state() == before
    with pytest.raises(ValueError, match="inside"), exact_products():
        raise ValueError("inside")
    assert state() == before


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("precision", [EXACT, ROUNDED])
def test_a_precision_is_set_inside_and_the_switches_restored(name, precision):
    SETTINGS[name]()
    before = state()
    with float32_products(precision):
        assert product_precision("cuda") == precision
    assert state() == before


def test_the_precision_of_a_device_is_named():
    assert product_precision("cpu") == product_precision("cuda") == "ieee"
    torch.set_float32_matmul_precision("high")
    assert product_precision("cuda") == "tf32"
    torch.set_float32_matmul_precision("medium")
    assert product_precision("cpu") == ("bf16" if switches() else "ieee")


class Watched(TorchFunctionMode):
    """Notes the precision of each product, by the package of obsdiff that multiplies."""

    def __init__(self):
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in PRODUCTS:
            files = [f.filename for f in traceback.extract_stack() if "/obsdiff/" in f.filename]
            if files and "/solvers/" in files[-1]:
                self.seen.append((files[-1].rsplit("/", 1)[-1], product_precision("cuda")))
        return function(*args, **kwargs or {})


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "obs"},
        {"method": "alps"},
        {"pattern": "structured", "round_to": 1},
        {"allocation": "sensitivity", "allocation_prompts": 1},
        {"pattern": "structured", "round_to": 1, "allocation": "drawn", "allocation_prompts": 1},
        {"low_rank": 0.1},
        {"bits": 8, "group_size": 32},
        {"pattern": "depth", "include": (), "num_prompts": 3, "allocation_prompts": 1},
    ],
)
@pytest.mark.slow
def test_solvers_ignore_the_users_switch(settings):
    torch.set_float32_matmul_precision("high")
    before, watched = state(), Watched()
    with watched:
        prune_(sd3(), PROMPTS[:3], PruningConfig(**QUICK | {"sparsity": 0.5} | settings))
    assert watched.seen
    assert {precision for _, precision in watched.seen} == {"ieee"}, watched.seen
    assert state() == before
