"""Grown models: dense class and shapes, zeros where items were removed, the same outputs."""

import pytest
import torch
from torch import nn

from obsdiff.models.growth import grow_
from obsdiff.models.layout import layout_of

from ..conftest import ddpm, flux, sd, sd3, sdxl
from ..coverage_of_models import build
from ..support.cut_heads import cut_
from ..support.direct import outputs
from ..support.lanes import first_quick
from ..tiny_models import FLOAT32, TINY

KINDS = ("heads", "neurons", "channels")
MAKES = {"sd3": sd3, "sd3-dual": lambda: sd3(dual=(0, 1)), "sd": sd, "sdxl": sdxl, "flux": flux}
UNETS = {"sd": sd, "sdxl": sdxl, "ddpm": ddpm}


def denoiser(make) -> nn.Module:
    pipe = make()
    return getattr(pipe, "transformer", None) or pipe.unet


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("make", first_quick(MAKES.values()), ids=MAKES.keys())
def test_a_grown_model_is_of_the_dense_class_and_shapes(make):
    model = denoiser(make)
    cls, dense, config = type(model), shapes(model), dict(model.config)
    kept = sum(p.numel() for p in model.parameters())
    cut_(model, "heads", "neurons")
    assert sum(p.numel() for p in model.parameters()) < kept
    grown = grow_(model)
    assert type(grown) is cls
    assert shapes(grown) == dense
    assert dict(grown.config) == config
    assert not layout_of(grown)


@pytest.mark.parametrize("make", first_quick(UNETS.values()), ids=UNETS.keys())
def test_norm_groups_are_put_back(make):
    model = denoiser(make)
    dense = shapes(model)
    layout = cut_(model, "channels", target="conv")
    assert layout
    assert shapes(grow_(model)) == dense


@pytest.mark.parametrize("make", first_quick([flux, sd3, sd]))
def test_what_is_left_returns_to_its_places(make):
    model = denoiser(make)
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    cut_(model, "heads", "neurons")
    grown = grow_(model).state_dict()
    assert all(((grown[n] == w) | (grown[n] == 0)).all() for n, w in dense.items())
    assert any((grown[n] == 0).any() for n in dense if n.endswith("weight"))


def test_unknown_places_come_first():
    """FLUX's single blocks, cut by an older version: heads, then neurons, zeros after each."""
    model = denoiser(flux)
    before = model.single_transformer_blocks[0].proj_out.weight.detach().clone()
    heads = before.shape[0] // 2  # two heads; the first is removed
    cut_(model, "heads", "neurons")
    older = type(model).from_config(dict(model.config) | {"pruned_layout": layout_of(model)})
    older.load_state_dict(model.state_dict())
    after = grow_(older).single_transformer_blocks[0].proj_out.weight
    assert torch.equal(after[:, :heads], before[:, heads : 2 * heads])
    assert not after[:, heads : 2 * heads].any()
    assert torch.equal(after[:, 2 * heads : -1], before[:, 2 * heads + 1 :])
    assert not after[:, -1].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_every_class_computes_the_same(name):
    dtype = torch.float32 if name in FLOAT32 else torch.float64
    model, arguments = build(name)
    model = model.to(dtype)
    if not cut_(model, *KINDS[:2]):
        pytest.skip("nothing can be removed")
    pruned = outputs(model, arguments, dtype)
    grown = outputs(grow_(model), arguments, dtype)
    # some classes rotate queries and keys in float32: a bit there is more than the sums' order
    tolerance = 1e-7 if dtype == torch.float64 else 1e-4
    for a, b in zip(pruned, grown, strict=True):
        assert (a - b).abs().max() <= tolerance * a.abs().max()
