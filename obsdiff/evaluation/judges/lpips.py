"""LPIPS: the perceptual distance of two pictures, from the features of AlexNet.

    d(x, y) = sum_l mean_hw | w_l * (f_l(x) - f_l(y)) |^2       (Zhang et al. 2018, eq. 1)

f_l (B, C_l, h_l, w_l) the features of the l-th of five layers, normalised to length 1 over the
channels; w_l (C_l,) the learned heads, which torchmetrics contains. The backbone is torchvision's
published AlexNet. (torchmetrics' own LPIPS requires torchvision; a test compares the two.)

References:
    Zhang, Isola, Efros, Shechtman, Wang. The Unreasonable Effectiveness of Deep Features as a
        Perceptual Metric. 2018. https://arxiv.org/abs/1801.03924
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from .weights import MetricUnavailable, fill_, in_torch_cache, read_weights

ALEXNET_FILES = ("alexnet-owt-7be5be79.pth",)
TAPS = (1, 4, 7, 9, 11)  # positions of the ReLUs
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the channels, in [-1, 1]
SMALLEST_SIDE = 31  # pixels; smaller pictures have no output after the pools


class AlexNet(nn.Module):
    """The convolutions of torchvision's alexnet, by its names."""

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features (B, C_l, h_l, w_l) of the five layers for pixels (B, 3, H, W)."""
        found = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            found += [x] if i in TAPS else []
        return found


def load_alexnet(file: Path | None) -> AlexNet:
    """Load AlexNet with the weights of a file, or the published ones in torch's cache.

    Raises:
        MetricUnavailable: the weights are missing or do not fit.
    """
    file = file or in_torch_cache(ALEXNET_FILES, "LPIPS's AlexNet", "--lpips")
    return fill_(AlexNet(), read_weights(file), file)


def lpips_heads() -> list[Tensor]:
    """Return w_l^2 of the five layers (1, C_l, 1, 1), version 0.1, from torchmetrics' files."""
    spec = find_spec("torchmetrics")
    if spec is None or spec.origin is None:
        raise MetricUnavailable(
            "expected LPIPS's heads in torchmetrics, found no torchmetrics; install it"
        )
    folder = Path(spec.origin).parent / "functional" / "image" / "lpips_models"
    weights = read_weights(folder / "alex.pth")
    return [weights[f"lin{i}.model.1.weight"] for i in range(len(TAPS))]


@torch.no_grad()
def lpips(net: AlexNet, weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return the distances of two batches of pictures.

    Args:
        net: AlexNet.
        weights: w_l^2 (1, C_l, 1, 1) of the five layers.
        x: pictures (B, 3, H, W) uint8, at least 31 pixels high and wide.
        y: pictures (B, 3, H, W) uint8.

    Returns:
        The distances (B,), 0 for equal pictures.

    Raises:
        MetricUnavailable: the pictures are too small.
    """
    if min(x.shape[2:]) < SMALLEST_SIDE:
        raise MetricUnavailable(
            f"expected pictures of at least {SMALLEST_SIDE} pixels for AlexNet, found "
            f"{x.shape[3]} x {x.shape[2]}"
        )
    shift, scale = (torch.tensor(v)[None, :, None, None] for v in (SHIFT, SCALE))
    features = [net((p.float() / 127.5 - 1 - shift) / scale) for p in (x, y)]
    layers = zip(weights, *features, strict=True)
    return sum(
        (w * (unit_length(f) - unit_length(g)).square()).sum(1).mean((1, 2)) for w, f, g in layers
    )


def unit_length(f: Tensor) -> Tensor:
    """Return features (B, C, h, w) normalised to length 1 over the channels."""
    return f / (f.square().sum(1, keepdim=True) + 1e-8).sqrt()
