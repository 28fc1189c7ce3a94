"""Gates are found without their names; a gap knows the block before it; a repair is measured."""

import copy
from functools import partial

import diffusers
import pytest
import torch
from torch import nn

from obsdiff import PruningConfig, prune_, save_pruned
from obsdiff.allocation.depth_repair import ALL, Gap, gaps_of, own_weights, write_changes_
from obsdiff.calibration.depth_selection import select_depth
from obsdiff.errors import CalibrationWarning, NotPositiveDefinite
from obsdiff.evaluation.metrics import relative_latent_error
from obsdiff.models.depth import without_blocks
from obsdiff.models.depth_table import STACKS
from obsdiff.models.discovery import find_blocks
from obsdiff.models.linear_view import layer_shapes
from obsdiff.pipelines.verify import verify_folder
from obsdiff.solvers.gated import GatedSums

from ..conftest import PROMPTS, sd, sd3
from ..tiny_models import TINY
from .test_depth import QUICK, drawn

WIDTH = 6


class Gated(nn.Module):
    """A block h + g * W x with x = tanh h, whose output is one tensor or two pieces of a row."""

    def __init__(self, behind=None, split=0):
        super().__init__()
        self.layer, self.behind, self.split = nn.Linear(WIDTH, WIDTH), behind, split

    def forward(self, h, gate):
        y = self.layer(h.tanh())
        h = h + gate * (self.behind(y) if self.behind else y)
        return (h[:, : self.split], h[:, self.split :]) if self.split else h


def gap_of(block, h, gate):
    gap = Gap("before", "last", {"layer": block.layer})
    block.layer.register_forward_hook(lambda m, a, o: gap.note("layer", m, a, o))
    block.register_forward_hook(gap.gates, with_kwargs=True)
    with torch.no_grad():
        block(h, gate=gate)
    return gap


