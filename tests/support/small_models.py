"""Small students and teachers, one for each way in which blocks can be connected."""

from __future__ import annotations

import torch
from torch import nn


class Transformer(nn.Module):
    """Tokens (N, L, 8) to logits (N, 10) through `layers`."""

    def __init__(self, width: int, depth: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout, batch_first=True) for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden.mean(dim=1))


class ResidualBlock(nn.Module):
    """Two convolutions with batch normalisation and a shortcut; the activations work in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, images):
        return self.activation(self.body(images) + images)


class ConvolutionalNetwork(nn.Module):
    """Images (N, 1, 8, 8) to logits (N, 10) through `blocks`, with a pooling between them that is not distilled."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(depth))
        self.head = nn.Linear(channels, 10)

    def forward(self, images):
        features = self.stem(images)
        for number, block in enumerate(self.blocks):
            features = block(features)
            if number == 1:
                features = nn.functional.max_pool2d(features, 2)
        return self.head(features.mean(dim=(2, 3)))


class Skipping(nn.Module):
    """Three linear blocks; the last also reads the output of the first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8 if number == 0 else width, width) for number in range(3))

    def forward(self, inputs):
        first = torch.tanh(self.blocks[0](inputs))
        second = torch.tanh(self.blocks[1](first))
        return self.blocks[2](first + second)


class Repeating(nn.Module):
    """One block that runs three times."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.block = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, inputs):
        hidden = self.embedding(inputs)
        for _ in range(3):
            hidden = self.block(hidden)
        return hidden


class Sharing(nn.Module):
    """Two blocks that share one weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.blocks[1].weight = self.blocks[0].weight

    def forward(self, inputs):
        hidden = self.embedding(inputs)
        for block in self.blocks:
            hidden = torch.tanh(block(hidden))
        return hidden


class Overwriting(nn.Module):
    """Blocks that add to their input in place."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.linear = nn.Linear(width, width)

        def forward(self, hidden):
            change = torch.tanh(self.linear(hidden.clone()))
            return hidden.add_(change)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.blocks = nn.ModuleList(self.Block(width) for _ in range(2))

    def forward(self, inputs):
        hidden = self.embedding(inputs)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class Counted(nn.Module):
    """A model that counts its forward passes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = 0

    def forward(self, *args, **kwargs):
        self.forwards += 1
        return self.model(*args, **kwargs)


class Deep(nn.Module):
    """Blocks whose names begin alike: layer.1 and layer.10."""

    def __init__(self, depth: int = 12) -> None:
        super().__init__()
        self.layer = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))

    def forward(self, x):
        for layer in self.layer:
            x = layer(x)
        return x


class Around(nn.Module):
    """A model inside another module, with a neutral name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs):
        return self.model(**inputs)
