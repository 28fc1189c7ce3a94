"""Offloading, budgets, too little memory: what a user meets."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from obsdiff import PruningConfig, UserError

from .check import Check
from .emoji import pruned
from .measurement import free_memory


def behaves(check: Check) -> None:
    """Prune in every placement of weights and Hessians, with too little memory, with autocast."""
    gpu = check.device.type
    offload = partial(offload_model, gpu)
    groups = partial(offload_groups, gpu)
    streams = partial(offload_groups, gpu, use_stream=True)
    tried(check, "plain")
    tried(check, "Hessians on the CPU", offload_device="cpu")
    tried(check, "model offload", offload, device="cpu")
    tried(check, "model offload, Hessians on the GPU", offload, device="cpu", offload_device=gpu)
    tried(check, "group offload", groups, device="cpu", offload_device=gpu)
    if check.gpu:
        name, why = "group offload with a stream", "group offloading with a stream"
        refused(check, name, why, streams, device="cpu", offload_device=gpu)
        for placing in ("model", "group"):
            tried(check, f"--offload {placing}", device="cpu", config_device=gpu, offload=placing)
    tried(check, "budget, single", memory_budget_gib=0.045, calibration="single")
    tried(check, "budget, replay", memory_budget_gib=0.055, calibration="replay")
    by_sensitivity = {"allocation": "sensitivity", "allocation_prompts": 1, "target": "attention"}
    tried(check, "sensitivity", wanted=None, **by_sensitivity)
    if check.gpu:
        with torch.autocast("cuda", torch.bfloat16):
            tried(check, "inside autocast")
        with check.recorded_errors("behaves", "too little memory"):
            too_little_memory(check)
        with check.recorded_errors("behaves", "a UNet called four times"):
            unet_four_times(check)


def offload_model(gpu: str, pipe: Any) -> None:
    """diffusers' offloading of whole models."""
    pipe.enable_model_cpu_offload(device=gpu)


def offload_groups(gpu: str, pipe: Any, **how: Any) -> None:
    """diffusers' offloading of the transformer block by block."""
    pipe.to(gpu)
    pipe.transformer.to("cpu")
    pipe.transformer.enable_group_offload(
        onload_device=torch.device(gpu),
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        **how,
    )


def tried(
    check: Check,
    name: str,
    prepare: Callable | None = None,
    wanted: float | None = 0.5,
    **changes: Any,
) -> None:
    """Prune two blocks of emoji-sd3, and count the zeros of the model afterwards.

    Args:
        check: this run of the check.
        name: of the case.
        prepare: called with the pipeline before the pruning.
        wanted: the share of zeros; None for any.
        changes: as for `two_blocks_pruned`.
    """
    with check.recorded_errors("behaves", name):
        pipe, report = two_blocks_pruned(check, prepare, **changes)
        weight = pipe.transformer.transformer_blocks[0].attn.to_q.weight
        zeros = (weight == 0).float().mean().item()
        ok = None if wanted is None else abs(zeros - wanted) < 0.01
        what = f"{name}: zeros in the model (recorded {report.sparsity:.3f})"
        check.figure("behaves", what, zeros, "" if wanted is None else f"{wanted}", ok)


def refused(
    check: Check, name: str, why: str, prepare: Callable | None = None, **changes: Any
) -> None:
    """Check that such a pruning is refused in one line with the words `why`."""
    with check.recorded_errors("behaves", name):
        line = "not refused"
        try:
            two_blocks_pruned(check, prepare, **changes)
        except UserError as error:
            line = str(error)
        check.figure("behaves", f"{name}: refused", line, why, why in line and "\n" not in line)


def two_blocks_pruned(
    check: Check,
    prepare: Callable | None = None,
    device: Any = None,
    config_device: Any = None,
    **changes: Any,
) -> tuple[Any, Any]:
    """Prune two blocks of emoji-sd3; return the pipeline and its report.

    Args:
        check: this run of the check.
        prepare: called with the pipeline before the pruning.
        device: where the pipeline is opened; None for the device of this check.
        config_device: the setting `device`.
        changes: further settings.
    """
    few = {"num_prompts": 2, "num_inference_steps": 2, "blocks": "0-1"}
    config = PruningConfig(device=config_device, **few | changes)
    dtype = None if check.gpu else "float32"
    return pruned("emoji-sd3", device or check.device, dtype, config, prepare)


def too_little_memory(check: Check) -> None:
    """The command line on a GPU of 32 MB: one line and exit code 1."""
    from obsdiff.cli.main import main

    free_memory()
    share = 2**25 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    words = ["prune", "emoji-sd3", "--output", str(check.out / "too-little-memory"), "--overwrite"]
    try:
        code: Any = main([*words, "--num-prompts", "4", "--num-inference-steps", "4"])
    except (Exception, SystemExit) as error:
        code = f"{type(error).__name__}: {str(error)[:100]}"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    check.figure("behaves", "too little memory: exit code", code, "1, after one line", code == 1)


def unet_four_times(check: Check) -> None:
    """Whether a UNet computes the same bits every time; allocation by sensitivity requires it."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(128, 256), layers_per_block=2, cross_attention_dim=256,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    unet = unet.to(check.device, torch.float16).eval()
    x, text = (
        torch.randn(*shape, device=check.device, dtype=torch.float16)
        for shape in ((8, 4, 64, 64), (8, 77, 256))
    )
    before = torch.backends.cudnn.benchmark
    try:
        for benchmark in (False, True):
            torch.backends.cudnn.benchmark = benchmark
            with torch.no_grad():
                outputs = [unet(x, 500, text).sample for _ in range(4)]
            equal = all(torch.equal(other, outputs[0]) for other in outputs[1:])
            what = f"a UNet called four times, cudnn.benchmark {benchmark}: the same bits"
            check.figure("behaves", what, equal, "True", equal)
    finally:
        torch.backends.cudnn.benchmark = before
