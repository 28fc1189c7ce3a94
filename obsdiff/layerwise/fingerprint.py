"""The fingerprint of a run: what has to be equal for a run to resume from another run's files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..calibration.plan import PruningPlan
from ..errors import UserError
from ..pipelines.call import machine_of
from ..pipelines.finite_configs import require_finite
from ..pipelines.prompt_records import prompts_hash
from ..pipelines.record import versions
from ..runtime.hashed_json import content_hash
from ..runtime.hashing import model_hashes

BOOKKEEPING = ("transformers_version", "dtype", "torch_dtype")  # settings that compute nothing
PLACES = ("device", "offload", "offload_device")  # settings that change no number; see "machine"
SHOWN = 3  # differences in an error message


def fingerprint(
    pipe: Any, plan: PruningPlan, model: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return the values that identify a run: it resumes only if all of them are equal.

    Args:
        pipe: the dense pipeline.
        plan: the pruning.
        model: the hashes of its components, if `model_hashes` has computed them before.

    Raises:
        UserError: a setting of a scheduler is NaN or infinite.
    """
    given = {"removed": plan.given.sha256} if plan.given else {}
    return given | {
        "model": model or model_hashes(pipe),
        "scheduler": schedulers(pipe),
        "parts": parts(pipe),
        "prompts": prompts_hash(*plan.calibration_set.drawn),
        "config": {k: v for k, v in plan.config.to_dict().items() if k not in PLACES},
        "settings": as_json(plan.calibration_set.settings),
        "versions": versions(),
        "machine": machine_of(pipe, plan.component, plan.config.device),
    }


def schedulers(pipe: Any) -> dict[str, dict[str, Any]]:
    """Return the settings of a pipeline's schedulers as JSON, by the component's name."""
    found = {
        name: as_json(part.config)
        for name, part in pipe.components.items()
        if hasattr(part, "config") and hasattr(part, "set_timesteps")
    }
    for name, config in found.items():
        require_finite(config, name)
    return found


def parts(pipe: Any) -> dict[str, str]:
    """Return the hash of each component's class, settings and vocabulary, by its name."""
    found = {}
    for name, part in pipe.components.items():
        config: Any = getattr(part, "config", None)
        vocabulary = part.get_vocab() if hasattr(part, "get_vocab") else None
        settings = config.to_dict() if hasattr(config, "to_dict") else config
        found[name] = content_hash([type(part).__name__, computing(as_json(settings)), vocabulary])
    return found


def computing(settings: Any) -> Any:
    """Return settings without those of bookkeeping, such as paths and versions."""
    if isinstance(settings, list):
        return [computing(part) for part in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        key: computing(value)
        for key, value in settings.items()
        if not key.startswith("_") and key not in BOOKKEEPING
    }


def as_json(value: Any) -> Any:
    """Return a setting as JSON: arrays and tensors in full, other objects as their text."""
    if isinstance(value, Mapping):
        return {str(key): as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    return value if isinstance(value, str | bool | int | float | None) else str(value)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], above: str = "") -> list[str]:
    """Return the names of the entries that differ, with both values where they are short.

    An example: "config.damping (0.01 there, 0.1 here)".
    """
    differ = []
    for key in sorted({*found, *wanted}, key=str):
        there, here, name = found.get(key), wanted.get(key), f"{above}{key}"
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            differ += differences(there, here, f"{name}.")
        elif there != here:
            long = max(len(str(there)), len(str(here))) > 40
            differ.append(name if long else f"{name} ({there} there, {here} here)")
    return differ


def require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], place: Path) -> None:
    """Check that files are of a run with this fingerprint.

    Args:
        found: the fingerprint of the run that wrote them.
        wanted: the fingerprint of this run, as it is written.
        place: where they are, for the message.

    Raises:
        UserError: they are of another run; the message names what differs.
    """
    if differ := differences(found, wanted):
        raise UserError(
            f"resume: {place} is of a run with another {', '.join(differ[:SHOWN])}; "
            "pass the arguments of that run, or start anew with --overwrite"
        )
