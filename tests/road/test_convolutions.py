"""Convolutions of UNets, from the table to saved folders."""

import functools
import json
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DiffusionPipeline, UNet2DModel
from torch import nn

from obsdiff import PruningConfig, UserError, prune_, save_pruned
from obsdiff.calibration.calibration_set import CalibrationSet
from obsdiff.calibration.hooks import calibrate
from obsdiff.calibration.packages import hessian_bytes
from obsdiff.calibration.selection import select
from obsdiff.calibration.step_weights import StepWeights
from obsdiff.cli.main import main
from obsdiff.models.discovery import find_blocks, require_blocks, uncovered
from obsdiff.models.linear_view import layer_shapes
from obsdiff.pipelines.folder import open_folder

from ..conftest import PROMPTS, ddpm, sd, sd3
from ..support.contexts import context_of

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
QUICK = {
    "sd": {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16},
    "ddpm": {"num_inference_steps": 2},
}
CALLS = {"sd": PROMPTS[:2], "ddpm": [{"batch_size": 1}] * 2}
MAKES = {"sd": sd, "ddpm": ddpm}


def picture(pipe) -> torch.Tensor:
    if hasattr(pipe, "encode_prompt"):
        return pipe(
            PROMPTS[0],
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            **QUICK["sd"],
        ).images
    return pipe(
        generator=torch.Generator().manual_seed(0), output_type="pt", **QUICK["ddpm"]
    ).images


def config(kind: str, **settings) -> PruningConfig:
    return PruningConfig(**{"target": "conv", "packages": 2} | settings | QUICK[kind])


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "sd"
    sd().save_pretrained(folder, safe_serialization=True)
    return str(folder)


@pytest.mark.parametrize(
    ("make", "kinds", "convolutions"),
    [
        # 6 residual blocks: 1 down, 1 down, 2 in the middle, 2 up, 2 up; shortcuts where the
        # width changes: all but down.0 and the middle's
        (sd, {"residual block": 8, "sampler": 2, "self and cross attention": 4}, 8 * 2 + 5 + 2),
        # 3 down, 2 in the middle, 3 x 2 up; shortcuts: down.1 and all that go up;
        # 2 samplers down, 2 up
        (ddpm, {"residual block": 11, "sampler": 4, "self attention": 4}, 11 * 2 + 7 + 4),
    ],
)
def test_blocks_and_layers_are_found(make, kinds, convolutions):
    unet = make().unet
    shapes = layer_shapes(unet, "conv")
    blocks = find_blocks(shapes)
    assert {
        kind: sum(b.entry == kind for b in blocks) for kind in {b.entry for b in blocks}
    } == kinds
    assert (
        sum(
            len(tap.layers)
            for b in blocks
            for unit in b.units
            for tap in unit
            if tap.part == "conv"
        )
        == convolutions
    )
    assert uncovered(shapes, blocks, "conv") == []
    left = {n for n in shapes if isinstance(unet.get_submodule(n), nn.Conv2d)} - {
        n for b in blocks for n in b.layers
    }
    assert left == {"conv_in", "conv_out"} | {
        n for n in shapes if n.endswith((".proj_in", ".proj_out"))
    }


@pytest.mark.parametrize("kind", MAKES)
def test_units_are_in_the_order_in_which_their_inputs_become_known(kind):
    """As the layers run, but for a shortcut, which reads the input of conv1's norm."""
    pipe, ran = MAKES[kind](), []
    for name, module in pipe.unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_pre_hook(lambda m, args, name=name: ran.append(name))
    shapes = dict(sorted(layer_shapes(pipe.unet, "conv").items(), reverse=True))
    units = select(find_blocks(shapes), config(kind), shapes)
    picture(pipe)
    first = [min(ran.index(x) for tap in unit for x in tap.layers) for unit in units]
    assert first == sorted(first)


