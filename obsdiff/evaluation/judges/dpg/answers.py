"""Picture and question -> whether a model answers yes.

BLIP writes an answer, ViLT chooses one of those in its config; both are asked one question at a
time, because a batch pads the questions, and BLIP's decoder reads the padding.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..clip import load_transformer

LONGEST = 10  # tokens of an answer
Answer = Callable[[Image.Image, str], bool]


def open_answers(folder: Path) -> Answer:
    """Return a function that tells whether a model answers a question about a picture with yes.

    Args:
        folder: a BlipForQuestionAnswering or ViltForQuestionAnswering, with its processor.

    Raises:
        MetricUnavailable: tensors are missing.
    """
    from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model = load_transformer(AutoModelForVisualQuestionAnswering, folder)

    @torch.no_grad()
    def says_yes(image: Image.Image, question: str) -> bool:
        inputs = processor(
            images=image.convert("RGB"), text=question, truncation=True, return_tensors="pt"
        )
        return answered(model, processor, inputs).strip().lower() == "yes"

    return says_yes


def answered(model: Any, processor: Any, inputs: Any) -> str:
    """Return the answer of a model to one question.

    Args:
        model: BLIP or ViLT.
        processor: its processor, which decodes tokens.
        inputs: the picture and the question, as the processor returns them.
    """
    if model.config.model_type == "vilt":
        return str(model.config.id2label[int(model(**inputs).logits[0].argmax())])
    tokens = model.generate(**inputs, max_new_tokens=LONGEST, num_beams=1, do_sample=False)
    return str(processor.decode(tokens[0], skip_special_tokens=True))
