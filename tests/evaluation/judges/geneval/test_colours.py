"""Objects cut out of pictures, and the nearest of ten captions."""

import numpy as np
import pytest
import torch
from PIL import Image

from obsdiff.evaluation.judges.clip import Clip
from obsdiff.evaluation.judges.geneval.colours import Colours, cut_out
from obsdiff.evaluation.judges.geneval.rule import Found
from obsdiff.evaluation.judges.geneval.tasks import COLOURS
from obsdiff.pipelines.builtin import builtin_path

RED, GREEN = (255, 0, 0), (0, 255, 0)


def half_and_half() -> Image.Image:
    """8 x 4 pixels, red on the left, green on the right."""
    picture = Image.new("RGB", (8, 4), GREEN)
    picture.paste(RED, (0, 0, 4, 4))
    return picture


def test_an_object_is_its_box_and_grey_outside_of_its_mask():
    mask = np.zeros((4, 8), bool)
    mask[0, :4] = True
    cut = cut_out(half_and_half(), Found("car", 1.0, (2.2, 0.0, 6.0, 2.0), mask))
    assert np.array(cut).tolist() == [
        [[*RED], [*RED], [153] * 3, [153] * 3],
        [[153] * 3] * 4,
    ]
    plain = cut_out(half_and_half(), Found("car", 1.0, (2.0, 0.0, 6.0, 1.0)))
    assert np.array(plain).tolist() == [[[*RED], [*RED], [*GREEN], [*GREEN]]]
    assert cut_out(half_and_half(), Found("car", 1.0, (3.1, 1.1, 3.2, 1.2))).size == (1, 1)


def test_the_colour_is_that_of_the_nearest_caption():
    """A stand-in for CLIP, whose embeddings are the colours' numbers."""

    class Names:
        def texts(self, texts):
            assert texts[:3] == [
                "a photo of a red car",
                "a photo of a red-colored car",
                "a photo of a red object",
            ]
            rows = [next(i for i, c in enumerate(COLOURS) if c in text) for text in texts]
            return torch.eye(len(COLOURS))[rows]

        def pictures(self, images):
            near = {RED: "red", GREEN: "green"}
            rows = [COLOURS.index(near[image.getpixel((0, 0))]) for image in images]
            return torch.eye(len(COLOURS))[rows] + 0.1

    colours_of = Colours(Names()).of(half_and_half())
    left, right = Found("car", 1.0, (0, 0, 4, 4)), Found("car", 0.9, (4, 0, 8, 4))
    assert colours_of([left, right, left]) == ["red", "green", "red"]


def test_the_captions_of_a_colour_are_averaged(clip):
    colours = Colours(Clip(clip))
    embeddings = colours.captions("dog")
    assert embeddings.shape == (10, 16)
    assert embeddings.norm(dim=1).tolist() == pytest.approx([1] * 10, rel=1e-5)
    texts = ["a photo of a blue dog", "a photo of a blue-colored dog", "a photo of a blue object"]
    mean = colours.clip.texts(texts).mean(0)
    assert torch.allclose(embeddings[COLOURS.index("blue")], mean / mean.norm(), atol=1e-6)


@pytest.mark.slow
def test_a_trained_clip_knows_red_from_green():
    colours = Colours(Clip(builtin_path("emoji-clip")))
    picture = Image.new("RGB", (128, 64), "white")
    picture.paste((220, 40, 50), (8, 8, 56, 56))
    picture.paste((40, 180, 60), (72, 8, 120, 56))
    group = [Found("square", 1.0, (8, 8, 56, 56)), Found("square", 1.0, (72, 8, 120, 56))]
    assert colours.of(picture)(group) == ["red", "green"]
