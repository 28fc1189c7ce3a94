"""obsdiff on one GPU in a few minutes: is it right, how fast is it, how much memory does it need.

    python3 benchmarks/gpu.py                      on one GPU of 80 GB
    python3 benchmarks/gpu.py --limit 270          the same, within 270 seconds
    python3 benchmarks/gpu.py --only env same      some steps
    python3 benchmarks/gpu.py --tiny               a dry run on a CPU with tiny shapes

Nothing is downloaded: the models are the built-in emoji-sd3, and models of the sizes of SD3-medium
and FLUX.1-dev with random weights. Every step stands alone, has a time limit, and an error in it is
a figure, too. The figures are written to $OUT/gpu.json (default: benchmarks/results/gpu) as they
come, with what was expected of each beforehand. `pass` is null for a figure without a limit. The
exit code is 0 however the figures turn out.
"""

import argparse
import contextlib
import gc
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
ROOT = Path(__file__).resolve().parents[1]
if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(ROOT)  # not this folder, whose modules have common names
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch  # noqa: E402

from benchmarks.sizes import FLUX_DEV, SD3_MEDIUM  # noqa: E402

SD3 = dict(SD3_MEDIUM)
FLUX = FLUX_DEV | {"num_layers": 2, "num_single_layers": 2}
TINY_SD3 = {
    "num_layers": 3, "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 32,
    "caption_projection_dim": 64, "pooled_projection_dim": 48, "sample_size": 16,
}  # fmt: skip
TINY_FLUX = {
    "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 4,
    "joint_attention_dim": 32, "pooled_projection_dim": 48, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
PATIENCE = 10  # seconds after which a step that ignored the alarm is interrupted again
LEAST = 2  # seconds that must be left to start a step

TINY, GPU = False, False  # set by `configure`
DEVICE = torch.device("cpu")
TEXT, PIXELS = 333, 1024
OUT = ROOT / "benchmarks" / "results" / "gpu"
ABOUT: dict[str, Any] = {}
FIGURES: list[dict[str, Any]] = []


class TooLong(BaseException):
    """A step ran over its limit; no `except Exception` catches it."""


# ------------------------------------------------------------------------------- the measurement


def configure(tiny: bool) -> None:
    """Choose the device, the sizes and the folder of the results."""
    global TINY, GPU, DEVICE, TEXT, PIXELS, OUT
    TINY, GPU = tiny, torch.cuda.is_available() and not tiny
    DEVICE = torch.device("cuda" if GPU else "cpu")
    if tiny:
        SD3.update(TINY_SD3)
        FLUX.update(TINY_FLUX)
        TEXT, PIXELS = 20, 128
    OUT = Path(os.environ.get("OUT") or OUT)
    OUT.mkdir(parents=True, exist_ok=True)


def commit() -> str:
    """The environment variable COMMIT, for a copy without history; else what is checked out."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=10
        )
        checked_out = done.stdout.strip() if done.returncode == 0 else ""
        return os.environ.get("COMMIT") or checked_out or "unknown"
    return os.environ.get("COMMIT", "unknown")


def save() -> None:
    """Write all figures so far."""
    file = OUT / "gpu.json"
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"about": ABOUT, "figures": FIGURES}, indent=1, default=str) + "\n")
    part.replace(file)


def figure(step: str, what: str, value: Any, expected: str = "", ok: Any = None) -> None:
    """Record and print one figure.

    Args:
        step: the name of the step.
        what: what was measured.
        value: a number or a text.
        expected: what was expected beforehand.
        ok: whether the figure is as it must be; None if it is only wanted.
    """
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    if isinstance(value, float) and not math.isfinite(value):
        value = str(value)
    ok = None if ok is None else bool(ok)
    seconds_so_far = round(time.perf_counter() - BEGAN, 1)
    FIGURES.append(
        {"step": step, "what": what, "value": value, "expected": expected, "pass": ok,
         "at": seconds_so_far}
    )  # fmt: skip
    mark = {None: "", True: "ok", False: "FAIL"}[ok]
    print(f"{seconds_so_far:6.1f}s  {mark:4} {step:10} {what}: {shown}   [{expected}]", flush=True)
    save()


@contextlib.contextmanager
def recorded_errors(step: str, what: str) -> Iterator[None]:
    """An error inside is a figure; the rest of the step goes on."""
    try:
        yield
    except Exception as error:
        traceback.print_exc(limit=-4)
        reason = " ".join(str(error).split())[:200]
        figure(step, f"{what}: {type(error).__name__}", reason, "", False)


def run_step(name: str, limit: float, left: float, call: Callable[[], None]) -> None:
    """Run a step for at most `limit` seconds, or as many as are left.

    The alarm interrupts Python between two calls into C, never inside one.
    """
    if left < LEAST:
        figure(name, "not run", "no time left")
        return
    running = True

    def over(*_: Any) -> None:
        if running:
            raise TooLong

    limit = min(limit, left)
    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit, PATIENCE)
    try:
        with recorded_errors(name, "failed"):
            call()
        running = False
    except TooLong:
        running = False
        figure(name, "ran over its limit of s", round(limit, 1), "", False)
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        free()
        save()


def free() -> None:
    """Free the memory of what is no longer used."""
    gc.collect()
    if GPU:
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def sync() -> None:
    """Wait for the GPU."""
    if GPU:
        torch.cuda.synchronize()


def seconds(call: Callable[[], Any], rounds: int = 3, warmup: int = 1) -> float:
    """Median seconds of a call; what runs on the GPU is waited for."""
    for _ in range(warmup):
        call()
    found = []
    for _ in range(rounds):
        sync()
        began = time.perf_counter()
        call()
        sync()
        found.append(time.perf_counter() - began)
    return sorted(found)[len(found) // 2]


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Products of float32 matrices with TF32 operands or not, by the switch that recipes use."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


# ------------------------------------------------------------------------------------ pipelines


def pruned(
    model: str, device: Any, dtype: str | None, config: Any, prepare: Callable | None = None
) -> tuple[Any, Any]:
    """Open a built-in pipeline and prune it.

    Args:
        model: the name of the built-in model.
        device: where it is opened.
        dtype: the dtype it is opened in; None for the stored one.
        config: the settings.
        prepare: called with the pipeline before the pruning.

    Returns:
        The pipeline and its report.
    """
    from obsdiff import builtin_path, prune_
    from obsdiff.pipelines.folder import open_folder
    from obsdiff.pipelines.load import load_pipeline
    from obsdiff.pipelines.prompt_files import read_prompts

    folder = builtin_path(model)
    pipe, _ = load_pipeline(open_folder(folder), dtype, str(device))
    if prepare:
        prepare(pipe)
    prompts = read_prompts(folder / "calibration_prompts.txt")
    return pipe, prune_(pipe, prompts, config, progress=False)


def masks(pipe: Any, report: Any) -> dict[str, torch.Tensor]:
    """The masks of the kept weights of every pruned layer, on the CPU."""
    denoiser = getattr(pipe, report.component)
    return {r.name: (denoiser.get_submodule(r.name).weight != 0).cpu() for r in report.layers}


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The share of mask entries that differ."""
    return sum(int((a[k] != b[k]).sum()) for k in a) / sum(v.numel() for v in a.values())


def sd3(layers: int | None = None) -> Any:
    """A pipeline of SD3-medium's sizes without text encoders and VAE; random weights, made on the
    device, in bfloat16 on a GPU."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    torch.manual_seed(0)
    kind = torch.bfloat16 if GPU else torch.float32
    config = SD3 | ({"num_layers": layers} if layers else {})
    model = made_in(kind, partial(SD3Transformer2DModel, **config))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = StableDiffusion3Pipeline(model, scheduler, None, None, None, None, None, None, None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def made_in(kind: torch.dtype, make: Callable[[], Any]) -> Any:
    """A model with random weights, made on the device and in the dtype of the run."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        with torch.device(DEVICE):
            model = make()
    finally:
        torch.set_default_dtype(before)
    return model.to(DEVICE, kind).eval().requires_grad_(False)


def embedded(pipe: Any, calls: int, images: int) -> list[dict[str, torch.Tensor]]:
    """Random text embeddings for some calls of the pipeline, each of several images."""
    config, kind = pipe.transformer.config, pipe.transformer.dtype
    generator = torch.Generator(DEVICE).manual_seed(1)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=DEVICE).to(kind)

    text = images, TEXT, config.joint_attention_dim
    pooled = images, config.pooled_projection_dim
    return [
        {
            "prompt_embeds": made(*text),
            "negative_prompt_embeds": made(*text),
            "pooled_prompt_embeds": made(*pooled),
            "negative_pooled_prompt_embeds": made(*pooled),
        }
        for _ in range(calls)
    ]


