"""Judges that are CLIP models in transformers' format: CLIP score and PickScore.

    CLIP score = 100 cos(picture, prompt)                (Hessel et al. 2021, section 3.1)
    PickScore  = exp(logit_scale) cos(picture, prompt)   (Kirstain et al. 2023, eq. 1)

Pictures are preprocessed as the model's preprocessor_config.json states. Without that file they are
resized to the model's image_size (bicubic) and scaled to [-1, 1], as emoji-clip was trained.

References:
    Hessel, Holtzman, Forbes, Le Bras, Choi. CLIPScore: A Reference-free Evaluation Metric for
        Image Captioning. 2021. https://arxiv.org/abs/2104.08718
    Kirstain, Polyak, Singer, Matiana, Penna, Levy. Pick-a-Pic: An Open Dataset of User Preferences
        for Text-to-Image Generation. 2023. https://arxiv.org/abs/2305.01569
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ...runtime.json_files import read_json
from .weights import MetricUnavailable

BATCH = 16  # pictures of one forward


class Clip:
    """A CLIPModel with its tokenizer and its preprocessing of pictures.

    Attributes:
        model: the CLIPModel, in float32.
        tokenizer: of its prompts.
        preprocess: pictures -> pixel values (B, 3, S, S).
    """

    def __init__(self, folder: Path) -> None:
        """Load the model in a folder; MetricUnavailable if tensors are missing."""
        from transformers import AutoTokenizer, CLIPModel

        self.model = load_transformer(CLIPModel, folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.preprocess = preprocessing(folder)

    @torch.no_grad()
    def pictures(self, images: list[Image.Image]) -> Tensor:
        """Return the embeddings of B pictures (B, F), of length 1."""
        pooled = self.model.vision_model(pixel_values=self.preprocess(images)).pooler_output
        return normalize(self.model.visual_projection(pooled), dim=-1)

    @torch.no_grad()
    def texts(self, prompts: list[str]) -> Tensor:
        """Return the embeddings of B texts (B, F), of length 1; long ones are truncated."""
        text = self.tokenizer(
            prompts,
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        pooled = self.model.text_model(
            input_ids=text.input_ids, attention_mask=text.attention_mask
        ).pooler_output
        return normalize(self.model.text_projection(pooled), dim=-1)

    def cosines(self, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        """Return the cosine of each picture's and its prompt's embedding, -1 to 1.

        Args:
            images: N pictures.
            prompts: N prompts.

        Returns:
            The cosines (N,), float64.
        """
        found = []
        for i in range(0, len(images), BATCH):
            batch = slice(i, i + BATCH)
            found.append((self.pictures(images[batch]) * self.texts(prompts[batch])).sum(1))
        return torch.cat(found).double().numpy()

    def clip_scores(self, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        """Return the CLIP scores (N,) on torchmetrics' scale; the paper has 2.5 max(cos, 0)."""
        return 100 * self.cosines(images, prompts)

    def pick_scores(self, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        """Return the PickScores (N,), Kirstain et al. 2023, eq. 1."""
        return float(self.model.logit_scale.detach().double().exp()) * self.cosines(images, prompts)


def load_transformer(kind: Any, folder: Path) -> Any:
    """Load a model of transformers from a folder, in float32.

    Args:
        kind: its class.
        folder: with config.json and safetensors weights.

    Raises:
        MetricUnavailable: tensors are missing, which from_pretrained would initialise at random.
    """
    model, info = kind.from_pretrained(
        folder,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise MetricUnavailable(
            f"{folder}: expected the weights of {kind.__name__}, found {len(missing)} tensors "
            f"missing, such as {missing[0]}"
        )
    return model.eval()


def preprocessing(folder: Path) -> Callable[[list[Image.Image]], Tensor]:
    """Return the preprocessing of the model in a folder: pictures -> pixel values (B, 3, S, S)."""
    if any(
        (folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")
    ):
        from transformers import CLIPImageProcessor

        processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        return lambda images: processor(images=images, return_tensors="pt").pixel_values
    config = read_json(folder / "config.json")
    side = config.get("vision_config", config)["image_size"]
    return lambda images: torch.stack([as_input(image, side) for image in images])


def as_input(image: Image.Image, side: int) -> Tensor:
    """Return a picture as (3, side, side) float32 in [-1, 1]."""
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return as_tensor(image).float().div_(127.5).sub_(1)


def as_tensor(image: Image.Image) -> Tensor:
    """Return a picture as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
