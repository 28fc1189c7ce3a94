"""The Inception network of FID and KID: pictures -> 2,048 features.

The network of Szegedy et al. as TensorFlow published it in 2015: its average pools exclude the
padding, and its last block uses a max pool. Figures are comparable only with its published weights.
Modules are named as in the port of these weights to torch: INCEPTION_FILES of torch-fidelity and
pytorch-fid, which are equal. (torch-fidelity cannot be imported without torchvision.) Pictures are
resized as by torchmetrics: bilinear, with antialiasing.

A block concatenates the outputs of its branches. A branch is a list of layers
(name, output channels, kernel, stride); a list in the place of a layer is a fork.

References:
    Szegedy, Vanhoucke, Ioffe, Shlens, Wojna. Rethinking the Inception Architecture for Computer
        Vision. 2015. https://arxiv.org/abs/1512.00567
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .weights import fill_, in_torch_cache, read_weights

INCEPTION_FILES = (
    "weights-inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
)
INCEPTION_SIDE = 299  # pixels


class Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU; stride 1 preserves the size, unless `valid`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        valid: bool = False,
    ) -> None:
        """Build a layer; `valid` pads nothing."""
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid or stride > 1 else (sides[0] // 2, sides[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        return F.relu(self.bn(self.conv(x)))


def average_pool(x: Tensor) -> Tensor:
    """Average over 3 x 3 pixels, padding excluded; preserves the size."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def max_pool(x: Tensor) -> Tensor:
    """Maximum over 3 x 3 pixels; preserves the size."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


def halve(x: Tensor) -> Tensor:
    """Maximum over 3 x 3 pixels at every second one; halves the size."""
    return F.max_pool2d(x, 3, stride=2)


class InceptionBlock(nn.Module):
    """Parallel branches, concatenated; the last one starts with a pool."""

    def __init__(
        self,
        inputs: int,
        branches: list[list[Any]],
        pool: Callable[[Tensor], Tensor],
        pooled: int = 0,
    ) -> None:
        """Build a block.

        Args:
            inputs: channels of the input.
            branches: without the last one, as the module's docstring describes.
            pool: of the last branch.
            pooled: outputs of the 1 x 1 convolution after the pool; 0 for none.
        """
        super().__init__()
        self.pool, self.branches = pool, branches
        self.branch_pool = Conv(inputs, pooled, 1) if pooled else nn.Identity()
        for branch in branches:
            width = inputs
            for step in branch:
                layers = step if isinstance(step, list) else [step]
                for name, *shape in layers:
                    setattr(self, name, Conv(width, *shape))
                width = sum(layer[1] for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        return torch.cat(
            [*(self.run(branch, x) for branch in self.branches), self.branch_pool(self.pool(x))], 1
        )

    def run(self, branch: list[Any], x: Tensor) -> Tensor:
        """Return the output of one branch."""
        for step in branch:
            layers = step if isinstance(step, list) else [step]
            x = torch.cat([getattr(self, layer[0])(x) for layer in layers], 1)
        return x


def block_a(inputs: int, pooled: int) -> InceptionBlock:
    """Return a block at 35 x 35, with a 5 x 5 and a double 3 x 3 branch."""
    five = [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)]
    double = [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)]
    return InceptionBlock(inputs, [[("branch1x1", 64, 1)], five, double], average_pool, pooled)


def block_b(inputs: int) -> InceptionBlock:
    """Return the block from 35 x 35 to 17 x 17."""
    double = [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)]
    return InceptionBlock(inputs, [[("branch3x3", 384, 3, 2)], double], halve)


def block_c(inputs: int, c: int) -> InceptionBlock:
    """Return a block at 17 x 17, with factorised 7 x 7 branches of c inner channels."""
    seven = [("branch7x7_1", c, 1), ("branch7x7_2", c, (1, 7)), ("branch7x7_3", 192, (7, 1))]
    double = [("branch7x7dbl_1", c, 1)] + [
        (f"branch7x7dbl_{i}", 192 if i == 5 else c, (1, 7) if i % 2 else (7, 1))
        for i in (2, 3, 4, 5)
    ]
    return InceptionBlock(inputs, [[("branch1x1", 192, 1)], seven, double], average_pool, 192)


def block_d(inputs: int) -> InceptionBlock:
    """Return the block from 17 x 17 to 8 x 8."""
    three = [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)]
    seven = [
        ("branch7x7x3_1", 192, 1),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
        ("branch7x7x3_4", 192, 3, 2),
    ]
    return InceptionBlock(inputs, [three, seven], halve)


def block_e(inputs: int, pool: Callable[[Tensor], Tensor]) -> InceptionBlock:
    """Return a block at 8 x 8, with forked 3 x 3 branches."""
    three = [
        ("branch3x3_1", 384, 1),
        [("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))],
    ]
    fork = [("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))]
    double = [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), fork]
    return InceptionBlock(inputs, [[("branch1x1", 320, 1)], three, double], pool, 192)


class Inception(nn.Module):
    """The layers in order, named as in the published weights, without their classifier."""

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, valid=True)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.MaxPool_1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, valid=True)
        self.MaxPool_2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = block_a(192, 32)
        self.Mixed_5c = block_a(256, 64)
        self.Mixed_5d = block_a(288, 64)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (
            block_c(768, c) for c in (128, 160, 160, 192)
        )
        self.Mixed_7a = block_d(768)
        self.Mixed_7b, self.Mixed_7c = block_e(1280, average_pool), block_e(2048, max_pool)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the features (B, 2048) of pictures (B, 3, H, W) uint8."""
        x = F.interpolate(
            pictures.float(),
            (INCEPTION_SIDE, INCEPTION_SIDE),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        x = (x - 128) / 128
        for layer in self.children():
            x = layer(x)
        return x.mean((2, 3))


def load_inception(file: Path | None) -> Inception:
    """Load Inception with the weights of a file, or the published ones in torch's cache.

    Raises:
        MetricUnavailable: the weights are missing or do not fit.
    """
    file = file or in_torch_cache(INCEPTION_FILES, "FID's Inception", "--features")
    return fill_(Inception(), read_weights(file), file)