def settings(**changes: Any) -> Any:
    """A config for the pipelines of `sd3`."""
    from obsdiff import PruningConfig

    fixed = {"guidance_scale": 7.0, "height": PIXELS, "width": PIXELS, "calibration": "single"}
    return PruningConfig(**fixed | {"num_prompts": 1, "num_inference_steps": 2} | changes)


def drawn(pipe: Any, prompts: list[dict[str, Any]], config: Any) -> None:
    """Plain inference of the prompts, without the VAE."""
    from obsdiff.calibration.plan import plan_pruning
    from obsdiff.pipelines.run import prepared

    plan = plan_pruning(pipe, prompts, config)
    with prepared(pipe, plan.scheduler) as run:
        for some, seeds in plan.calibration_set.batches():
            run.latents(some, seeds, plan.calibration_set.settings)
    sync()


def first_call(pipe: Any, prompt: dict[str, Any], config: Any) -> dict[str, Any]:
    """The arguments of the transformer's first call."""
    from obsdiff.calibration.plan import plan_pruning
    from obsdiff.pipelines.run import denoiser_call

    plan = plan_pruning(pipe, [prompt], config)
    return denoiser_call(pipe, pipe.transformer, prompt, plan.calibration_set.settings)


def kernels(call: Callable[[], Any]) -> tuple[int, float, float]:
    """The number of kernels of a call, their microseconds, and those of matrix products."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        call()
        sync()
    cuda = torch.autograd.DeviceType.CUDA
    events = [e for e in profiled.events() if e.device_type == cuda]
    words = "gemm", "cutlass", "xmma", "nvjet"
    products = [e for e in events if any(word in e.name.lower() for word in words)]
    whole, matrices = (sum(e.time_range.elapsed_us() for e in of) for of in (events, products))
    return len(events), whole, matrices


# ---------------------------------------------------------------------------------------- steps


def environment() -> None:
    """Versions, the card, and whether TF32 is off by default."""
    names = ", ".join(f"{name} {version}" for name, version in ABOUT["versions"].items())
    figure("env", "versions", names)
    figure("env", "device", ABOUT["device"])
    on = torch.backends.cuda.matmul.allow_tf32
    figure("env", "TF32 products by default", on, "False", not on)


def same_as_a_cpu() -> None:
    """emoji-sd3 in float32 from the same noise on the CPU and here: masks and layer errors."""
    from obsdiff import PruningConfig

    count = 2 if TINY else 4
    few = {"num_prompts": count, "num_inference_steps": count}
    few |= {"blocks": "1-1"} if TINY else {}
    cases = {
        "obs": {"calibration": "single"},
        "replay": {"calibration": "replay", "packages": 2},
        "structured": {"calibration": "single", "pattern": "structured", "sparsity": 0.3},
        "alps": {"calibration": "single", "method": "alps", "blocks": "1-1"},
    }
    if TINY:
        del cases["alps"]  # half a minute a run on a slow CPU
    for name, case in cases.items():
        with recorded_errors("same", name):
            same_in(name, PruningConfig(**few | case))


def same_in(name: str, config: Any) -> None:
    """One case of `same_as_a_cpu`."""
    allowed = {"obs": 5e-4, "alps": 2e-2, "replay": 3e-3, "structured": 0.02}[name]
    began = time.perf_counter()
    cpu, on_cpu = pruned("emoji-sd3", "cpu", "float32", config)
    took_cpu = time.perf_counter() - began
    began = time.perf_counter()
    here, on_gpu = pruned("emoji-sd3", DEVICE, "float32", config)
    sync()
    took = time.perf_counter() - began
    if name == "structured":
        gone = [{(g.owner, g.kind): set(g.removed) for g in r.groups} for r in (on_cpu, on_gpu)]
        differ = sum(len(gone[0][k] ^ gone[1][k]) for k in gone[0])
        share = differ / max(1, sum(len(v) for v in gone[0].values()))
        what = "share of removed heads and neurons that differ from the CPU's"
    else:
        share = difference(masks(cpu, on_cpu), masks(here, on_gpu))
        what = "share of mask entries that differ from the CPU's"
    figure("same", f"{name}: {what}", share, f"<= {allowed:g}", share <= allowed)
    pairs = list(zip(on_cpu.layers, on_gpu.layers, strict=True))
    worst = max(abs(x.error - y.error) / max(x.error, 1e-9) for x, y in pairs)
    what = f"{name}: largest relative difference of a layer error"
    figure("same", what, worst, "<= 0.02", worst <= 0.02)
    figure("same", f"{name}: seconds on the CPU and here", f"{took_cpu:.1f}, {took:.1f}")
    if name == "obs":
        same_twice(here, config)
    if name in ("obs", "alps"):
        same_with_tf32(name, cpu, on_cpu, config)


def same_twice(here: Any, config: Any) -> None:
    """Whether a second run on this device has the same bits."""
    again, report = pruned("emoji-sd3", DEVICE, "float32", config)
    pairs = (
        [pipe.transformer.get_submodule(r.name).weight for pipe in (here, again)]
        for r in report.layers
    )
    equal = all(torch.equal(a, b) for a, b in pairs)
    figure("same", "obs twice on this device: the same bits", equal, "True", equal)


def same_with_tf32(name: str, cpu: Any, on_cpu: Any, config: Any) -> None:
    """What the user's switch to TF32 changes."""
    with tf32(True):
        other, report = pruned("emoji-sd3", DEVICE, "float32", config)
    what = f"{name} with the user's TF32 on"
    share = difference(masks(cpu, on_cpu), masks(other, report))
    expected = "as without TF32; if it counts in the solver: obs 5e-4, alps 6e-2"
    figure("same", f"{what}: share of mask entries that differ", share, expected)
    pairs = zip(on_cpu.layers, report.layers, strict=True)
    more = max(y.error / max(x.error, 1e-9) for x, y in pairs)
    figure("same", f"{what}: largest factor of a layer error", more, "<= 1.02", more <= 1.02)


