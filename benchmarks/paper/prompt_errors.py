"""Errors of single prompts: the largest, and how many are larger than a base line's.

Of several calibration sets each prompt has its mean error.
"""

from typing import Any

import numpy as np

WORST = "worst prompt"  # the head of its column
DECIMALS = {0.02: 3, 0.002: 4, 0.0: 5}  # of an error of at least so much
Kept = dict[str, Any]  # one row, or one table of one model, as stored


def errors_of(runs: list[Kept], where: str = "metrics") -> np.ndarray:
    """Relative latent error of every prompt's part: (sets, prompts).
    where: "metrics", of the evaluation prompts, or "held_out"."""
    return np.array([run[where]["relative_latent_error"]["per_prompt"] for run in runs])


def worst_prompt(runs: list[Kept], where: str = "metrics") -> str:
    """The largest error of a prompt."""
    return largest(errors_of(runs, where).mean(0))


def largest(errors: np.ndarray) -> str:
    """The largest of the errors of prompts; a small one has more decimals."""
    error = errors.max()
    return f"{error:.{next(n for least, n in DECIMALS.items() if error >= least)}f}"


def share_worse(mine: np.ndarray, theirs: np.ndarray) -> str:
    """The share of prompts with a larger error than the base line's; both (prompts,)."""
    return f"{(mine > theirs).mean():.0%}"


def drawn_worse(
    rows: dict[str, Kept], names: list[str], bases: list[str], where: str = "metrics"
) -> str:
    """The share of prompts that rows draw worse than their base lines, over the sets of both.
    Nothing where no set has both, or the rows are the base line."""
    pairs = [
        (rows[name], rows[base])
        for name, base in zip(names, bases, strict=True)
        if name in rows and base in rows and name != base
    ]
    if not pairs:
        return ""
    mine, theirs = (errors_of(list(runs), where).mean(0) for runs in zip(*pairs, strict=True))
    return share_worse(mine, theirs)


def worst_and_worse(rows: dict[str, Kept], name: str, base: str, where: str = "metrics") -> str:
    """A cell of one row: its worst prompt, and the share drawn worse than by a base line."""
    if name not in rows:
        return ""
    worse = drawn_worse(rows, [name], [base], where)
    return worst_prompt([rows[name]], where) + (f", {worse}" if worse else "")
