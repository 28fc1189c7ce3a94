"""Common parts of the training runs: a schedule, moving-average weights, a checkpoint for resuming,
a loss curve."""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .data import CACHE

BF16 = "autocast to bfloat16: twice as fast on a CPU with bf16 units, fifty times slower without"


def arguments(
    text: str, name: str, steps: int, batch_size: int, lr: float
) -> argparse.ArgumentParser:
    """The flags that the commands of both denoisers share."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument(
        "--minutes", type=float, help="the schedule's length in time, instead of --steps"
    )
    parser.add_argument(
        "--until", type=int, help="stop at this step of the schedule (default: its end)"
    )
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true", help=BF16)
    parser.add_argument("--ema", type=float, default=0.998, help="decay of the average weights")
    parser.add_argument("--name", default=name)
    parser.add_argument(
        "--start",
        metavar="NAME",
        help="begin with the moving-average weights of another run, and a new schedule",
    )
    parser.add_argument(
        "--export",
        action="store_true",
        help="save the moving-average weights of the last checkpoint and stop",
    )
    return parser


def schedule_of(args: argparse.Namespace) -> dict[str, float | None]:
    """The arguments of `train` that both denoisers' flags set."""
    return {
        "steps": args.steps,
        "until": args.until,
        "minutes": args.minutes,
        "ema_decay": args.ema,
    }


def adamw(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    rate: Callable[[str], float] = lambda name: 1.0,
) -> torch.optim.AdamW:
    """AdamW; matrices and kernels decay, vectors and embeddings do not. rate(name) is the factor of
    a parameter's learning rate."""
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        decay = weight_decay if p.ndim > 1 and id(p) not in embedded else 0.0
        groups.setdefault((rate(name) * lr, decay), []).append(p)
    settings = [{"params": v, "lr": k[0], "weight_decay": k[1]} for k, v in groups.items()]
    return torch.optim.AdamW(settings, betas=(0.9, 0.98), fused=True)


def averaged(model: nn.Module, name: str) -> nn.Module:
    """The model with the moving-average weights of its last checkpoint."""
    state = torch.load(CACHE / f"{name}.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(state["average"])
    return model


WARMUP = 100  # steps


def schedule(step: int, done: float) -> float:
    """Learning-rate factor: linear warm-up, then a cosine down to zero where done is 1."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def train(
    name: str,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    loss_of: Callable[[int], dict[str, torch.Tensor]],
    steps: int,
    ema_decay: float = 0.998,
    save_every: float = 100.0,
    seed: int = 0,
    until: int | None = None,
    minutes: float | None = None,
) -> nn.Module:
    """Run `steps` optimiser steps, or the first `until` of them, or as many as `minutes` allow, and
    return the model with its moving-average weights.

    loss_of(step) returns named losses, of which "loss" is minimised. A killed run continues from
    its last checkpoint in training/cache, written every save_every seconds; the curve is appended
    to NAME.jsonl beside it, one line every 20 steps.
    """
    checkpoint, curve = CACHE / f"{name}.pt", CACHE / f"{name}.jsonl"
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    start, before = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average, start, before = state["average"], state["step"], state.get("seconds", 0.0)
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        print(f"{name}: going on from step {start}", flush=True)
    now = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    means, values = [average[k] for k in now], list(now.values())
    peaks = [
        [group.setdefault("peak", group["lr"]) for group in o.param_groups] for o in optimizers
    ]
    sums: dict[str, torch.Tensor] = {}
    began = saved = time.perf_counter()

    def seconds() -> float:
        return before + time.perf_counter() - began

    def done(step: int) -> float:
        if minutes is not None:
            return seconds() / (60 * minutes)
        return (step - WARMUP) / max(1, steps - WARMUP)

    def finished(count: int) -> bool:
        if minutes is not None:
            return seconds() >= 60 * minutes
        return count >= (steps if until is None else min(until, steps))

    step, last = start - 1, finished(start)
    while not last:
        step += 1
        torch.manual_seed(seed * 1_000_003 + step)
        for optimizer, lrs in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = peak * schedule(step, done(step))
        losses = loss_of(step)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(ema_decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(means, values, None)
        for key, value in losses.items():
            sums[key] = sums.get(key, 0.0) + value.detach() / 20
        if (step + 1) % 20 == 0:
            row = {
                "step": step + 1,
                "seconds": round(seconds(), 1),
                **{k: round(v.item(), 5) for k, v in sums.items()},
            }
            with curve.open("a") as file:
                file.write(json.dumps(row) + "\n")
            length = f"{minutes} minutes" if minutes else steps
            print(f"{name} {step + 1}/{length}", row, flush=True)
            sums.clear()
        last = finished(step + 1)  # asked once: the last step is saved
        if last or time.perf_counter() - saved >= save_every:
            saved = time.perf_counter()
            state = {"model": model.state_dict(), "average": average, "step": step + 1}
            state |= {"seconds": seconds(), "optimizers": [o.state_dict() for o in optimizers]}
            save(state, checkpoint)
    model.load_state_dict(average)
    return model.eval()


def save(state: dict, path: Path) -> None:
    beside = path.with_suffix(".part")
    torch.save(state, beside)
    beside.replace(path)