def behaves() -> None:
    """Offloading, budgets, too little memory: what a user meets."""
    gpu = "cuda" if GPU else "cpu"
    offload = partial(offload_model, gpu)
    groups = partial(offload_groups, gpu)
    streams = partial(offload_groups, gpu, use_stream=True)
    tried("plain")
    tried("Hessians on the CPU", offload_device="cpu")
    tried("model offload", offload, device="cpu")
    tried("model offload, Hessians on the GPU", offload, device="cpu", offload_device=gpu)
    tried("group offload", groups, device="cpu", offload_device=gpu)
    if GPU:
        tried("group offload with a stream", streams, device="cpu", offload_device=gpu)
        name = "group offload with a stream, replay"
        replayed = {"calibration": "replay", "packages": 2}
        tried(name, streams, device="cpu", offload_device=gpu, **replayed)
    if GPU:
        for placing in ("model", "group"):
            tried(f"--offload {placing}", device="cpu", config_device=gpu, offload=placing)
    tried("budget, single", memory_budget_gib=0.045, calibration="single")
    tried("budget, replay", memory_budget_gib=0.055, calibration="replay")
    by_sensitivity = {"allocation": "sensitivity", "allocation_prompts": 1, "target": "attention"}
    tried("sensitivity", wanted=None, **by_sensitivity)
    if GPU:
        with torch.autocast("cuda", torch.bfloat16):
            tried("inside autocast")
        with recorded_errors("behaves", "too little memory"):
            too_little_memory()
        with recorded_errors("behaves", "a UNet called four times"):
            unet_four_times()


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
    name: str,
    prepare: Callable | None = None,
    wanted: float | None = 0.5,
    device: Any = None,
    config_device: Any = None,
    **changes: Any,
) -> None:
    """Prune two blocks of emoji-sd3, and count the zeros of the model afterwards.

    Args:
        name: of the case.
        prepare: called with the pipeline before the pruning.
        wanted: the share of zeros; None for any.
        device: where the pipeline is opened; None for the device of this check.
        config_device: the setting `device`.
        changes: further settings.
    """
    from obsdiff import PruningConfig

    with recorded_errors("behaves", name):
        few = {"num_prompts": 2, "num_inference_steps": 2, "blocks": "0-1"}
        config = PruningConfig(device=config_device, **few | changes)
        dtype = None if GPU else "float32"
        pipe, report = pruned("emoji-sd3", device or DEVICE, dtype, config, prepare)
        weight = pipe.transformer.transformer_blocks[0].attn.to_q.weight
        zeros = (weight == 0).float().mean().item()
        ok = None if wanted is None else abs(zeros - wanted) < 0.01
        what = f"{name}: zeros in the model (recorded {report.sparsity:.3f})"
        figure("behaves", what, zeros, "" if wanted is None else f"{wanted}", ok)


