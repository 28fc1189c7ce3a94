"""obsdiff: prune text-to-image diffusion pipelines in one shot, without training.

    import obsdiff
    report = obsdiff.prune_(pipe, prompts, obsdiff.PruningConfig(sparsity=0.5))
    obsdiff.save_pruned(pipe, "pruned", report)

Names are loaded when they are first used, so that `import obsdiff` and the command line's checks cost no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calibration.dense_pass import dense_pass as dense_pass
    from .config import PruningConfig as PruningConfig
    from .errors import CalibrationError as CalibrationError
    from .errors import CalibrationWarning as CalibrationWarning
    from .errors import NotPositiveDefinite as NotPositiveDefinite
    from .errors import UserError as UserError
    from .pipelines.builtin import builtin_path as builtin_path
    from .pipelines.record import PruningReport as PruningReport
    from .pipelines.save import save_pruned as save_pruned
    from .prune import prune_ as prune_

__version__ = "0.1.0"

HOMES = {
    "builtin_path": "pipelines.builtin",
    "CalibrationError": "errors",
    "dense_pass": "calibration.dense_pass",
    "save_pruned": "pipelines.save",
    "PruningConfig": "config",
    "CalibrationWarning": "errors",
    "UserError": "errors",
    "prune_": "prune",
    "PruningReport": "pipelines.record",
    "NotPositiveDefinite": "errors",
}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if (
        name == "ModelMixin"
    ):  # diffusers asks the library of a model class for the base class it knows
        return import_module("diffusers").ModelMixin
    if name.startswith("Pruned"):
        return import_module(".models.pruned_classes", __name__).pruned_class(name)
    if name not in HOMES:
        raise AttributeError(f"module 'obsdiff' has no attribute {name!r}")
    return getattr(import_module(f".{HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *HOMES]
