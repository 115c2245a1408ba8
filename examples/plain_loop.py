"""A criterion in a custom training loop: python examples/plain_loop.py"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from autodistill import IntermediateLayersKnowledgeDistillationLoss

torch.manual_seed(0)
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
batches = list(zip(images[:1280].split(64), labels[:1280].split(64), strict=True))
teacher = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
student = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

optimizer = torch.optim.Adam(teacher.parameters())
for inputs, targets in batches * 10:
    nn.functional.cross_entropy(teacher(inputs), targets).backward()
    optimizer.step()
    optimizer.zero_grad()

criterion = IntermediateLayersKnowledgeDistillationLoss(
    [("1", "3"), ("2", "4")],  # the hidden layers, whose widths a trained matcher adapts, and the logits
    loss_types=["MSE", "KL"],
    loss_weights=[0.1, 1.0],
    add_origin_loss=True,
    student_model=student,
    teacher_model=teacher,
    temperature=2.0,
    example=images[:2],
)
optimizer = torch.optim.Adam([*student.parameters(), *criterion.parameters()], lr=3e-3)
with criterion:
    for inputs, targets in batches * 10:
        criterion.teacher_model_forward(inputs)
        criterion(student(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
for name, model in (("teacher", teacher), ("student", student)):
    print(f"accuracy of the {name}: {(model(images[1280:]).argmax(1) == labels[1280:]).float().mean().item():.3f}")