def too_little_memory() -> None:
    """The command line on a GPU of 32 MB: one line and exit code 1."""
    from obsdiff.cli.main import main

    free()
    share = 2**25 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    words = ["prune", "emoji-sd3", "--output", str(OUT / "too-little-memory"), "--overwrite"]
    try:
        code: Any = main([*words, "--num-prompts", "4", "--num-inference-steps", "4"])
    except (Exception, SystemExit) as error:
        code = f"{type(error).__name__}: {str(error)[:100]}"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    figure("behaves", "too little memory: exit code", code, "1, after one line", code == 1)


def unet_four_times() -> None:
    """Whether a UNet computes the same bits every time; allocation by sensitivity requires it."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(128, 256), layers_per_block=2, cross_attention_dim=256,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    unet = unet.to(DEVICE, torch.float16).eval()
    x, text = (
        torch.randn(*shape, device=DEVICE, dtype=torch.float16)
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
            figure("behaves", what, equal, "True", equal)
    finally:
        torch.backends.cudnn.benchmark = before


def sums() -> None:
    """One update of a Hessian, and other ways to make it."""
    shapes = [(2, 64, 96)] if TINY else [(8, 4096, 1536), (8, 4096, 6144), (4, 4608, 15360)]
    for images, tokens, columns in shapes:
        with recorded_errors("sums", f"{images}x{tokens}x{columns}"):
            sums_of(images, tokens, columns)
        free()


def sums_of(images: int, tokens: int, columns: int) -> None:
    """One shape of `sums`: images x tokens x columns."""
    from obsdiff.calibration.hessian import Hessian, row_sums

    timed = partial(seconds, rounds=1 if columns > 10_000 else 3, warmup=1)
    x = torch.randn(images, tokens, columns, device=DEVICE, dtype=torch.bfloat16)
    flat, x32 = x.view(-1, columns), x.float()
    flat32, xx = x32.view(-1, columns), torch.zeros(columns, columns, device=DEVICE)
    hessian = Hessian.zeros(columns, DEVICE)
    ways = {"update, float32": timed(lambda: hessian.update(x32, 1.0))}
    with tf32(True):
        ways["update, float32, the user's TF32"] = timed(lambda: hessian.update(x32, 1.0))
    ways["row sums and unique alone"] = timed(lambda: row_sums(flat32).unique())
    ways["square, float32"] = timed(lambda: xx.addmm_(flat32.T, flat32))
    with tf32(True):
        ways["square, TF32"] = timed(lambda: xx.addmm_(flat32.T, flat32))
    half_update = "update, half precision"
    if GPU:
        in_float32 = partial(torch.mm, out_dtype=torch.float32)
        ways["square, mm(out_dtype=float32)"] = timed(lambda: xx.add_(in_float32(flat.T, flat)))
        with contextlib.suppress(RuntimeError, TypeError, AttributeError):
            addmm = torch.ops.aten.addmm.dtype_out
            way = "square, addmm(out_dtype, out=)"
            ways[way] = timed(lambda: addmm(xx, flat.T, flat, torch.float32, out=xx))
        hessian = Hessian.zeros(columns, DEVICE)
        ways[half_update] = timed(lambda: hessian.update(x, 1.0))
    name = f"{images}x{tokens}x{columns}"
    square = 2 * images * tokens * columns**2 / 1e12
    for way, took in ways.items():
        speed = f"{square / took:.0f} TFLOP/s of the square"
        figure("sums", f"{name} {way}: ms", took * 1e3, speed)
    if GPU:
        gain = ways["update, float32"] / ways[half_update]
        expected = ">= 4 (calculated 8 to 15)"
        figure("sums", f"{name}: update of float32 / half precision", gain, expected, gain >= 4)
        exact = flat[:, :256].double()
        exact = exact.T @ exact
        plain = flat32[:, :256].T @ flat32[:, :256]
        half = torch.mm(flat[:, :256].T, flat[:, :256], out_dtype=torch.float32)
        off = [((m.double() - exact).norm() / exact.norm()).item() for m in (plain, half)]
        what = f"{name}: error of float32 products, of bfloat16 ones with float32 sums"
        figure("sums", what, ", ".join(f"{o:.1e}" for o in off), "both < 1e-5", max(off) < 1e-5)


def real_size() -> None:
    """SD3-medium's sizes at 1024 px: calibration beside plain inference, memory, a whole run."""
    images, steps = (1, 2) if TINY else (4, 3)
    config = settings(num_prompts=2, num_inference_steps=steps)
    pipe = sd3()
    prompts = embedded(pipe, 2, images)
    drawn(pipe, prompts[:1], config)
    began = time.perf_counter()
    drawn(pipe, prompts, config)
    plain = time.perf_counter() - began
    what = f"plain inference, {2 * images} pictures of {steps} steps: s"
    expected = "6 calls of 71 TFLOP: 1.0 s at 450 TFLOP/s, 2 s at most"
    figure("sd3", what, plain, expected if GPU else "")
    del pipe
    wanda = replace(config, method="wanda")  # next to nothing is solved
    with recorded_errors("sd3", "256 tokens per column"):
        calibrated("256 tokens per column", prompts, wanda, plain)
    if GPU:
        with recorded_errors("sd3", "all tokens"):
            calibrated("all tokens", prompts, replace(wanda, tokens_per_column="all"), plain)
        free()
        with recorded_errors("sd3", "kernels"):
            kernels_of_a_call(prompts, settings(num_inference_steps=steps))
        free()
    with recorded_errors("sd3", "solving"):
        solved_whole(prompts, config)


