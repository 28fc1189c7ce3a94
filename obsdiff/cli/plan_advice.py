"""What a plan did not count, and what to do where a run does not fit."""

from ..calibration.device_plan import DevicePlan
from ..config import PruningConfig
from .run_plan import PhaseRow

BY_PIXELS = ("drawing", "allocating")  # phases whose work grows with the picture


def uncounted_of(plan: DevicePlan, config: PruningConfig) -> list[str]:
    """Return the parts of a run whose bytes are not known.

    Args:
        plan: what the run needs.
        config: its settings.
    """
    by_gradients = config.allocation == "sensitivity"
    activations = ["activations"] if plan.activations is None else []
    gradients = ["gradients (the phase allocating)"] if by_gradients else []
    return activations + (gradients if plan.gradients is None else [])


def advice_of(phase: PhaseRow, room: int, config: PruningConfig, dtype: str, machine: str) -> str:
    """Return what to do about a phase that needs more than there is.

    Args:
        phase: the phase that needs the most.
        room: the bytes that there are.
        config: the settings.
        dtype: the number format of the denoiser.
        machine: what has more room.
    """
    ways = []
    if phase.name in BY_PIXELS and phase.weights + phase.hessians < room:
        ways.append("fewer pixels (--height, --width)")
        if phase.name == "drawing" and config.batch_size > 1:
            ways.append("a smaller --batch-size")
    if dtype == "float32" and phase.weights:
        ways.append("--dtype bfloat16")
    return f"try {', '.join([*ways, machine])}"
