"""Check: what one run runs on, how large its models are, and the figures that it has found."""

import contextlib
import math
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from obsdiff.runtime.json_files import write_json

MARKS = {None: "", True: "ok", False: "FAIL"}


@dataclass
class Check:
    """One run of the check, the owner of all that its steps share.

    Attributes:
        tiny: a dry run on a CPU with tiny shapes.
        out: the folder of gpu.json.
        began: time.perf_counter() of the beginning.
        about: device, date, commit and versions.
        figures: what was found so far.
    """

    tiny: bool
    out: Path
    began: float
    about: dict[str, Any] = field(default_factory=dict)
    figures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def gpu(self) -> bool:
        """Whether the models are on a GPU."""
        return torch.cuda.is_available() and not self.tiny

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.gpu else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The number format of models with random weights."""
        return torch.bfloat16 if self.gpu else torch.float32

    @property
    def pixels(self) -> int:
        """The side of a picture."""
        return 128 if self.tiny else 1024

    def seconds_so_far(self) -> float:
        return time.perf_counter() - self.began

    def save(self) -> None:
        """Write all figures so far."""
        write_json(self.out / "gpu.json", {"about": self.about, "figures": self.figures})

    def figure(self, step: str, what: str, value: Any, expected: str = "", ok: Any = None) -> None:
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
        at = round(self.seconds_so_far(), 1)
        self.figures.append(
            {"step": step, "what": what, "value": value, "expected": expected, "pass": ok, "at": at}
        )
        print(f"{at:6.1f}s  {MARKS[ok]:4} {step:10} {what}: {shown}   [{expected}]", flush=True)
        self.save()

    @contextlib.contextmanager
    def recorded_errors(self, step: str, what: str) -> Iterator[None]:
        """An error inside is a figure; the rest of the step goes on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc(limit=-4)
            reason = " ".join(str(error).split())[:200]
            self.figure(step, f"{what}: {type(error).__name__}", reason, "", False)

    def show_failures(self) -> None:
        """Print how many figures there are, and those that are not as they must be."""
        bad = [row for row in self.figures if row["pass"] is False]
        good = sum(row["pass"] is True for row in self.figures)
        took = self.seconds_so_far()
        print(f"\n{len(self.figures)} figures, {good} ok, {len(bad)} FAIL, {took:.0f} s")
        for row in bad:
            print("FAIL", row["step"], row["what"], row["value"], row["expected"], sep=" | ")