def calibrated(name: str, prompts: list[dict[str, Any]], config: Any, plain: float) -> None:
    """A pruning of `real_size`: its calibration beside plain inference, and its memory."""
    from obsdiff import prune_

    free()
    pipe = sd3()
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    report = prune_(pipe, prompts, config, progress=False)
    sync()
    share = report.seconds["calibration"] / plain
    expected, ok = "1.5 in a trial with half-precision products", None
    if GPU and name != "all tokens":
        expected, ok = "<= 1.3", share <= 1.3
    figure("sd3", f"{name}: calibration / plain", share, expected if GPU else "", ok)
    figure("sd3", f"{name}: solving by wanda: s", report.seconds["solve"])
    good = sum(0 <= row.error <= 1 for row in report.layers)
    what = f"{name}: layers with an error of at most 1"
    figure("sd3", what, good, str(len(report.layers)), good == len(report.layers))
    peak_memory("sd3", f"{name}: peak memory GB")


def peak_memory(step: str, what: str, expected: float = 16) -> None:
    """Record the largest memory of the GPU since it was reset."""
    if GPU:
        peak = torch.cuda.max_memory_allocated() / 1e9
        parts = "; calculated: weights 4.2, Hessians 8.5, activations 1.7"
        figure(step, what, peak, f"<= {expected:g}{parts}", peak <= expected)


