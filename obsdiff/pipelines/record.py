"""PruningReport: the result of a run, layer by layer; saved as obsdiff.json beside the weights."""

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime.hashed_json import content_hash
from ..runtime.json_files import read_json
from ..runtime.version import VERSION
from .record_words import html_of, lines_of
from .removed import in_words, leaving

RECORD_SCHEMA = 1  # version of the layout of obsdiff.json
RECORD = "obsdiff.json"


@dataclass(frozen=True)
class LayerRecord:
    """One pruned layer with the weight W (O, I), its change D (O, I) and the Hessian H (I, I).

    Attributes:
        name: the layer's name in the denoiser.
        shape: (O, I); of a convolution I counts input channels x kernel height x kernel width.
        package: index of its module package.
        sparsity: share of its weights that are zero, or of its columns that were removed.
        loss: sum of the saliencies of the removed weights.
        error: tr(D H D^T) / tr(W H W^T) on the calibration prompts.
        damping: added to H's diagonal for its factor, in units of H's mean diagonal.
        tokens_per_column: distinct kept calibration tokens divided by I.
        seconds: time to solve the layer.
        held_out_error: `error` with the Hessian of the held-out prompts; None without any.
        repaired: whether the kept weights were changed; False if the held-out prompts rejected the
            change; None if they were not consulted.
        tokens: calibration tokens that the layer read.
        kept_tokens: those of them that its Hessian sums.
        rank: rank of the correction beside its weight; None without one.
        bits: of its rounded weights; None if they are not rounded.
        group_size: consecutive weights of a row that share a scale, if they are rounded.
        unrounded_error: `error` before rounding.
        only_rounded: whether structured pruning removed no column of it.
    """

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
    tokens: int = 0
    kept_tokens: int = 0
    rank: int | None = None
    bits: int | None = None
    group_size: int | None = None
    unrounded_error: float | None = None
    only_rounded: bool = False


@dataclass(frozen=True)
class RoundedRecord:
    """A layer that is not pruned and has no Hessian, with the weight W (O, I) and its change D.

    Attributes:
        name: the layer's name in the denoiser.
        shape: (O, I), after rows were removed.
        bits: of its rounded weights; None if they could not be rounded.
        group_size: consecutive weights of a row that share a scale, if they are rounded.
        error: |D|^2 / |W|^2 of rounding.
    """

    name: str
    shape: tuple[int, int]
    bits: int | None = None
    group_size: int | None = None
    error: float = 0.0


@dataclass(frozen=True)
class GroupRecord:
    """Heads, neurons or channels of one attention, FFN or residual block; or blocks of one list.

    Attributes:
        owner: the module's name in the denoiser.
        kind: heads, neurons, channels or blocks.
        total: number before pruning.
        kept: number after pruning.
        removed: indices of the removed ones, in the order of removal.
        scores: score of each of the `total`; all channels of a norm group have the group's score,
            and are removed together; of a block the effect of removing it alone, None if it was not
            measured.
        package: index of its module package.
    """

    owner: str
    kind: str
    total: int
    kept: int
    removed: list[int]
    scores: Sequence[float | None]
    package: int


