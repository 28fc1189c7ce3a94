"""Open files with the loader of a ComfyUI checkout, in a process of its own.

    python comfyui_loader.py FILE [FILE ...]       PYTHONPATH names the checkout

Prints a JSON object: file -> a list of "opened", or the error. ComfyUI's modules import torchvision
and others for models that are not opened here; modules that are missing are replaced by empty ones.
The files are opened as ComfyUI does by default without an accelerator, and, in versions that have
it, with linear layers that take their shapes from the file, as with dynamic VRAM.
"""

import importlib.machinery
import json
import logging
import sys
from pathlib import Path
from unittest.mock import MagicMock

NOT_USED = ("torchvision", "torchaudio", "av")  # by the denoisers


def replace_missing() -> None:
    """Replace missing packages that ComfyUI imports, but does not use for a denoiser."""
    import transformers  # noqa: F401 - looks for torchvision itself

    for name in NOT_USED:
        try:
            __import__(name)
        except ImportError:
            package = MagicMock(__path__=[], __version__="0")
            package.__spec__ = importlib.machinery.ModuleSpec(name, None)
            sys.modules[name] = package
            for part in ("transforms", "transforms.functional", "functional", "models", "ops"):
                sys.modules[f"{name}.{part}"] = MagicMock()


def opened(file: str, any_shape: bool) -> str:
    """Return "opened", or the error of ComfyUI's loader.

    Args:
        file: a file of weights.
        any_shape: whether linear layers take their shapes from the file.
    """
    import comfy.sd
    from safetensors.torch import load_file

    weights = load_file(file)
    if has_dynamic_vram():
        comfy.memory_management.aimdo_enabled = any_shape
    comfy.utils.load_torch_file = lambda *_, **settings: (
        (dict(weights), None) if settings.get("return_metadata") else dict(weights)
    )
    try:
        comfy.sd.load_diffusion_model(file)
    except Exception as error:  # whatever it is, it is the result
        return f"{type(error).__name__}: {error}"
    return "opened"


def has_dynamic_vram() -> bool:
    """Return whether linear layers of this version can take their shapes from the file."""
    return hasattr(getattr(comfy, "memory_management", None), "aimdo_enabled")


if __name__ == "__main__":
    files = sys.argv[1:]
    sys.argv[1:] = ["--cpu"]
    replace_missing()
    import comfy.options

    comfy.options.enable_args_parsing()
    logging.disable(logging.CRITICAL)
    import comfy.sd

    ways = (False, True) if has_dynamic_vram() else (False,)
    found = {Path(f).stem: [opened(f, any_shape) for any_shape in ways] for f in files}
    print(json.dumps(found))
