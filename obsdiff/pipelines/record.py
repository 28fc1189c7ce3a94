"""PruningReport: what a run did, layer by layer. It becomes obsdiff.json beside the weights."""

import dataclasses
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

SCHEMA = 1
RECORD = "obsdiff.json"
KINDS = ("heads", "neurons", "channels")  # what structured pruning takes out


@dataclass(frozen=True)
class LayerRecord:
    """One pruned layer. `error` is tr(D H D^T) / tr(W H W^T) with D the change of W, `loss` the sum of removed saliencies;
    both are measured on the calibration's Hessian. `damping` is what the factorisation took, in units of H's mean diagonal.
    `shape` is that of the weight as a matrix: a convolution's has inputs x kernel height x kernel width columns. `held_out_error` is
    `error` on the Hessian of the held-out prompts, None if there are none; `repaired` then says whether the kept weights were changed,
    or stayed since those prompts found that the change does harm; None where it was not asked."""

    name: str
    shape: tuple[int, int]
    package: int
    sparsity: float
    loss: float
    error: float
    damping: float
    tokens_per_column: float
    seconds: float
    held_out_error: float | None = None
    repaired: bool | None = None


@dataclass(frozen=True)
class GroupRecord:
    """Heads, neurons or channels of one attention, FFN or residual block: how many there were, which left (in that order), and every
    one's score. Channels leave in whole norm groups, and have their group's score."""

    owner: str
    kind: str
    total: int
    kept: int
    removed: list[int]
    scores: list[float]
    package: int


@dataclass
class PruningReport:
    """What prune_ did: the settings it resolved, every layer, and the seconds of each phase. `parameters` counts the whole
    component before and after; `memory` is the process's anonymous memory before the run and at its peak, in bytes; `layers` of a
    structured run are those that read the removed heads and neurons. `threads` is how many computed; `prompts` are text, or what pipelines/prompt_records.py says of
    pictures and tensors; `hashes` are SHA-256 of the prompts with their seeds, and of every other file that was written; `sensitivity` the relative latent error of pruning a layer's
    input alone, where zeros were allocated by it; `permutation` how many layers got another order of
    inputs and how many could not, and the mean share of Wanda's score that the pattern keeps before and after; `latency` what was
    measured to meet a target latency; `budget` the unit and share that were asked for, what the dense denoiser had of it, and what the pruned
    one has, counted."""

    config: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    prompts: list[Any] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    component: str = ""
    packages: list[list[str]] = field(default_factory=list)
    layers: list[LayerRecord] = field(default_factory=list)
    groups: list[GroupRecord] = field(default_factory=list)
    latency: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    sensitivity: dict[str, float] = field(default_factory=dict)
    permutation: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    threads: int = 0
    hashes: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: versions())

    def add(self, layers: list[LayerRecord], groups: list[GroupRecord]) -> None:
        """Adds the records of pruned layers and groups."""
        self.layers += layers
        self.groups += groups

    @property
    def sparsity(self) -> float:
        """Share of the pruned layers' weights that are zero, or of their columns that left."""
        total = sum(row.shape[0] * row.shape[1] for row in self.layers)
        return sum(row.sparsity * row.shape[0] * row.shape[1] for row in self.layers) / total

    @property
    def layout(self) -> dict[str, dict[str, int]]:
        """What is left of each owner of heads or neurons: {owner: {kind: count}}."""
        found: dict[str, dict[str, int]] = {}
        for row in self.groups:
            found.setdefault(row.owner, {})[row.kind] = row.kept
        return found

    def gone(self) -> str:
        """What left, in words: "8 of 20 heads and 3072 of 10240 neurons are gone"."""
        return f"{in_words(leaving([dataclasses.asdict(group) for group in self.groups]))} are gone"

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA} | dataclasses.asdict(self) | {"sparsity": self.sparsity}


def leaving(groups: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """{"heads": {"removed", "total"}, "neurons": ...} of group records; a kind without groups is left out."""
    found: dict[str, dict[str, int]] = {}
    for group in groups:
        row = found.setdefault(group["kind"], {"removed": 0, "total": 0})
        row["removed"] += group["total"] - group["kept"]
        row["total"] += group["total"]
    return found


def in_words(counts: dict[str, dict[str, int]]) -> str:
    """ "8 of 20 heads and 3072 of 10240 neurons" of what `leaving` gives."""
    return " and ".join(
        f"{row['removed']} of {row['total']} {kind}"
        for kind in KINDS
        if (row := counts.get(kind)) and row["total"]
    )


def versions() -> dict[str, str]:
    """Versions of what computed the result."""
    found = {"python": platform.python_version()}
    for name in ("obsdiff", "torch", "diffusers", "transformers", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