@pytest.mark.parametrize(("split", "place"), [(0, 0), (2, ALL)])
def test_the_gate_of_a_layer_is_found(split, place):
    torch.manual_seed(0)
    h, gate = torch.randn(2, 5, WIDTH), torch.randn(2, 1, WIDTH)
    gap = gap_of(Gated(split=split), h, gate)
    assert gap.places == {"layer": place}
    torch.testing.assert_close(gap.reached["layer"][0], gate.expand_as(h), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("behind", [nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh()])
def test_a_layer_with_more_than_a_gate_behind_it_is_left_alone(behind):
    torch.manual_seed(0)
    gap = gap_of(Gated(behind), torch.randn(2, 5, WIDTH), torch.randn(2, 1, WIDTH))
    assert gap.places == {}
    assert gap.reached == {}


def test_gaps_begin_after_a_block_that_is_left():
    model = sd3(layers=6).transformer
    blocks = find_blocks(layer_shapes(model))
    config = PruningConfig(pattern="depth", sparsity=0.5)
    selection = select_depth("SD3Transformer2DModel", blocks, config)
    away = [f"transformer_blocks.{i}" for i in (0, 2, 3)]
    (gap,) = gaps_of(model, selection, away, blocks)
    assert (gap.before, gap.last) == ("transformer_blocks.1", "transformer_blocks.3")
    assert set(gap.layers) == {
        "transformer_blocks.1.ff.net.2",
        "transformer_blocks.1.ff_context.net.2",
    }


@pytest.mark.filterwarnings("ignore:nothing is repaired")
@pytest.mark.slow
def test_a_repair_is_measured_and_never_worse_than_none():
    pipe = sd3(layers=4)
    before = {name: w.clone() for name, w in pipe.transformer.state_dict().items()}
    settings = {"sparsity": 0.5, "blocks": "1-2", "num_prompts": 4, "allocation_prompts": 1}
    report = prune_(pipe, PROMPTS[:4], pattern="depth", damping=0.01, **settings, **QUICK)
    found = report.depth["repair"]
    judged = report.prompts[:1], report.seeds[:1]
    error = relative_latent_error(drawn(pipe, *judged), drawn(sd3(layers=4), *judged))
    assert found["error"] == pytest.approx(error["value"], rel=1e-3)
    assert len(found["tried"]) == 3
    assert found["error"] == min(report.depth["together"], *(e for _, e in found["tried"]))
    changed = {
        name
        for name, weight in pipe.transformer.state_dict().items()
        if name.startswith("transformer_blocks.0") and not torch.equal(weight, before[name])
    }
    parts = ("weight", "bias")
    assert changed == {f"{layer}.{part}" for layer in found["layers"] for part in parts}


def test_without_prompts_to_fit_it_to_nothing_is_repaired():
    settings = {"num_prompts": 1, "allocation_prompts": 1, "pattern": "depth"}
    with pytest.warns(CalibrationWarning, match="allocation_prompts .1. judge it"):
        report = prune_(sd3(), PROMPTS[:1], **settings, **QUICK)
    assert report.depth["repair"] == {}


def test_without_a_damping_nothing_is_repaired():
    with pytest.warns(CalibrationWarning, match="multiples of damping, which is 0"):
        report, dense, left = repaired(damping=0)
    assert report.depth["repair"] == {}
    assert not any("lowers the error" in text for text in report.warnings)
    before = [name for name in left if name.startswith("transformer_blocks.0")]
    assert all(torch.equal(left[name], dense[name]) for name in before)


def test_a_layer_of_two_streams_and_outputs_of_two_widths_are_left_alone():
    class Shared(Gated):
        def forward(self, h, gate):
            return h + gate * self.layer(h), h[:, :2, :3] + self.layer(h[:, :2])[..., :3]

    torch.manual_seed(0)
    gap = gap_of(Shared(), torch.randn(2, 5, WIDTH), torch.randn(2, 1, WIDTH))
    assert gap.places == {}


GATED = {  # gates that are found in the block before a gap of each list; 0: none
    "CogVideoXTransformer3DModel": (0,),
    "CogView3PlusTransformer2DModel": (0,),
    "CogView4Transformer2DModel": (0,),
    "Lumina2Transformer2DModel": (0,),
    "MochiTransformer3DModel": (0,),
    "SanaTransformer2DModel": (0,),
    "ZImageTransformer2DModel": (0,),
    "DiTTransformer2DModel": (1,),
    "LTXVideoTransformer3DModel": (1,),
    "PixArtTransformer2DModel": (1,),
    "WanTransformer3DModel": (1,),
    "HunyuanVideo15Transformer3DModel": (2,),
    "QwenImageTransformer2DModel": (2,),
    "SD3Transformer2DModel": (2,),
}


@pytest.mark.parametrize("cls", STACKS)
def test_which_layers_of_a_model_can_be_repaired(cls):
    settings, make = TINY[cls]
    torch.manual_seed(0)
    model = getattr(diffusers, cls)(**settings | {s.count: 3 for s in STACKS[cls]}).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    blocks = find_blocks(layer_shapes(model))
    selection = select_depth(cls, blocks, PruningConfig(pattern="depth"))
    gaps = gaps_of(model, selection, [f"{s.blocks}.1" for s in STACKS[cls]], blocks)
    for gap in gaps:
        for name, layer in gap.layers.items():
            layer.register_forward_hook(partial(gap.note, name))
        model.get_submodule(gap.before).register_forward_hook(gap.gates, with_kwargs=True)
        model.get_submodule(gap.last).register_forward_hook(partial(gap.sum_up, lambda *_: None))
    with torch.no_grad():
        model(**make(), return_dict=False)
    assert tuple(len(gap.places) for gap in gaps) == GATED.get(cls, (2, 1))
    found = [sums for gap in gaps for sums in gap.sums.values()]
    assert all(sums.tokens and sums.change(0.1).isfinite().all() for sums in found)


@pytest.fixture
def failing(monkeypatch):
    """Return what makes the change of a layer fail with some dampings."""

    def by(fails):
        own = GatedSums.change

        def change(sums, damping):
            if fails(damping):
                raise NotPositiveDefinite("more damping is needed")
            return own(sums, damping)

        monkeypatch.setattr(GatedSums, "change", change)

    return by


def repaired(damping=0.01):
    pipe = sd3(layers=3)
    settings = {"sparsity": 0.4, "blocks": "1", "num_prompts": 2, "allocation_prompts": 1}
    dense = {name: w.clone() for name, w in pipe.transformer.state_dict().items()}
    report = prune_(pipe, PROMPTS[:2], pattern="depth", damping=damping, **settings, **QUICK)
    assert report.depth["removed"]
    return report, dense, pipe.transformer.state_dict()


@pytest.mark.filterwarnings("ignore:nothing is repaired")
def test_a_repair_that_fails_is_no_repair_and_names_its_layer(failing):
    failing(lambda _: True)
    layer = r"transformer_blocks\.0\.ff\S*\.net\.2"
    with pytest.warns(CalibrationWarning, match=f"3 of 3 dampings: {layer}: more damping"):
        report, dense, left = repaired()
    assert any("3 of 3 dampings" in text for text in report.warnings)
    found = report.depth["repair"]
    assert (found["layers"], found["damping"], found["tried"]) == ([], None, [])
    assert found["error"] == report.depth["together"]
    before = [name for name in left if name.startswith("transformer_blocks.0")]
    assert before
    assert all(torch.equal(left[name], dense[name]) for name in before)


@pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
def test_dampings_that_do_not_fail_are_still_tried(failing):
    failing(lambda damping: damping < 1)
    report, *_ = repaired()
    assert [damping for damping, _ in report.depth["repair"]["tried"]] == [1.0, 10.0]
    assert any("1 of 3 dampings" in text for text in report.warnings)


@pytest.mark.parametrize("linear", [False, True])
def test_before_the_first_block_of_a_unet_its_projection_is_repaired(linear):
    """What the gap adds, linear in the projection's inputs, comes back whole."""
    settings, make = TINY["UNet2DConditionModel"]
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(**settings, use_linear_projection=linear).eval()
    blocks = find_blocks(layer_shapes(model))
    selection = select_depth(type(model).__name__, blocks, PruningConfig(pattern="depth"))
    (name, *_) = selection.candidates
    attention = model.get_submodule(name.partition(".transformer_blocks")[0])
    added = torch.randn(
        attention.proj_in.out_channels if not linear else attention.proj_in.out_features
    )
    block = model.get_submodule(name)
    block.forward = lambda h, **_: 1.5 * h + added
    (gap,) = gaps_of(model, selection, [name], blocks)
    ((layer, module),) = gap.layers.items()
    assert layer == f"{name.partition('.transformer_blocks')[0]}.proj_in"
    module.register_forward_hook(partial(gap.note, layer))
    module.register_forward_hook(gap.gates, with_kwargs=True)
    block.register_forward_hook(partial(gap.sum_up, lambda *_: None))
    arguments = make()
    with torch.no_grad():
        dense = model(**copy.deepcopy(arguments)).sample
        own = own_weights([gap])
        with without_blocks(model, selection.stacks, [name]):
            away = model(**copy.deepcopy(arguments)).sample
            write_changes_([gap], own, 1e-6)
            repaired = model(**copy.deepcopy(arguments)).sample
    assert (repaired - dense).norm() < 1e-3 * (away - dense).norm()


@pytest.mark.slow
def test_a_unet_without_blocks_is_repaired_and_opens_in_diffusers(tmp_path):
    pipe = sd()
    settings = {"sparsity": 0.5, "num_prompts": 4, "allocation_prompts": 1, "damping": 0.01}
    report = prune_(pipe, PROMPTS[:4], pattern="depth", **settings, **QUICK)
    found = report.depth["repair"]
    judged = report.prompts[:1], report.seeds[:1]
    error = relative_latent_error(drawn(pipe, *judged), drawn(sd(), *judged))
    assert found["error"] == pytest.approx(error["value"], rel=1e-3)
    assert found["layers"]
    assert all(layer.endswith(".proj_in") for layer in found["layers"])
    save_pruned(pipe, tmp_path / "out", report)
    assert verify_folder(tmp_path / "out").files > 5
    assert "Not ComfyUI as it is" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    assert torch.equal(drawn(again, ["red apple"], [0]), drawn(pipe, ["red apple"], [0]))
