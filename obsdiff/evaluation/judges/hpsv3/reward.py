"""Pictures and prompts -> scores of HPSv3.

On a GPU the model has the stored number format; a CPU computes it in float32. The head is always
float32, as published.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from ....pipelines.headers import SAFETENSORS_DTYPES, read_header
from ....pipelines.load import default_device, loaded_format
from ....runtime.json_files import read_json
from ..weights import MetricUnavailable, fill_
from .files import weights_file
from .reading import PLACE, Batch, Grid, read_batch
from .tensors import EMBEDDING, HEAD, UNUSED, WIDTHS, check_tensors, renamed
from .texts import REWARD, read_texts

BATCH = 4  # pictures of one forward
MU = 0  # which output of the head is the mean


class Judge:
    """An HPSv3 with its tokenizer and its texts.

    Attributes:
        body: transformers' Qwen2VLModel.
        head: hidden states (B, H) -> mean and spread (B, 2).
        tokenizer: Qwen2-VL's, with the reward token.
        reward: the id of the reward token.
        texts: the published instruction.
        grid: how pictures are cut.
    """

    def __init__(self, body: Any, head: nn.Module, tokenizer: Any, folder: Path) -> None:
        """Check that the tokenizer fits the model, and read the texts in a folder.

        Args:
            body: transformers' Qwen2VLModel.
            head: the reward head.
            tokenizer: Qwen2-VL's; gets the reward token if it lacks it.
            folder: of HPSv3.

        Raises:
            MetricUnavailable: the embedding has another number of tokens.
        """
        tokenizer.add_tokens([REWARD], special_tokens=True)
        rows, own = body.get_input_embeddings().weight.shape[0], body.config.image_token_id
        if rows != len(tokenizer) or own != tokenizer.convert_tokens_to_ids(PLACE):
            raise MetricUnavailable(
                f"{folder}: expected a tokenizer of {rows} tokens, {REWARD} included, with {PLACE} "
                f"as {own}, found {len(tokenizer)} and {tokenizer.convert_tokens_to_ids(PLACE)}"
            )
        vision = body.config.vision_config
        self.body, self.head, self.tokenizer = body, head, tokenizer
        self.reward = tokenizer.convert_tokens_to_ids(REWARD)
        self.texts = read_texts(folder)
        self.grid = Grid(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)

    @torch.no_grad()
    def outputs(self, batch: Batch) -> Tensor:
        """Return the mean and the spread of each picture (B, 2), float32."""
        batch = batch.to(self.body.device)
        positions = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        hidden = self.body(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=positions.expand(3, *batch.ids.shape),  # plain text, along all three axes
            pixel_values=batch.patches,
            image_grid_thw=batch.grids,
            use_cache=False,
        ).last_hidden_state
        found: Tensor = self.head(hidden[batch.ids == self.reward].float())
        return found

    def scores(self, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        """Return one score a picture (N,), float64.

        Args:
            images: N pictures.
            prompts: N prompts.

        Raises:
            MetricUnavailable: a prompt contains a token that the model looks for.
        """
        found = []
        for i in range(0, len(images), BATCH):
            part = slice(i, i + BATCH)
            batch = read_batch(images[part], prompts[part], self.texts, self.tokenizer, self.grid)
            found.append(self.outputs(batch)[:, MU].cpu())
        return torch.cat(found).double().numpy()


def load_hpsv3(folder: Path) -> Judge:
    """Load HPSv3 from its folder, onto a GPU if there is one.

    Raises:
        UserError: a file is missing or does not fit.
        MetricUnavailable: the tokenizer does not fit, or transformers left tensors out.
    """
    from transformers import AutoTokenizer, Qwen2VLConfig

    file = weights_file(folder)
    header = read_header(file)
    check_tensors(header, read_json(folder / "config.json"), file)
    with safe_open(file, framework="pt") as stored:
        weights = {renamed(name): stored.get_tensor(name) for name in header if name != UNUSED}
    formats = {renamed(name): info["dtype"] for name, info in header.items()}
    config = Qwen2VLConfig.from_pretrained(folder, local_files_only=True)
    config.text_config.vocab_size = weights[EMBEDDING].shape[0]
    width = config.text_config.hidden_size
    numbers = {name.removeprefix(HEAD): name for name in weights if name.startswith(HEAD)}
    head = fill_(head_of(width), {name: weights.pop(own) for name, own in numbers.items()}, file)
    body = body_of(config, weights, SAFETENSORS_DTYPES[formats[EMBEDDING]], file)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Judge(body, head.to(body.device), tokenizer, folder)


def body_of(config: Any, weights: dict[str, Tensor], stored: str, file: Path) -> Any:
    """Return transformers' Qwen2VLModel with the weights.

    Args:
        config: its Qwen2VLConfig.
        weights: all of its tensors, by its names.
        stored: torch name of their number format.
        file: path of the weights, for the error message.

    Raises:
        MetricUnavailable: transformers did not load exactly these tensors.
    """
    from transformers import Qwen2VLModel

    device = default_device()
    body, info = Qwen2VLModel.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=loaded_format(device, stored),
        output_loading_info=True,
    )
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise MetricUnavailable(
            f"{file}: expected the names of Qwen2VLModel, found {len(wrong)} tensors that it lacks "
            f"or that are missing, such as {wrong[0]}"
        )
    return body.eval().requires_grad_(False).to(device)


def head_of(width: int) -> nn.Sequential:
    """Return the reward head for hidden states of a width, its layers at their published places."""
    first, second, third = WIDTHS.values()
    return nn.Sequential(
        nn.Linear(width, first),
        nn.ReLU(),
        nn.Dropout(0.05),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, third),
    )
