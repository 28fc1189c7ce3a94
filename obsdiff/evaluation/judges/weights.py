"""Read the weights of metric models without running code of their files.

The Inception of FID, AlexNet, LPIPS's heads and ImageReward are published as .pth files only. These
are read by torch's weights-only reader, which builds tensors and refuses anything else.
"""

from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class MetricUnavailable(Exception):
    """A metric cannot be computed; the message is the reason."""


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or .pth file by name.

    Raises:
        MetricUnavailable: the file contains something else than named tensors.
    """
    try:
        found = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except (UnpicklingError, EOFError) as error:
        raise MetricUnavailable(
            f"{file}: expected tensors, found something else than tensors, and did not load it: "
            f"{str(error).splitlines()[0]}"
        ) from None
    if not isinstance(found, dict) or not all(
        isinstance(value, Tensor) for value in found.values()
    ):
        raise MetricUnavailable(f"{file}: expected names and tensors, found {type(found).__name__}")
    return found


def fill_(model: Network, weights: dict[str, Tensor], file: Path) -> Network:
    """Load all tensors of a model in float32, and prepare it for inference.

    Args:
        model: is changed in place.
        weights: tensors by the model's names; others are ignored.
        file: path of the weights, for the error message.

    Returns:
        The model.

    Raises:
        MetricUnavailable: a tensor is missing or has another shape.
    """
    own = model.state_dict()
    wrong = [
        name
        for name, value in own.items()
        if name not in weights or weights[name].shape != value.shape
    ]
    wrong = [name for name in wrong if not name.endswith("num_batches_tracked")]
    if wrong:
        raise MetricUnavailable(
            f"{file}: expected the weights of {type(model).__name__}, found {len(wrong)} tensors "
            f"missing or of another shape, such as {wrong[0]}"
        )
    model.load_state_dict(
        {
            name: weights[name].float()
            for name in own
            if name in weights and weights[name].shape == own[name].shape
        },
        strict=False,
    )
    return model.eval().requires_grad_(False)


def in_torch_cache(names: tuple[str, ...], what: str, flag: str) -> Path:
    """Return the first of some published files that is in torch's cache.

    Args:
        names: of the published files.
        what: the model's name, for the error message.
        flag: of the command line, for the error message.

    Raises:
        MetricUnavailable: none of the files is in the cache.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise MetricUnavailable(
        f"no weights of {what}: expected {' or '.join(names)} in torch's cache: --download, "
        f"or {flag} FILE"
    )