@pytest.mark.parametrize("kind", MAKES)
def test_every_call_of_a_convolution_is_in_its_hessian(kind):
    """One token for each output position of every picture, step and guidance half.

    The Hessian is that of the unfolded input.
    """
    pipe = MAKES[kind]()
    shapes = layer_shapes(pipe.unet, "conv")
    taps = [tap for unit in select(find_blocks(shapes), config(kind), shapes) for tap in unit]
    out: dict[str, list[torch.Tensor]] = {}
    for name, module in pipe.unet.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda m, args, y, name=name: out.setdefault(name, []).append(
                    (y - m.bias.view(1, -1, 1, 1)).double()
                )
            )
    weights = StepWeights("uniform", 1.0, 1.0)
    drawn = CalibrationSet(CALLS[kind], [0, 1], QUICK[kind], 1, weights)
    with context_of(pipe, drawn) as context:
        inputs = calibrate(context, taps)
    convolutions = [tap for tap in taps if tap.part == "conv"]
    assert convolutions
    for tap in convolutions:
        (layer,), seen = tap.layers, inputs[tap].hessian
        energy = sum(y.square().sum().item() for y in out[layer])
        w = pipe.unet.get_submodule(layer).weight.detach().double().flatten(1)
        assert seen.samples == sum(y[:, 0].numel() for y in out[layer])
        assert ((w @ seen.matrix().double()) * w).sum().item() == pytest.approx(
            2 * energy / seen.samples, rel=1e-4
        )
        assert seen.packed.nbytes + seen.x.nbytes == hessian_bytes(tap, shapes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize(
    ("method", "pattern"), [("obs", "unstructured"), ("obs", "2:4"), ("wanda", "unstructured")]
)
def test_sparsity_is_exact_and_nothing_else_moves(kind, method, pattern, tmp_path):
    pipe = MAKES[kind]()
    before = {name: p.detach().clone() for name, p in pipe.unet.named_parameters()}
    report = prune_(pipe, CALLS[kind], config(kind, method=method, pattern=pattern))
    pruned = {row.name + ".weight" for row in report.layers}
    assert {
        "down_blocks.0.resnets.0.conv1.weight",
        "up_blocks.0.upsamplers.0.conv.weight",
    } <= pruned
    for name, p in pipe.unet.named_parameters():
        assert name in pruned or torch.equal(p, before[name])
    for row in report.layers:
        w = pipe.unet.get_submodule(row.name).weight
        assert row.shape == tuple(w.flatten(1).shape)
        assert (
            row.sparsity
            == pytest.approx((w == 0).float().mean().item())
            == pytest.approx(0.5, abs=2e-3)
        )
        assert pattern != "2:4" or (w.flatten(1).unflatten(1, (-1, 4)) != 0).sum(2).max() <= 2
    again = DiffusionPipeline.from_pretrained(save_pruned(pipe, tmp_path / "out", report))
    assert type(again.unet).__name__ == type(MAKES[kind]().unet).__name__
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            again.unet.state_dict().values(), pipe.unet.state_dict().values(), strict=True
        )
    )
    torch.testing.assert_close(picture(again), picture(pipe))


@pytest.mark.slow
def test_repair_pays():
    def drift(**settings) -> float:
        pipe = ddpm()
        dense = picture(pipe)
        prune_(
            pipe,
            [{}] * 4,
            config("ddpm", sparsity=0.3, packages=1, include=("*conv*",), **settings),
        )
        return (picture(pipe) - dense).square().mean().item()

    assert drift() < 0.8 * drift(method="magnitude")


@pytest.mark.slow
def test_a_call_may_draw_several_pictures_and_ddim_calibrates_too():
    pipe = ddpm()
    report = prune_(pipe, [{"batch_size": 3}, {"batch_size": 2}], config("ddpm", packages=1))
    assert report.seeds == [0, 1]
    pipe = DDIMPipeline(pipe.unet, pipe.scheduler)
    prune_(pipe, [{"batch_size": 2, "eta": 0.5}], config("ddpm", pattern="2:4", packages=1))
    with pytest.raises(UserError, match="DDIMPipeline accepts no text"):
        prune_(pipe, PROMPTS[:1], config("ddpm", packages=1))


