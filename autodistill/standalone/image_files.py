"""A data set of image files with their labels."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from autodistill.errors import ConfigurationError


class ImageFiles(Dataset[Any]):
    """Samples `(image, label)` of image files, for `save_predictions` and `DistillationDataset`.

    Args:
        images: the paths, or a pattern such as `'images/*.jpg'`, whose files are taken in sorted order.
        ground_truth: a label for each image in that order, or a function from an image's path to its label.
        transform: receives the image as an array (H, W, 3) of RGB bytes; without it an image is a tensor (3, H, W) of
            float32 in [0, 1].

    Raises:
        ConfigurationError: there is no image, or the number of labels differs; when a file is read, it is not an image.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (4, 2), "white").save(f"{folder}/a.png")
        ...     image, label = ImageFiles(f"{folder}/*.png", [7])[0]
        >>> image.shape, label
        (torch.Size([3, 2, 4]), 7)
    """

    def __init__(
        self,
        images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        ground_truth: Sequence[Any] | Callable[[Path], Any],
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        found = sorted(glob.glob(os.fspath(images))) if isinstance(images, str | os.PathLike) else images
        self.paths = [Path(path) for path in found]
        self.ground_truth = ground_truth
        self.transform = transform
        if not self.paths:
            raise ConfigurationError(f"a data set needs at least one image, but {images!r} matches none.")
        if not callable(ground_truth) and len(ground_truth) != len(self.paths):
            raise ConfigurationError(
                f"ground_truth has one label for each image, but {len(ground_truth)} for {len(self.paths)} images."
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path = self.paths[index]
        label = self.ground_truth(path) if callable(self.ground_truth) else self.ground_truth[index]
        image = _rgb(path)
        if self.transform is not None:
            return self.transform(image), label
        return torch.from_numpy(image).movedim(-1, 0).float() / 255, label


def _rgb(path: Path) -> Any:
    """(H, W, 3), bytes."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigurationError("image files are read with Pillow; install it: pip install pillow.") from error
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # a damaged PNG file raises SyntaxError
        raise ConfigurationError(f"an image file must be readable, but {path} is not: {error}.") from error