def kernels_of_a_call(prompts: list[dict[str, Any]], config: Any) -> None:
    """Kernels of one call of the transformer, plain and with the hooks of a calibration."""
    from obsdiff.calibration.call_audit import CallAudit
    from obsdiff.calibration.context import prepared_run
    from obsdiff.calibration.hooks import new_inputs, tapped
    from obsdiff.calibration.plan import plan_pruning
    from obsdiff.runtime.scratch import open_scratch

    pipe = sd3()
    plan = plan_pruning(pipe, prompts[:1], config)
    call = first_call(pipe, prompts[0], config)
    with torch.no_grad():
        pipe.transformer(**call)
        bare = kernels(lambda: pipe.transformer(**call))
    with (
        open_scratch(math.inf) as scratch,
        prepared_run(pipe, plan, scratch, progress=False) as context,
        torch.no_grad(),
    ):
        inputs = new_inputs(context, list(plan.taps))
        context.run.at_call(0, 1, 1, 2, (0,))
        with context.run.recorded(2), tapped(context, inputs, CallAudit()):
            hooked = kernels(lambda: pipe.transformer(**call))
    found = f"{bare[0]}, {hooked[0]}"
    figure("sd3", "kernels of one call: plain, hooked", found, "about 2,000 and 40,000")
    found = f"{bare[1] / 1e3:.0f}, {hooked[1] / 1e3:.0f}, {hooked[2] / 1e3:.0f}"
    figure("sd3", "GPU ms of one call: plain, hooked, of these products", found)


def solved_whole(prompts: list[dict[str, Any]], config: Any) -> None:
    """A whole pruning by OBS as it is."""
    from obsdiff import prune_

    free()
    pipe = sd3()
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    report = prune_(pipe, prompts, config, progress=False)
    sync()
    took, solving = time.perf_counter() - began, report.seconds["solve"]
    expected, ok = ("<= 45", solving <= 45) if GPU else ("", None)
    figure("sd3", "obs: a whole run: s", took)
    figure("sd3", "obs: solving all blocks: s", solving, expected, ok)
    peak_memory("sd3", "obs: peak memory GB")


def solving() -> None:
    """One block of SD3-medium's sizes by every method: seconds."""
    cases: dict[str, tuple[float, dict[str, Any]]] = {
        "obs": (1.2, {}),
        "2:4": (2.5, {"pattern": "2:4"}),
        "structured": (1.5, {"pattern": "structured", "sparsity": 0.3}),
        "alps": (3, {"method": "alps"}),
        "wanda": (0.3, {"method": "wanda"}),
        "dsnot": (5, {"method": "dsnot"}),
        "alps 2:4": (4, {"method": "alps", "pattern": "2:4"}),
        "swaps": (15, {"refine": "swaps"}),
    }
    prompts = embedded(sd3(3), 1, 1 if TINY else 2)
    for name, (most, case) in cases.items():
        with recorded_errors("solve", name):
            solving_by(name, most, prompts, settings(blocks="1-1", **case))


def solving_by(name: str, most: float, prompts: list[dict[str, Any]], config: Any) -> None:
    """One method of `solving`, in at most `most` seconds."""
    from obsdiff import prune_

    took = prune_(sd3(3), prompts, config, progress=False).seconds["solve"]
    expected, ok = (f"<= {most:g}", took <= most) if GPU else ("", None)
    figure("solve", f"{name}: one block, s", took, expected, ok)


def factors() -> None:
    """The factor of the inverse Hessian: whether it is right, and how long it takes."""
    from obsdiff.solvers.cholesky import inverse_factor

    for columns in (96, 160) if TINY else (512, 1536, 6144):
        scales = torch.logspace(0, -2, columns, device=DEVICE)
        x = torch.randn(2 * columns, columns, device=DEVICE) * scales
        hessian = (x.T @ x).div_(len(x))
        factor, _, used = inverse_factor(hessian, 0.01)
        damped = hessian.double()
        damped.diagonal().add_(used * hessian.diagonal().double().mean())
        r = factor.double()
        wrong = ((r @ damped @ r.T).diagonal() - 1).abs().max().item()
        what = f"{columns} columns: |R A R^T - I| on the diagonal"
        figure("factor", what, wrong, "< 1e-2", wrong < 1e-2)
        if columns != 512:
            took = seconds(partial(inverse_factor, hessian, 0.01))
            expected = "1536: < 0.02; 6144: < 0.35" if GPU else ""
            figure("factor", f"{columns} columns: seconds", took, expected)
        del x, hessian, damped, r, factor


def half_of_four(weight: torch.Tensor) -> torch.Tensor:
    """The weight with the two smallest of every four consecutive inputs set to zero."""
    fours = weight.reshape(-1, 4)
    drop = fours.abs().argsort(1)[:, :2]
    return fours.scatter(1, drop, 0).view_as(weight)


def two_of_four() -> None:
    """Whether 2:4 weights are faster in torch's own sparse kernels."""
    shapes = [
        (8192, 1536, 1536), (8192, 6144, 1536), (8192, 1536, 6144),
        (32768, 6144, 1536), (9216, 12288, 3072), (9216, 3072, 15360),
    ]  # fmt: skip
    shapes = [(64, 128, 128)] if TINY else shapes
    for rows, outputs, columns in shapes:
        with recorded_errors("2:4", f"{rows} x {columns} -> {outputs}"):
            two_of_four_layer(rows, outputs, columns)
    free()
    with recorded_errors("2:4", "8 blocks of SD3"), torch.no_grad():
        two_of_four_model()