@dataclass(repr=False)
class PruningReport:
    """The result of prune_: resolved settings, every layer, seconds of each phase.

    Attributes:
        config: the settings of PruningConfig, resolved.
        settings: arguments of the pipeline's call.
        prompts: texts; of pictures and tensors the descriptions of pipelines/prompt_records.py.
        seeds: the noise seed of each prompt.
        component: name of the pruned component.
        packages: names of the blocks of each module package.
        layers: the pruned layers; of a structured run those that read removed heads or neurons.
        groups: heads, neurons and channels of a structured run, blocks of one of pattern depth.
        rounded_too: the layers that were rounded without Hessians.
        depth: of a run of pattern depth what was measured: the blocks that left, each with its
            effect alone, their effect together, the numbers that the others had, and the repair.
        given: the SHA-256 of what left, if the caller decided it; else "".
        modulation: of folded modulation layers the share, whether they read the prompt, the prompts
            that were drawn, what did not vary, and each layer's shape, rank, number of distinct
            inputs, and error on these and on held-out ones (layerwise/modulation.py); the same of
            the layers that were kept as they are, and why.
        latency: measurements that met a target latency.
        budget: unit and target share of a budget, the dense denoiser's amount, the pruned one's.
        sensitivity: relative latent error after pruning only one layer, by its name; filled in by
            the allocation by sensitivity.
        permutation: layers with permuted inputs, layers without, and the mean share of Wanda's
            score that the N:M pattern keeps before and after.
        parameters: parameters of the whole component, before and after.
        seconds: duration of each phase.
        memory: anonymous memory of the process before the run and at its peak, and with CUDA the
            peak on the device, in bytes.
        warnings: the warnings of the run.
        threads: number of CPU threads.
        hashes: SHA-256 of the prompts with their seeds, of every other file of the folder, of the
            model card as it was written, and of the record itself.
        versions: versions of Python, of the libraries, and of a built-in model that was pruned.
        machine: device, number format and precision of the run (runtime/machine.py).
        fingerprint: what the run was of (layerwise/fingerprint.py); empty without a journal.
    """

    config: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    prompts: list[Any] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    component: str = ""
    packages: list[list[str]] = field(default_factory=list)
    layers: list[LayerRecord] = field(default_factory=list)
    groups: list[GroupRecord] = field(default_factory=list)
    rounded_too: list[RoundedRecord] = field(default_factory=list)
    depth: dict[str, Any] = field(default_factory=dict)
    modulation: dict[str, Any] = field(default_factory=dict)
    given: str = ""
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
    machine: dict[str, str] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def add(self, layers: list[LayerRecord], groups: list[GroupRecord]) -> None:
        """Add the records of pruned layers and groups."""
        self.layers += layers
        self.groups += groups

    @property
    def sparsity(self) -> float:
        """Share of the pruned layers' weights that are zero, or of their columns removed."""
        rows = [row for row in self.layers if not row.only_rounded]
        total = sum(row.shape[0] * row.shape[1] for row in rows)
        gone = sum(row.sparsity * row.shape[0] * row.shape[1] for row in rows)
        return gone / total if total else 0.0

    @property
    def layout(self) -> dict[str, dict[str, int]]:
        """Number of kept heads, neurons or channels: {owner: {kind: count}}."""
        found: dict[str, dict[str, int]] = {}
        for row in self.groups:
            found.setdefault(row.owner, {})[row.kind] = row.kept
        return found

    def gone(self) -> str:
        """Return "8 of 20 heads and 3072 of 10240 neurons are gone"."""
        return f"{in_words(leaving([dataclasses.asdict(group) for group in self.groups]))} are gone"

    def __repr__(self) -> str:
        """Return the report in a few lines."""
        return "\n".join(f"{name}: {text}" for name, text in lines_of(self.to_dict()))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the few lines, and the layers with the largest errors."""
        return html_of(self.to_dict())

    def to_frame(self) -> Any:
        """Return a pandas.DataFrame with a row for each layer, and the attributes of LayerRecord.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise UserError("to_frame needs pandas: pip install pandas") from error
        rows = [dataclasses.asdict(row) for row in self.layers]
        names = [field.name for field in dataclasses.fields(LayerRecord)]
        return pandas.DataFrame(rows, columns=names).set_index("name")

    def to_dict(self) -> dict[str, Any]:
        """Return the content of obsdiff.json."""
        return {"schema": RECORD_SCHEMA} | dataclasses.asdict(self) | {"sparsity": self.sparsity}


def read_record(folder: Path) -> dict[str, Any]:
    """Read obsdiff.json of a pruned folder. Its content is not checked.

    Raises:
        UserError: the folder has no obsdiff.json, or it is no JSON object.
    """
    file = Path(folder) / RECORD
    if not file.is_file():
        raise UserError(f"{folder}: expected a folder that obsdiff prune wrote, found no {RECORD}")
    return read_json(file)


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the hash of its own content.

    Args:
        record: the content of obsdiff.json; a former hash of it is replaced.
    """
    return record | {"hashes": record.get("hashes", {}) | {"record": own_hash(record)}}


def own_hash(record: dict[str, Any]) -> str:
    """Return the SHA-256 of a record's content, without this hash."""
    hashes = {name: value for name, value in record["hashes"].items() if name != "record"}
    return content_hash(record | {"hashes": hashes})


def is_sealed(record: dict[str, Any]) -> bool:
    """Return whether a record has the hash of its own content, and the right one."""
    hashes = record.get("hashes")
    return isinstance(hashes, dict) and hashes.get("record") == own_hash(record)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute the result."""
    found = {"python": platform.python_version(), "obsdiff": VERSION}
    for name in ("torch", "diffusers", "transformers", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
