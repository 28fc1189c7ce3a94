"""Picture and prompt -> what Qwen2-VL reads: patches of pixels, and tokens.

B pictures, P patches of all of them, T tokens of the longest text.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..weights import MetricUnavailable
from .texts import REWARD, Texts

AREA = 256 * 28 * 28  # pixels that a picture is resized to, about
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
PLACE = "<|image_pad|>"  # a token that the picture replaces
# one turn of a chat as Qwen2-VL's template writes it: the default system message, then the picture
BEFORE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
)
BETWEEN = "<|vision_end|>"
AFTER = "<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True)
class Grid:
    """How a picture is cut.

    Attributes:
        patch: side of a patch, in pixels.
        merge: patches of a token, along each side.
        frames: copies of a patch, which a video would fill with its next frames.
    """

    patch: int
    merge: int
    frames: int

    def sides(self, width: int, height: int) -> tuple[int, int]:
        """Return the nearest width and height of about AREA pixels that tokens fill.

        A square has AREA pixels. Larger pictures are rounded down, smaller ones up.
        """
        unit = self.patch * self.merge
        sides = [max(unit, round(side / unit) * unit) for side in (width, height)]
        if math.prod(sides) != AREA:
            to = math.floor if math.prod(sides) > AREA else math.ceil
            scale = math.sqrt(AREA / (width * height))
            sides = [max(unit, to(side * scale / unit) * unit) for side in (width, height)]
        return sides[0], sides[1]

    def patches(self, image: Image.Image) -> tuple[Tensor, tuple[int, int, int]]:
        """Return the patches of a picture (P, 3 frames patch^2), and its frames, rows and columns.

        The patches of one token follow each other.
        """
        width, height = self.sides(*image.size)
        small = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
        mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
        rows, columns = height // self.patch, width // self.patch
        side, merge = self.patch, self.merge
        cut = ((pixels - mean) / deviation).reshape(
            3, rows // merge, merge, side, columns // merge, merge, side
        )
        tokens = cut.permute(1, 4, 2, 5, 0, 3, 6).unsqueeze(5)
        frames = tokens.expand(*tokens.shape[:5], self.frames, side, side)
        return frames.reshape(rows * columns, -1), (1, rows, columns)


@dataclass(frozen=True)
class Batch:
    """The inputs of one forward.

    Attributes:
        patches: of all pictures (P, 3 frames patch^2).
        grids: frames, rows and columns of each picture (B, 3).
        ids: tokens (B, T), padded on the right.
        mask: 1 for tokens, 0 for padding (B, T).
    """

    patches: Tensor
    grids: Tensor
    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch(*(each.to(device) for each in vars(self).values()))


def read_batch(
    images: list[Image.Image], prompts: list[str], texts: Texts, tokenizer: Any, grid: Grid
) -> Batch:
    """Return the inputs for some pictures and their prompts.

    Args:
        images: B pictures.
        prompts: B prompts.
        texts: the published instruction.
        tokenizer: that knows the reward token.
        grid: how pictures are cut.

    Raises:
        MetricUnavailable: a prompt contains a token that the model looks for.
    """
    for prompt in prompts:
        if any(token in prompt for token in (REWARD, PLACE)):
            raise MetricUnavailable(
                f"expected no {REWARD} or {PLACE} in a prompt, found {prompt!r}"
            )
    cut = [grid.patches(image) for image in images]
    lines = [
        BEFORE + PLACE * (math.prod(shape) // grid.merge**2) + BETWEEN + texts.of(prompt) + AFTER
        for prompt, (_, shape) in zip(prompts, cut, strict=True)
    ]
    rows = [torch.tensor(row) for row in tokenizer(lines, add_special_tokens=False).input_ids]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return Batch(
        torch.cat([patches for patches, _ in cut]),
        torch.tensor([shape for _, shape in cut]),
        ids,
        (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
    )