def two_of_four_layer(rows: int, outputs: int, columns: int, backend: str = "cuSPARSELt") -> None:
    """One layer of `two_of_four` by one backend of torch: cuSPARSELt or CUTLASS."""
    from torch.nn.functional import linear
    from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured

    x = torch.randn(rows, columns, device=DEVICE, dtype=torch.bfloat16)
    weight = torch.randn(outputs, columns, device=DEVICE, dtype=torch.bfloat16) / columns**0.5
    weight = half_of_four(weight)
    plain = linear(x, weight).float()
    dense = seconds(lambda: linear(x, weight), 20, 5)
    SparseSemiStructuredTensor._FORCE_CUTLASS = backend == "CUTLASS"
    try:
        sparse = to_sparse_semi_structured(weight)
        wrong = ((linear(x, sparse).float() - plain).norm() / plain.norm()).item()
        took = seconds(lambda: linear(x, sparse), 20, 5)
    finally:
        SparseSemiStructuredTensor._FORCE_CUTLASS = False
    what = f"{rows} x {columns} -> {outputs} {backend}: dense / sparse"
    expected = f"1.1 to 1.6 wanted; error {wrong:.1e}"
    figure("2:4", what, dense / took, expected, wrong < 1e-2)


def two_of_four_cutlass() -> None:
    """The other backend of `two_of_four`, last: a fault in its kernels would end the process."""
    for shape in [(64, 128, 128)] if TINY else [(8192, 6144, 1536), (8192, 1536, 6144)]:
        two_of_four_layer(*shape, backend="CUTLASS")


def two_of_four_model() -> None:
    """A step of 8 blocks of SD3 with attentions and FFNs in 2:4, dense and sparse. The modulation
    reads one row a picture, which torch's sparse tensors don't take."""
    from torch.sparse import to_sparse_semi_structured

    pipe = sd3(8)
    model = pipe.transformer
    call = first_call(pipe, embedded(pipe, 1, 1)[0], settings())
    dense = seconds(lambda: model(**call), 10, 3)
    for name, module in model.transformer_blocks.named_modules():
        if not isinstance(module, torch.nn.Linear) or "norm" in name:
            continue
        outputs, inputs = module.weight.shape
        if outputs % 32 == 0 and inputs % 64 == 0:
            sparse = to_sparse_semi_structured(half_of_four(module.weight.detach()))
            module.weight = torch.nn.Parameter(sparse, requires_grad=False)
    took = seconds(lambda: model(**call), 10, 3)
    what = "8 blocks of SD3, a step for one picture: dense / sparse"
    figure("2:4", what, dense / took, ">= 1.15 makes it a feature")


def structured_pair(layers: int | None) -> tuple[Any, Any, dict[str, Any]]:
    """A transformer of SD3's sizes, the same after structured pruning to 30 %, and a call."""
    from obsdiff.allocation.uniform_latency import shrunk

    config = settings(pattern="structured", sparsity=0.3)
    pipe = sd3(layers)
    call = first_call(pipe, embedded(pipe, 1, 1)[0], config)
    return pipe.transformer, shrunk(pipe.transformer, config)[0], call


def smaller() -> None:
    """Structured 30 %: a step at 1024 px beside the ratio of operations."""
    from obsdiff.models.macs import count_macs

    pair = structured_pair(8 if GPU else None)
    models, call = pair[:2], pair[2]
    with torch.no_grad():
        macs = [count_macs(partial(model, **call)).total for model in models]
        dense, pruned_ = (seconds(partial(model, **call), 10, 3) for model in models)
    promised = macs[0] / macs[1]
    figure("structured", "30 %: operations dense / pruned", promised)
    share = (dense / pruned_ - 1) / (promised - 1)
    what, expected = "30 %: step dense / pruned, eager", ">= 0.7 of what the operations promise"
    figure("structured", what, dense / pruned_, expected, share >= 0.7 if GPU else None)


def compiled() -> None:
    """What torch.compile changes: the gain of structured pruning, and a pruning itself."""
    pair = structured_pair(4 if GPU else None)
    models, call = pair[:2], pair[2]
    with recorded_errors("compiled", "structured"), torch.no_grad():
        dense, pruned_ = (seconds(partial(torch.compile(m), **call), 10, 3) for m in models)
        what, expected = "30 %: step dense / pruned", ">= 0.8 of what the operations promise"
        figure("compiled", what, dense / pruned_, expected)
    del pair, models, call
    free()
    tried("compiled", lambda pipe: pipe.transformer.compile())


