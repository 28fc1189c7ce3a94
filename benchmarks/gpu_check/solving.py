"""One block of SD3-medium's sizes by every method, and the factor of the inverse Hessian."""

from functools import partial
from typing import Any

import torch

from obsdiff import PruningConfig, prune_
from obsdiff.solvers.cholesky import inverse_factor

from .check import Check
from .measurement import seconds
from .random_models import embedded, sd3, settings

CASES: dict[str, tuple[float, dict[str, Any]]] = {  # seconds at most, settings
    "obs": (1.2, {}),
    "2:4": (2.5, {"pattern": "2:4"}),
    "structured": (1.5, {"pattern": "structured", "sparsity": 0.3}),
    "alps": (3, {"method": "alps"}),
    "wanda": (0.3, {"method": "wanda"}),
    "dsnot": (5, {"method": "dsnot"}),
    "alps 2:4": (4, {"method": "alps", "pattern": "2:4"}),
    "swaps": (15, {"refine": "swaps"}),
}


def solving(check: Check) -> None:
    """Seconds of every method."""
    prompts = embedded(check, sd3(check, 3), 1, 1 if check.tiny else 2)
    for name, (most, case) in CASES.items():
        with check.recorded_errors("solve", name):
            solving_by(check, name, most, prompts, settings(check, blocks="1-1", **case))


def solving_by(
    check: Check, name: str, most: float, prompts: list[dict[str, Any]], config: PruningConfig
) -> None:
    """One method of `solving`, in at most `most` seconds."""
    took = prune_(sd3(check, 3), prompts, config, progress=False).seconds["solve"]
    expected, ok = (f"<= {most:g}", took <= most) if check.gpu else ("", None)
    check.figure("solve", f"{name}: one block, s", took, expected, ok)


def factors(check: Check) -> None:
    """The factor of the inverse Hessian: whether it is right, and how long it takes."""
    for columns in (96, 160) if check.tiny else (512, 1536, 6144):
        scales = torch.logspace(0, -2, columns, device=check.device)
        x = torch.randn(2 * columns, columns, device=check.device) * scales
        hessian = (x.T @ x).div_(len(x))
        factor, _, used = inverse_factor(hessian, 0.01)
        damped = hessian.double()
        damped.diagonal().add_(used * hessian.diagonal().double().mean())
        r = factor.double()
        wrong = ((r @ damped @ r.T).diagonal() - 1).abs().max().item()
        what = f"{columns} columns: |R A R^T - I| on the diagonal"
        check.figure("factor", what, wrong, "< 1e-2", wrong < 1e-2)
        if columns != 512:
            took = seconds(partial(inverse_factor, hessian, 0.01))
            expected = "1536: < 0.02; 6144: < 0.35" if check.gpu else ""
            check.figure("factor", f"{columns} columns: seconds", took, expected)
        del x, hessian, damped, r, factor
