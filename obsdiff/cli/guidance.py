"""What a pipeline's class and configs say about one denoising step of a run, without running it.

Guidance doubles the batch of the denoiser's call, or calls it twice. Whether it does is asked of
the pipeline itself: most have the property do_classifier_free_guidance, which reads the guidance
scale and configs, such as that of a distilled model. Those with a true_cfg_scale (FLUX, Qwen-Image,
HunyuanVideo) guide only with a negative prompt, and calibration prompts have none.
"""

import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import diffusers

from ..models.call_shapes import guidance_passes
from ..pipelines.folder import Folder
from ..runtime.json_files import read_json


class Config(dict[str, Any]):
    """A config whose keys are attributes; None for a key that its file does not have."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


def step_passes(
    pipeline: type, folder: Folder, component: str, guidance_scale: float | None
) -> int:
    """Return how many rows one picture has in the denoiser's calls of one step: 1 or 2.

    Args:
        pipeline: the pipeline's class.
        folder: the model.
        component: the denoiser's name.
        guidance_scale: the pipeline's setting; None if it has none.
    """
    config = folder.config(component)
    guided = inspect.getattr_static(pipeline, "do_classifier_free_guidance", None)
    if isinstance(guided, property) and guided.fget:
        try:
            return 2 if guided.fget(stand_in(folder, guidance_scale)) else 1
        except (AttributeError, TypeError):  # it reads more than a scale and configs
            return guidance_passes(config, guidance_scale)
    if "true_cfg_scale" in inspect.signature(pipeline.__call__).parameters:
        return 1
    return guidance_passes(config, guidance_scale)


def stand_in(folder: Folder, guidance_scale: float | None) -> SimpleNamespace:
    """Return an object with a pipeline's guidance scale and configs, and nothing else."""
    parts = {
        name: SimpleNamespace(config=Config(folder.config(name))) for name in folder.components
    }
    return SimpleNamespace(
        config=Config(read_json(folder.path / "model_index.json")),
        _guidance_scale=guidance_scale,
        guidance_scale=guidance_scale,
        **parts,
    )


def latent_frames(pipeline: type, vae: dict[str, Any] | None) -> int | None:
    """Return how many frames of latents one picture or video has.

    Args:
        pipeline: the pipeline's class.
        vae: the config.json of its autoencoder; None if there is none.

    Returns:
        1 for a pipeline without frames; None if the autoencoder's compression is not known.
    """
    known = inspect.signature(pipeline.__call__).parameters
    frames = known["num_frames"].default if "num_frames" in known else 1
    if frames == 1:
        return 1
    config = default_settings(vae or {}) | (vae or {})
    halvings = config.get("temperal_downsample")  # as Wan's config spells it
    each = config.get("scale_factor_temporal")
    if each is None and isinstance(halvings, list):
        each = 2 ** sum(map(bool, halvings))
    if not isinstance(frames, int) or not isinstance(each, int) or each < 1:
        return None
    return (frames - 1) // each + 1


def default_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a config of diffusers leaves to its class; none for another class."""
    cls = getattr(diffusers, str(config.get("_class_name")), None)
    if not (isinstance(cls, type) and issubclass(cls, diffusers.ModelMixin)):
        return {}
    return {
        name: parameter.default
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
