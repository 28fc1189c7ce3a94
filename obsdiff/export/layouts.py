"""What a single file of each kind of pipeline holds: components, their names' kind, the prefix."""

from dataclasses import dataclass

from ..errors import UserError
from ..models.own_names import CLASS_PREFIX
from ..pipelines.denoisers import DENOISERS
from ..pipelines.folder import Folder
from .original_names import DENOISER_CLASSES, UNET_PREFIX

DENOISER, VAE, CLIP, CLIP_WITHOUT_PROJECTION, OPEN_CLIP, T5 = (
    "denoiser", "vae", "clip", "clip without projection", "open clip", "t5",
)  # fmt: skip
NEVER_INSIDE = ("safety_checker", "image_encoder")  # of no single file


@dataclass(frozen=True)
class Place:
    """Where a component is in a single file.

    Attributes:
        kind: how its tensors are named.
        prefix: what precedes their names.
    """

    kind: str
    prefix: str


SD = {
    "unet": Place(DENOISER, ""),
    "vae": Place(VAE, "first_stage_model."),
    "text_encoder": Place(CLIP, "cond_stage_model.transformer."),
}
SDXL = {
    "unet": Place(DENOISER, ""),
    "vae": Place(VAE, "first_stage_model."),
    "text_encoder": Place(CLIP, "conditioner.embedders.0.transformer."),
    "text_encoder_2": Place(OPEN_CLIP, "conditioner.embedders.1.model."),
}
SD3 = {
    "transformer": Place(DENOISER, UNET_PREFIX),
    "vae": Place(VAE, "first_stage_model."),
    "text_encoder": Place(CLIP_WITHOUT_PROJECTION, "text_encoders.clip_l.transformer."),
    "text_encoder_2": Place(CLIP, "text_encoders.clip_g.transformer."),
    "text_encoder_3": Place(T5, "text_encoders.t5xxl.transformer."),
}
FLUX = {
    "transformer": Place(DENOISER, UNET_PREFIX),
    "vae": Place(VAE, "vae."),
    "text_encoder": Place(CLIP, "text_encoders.clip_l.transformer."),
    "text_encoder_2": Place(T5, "text_encoders.t5xxl.transformer."),
}
WHOLE = {
    f"{name}{task}Pipeline": layout
    for name, layout in (
        ("StableDiffusion", SD),
        ("StableDiffusionXL", SDXL),
        ("StableDiffusion3", SD3),
        ("Flux", FLUX),
    )
    for task in ("", "Img2Img", "Inpaint")
}


def places(folder: Folder, component: str | None) -> dict[str, Place]:
    """Return the components to write, and where.

    Args:
        folder: the checked folder.
        component: the denoiser to write alone; None for the whole model.

    Raises:
        UserError: there is no single file of this kind.
    """
    if component is None:
        chosen = whole(folder)
    else:
        denoisers = [name for name in DENOISERS if name in folder.components]
        if component not in denoisers:
            raise UserError(
                f"component: expected the denoiser of {folder.path} ({', '.join(denoisers)}), "
                f"found {component!r}"
            )
        chosen = {component: Place(DENOISER, "")}
    for name, place in chosen.items():
        cls = class_of(folder, name)
        if place.kind == DENOISER and cls not in DENOISER_CLASSES:
            raise UserError(
                f"export: {name} is a {cls}: expected {', '.join(DENOISER_CLASSES)}, whose "
                "authors' names obsdiff derives; export to padded, if the client opens folders"
            )
    return chosen


def whole(folder: Folder) -> dict[str, Place]:
    """Return the places of all components of a whole model; UserError for another pipeline."""
    layout = WHOLE.get(folder.pipeline)
    if layout is None:
        raise UserError(
            f"export: expected a pipeline of SD 1.5, SDXL, SD3 or FLUX.1, found {folder.pipeline}; "
            "write the denoiser alone with --component"
        )
    others = [n for n in folder.components if n not in layout and n not in NEVER_INSIDE]
    if others:
        raise UserError(
            f"export: single files of {folder.pipeline} have no {', '.join(others)}; write the "
            "denoiser alone with --component"
        )
    return {name: place for name, place in layout.items() if name in folder.components}


def class_of(folder: Folder, component: str) -> str:
    """Return the class of a component in diffusers or transformers, pruned or not."""
    library, cls = folder.classes[component]
    return cls.removeprefix(CLASS_PREFIX) if library == "obsdiff" else cls