def flux() -> None:
    """FLUX.1-dev's sizes, 2 double and 2 single blocks: sums, and solving at 15,360 columns."""
    from diffusers import FluxTransformer2DModel

    from obsdiff import PruningConfig
    from obsdiff.calibration.calibration_set import CalibrationSet
    from obsdiff.calibration.call_audit import CallAudit
    from obsdiff.calibration.context import CalibrationContext
    from obsdiff.calibration.hooks import new_inputs, tapped
    from obsdiff.calibration.packages import plan_packages
    from obsdiff.models.discovery import require_blocks
    from obsdiff.models.linear_view import layer_shapes, matrix
    from obsdiff.pipelines.run import Run
    from obsdiff.runtime.scratch import Scratch
    from obsdiff.solvers import SOLVERS
    from obsdiff.solvers.problem import Inputs, Target

    if GPU:
        torch.cuda.reset_peak_memory_stats()
    model = made_in(
        torch.bfloat16 if GPU else torch.float32, partial(FluxTransformer2DModel, **FLUX)
    )
    call = flux_call(model)
    shapes = layer_shapes(model)
    blocks = require_blocks(shapes, "FLUX")
    packages = plan_packages(blocks, shapes, PruningConfig(calibration="single"))
    taps = [tap for package in packages for tap in package.taps]
    run = Run(types.SimpleNamespace(components={}), recorded_steps=2)
    none = CalibrationSet([], [], {})
    context = CalibrationContext(run, model, blocks, none, Scratch(math.inf, OUT))
    with torch.no_grad():
        plain = seconds(lambda: model(**call), 3, 1)
        inputs = new_inputs(context, taps)
        with tapped(context, inputs, CallAudit()):
            hooked = seconds(lambda: model(**call), 1, 1)
        what = "4 blocks, 4 pictures: call with sums / plain call"
        expected = "8 to 16 before products were in half precision"
        figure("flux", what, hooked / plain, expected if GPU else "")
        widest = max(inputs, key=lambda tap: shapes[tap.layers[0]][1])
        calibrated_input = inputs[widest]
        weight = matrix(model.get_submodule(widest.layers[0]))
        mean, variance = calibrated_input.mean(), calibrated_input.variance()
        problem = Inputs(calibrated_input.take_(), mean, variance)
        sync()
        began = time.perf_counter()
        SOLVERS["obs"]([weight], problem, Target(0.5))
        sync()
        took = time.perf_counter() - began
        what = f"obs, {len(weight)} x {weight.shape[1]}: s"
        figure("flux", what, took, "<= 4" if GPU else "")
    if GPU:
        figure("flux", "peak memory GB", torch.cuda.max_memory_allocated() / 1e9)


def flux_call(model: Any) -> dict[str, Any]:
    """Random arguments of one call of a FLUX transformer for 4 pictures."""
    from obsdiff.models.meta_device import example_inputs

    images, side = 4 if GPU else 1, PIXELS // 8
    made = {}
    for name, value in example_inputs(model, side, side, 512 if GPU else 20).items():
        if isinstance(value, torch.Tensor):
            value = torch.randn(*value.shape, device=DEVICE).to(model.dtype)
            if value.shape[0] == 1:
                value = value.expand(images, *value.shape[1:]).contiguous()
        made[name] = value
    return made


STEPS: dict[str, tuple[float, Callable[[], None]]] = {  # name -> seconds at most; by importance
    "env": (15, environment),
    "same": (75, same_as_a_cpu),
    "behaves": (45, behaves),
    "sums": (25, sums),
    "sd3": (75, real_size),
    "solve": (35, solving),
    "factor": (12, factors),
    "2:4": (25, two_of_four),
    "structured": (15, smaller),
    "flux": (25, flux),
    "compiled": (60, compiled),
    "cutlass": (10, two_of_four_cutlass),
}
ON_A_GPU = ("2:4", "compiled", "cutlass")
SLOWER = 60  # times that a CPU may take


def about(limit: float) -> dict[str, Any]:
    """Device, date, commit and versions."""
    import diffusers
    import transformers

    import obsdiff

    device = f"CPU, {torch.get_num_threads()} threads, {platform.machine()}"
    if GPU:
        card = torch.cuda.get_device_properties(0)
        memory = f"{card.total_memory / 2**30:.1f} GiB, CUDA {torch.version.cuda}"
        device = f"{torch.cuda.get_device_name()}, {memory}"
    versions = {
        "obsdiff": obsdiff.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    return {
        "device": device,
        "tiny": TINY,
        "limit": limit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions,
    }


def be_quiet() -> None:
    """No warnings and progress bars, which would hide the figures."""
    import diffusers
    import transformers

    warnings.simplefilter("ignore")
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def main() -> int:
    """Run the steps and print a table of what failed."""
    parser = argparse.ArgumentParser(description="check obsdiff on one GPU")
    parser.add_argument("--tiny", action="store_true", help="a dry run on a CPU with tiny shapes")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP")
    parser.add_argument("--limit", type=float, default=480, help="seconds of the whole check")
    args = parser.parse_args()
    configure(args.tiny)
    be_quiet()
    ABOUT.update(about(args.limit))
    save()
    for name, (limit, call) in STEPS.items():
        if name in args.only and (GPU or name not in ON_A_GPU):
            left = args.limit - (time.perf_counter() - BEGAN)
            run_step(name, limit if GPU else limit * SLOWER, left, call)
    bad = [row for row in FIGURES if row["pass"] is False]
    good = sum(row["pass"] is True for row in FIGURES)
    took = time.perf_counter() - BEGAN
    print(f"\n{len(FIGURES)} figures, {good} ok, {len(bad)} FAIL, {took:.0f} s")
    for row in bad:
        print("FAIL", row["step"], row["what"], row["value"], row["expected"], sep=" | ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
