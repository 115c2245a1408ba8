"""The runner with three loss callbacks, on convolutional networks: python examples/three_callbacks.py"""

import torch
from sklearn.datasets import load_digits

import autodistill as ad

torch.manual_seed(0)
digits = load_digits()
order = torch.randperm(len(digits.target))  # the digits are sorted by writer
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)[order] / 16
labels = torch.tensor(digits.target)[order]
parts = zip(images[:1280].split(64), labels[:1280].split(64), strict=True)
loader = [{"images": inputs, "labels": targets} for inputs, targets in parts]
test = [{"images": images[1280:], "labels": labels[1280:]}]
teacher = ad.DepthwiseSeparableStudent(10, in_channels=1, width=32, depth=2)
student = ad.DepthwiseSeparableStudent(10, in_channels=1, width=8, depth=2)
settings = ad.PhaseConfig(learning_rate=1e-2, scheduler="cosine", max_grad_norm=1.0)
ad.DistilRunner(teacher, None, [ad.LabelLossCallback()], settings).train(loader, steps=100)

callbacks = [
    ad.KLDivCallback(temperature=ad.AnnealedTemperature(start=5, end=1)),
    ad.MSEHiddenStatesCallback(
        need_mapping=True,
        teacher_hidden_state_dim=128,
        student_hidden_state_dim=32,
        layer_mapping=[(-1, -1)],
        weight=0.1,
    ),
    ad.AttentionHiddenStatesCallback(exclude_first_and_last=False, weight=0.1),
]
blocks = ["stem", "features.0", "features.1"]
runner = ad.DistilRunner(student, teacher, callbacks, settings, student_layers=blocks, teacher_layers=blocks)
for name, values in runner.train(loader, steps=200).items():
    print(f"{name}: {values[0]:.3f} -> {values[-1]:.3f}")
for name, value in ad.evaluate_distillation(student, teacher, test, "cpu").items():
    print(f"{name}: {value:.3f}")
