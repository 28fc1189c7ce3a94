"""CPU time of a call by phase, and its peak memory.

CPU time is that of the whole process, all threads. Phases are exclusive: the time of a Hessian's
update inside a denoiser call counts for the Hessian alone. The functions named in PLACES are
wrapped while a call runs; obsdiff has no code for this.
"""

import contextlib
import importlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from obsdiff.pipelines.call import denoiser_name

PROC = Path("/proc/self")
OTHER = "other"

# phase, module, name in it. A name with a dot is that of a class's method.
PLACES = [
    ("Hessian", "obsdiff.calibration.hessian", "Hessian.update"),
    ("Hessian", "obsdiff.calibration.hessian", "unpacked"),
    ("factor", "obsdiff.solvers.upper_factor", "factored_"),
    ("factor", "obsdiff.solvers.upper_factor", "mirror_"),
    ("factor", "obsdiff.solvers.obs_structured", "inverse_factor"),
    ("sweep", "obsdiff.solvers.obs", "swept"),
    ("sweep", "obsdiff.layerwise.structured", "obs_heads"),
    ("sweep", "obsdiff.layerwise.structured", "obs_neurons"),
    ("errors", "obsdiff.layerwise.problem", "output_energy"),
    ("errors", "obsdiff.layerwise.problem", "squared_error"),
    ("Hessian", "benchmarks.plain.hessian", "RunningHessian.update"),
    ("factor", "benchmarks.plain.solve", "upper_factor"),
    ("factor", "benchmarks.plain.structured", "inverse_of_left"),
    ("sweep", "benchmarks.plain.prune", "solve"),
    ("sweep", "benchmarks.plain.prune", "remove_parts"),
]


@dataclass
class Clock:
    """CPU seconds by phase; time outside all phases is `other`."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    inside: list[str] = field(default_factory=lambda: [OTHER])
    last: float = field(default_factory=time.process_time)

    def turn(self) -> None:
        """Add the time since the last turn to the innermost phase."""
        now = time.process_time()
        self.seconds[self.inside[-1]] += now - self.last
        self.last = now

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.turn()
        self.inside.append(name)
        try:
            yield
        finally:
            self.turn()
            self.inside.pop()

    def timed(self, name: str, function: Callable) -> Callable:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return call


@contextlib.contextmanager
def wrapped(clock: Clock, phase: str, owner: Any, name: str) -> Iterator[None]:
    """Time owner.name inside the block. AttributeError if it does not exist: PLACES must match the
    code."""
    own, function = vars(owner).get(name), getattr(owner, name)
    setattr(owner, name, clock.timed(phase, function))
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def places() -> Iterator[tuple[str, Any, str]]:
    """Phase, owner and name of every place."""
    for phase, module, path in PLACES:
        *inner, name = path.split(".")
        owner: Any = importlib.import_module(module)
        for part in inner:
            owner = getattr(owner, part)
        yield phase, owner, name


def measured(pipe: Any, call: Callable[[], Any]) -> dict[str, Any]:
    """{"cpu", "wall", "phases", "peak_bytes"} of a call that runs the pipeline; "cpu" and the
    phases in seconds."""
    with contextlib.ExitStack() as undo:
        clock = Clock()
        denoiser = getattr(pipe, denoiser_name(pipe, None))
        blocks = getattr(denoiser, "transformer_blocks", [])
        own = [("text", pipe, "encode_prompt"), ("VAE", pipe.vae, "decode")] + [
            ("denoiser", m, "forward") for m in (denoiser, *blocks)
        ]
        for phase, owner, name in [*own, *places()]:
            undo.enter_context(wrapped(clock, phase, owner, name))
        forget_peak()
        began, clock.last = time.perf_counter(), time.process_time()
        call()
        clock.turn()
    phases = dict(clock.seconds)
    return {
        "cpu": sum(phases.values()),
        "wall": time.perf_counter() - began,
        "phases": phases,
        "peak_bytes": peak(),
    }


def forget_peak() -> None:
    """Reset the peak to the current memory of the process (Linux)."""
    with contextlib.suppress(OSError):
        (PROC / "clear_refs").write_text("5")


def peak() -> int | None:
    """Peak memory of the process since forget_peak, in bytes, pages of mapped files included; None
    without /proc."""
    return status("VmHWM")


def status(key: str) -> int | None:
    if not (PROC / "status").exists():
        return None
    return next(
        int(line.split()[1]) * 1024
        for line in (PROC / "status").read_text().splitlines()
        if line.startswith(key + ":")
    )
