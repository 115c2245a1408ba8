"""A student for images, made of depthwise-separable convolutions; `depthwise_separable_space` has its dimensions."""

from __future__ import annotations

import torch
from torch import nn


class DepthwiseSeparableConv(nn.Sequential):
    """A convolution within each channel, then one across channels (MobileNets, https://arxiv.org/abs/1704.04861).

    Each is followed by batch normalisation and a ReLU. It takes about `1 / out_channels + 1 / kernel_size²` of the
    multiplications of a full convolution.

    Args:
        in_channels: of the input (N, in_channels, H, W).
        out_channels: of the output.
        stride: pixels between two positions of the first convolution.
        kernel_size: its side in pixels, odd.

    Examples:
        >>> DepthwiseSeparableConv(3, 64, stride=2)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 64, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, kernel_size: int = 3) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels,
                in_channels,
                kernel_size,
                stride=stride,
                padding=kernel_size // 2,
                groups=in_channels,
                bias=False,
            ),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


class DepthwiseSeparableStudent(nn.Module):
    """A classifier of images: a full convolution, depthwise-separable ones, the mean over pixels, a linear layer.

    The first convolution halves the image and returns `width` channels; it is a full one as in MobileNets, since a
    single filter for the only channel of a grey image would lose too much. Each of the `depth` others doubles the
    channels. The keywords from `width` on are the dimensions of `search_spaces.depthwise_separable_space`.

    Args:
        num_classes: of the logits (N, num_classes).
        in_channels: of the images (N, in_channels, H, W).
        width: channels after the first convolution.
        depth: depthwise-separable convolutions.
        kernel_size: the side of all filters in pixels, odd.

    Examples:
        >>> DepthwiseSeparableStudent(10, in_channels=1, width=8, depth=2)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, *, width: int = 64, depth: int = 2, kernel_size: int = 3
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size, stride=2, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.features = nn.Sequential(
            *(
                DepthwiseSeparableConv(width * 2**number, width * 2 ** (number + 1), kernel_size=kernel_size)
                for number in range(depth)
            )
        )
        self.classifier = nn.Linear(width * 2**depth, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        logits: torch.Tensor = self.classifier(self.features(self.stem(images)).mean(dim=(2, 3)))
        return logits
