"""Pictures that the denoiser did not draw: NaN, and what a safety checker paints black.

A figure of such pictures would be that of the paint. So the checkers of a pipeline are out of the
way while it is drawn with and measured, every picture that is flawed nevertheless is counted and
marked, and a figure over flawed pictures has a reason instead of a value.
"""

from enum import IntEnum
from typing import Any

import torch
from PIL import ImageDraw
from PIL.Image import Image, new
from torch import Tensor

from ..pipelines.folder import Folder

CHECKERS = ("SafetyChecker", "Guardrail", "ImageGuard")  # in the class of a component
PAINTERS = ("watermark", "watermarker")  # attributes that change a finished picture
MARK_COLOUR = (200, 30, 30)


class Flaw(IntEnum):
    """Why a picture is not what the denoiser drew; 0 for a sound one."""

    NONE = 0
    NOT_FINITE_LATENTS = 1
    NOT_FINITE = 2
    FLAGGED = 3


WORDS = {  # after "3 of 12 pictures"
    Flaw.NOT_FINITE_LATENTS: "have NaN or infinite latents",
    Flaw.NOT_FINITE: "have NaN or infinite values",
    Flaw.FLAGGED: "were flagged by a safety checker",
}


def is_checker(name: str, kind: str) -> bool:
    """Return whether a component paints over pictures.

    Args:
        name: the component's name.
        kind: the name of its class.
    """
    return name in ("safety_checker", "image_guard") or any(word in kind for word in CHECKERS)


def checkers_of(folder: Folder) -> list[str]:
    """Return the names of the components of a stored pipeline that paint over pictures."""
    return [name for name, (_, kind) in folder.classes.items() if is_checker(name, kind)]


class PassAll:
    """A safety checker that finds nothing, for pipelines that refuse to run without one."""

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> tuple[Any, list[bool]]:
        """Return the pictures and that none is flagged."""
        return images, [False] * len(images)

    def check_text_safety(self, prompt: str) -> bool:
        """Return True."""
        return True

    def check_video_safety(self, frames: Any) -> Any:
        """Return the frames."""
        return frames

    def to(self, *args: Any, **kwargs: Any) -> "PassAll":
        """Return the checker itself."""
        return self


def remove_checkers_(pipe: Any) -> None:
    """Take the safety checkers and watermarks of a loaded pipeline out of the way, in place."""
    for name, part in list(pipe.components.items()):
        if part is not None and is_checker(name, type(part).__name__):
            refuses_without = hasattr(part, "check_video_safety")
            setattr(pipe, name, PassAll() if refuses_without else None)
    for name in PAINTERS:
        if getattr(pipe, name, None) is not None:
            setattr(pipe, name, None)


def finite(values: Tensor) -> Tensor:
    """Return for each row of a tensor (B, ...) whether all its values are finite: (B,) bool."""
    return torch.isfinite(values).flatten(1).all(1).cpu()


def flaws_of(latents: Tensor, sound: Tensor, flagged: list[bool] | None) -> Tensor:
    """Return the Flaw of each picture (N,), uint8.

    Args:
        latents: final latents (N, ...).
        sound: whether the decoded values of each picture were finite, (N,) bool.
        flagged: whether a checker flagged each picture; None without a checker.
    """
    flaws = torch.zeros(len(latents), dtype=torch.uint8)
    if flagged is not None and len(flagged) == len(flaws):
        flaws[torch.tensor([bool(flag) for flag in flagged])] = Flaw.FLAGGED
    if len(sound) == len(flaws):
        flaws[~sound] = Flaw.NOT_FINITE
    flaws[~finite(latents)] = Flaw.NOT_FINITE_LATENTS
    return flaws


def marked(image: Image) -> Image:
    """Return what is saved for a flawed picture: black, crossed out in red."""
    crossed = new("RGB", image.size)
    (w, h), pen = image.size, ImageDraw.Draw(crossed)
    for line in ((0, 0, w - 1, h - 1), (0, h - 1, w - 1, 0)):
        pen.line(line, fill=MARK_COLOUR, width=max(1, w // 32))
    return crossed


def problem(flaws: Tensor) -> str:
    """Return what is wrong with a pipeline's pictures, counted; "" if all are sound.

    Args:
        flaws: the Flaw of each picture, (N,).
    """
    counts = {flaw: int((flaws == flaw).sum()) for flaw in WORDS}
    found = [f"{n} of {len(flaws)} pictures {WORDS[flaw]}" for flaw, n in counts.items() if n]
    return " and ".join(found)


def latent_problem(flaws: Tensor) -> str:
    """Return what is wrong with a pipeline's latents, counted; "" if all are finite."""
    return problem(flaws * (flaws == Flaw.NOT_FINITE_LATENTS))


def flawed_pictures(flaws: Tensor) -> list[dict[str, Any]]:
    """Return {"picture", "why"} of every flawed picture, as results.json has it."""
    return [
        {"picture": i, "why": WORDS[Flaw(flaw)]} for i, flaw in enumerate(flaws.tolist()) if flaw
    ]
