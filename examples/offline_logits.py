"""Distillation from a teacher's stored logits: python examples/offline_logits.py"""

import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autodistill import DistillationDataset, distillation_loss, save_predictions

torch.manual_seed(0)
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
train = TensorDataset(images[:1280], labels[:1280])
teacher = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
student = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

optimizer = torch.optim.Adam(teacher.parameters())
for inputs, targets in list(DataLoader(train, 64)) * 10:
    nn.functional.cross_entropy(teacher(inputs), targets).backward()
    optimizer.step()
    optimizer.zero_grad()

optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
with tempfile.TemporaryDirectory() as folder:
    save_predictions(teacher, DataLoader(train, 256), f"{folder}/teacher.safetensors")
    stored = DistillationDataset(train, f"{folder}/teacher.safetensors")
    for _ in range(10):
        for inputs, targets, teacher_logits in DataLoader(stored, 64, shuffle=True):
            distillation_loss(student(inputs), teacher_logits, targets, temperature=2.0, alpha=0.5).backward()
            optimizer.step()
            optimizer.zero_grad()
for name, model in (("teacher", teacher), ("student", student)):
    print(f"accuracy of the {name}: {(model(images[1280:]).argmax(1) == labels[1280:]).float().mean().item():.3f}")
