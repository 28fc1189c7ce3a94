"""obsdiff: prune text-to-image diffusion pipelines in one shot, without training.

    import obsdiff
    report = obsdiff.prune_(pipe, prompts, obsdiff.PruningConfig(sparsity=0.5))
    obsdiff.save_pruned(pipe, "pruned", report)

Names are imported on first use, so `import obsdiff` and the command line's checks load no torch.
`obsdiff.PrunedXxx` is the class of a structurally pruned diffusers model Xxx, such as
PrunedSD3Transformer2DModel; model_index.json of a pruned folder names it.

`__version__` is the version of the package; it is written in runtime/version.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .runtime.version import VERSION

if TYPE_CHECKING:  # type checkers need imports; at run time HOMES has the same names
    from .calibration.dense_pass import dense_pass as dense_pass
    from .cli.functions import evaluate as evaluate
    from .cli.functions import inspect as inspect
    from .cli.functions import load as load
    from .cli.functions import report_page as report_page
    from .config import PruningConfig as PruningConfig
    from .errors import CalibrationError as CalibrationError
    from .errors import CalibrationWarning as CalibrationWarning
    from .errors import NotPositiveDefinite as NotPositiveDefinite
    from .errors import UserError as UserError
    from .pipelines.builtin import builtin_path as builtin_path
    from .pipelines.masks import apply_masks_ as apply_masks_
    from .pipelines.record import PruningReport as PruningReport
    from .pipelines.save import save_pruned as save_pruned
    from .prune import prune_ as prune_

__version__ = VERSION

HOMES = {  # public name -> its module
    "CalibrationError": "errors",
    "CalibrationWarning": "errors",
    "NotPositiveDefinite": "errors",
    "PruningConfig": "config",
    "PruningReport": "pipelines.record",
    "UserError": "errors",
    "apply_masks_": "pipelines.masks",
    "builtin_path": "pipelines.builtin",
    "dense_pass": "calibration.dense_pass",
    "evaluate": "cli.functions",
    "inspect": "cli.functions",
    "load": "cli.functions",
    "prune_": "prune",
    "report_page": "cli.functions",
    "save_pruned": "pipelines.save",
}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name, a class of a pruned model, or ModelMixin.

    diffusers looks up ModelMixin, the base class of its models, in the library of a model class.
    """
    if name == "ModelMixin":
        return import_module("diffusers").ModelMixin
    if name.startswith("Pruned"):
        return import_module(".models.pruned_classes", __name__).pruned_class(name)
    if name not in HOMES:
        raise AttributeError(f"module 'obsdiff' has no attribute {name!r}")
    return getattr(import_module(f".{HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the public names, and those that every module has."""
    return [*(name for name in globals() if name.startswith("__")), *HOMES]
