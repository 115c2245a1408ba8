"""Image files as a data set, with stored predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from autodistill.errors import ConfigurationError
from autodistill.standalone.guide import train_with_distillation
from autodistill.standalone.image_files import ImageFiles
from autodistill.standalone.stored_predictions import DistillationDataset, save_predictions


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(6):
        pixels = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


def test_images_come_in_sorted_order_with_their_labels_and_predictions(folder) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    images = ImageFiles(f"{folder}/*.png", [0, 1, 2, 0, 1, 2])
    save_predictions(teacher, DataLoader(images, batch_size=4), folder / "teacher.safetensors")
    dataset = DistillationDataset(images, folder / "teacher.safetensors")
    image, label, prediction = dataset[4]
    pixels = torch.from_numpy(np.array(Image.open(folder / "4.png"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(image, pixels)
    assert label == 1
    torch.testing.assert_close(prediction, teacher(pixels[None])[0].detach())
    student = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    history = train_with_distillation(student, None, DataLoader(dataset, 3), optimizer, device="cpu", num_epochs=5)
    assert history[-1] < history[0]


def test_transform_receives_bytes_and_labels_may_come_from_the_path(folder) -> None:
    images = ImageFiles(sorted(folder.iterdir()), lambda path: int(path.stem), transform=lambda image: image)
    pixels, label = images[3]
    assert (label, pixels.shape, pixels.dtype) == (3, (4, 5, 3), np.uint8)
    assert np.array_equal(pixels, np.array(Image.open(folder / "3.png")))


def test_missing_images_labels_and_broken_files_are_refused(folder) -> None:
    with pytest.raises(ConfigurationError, match=r"at least one image, but .*\.jpg' matches none"):
        ImageFiles(f"{folder}/*.jpg", [])
    with pytest.raises(ConfigurationError, match="one label for each image, but 2 for 6 images"):
        ImageFiles(f"{folder}/*.png", [0, 1])
    (folder / "6.png").write_bytes(b"not an image")
    with pytest.raises(ConfigurationError, match=r"an image file must be readable, but .*6\.png is not: cannot"):
        ImageFiles([folder / "6.png"], [0])[0]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / "7.png")
    damaged = bytearray((folder / "7.png").read_bytes())
    damaged[damaged.index(b"IDAT") - 1] ^= 255  # the length of the chunk: Pillow raises SyntaxError
    (folder / "7.png").write_bytes(damaged)
    with pytest.raises(ConfigurationError, match=r"an image file must be readable, but .*7\.png is not: "):
        ImageFiles([folder / "7.png"], [0])[0]
