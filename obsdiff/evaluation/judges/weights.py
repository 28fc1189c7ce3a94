"""Read weights, and nothing but weights.

The Inception of FID, AlexNet, LPIPS's heads and ImageReward are published as .pth alone. Those are read by torch's weights-only reader,
which makes tensors and runs no code of the file; anything else in it is refused.
"""

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class NotAtHand(Exception):
    """A judge can't judge; the message says why."""


def read_weights(file: Path) -> dict[str, Tensor]:
    """Name -> tensor of a .safetensors or .pth file."""
    try:
        found = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except (UnpicklingError, EOFError) as error:
        raise NotAtHand(
            f"{file} holds something else than tensors, and was not opened: {str(error).splitlines()[0]}"
        ) from None
    if not isinstance(found, dict) or not all(
        isinstance(value, Tensor) for value in found.values()
    ):
        raise NotAtHand(f"{file}: expected names and tensors, found {type(found).__name__}")
    return found


def fill_(model: nn.Module, weights: dict[str, Tensor], file: Path) -> nn.Module:
    """Load all of a model's tensors, in float32; NotAtHand if one is missing or of another shape. Others in `weights` are left."""
    own = model.state_dict()
    wrong = [
        name
        for name, value in own.items()
        if name not in weights or weights[name].shape != value.shape
    ]
    wrong = [name for name in wrong if not name.endswith("num_batches_tracked")]
    if wrong:
        raise NotAtHand(
            f"{file} has not the weights of {type(model).__name__}: {len(wrong)} tensors are missing or of another shape, such as {wrong[0]}"
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
    """The first of some published files that lies in torch's cache; NotAtHand says where it is looked for."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise NotAtHand(
        f"no weights of {what}: expected {' or '.join(names)} in torch's cache, or {flag} FILE"
    )
