"""The colours of objects, by CLIP: the nearest of ten captions, without training on colours.

An object is cut out of the picture by its box; outside of its mask, if it has one, it is grey. Its
colour is that whose caption, a mean of three, has the largest cosine with it.
"""

from functools import cache

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ..clip import Clip
from .rule import ColoursOf, Found
from .tasks import COLOURS

GREY = (153, 153, 153)  # outside of a mask
CAPTIONS = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)


class Colours:
    """Tells the colours of objects.

    Attributes:
        clip: the CLIP.
        captions: class -> embeddings of the colours' captions (10, F), of length 1.
    """

    def __init__(self, clip: Clip) -> None:
        """Make one of a CLIP."""
        self.clip = clip
        self.captions = cache(self.embedded)

    def embedded(self, name: str) -> Tensor:
        """Return the embedding of each colour (10, F) for objects of a class."""
        texts = [each.format(colour=colour, name=name) for colour in COLOURS for each in CAPTIONS]
        embeddings = self.clip.texts(texts).unflatten(0, (len(COLOURS), len(CAPTIONS)))
        return normalize(embeddings.mean(1), dim=-1)

    def of(self, image: Image.Image) -> ColoursOf:
        """Return the function that tells the colours of objects of one class in a picture."""

        @torch.no_grad()
        def colours_of(group: list[Found]) -> list[str]:
            crops = self.clip.pictures([cut_out(image, one) for one in group])
            nearest = (crops @ self.captions(group[0].name).T).argmax(1)
            return [COLOURS[i] for i in nearest.tolist()]

        return colours_of


def cut_out(image: Image.Image, one: Found) -> Image.Image:
    """Return an object of a picture: its box, at least one pixel, grey outside of its mask."""
    image = image.convert("RGB")
    if one.mask is not None:
        blank = Image.new("RGB", image.size, GREY)
        image = Image.composite(image, blank, Image.fromarray(one.mask))
    left, top, right, bottom = (round(edge) for edge in one.box)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