def test_the_default_target_leaves_convolutions_alone():
    for make, blocks in ((sd, 4), (ddpm, 4)):
        assert len(find_blocks(layer_shapes(make().unet, "linear"))) == blocks
    report = prune_(sd(), PROMPTS[:1], config("sd", target="linear"))
    assert not [row.name for row in report.layers if "conv" in row.name]


class Grouped(UNet2DModel):
    """A UNet with a convolution of four groups."""

    @functools.wraps(UNet2DModel.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.down_blocks[0].resnets[0].conv2 = nn.Conv2d(16, 16, 3, padding=1, groups=4)


@pytest.mark.slow
def test_what_can_not_be_unfolded_is_refused_by_name():
    pipe = ddpm()
    pipe.unet = Grouped.from_config(pipe.unet.config)
    with pytest.raises(
        UserError,
        match=r"down_blocks\.0\.resnets\.0\.conv2: expected .* found 4 groups; "
        "leave it out with --exclude",
    ):
        prune_(pipe, [{}], config("ddpm"))
    prune_(pipe, [{}], config("ddpm", packages=1, exclude=("down_blocks.0.resnets.0.conv2",)))


@pytest.mark.slow
def test_a_convolution_of_no_entry_is_named_and_a_transformer_refused():
    pipe = ddpm()
    pipe.unet.mid_block.extra_conv = nn.Conv2d(4, 4, 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prune_(pipe, [{}], config("ddpm", packages=1))
    assert any("mid_block.extra_conv: no table entry" in str(w.message) for w in caught)
    with pytest.raises(
        UserError, match="target conv: expected a UNet with residual blocks, found none in SD3"
    ):
        require_blocks(layer_shapes(sd3().transformer, "conv"), "SD3", "conv")


def test_headers_give_the_shapes_of_the_modules(sd_folder):
    stored = open_folder(Path(sd_folder)).components["unet"]
    assert stored.layers("conv") == layer_shapes(sd().unet, "conv")
    assert stored.layers("linear") == stored.layers() == layer_shapes(sd().unet, "linear")


@pytest.mark.slow
def test_the_command_line(sd_folder, prompts_file, tmp_path, capsys):
    flags = [
        "--target",
        "conv",
        "--num-prompts",
        "2",
        "--num-inference-steps",
        "2",
        "--guidance-scale",
        "3",
    ]
    assert main(["inspect", sd_folder, "--json", *flags]) == 0
    plan = json.loads(capsys.readouterr().out)
    rows = {
        layer: tap
        for package in plan["packages"]
        for tap in package["taps"]
        for layer in tap["layers"]
    }
    assert rows["down_blocks.0.resnets.0.conv1"]["columns"] == 16 * 9
    assert rows["down_blocks.0.resnets.0.conv1"]["tokens_per_column"] == pytest.approx(
        2 * 2 * 2 * 64 / 144, abs=0.01
    )
    assert rows["down_blocks.0.downsamplers.0.conv"]["tokens_per_column"] == pytest.approx(
        2 * 2 * 2 * 16 / 144, abs=0.01
    )
    assert rows["up_blocks.0.upsamplers.0.conv"]["tokens_per_column"] == pytest.approx(
        2 * 2 * 2 * 64 / (32 * 9), abs=0.01
    )
    assert plan["uncovered"] == []
    assert (
        main(
            [
                "prune",
                sd_folder,
                "--output",
                str(tmp_path / "out"),
                "--prompts",
                prompts_file,
                "--pattern",
                "2:4",
                *flags,
            ]
        )
        == 0
    )
    record = json.loads((tmp_path / "out" / "obsdiff.json").read_text())
    assert {row["name"] for row in record["layers"]} == set(rows)
    assert "linear layers and convolutions" in (tmp_path / "out" / "README.md").read_text()
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert (pipe.unet.down_blocks[0].resnets[0].conv1.weight == 0).float().mean() == 0.5
