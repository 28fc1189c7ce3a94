"""docs/models.md has every denoiser that diffusers exports, with the results of real runs."""

import diffusers
import pytest
import torch

from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes

from ..coverage_of_models import PAGE, Row, build, counts, covered, denoiser_classes, examine, page
from ..tiny_models import NOT_PRUNED, TINY

KNOWN = {*TINY, *NOT_PRUNED}
QUICK = {  # the classes of the built-in and of the paper's models; all others are slow
    "FluxTransformer2DModel",
    "SD3Transformer2DModel",
    "UNet2DConditionModel",
    "UNet2DModel",
}
AGAIN = "then run `python -m tests.coverage_of_models`"
pytestmark = pytest.mark.filterwarnings("ignore")


def written() -> dict[str, Row]:
    lines = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    return {row.name: row for row in (Row(*line.strip("| ").split(" | ")) for line in lines[2:])}


@pytest.mark.slow
def test_every_class_of_diffusers_is_known():
    new = sorted(set(denoiser_classes()) - KNOWN)
    assert not new, (
        f"diffusers {diffusers.__version__} exports new denoisers: {', '.join(new)}. Add a tiny "
        "config of each to tests/tiny_models.py and, if its layers have new names, an entry to "
        f"obsdiff/models/block_table.py, {AGAIN}"
    )


@pytest.mark.slow
def test_every_known_class_is_still_there():
    gone = sorted(KNOWN - set(denoiser_classes()))
    assert not gone, (
        f"diffusers {diffusers.__version__} no longer has {', '.join(gone)}: rename or remove them "
        f"in tests/tiny_models.py, {AGAIN}"
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(KNOWN)],
)
def test_the_table_is_true(name):
    found = examine(name)
    assert written().get(name) == found, (
        f"{PAGE.name} has another row for {name} than a run; if the run is right, {AGAIN}"
    )


# Classes that run their blocks, or independent streams, in an order that names cannot tell. The
# order only decides which block is pruned first.
OTHER_ORDER = {
    "Kandinsky3UNet",
    "UniDiffuserModel",
    "WanAnimateTransformer3DModel",
    "ZImageTransformer2DModel",
}


@pytest.mark.slow
def test_blocks_are_found_in_the_order_in_which_they_run():
    assert {
        name
        for name in TINY
        if running_order(*build(name))
        != [b.name for b in find_blocks(layer_shapes(build(name)[0]))]
    } == OTHER_ORDER


@torch.no_grad()
def running_order(model, arguments) -> list[str]:
    order: dict[str, None] = {}
    for block in find_blocks(layer_shapes(model)):
        for layer in block.layers:
            model.get_submodule(layer).register_forward_pre_hook(
                lambda *_, name=block.name: order.setdefault(name)
            )
    model(**arguments())
    return list(order)


def test_the_page_has_no_empty_cell_and_its_own_counts():
    rows = list(written().values())
    assert sorted(row.name for row in rows) == sorted(KNOWN)
    assert all(cell.strip() for row in rows for cell in vars(row).values())
    assert counts(rows) in PAGE.read_text(encoding="utf-8")
    assert page(rows).splitlines()[4:] == PAGE.read_text(encoding="utf-8").splitlines()[4:]


def test_the_targets_of_coverage():
    rows = list(written().values())
    structured = covered(rows, "heads") | covered(rows, "neurons")
    assert len(covered(rows, "unstructured")) >= 60
    assert len(structured) >= 30
    wanted = """PixArt Sana HunyuanDiT2D AuraFlow Lumina2 CogView3Plus CogView4 Chroma Flux2
        QwenImage ZImage HiDreamImage Kandinsky5 Bria DiT Latte CogVideoX LTXVideo HunyuanVideo
        Mochi Wan"""
    assert not [
        name
        for name in wanted.split()
        if not {f"{name}Transformer2DModel", f"{name}Transformer3DModel", f"{name}Model"}
        & structured
    ]
