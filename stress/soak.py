"""200 prunings in one process: memory flat, no hook, thread or temporary file left, the pipeline as
it was, also after failures.

python -m stress.soak [--times 200]
"""

import argparse
import contextlib
import ctypes
import gc
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import obsdiff
from obsdiff import PruningConfig
from obsdiff.errors import RunFailed
from obsdiff.runtime.memory import anonymous

PROMPTS = ["red apple", "green pear", "blue bird"]
QUICK = {"num_inference_steps": 2, "height": 16, "width": 16}
STRUCTURED = {"pattern": "structured", "sparsity": 0.5, "round_to": 1, "keep_first_last": False}
RUNS: list[dict[str, Any]] = [
    {},
    {"calibration": "replay", "packages": 2},
    {"calibration": "live", "packages": 2, "pattern": "2:4"},
    STRUCTURED,
    STRUCTURED | {"calibration": "replay", "packages": 2},
    {"method": "wanda"},
    {"memory_budget_gib": 0.5},
]
WARM = (
    0.25  # share of the prunings before which memory is not compared: libraries fill their caches
)
FLAT = 0.02


def is_ours(hook: Any) -> bool:
    """Whether a hook belongs to obsdiff; transformers has hooks of its own."""
    return getattr(hook, "func", hook).__module__.startswith("obsdiff")


def state(pipe: Any) -> dict[str, Any]:
    """The state of a pipeline that a pruning must not change: hooks, modes, dtypes, devices,
    scheduler, random state."""
    modules = {
        f"{name}.{path}": m
        for name, part in pipe.components.items()
        if isinstance(part, nn.Module)
        for path, m in part.named_modules()
    }
    return {
        "hooks": [
            name
            for name, m in modules.items()
            for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
            if is_ours(hook)
        ],
        "modes": {name: m.training for name, m in modules.items()},
        "formats": {(p.dtype, str(p.device)) for m in modules.values() for p in m.parameters()},
        "scheduler": (id(pipe.scheduler), {k: str(v) for k, v in vars(pipe.scheduler).items()}),
        "own": {
            name: sorted(set(vars(part)) & {"encode_prompt", "decode", "step", "forward"})
            for name, part in [("pipe", pipe), *pipe.components.items()]
            if part is not None and hasattr(part, "__dict__")
        },
        "bar": dict(getattr(pipe, "_progress_bar_config", {})),
        "random": torch.get_rng_state().tolist(),
    }


def spoiled(pipe: Any) -> None:
    """Make one input of a middle block NaN from the second call on, so that calibration fails
    there."""
    calls = []

    def spoil(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        calls.append(1)
        return tuple(x * float("nan") for x in output) if len(calls) >= 2 else output

    pipe.transformer.transformer_blocks[0].register_forward_hook(spoil, with_kwargs=True)


def one(make: Any, settings: dict[str, Any], fails: bool) -> None:
    """One pruning, good or broken, and a check that the pipeline is unchanged."""
    pipe = make()
    pipe.transformer.transformer_blocks[1].train()
    pipe.set_progress_bar_config(desc="mine")
    if fails:
        spoiled(pipe)
    before = state(pipe)
    torch.manual_seed(3)
    before["random"] = torch.get_rng_state().tolist()
    if fails:
        with contextlib.suppress(RunFailed):
            obsdiff.prune_(pipe, PROMPTS, PruningConfig(**QUICK | settings))
            raise AssertionError("NaN went through")
    else:
        obsdiff.prune_(pipe, PROMPTS, PruningConfig(**QUICK | settings))
    after = state(pipe)
    if (
        settings.get("pattern") == "structured"
    ):  # modules were replaced by smaller ones; their modes and formats are the others'
        before["modes"], after["modes"] = (
            {
                k: v
                for k, v in s["modes"].items()
                if k in before["modes"].keys() & after["modes"].keys()
            }
            for s in (before, after)
        )
    differ = [key for key in before if before[key] != after[key]]
    assert not differ, f"{settings}, {'failed' if fails else 'done'}: changed {', '.join(differ)}"


@contextlib.contextmanager
def own_temporary_folder() -> Iterator[Path]:
    """A folder where this process alone has its temporary files."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="stress-") as place:
        tempfile.tempdir = place
        try:
            yield Path(place)
        finally:
            tempfile.tempdir = before


def give_back_freed() -> None:
    """Return freed memory to the system, where glibc can: what it keeps for later is no leak."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def soak(make: Any, times: int) -> tuple[float, float]:
    """GiB of anonymous memory after the warm part, and at the end: medians of the samples around.
    AssertionError for leftovers."""
    one(make, {}, fails=False)  # libraries start threads of their own
    threads, memory = threading.active_count(), []
    with own_temporary_folder() as place:
        for i in range(times):
            one(make, RUNS[i % len(RUNS)], fails=i % 5 == 4)
            gc.collect()
            give_back_freed()
            memory.append(anonymous() / 2**30)
        left = [path.name for path in place.glob("obsdiff-*")]
    assert not left, f"temporary files: {left}"
    now = threading.active_count()
    assert now == threads, f"{now} threads, {threads} before"
    warm = int(WARM * times)
    span = max(1, times // 20)
    return sorted(memory[warm : warm + span])[span // 2], sorted(memory[-span:])[span // 2]


def main(given: list[str] | None = None) -> None:
    import warnings

    from tests.conftest import sd3

    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=200)
    args = parser.parse_args(given)
    before, after = soak(sd3, args.times)
    print(
        f"{args.times} prunings: {before:.4f} GiB of anonymous memory after a quarter of them, "
        f"{after:.4f} GiB at the end ({after / before - 1:+.2%})"
    )
    assert after < (1 + FLAT) * before, "memory grows"
    print("no temporary file left")


if __name__ == "__main__":
    main()
