"""LPIPS: how different two pictures look, from the features of AlexNet.

    d(x, y) = sum_l mean_hw | w_l * (f_l(x) - f_l(y)) |^2       (Zhang et al. 2018, eq. 1)

f_l the l-th of five layers' features, scaled to length 1 at every place; w_l the learned heads, which torchmetrics carries. (torchmetrics'
own LPIPS needs torchvision for the bare network; the same figure is a test.) The backbone is torchvision's published AlexNet.

References:
    Zhang, Isola, Efros, Shechtman, Wang. The Unreasonable Effectiveness of Deep Features as a Perceptual Metric. 2018.
        https://arxiv.org/abs/1801.03924
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from .weights import NotAtHand, fill_, in_torch_cache, read_weights

ALEXNET_FILES = ("alexnet-owt-7be5be79.pth",)
TAPS = (1, 4, 7, 9, 11)  # after each ReLU
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
SMALLEST_SIDE = 31  # pixels; the network's pools leave nothing of less


class AlexNet(nn.Module):
    """The convolutions of torchvision's alexnet, by its names."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            found += [x] if i in TAPS else []
        return found


def load_alexnet(file: Path | None) -> AlexNet:
    """With the weights of a file, else the published ones in torch's cache."""
    file = file or in_torch_cache(ALEXNET_FILES, "LPIPS's AlexNet", "--lpips")
    return fill_(AlexNet(), read_weights(file), file)


def lpips_heads() -> list[Tensor]:
    """w_l^2 of the five layers (1, C_l, 1, 1), version 0.1, as torchmetrics carries them."""
    folder = Path(find_spec("torchmetrics").origin).parent / "functional" / "image" / "lpips_models"
    weights = read_weights(folder / "alex.pth")
    return [weights[f"lin{i}.model.1.weight"] for i in range(len(TAPS))]


@torch.no_grad()
def lpips(net: AlexNet, weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Distances (B,) of pictures (B, 3, H, W) uint8, at least 31 pixels high and wide."""
    if min(x.shape[2:]) < SMALLEST_SIDE:
        raise NotAtHand(
            f"AlexNet needs pictures of at least {SMALLEST_SIDE} pixels, found {x.shape[3]} x {x.shape[2]}"
        )
    shift, scale = (torch.tensor(v)[None, :, None, None] for v in (SHIFT, SCALE))
    features = [net((p.float() / 127.5 - 1 - shift) / scale) for p in (x, y)]
    layers = zip(weights, *features, strict=True)
    return sum(
        (w * (unit_length(f) - unit_length(g)).square()).sum(1).mean((1, 2)) for w, f, g in layers
    )


def unit_length(f: Tensor) -> Tensor:
    """Length 1 over the channels."""
    return f / (f.square().sum(1, keepdim=True) + 1e-8).sqrt()
