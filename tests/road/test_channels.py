"""Channels of residual blocks are removed in whole norm groups, the second convolution is repaired,
the folder opens again."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from obsdiff import PruningConfig, UserError, prune_, save_pruned
from obsdiff.cli.main import main
from obsdiff.cli.prediction import predict
from obsdiff.models.discovery import find_blocks
from obsdiff.models.geometry import columns, items
from obsdiff.models.layout import shrink_to_
from obsdiff.models.linear_view import layer_shapes
from obsdiff.models.surgery import shrink_
from obsdiff.solvers.problem import layer_error

from ..conftest import PROMPTS, ddpm, sd
from ..support.lanes import first_quick
from .test_convolutions import QUICK, picture

pytestmark = pytest.mark.filterwarnings("ignore::obsdiff.errors.CalibrationWarning")
MAKES = {
    "ddpm": ddpm,
    "ddpm that scales and shifts by time": lambda: ddpm(resnet_time_scale_shift="scale_shift"),
    "ddpm with heads": lambda: ddpm(attention_head_dim=8),
    "sd": sd,
}


def channels_of(unet: nn.Module) -> list:
    return [
        g
        for block in find_blocks(layer_shapes(unet, "conv"))
        for g in block.groups
        if g.kind == "channels"
    ]


def config(**settings) -> PruningConfig:
    return PruningConfig(
        **{"pattern": "structured", "target": "conv", "sparsity": 0.25, "packages": 1}
        | QUICK["ddpm"]
        | settings
    )


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
@pytest.mark.slow
def test_shrunk_equals_masked(make):
    """Every third norm group of every residual block is masked in conv2's input, or removed."""
    masked, shrunk = (make().to(torch.float64) for _ in range(2))
    for group in channels_of(masked.unet):
        count = items(masked.unet, group)
        gone = list(range(0, count, 3))
        with torch.no_grad():
            masked.unet.get_submodule(group.consumers[0]).weight.flatten(1)[
                :, columns(masked.unet, group, count)[gone].flatten()
            ] = 0
        shrink_(shrunk.unet, group, [i for i in range(count) if i not in gone])
    a, b, dense = picture(masked), picture(shrunk), picture(make().to(torch.float64))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(a, dense)
    block = shrunk.unet.mid_block.resnets[0]
    assert (
        block.conv1.out_channels
        == block.norm2.num_channels
        == block.conv2.in_channels
        == block.conv2.weight.shape[1]
        < 32
    )
    assert (
        block.norm2.num_channels // block.norm2.num_groups
        == 32 // masked.unet.mid_block.resnets[0].norm2.num_groups
    )


@pytest.mark.parametrize("make", first_quick(MAKES.values()), ids=MAKES.keys())
@pytest.mark.parametrize("method", ["obs", "l1"])
@pytest.mark.slow
def test_the_shapes_are_those_of_the_layout_and_open_again(make, method, tmp_path):
    pipe = make()
    calls = PROMPTS[:1] if make is sd else [{}]
    report = prune_(
        pipe, calls, config(method=method, **QUICK["sd"]) if make is sd else config(method=method)
    )
    assert report.layout["down_blocks.0.resnets.0"] == {"channels": 12}
    assert report.layout["mid_block.resnets.1"] == {"channels": 24}
    assert (
        report.parameters["after"]
        == sum(p.numel() for p in pipe.unet.parameters())
        < report.parameters["before"]
    )
    for row in report.groups:
        assert (len(row.removed), len(set(row.removed)), len(row.scores)) == (
            row.total - row.kept,
            row.total - row.kept,
            row.total,
        )
    again = DiffusionPipeline.from_pretrained(save_pruned(pipe, tmp_path / "out", report))
    assert type(again.unet).__name__ == f"Pruned{type(make().unet).__name__}"
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            again.unet.state_dict().values(), pipe.unet.state_dict().values(), strict=True
        )
    )
    torch.testing.assert_close(picture(again), picture(pipe))
    again.save_pretrained(tmp_path / "second")
    assert (
        again.unet.config.pruned_layout
        == DiffusionPipeline.from_pretrained(tmp_path / "second").unet.config.pruned_layout
    )


def test_only_targeted_blocks_and_whole_norm_groups_leave():
    pipe = ddpm()
    dense = {name: p.detach().clone() for name, p in pipe.unet.named_parameters()}
    report = prune_(
        pipe, [{}], config(method="random", sparsity=0.4, include=("mid_block.resnets.0.conv2",))
    )
    (row,) = report.groups
    assert (row.owner, row.kind, row.total, row.kept) == (
        "mid_block.resnets.0",
        "channels",
        32,
        20,
    )  # 3.2 of 8 norm groups: 3
    assert {i // 4 for i in row.removed} == {i // 4 for i in row.removed if i % 4 == 0}
    kept = [i for i in range(32) if i not in row.removed]
    block = pipe.unet.mid_block.resnets[0]
    for part, expected in (
        ("conv1.weight", kept),
        ("conv1.bias", kept),
        ("time_emb_proj.weight", kept),
        ("norm2.weight", kept),
    ):
        assert torch.equal(
            block.get_parameter(part), dense[f"mid_block.resnets.0.{part}"][expected]
        )
    assert torch.equal(block.conv2.weight, dense["mid_block.resnets.0.conv2.weight"][:, kept])
    assert report.gone() == "12 of 32 channels are gone"


@pytest.mark.slow
def test_obs_repairs_conv2():
    """Smaller layer errors than without the repair, and a picture nearer to the dense one than with
    L1."""

    def run(**settings) -> tuple[float, float]:
        pipe = ddpm()
        dense = picture(pipe)
        report = prune_(pipe, [{}] * 6, config(sparsity=0.3, num_inference_steps=4, **settings))
        return sum(row.error for row in report.layers), (
            picture(pipe) - dense
        ).square().mean().item()

    repaired, plain = run(), run(compensation=False)
    assert repaired[0] < 0.8 * plain[0]
    assert repaired[1] < run(method="l1")[1]


def test_heads_leave_beside_channels():
    report = prune_(MAKES["ddpm with heads"](), [{}], config(sparsity=0.5, method="l1"))
    assert report.layout["mid_block.attentions.0"] == {"heads": 2}
    assert {group.kind for group in report.groups} == {"heads", "channels"}
    only = prune_(
        MAKES["ddpm with heads"](), [{}], config(sparsity=0.5, method="l1", target="linear")
    )
    assert {group.kind for group in only.groups} == {"heads"}


def test_another_norm_is_refused_by_name():
    pipe = ddpm()
    pipe.unet.mid_block.resnets[1].norm2 = nn.Identity()
    with pytest.raises(
        UserError,
        match=r"mid_block\.resnets\.1\.norm2 is a Identity, not a GroupNorm; "
        r"leave it out with --exclude 'mid_block\.resnets\.1\.conv2'",
    ):
        prune_(pipe, [{}], config())


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (0, "found 0"),
        (3, "2 to 16 in steps of 2 can be left; found 3"),
        (18, "found 18"),
        (True, "found True"),
    ],
)
def test_a_tampered_layout_is_one_clear_error(left, words):
    with pytest.raises(UserError) as error:
        shrink_to_(ddpm().unet, {"down_blocks.0.resnets.0": {"channels": left}})
    assert words in str(error.value)


@pytest.mark.slow
def test_what_would_be_left_is_predicted(tmp_path, capsys):
    pipe = ddpm()
    pipe.save_pretrained(tmp_path / "ddpm")
    found = predict(dict(pipe.unet.config) | {"_class_name": "UNet2DModel"}, config(), (8, 8), 0)
    report = prune_(pipe, [{}], config(method="random"))
    assert found["pruned"]["parameters"] == report.parameters["after"]
    assert found["pruned"]["macs"]["convolution"] < found["dense"]["macs"]["convolution"]
    assert (
        main(
            [
                "inspect",
                str(tmp_path / "ddpm"),
                "--pattern",
                "structured",
                "--target",
                "conv",
                "--sparsity",
                "0.25",
                "--json",
            ]
        )
        == 0
    )
    plan = json.loads(capsys.readouterr().out)
    assert plan["prediction"]["channels"] == {
        "removed": found["channels"]["removed"],
        "total": found["channels"]["total"],
    }
    assert plan["settings"]["height"] == 8
    assert (
        main(
            [
                "inspect",
                str(tmp_path / "ddpm"),
                "--pattern",
                "structured",
                "--target",
                "conv",
                "--sparsity",
                "0.25",
            ]
        )
        == 0
    )
    assert "channels" in capsys.readouterr().out


def test_the_recorded_error_is_that_of_the_convolution():
    """tr(D H D^T) / tr(W H W^T) on conv2's inputs as recorded, every step weighing the same."""
    pipe, dense, name, seen = ddpm(), ddpm(), "down_blocks.0.resnets.0.conv2", []
    report = prune_(
        pipe,
        [{}],
        config(include=(name,), compensation=False, step_weight_min=1.0, step_weight_max=1.0),
    )
    layer = dense.unet.get_submodule(name)
    layer.register_forward_pre_hook(
        lambda m, args: seen.append(nn.functional.unfold(args[0].double(), 3, padding=1))
    )
    picture(dense)
    tokens = torch.cat([x.transpose(1, 2).flatten(0, 1) for x in seen])
    (row,) = report.groups
    masked = layer.weight.detach().clone()
    masked[:, row.removed] = 0
    assert report.layers[0].error == pytest.approx(
        layer_error(layer.weight.detach().flatten(1), masked.flatten(1), tokens.T @ tokens),
        rel=1e-4,
    )
