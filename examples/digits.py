"""A whole project in one file: the model, the data, and the task that ties them together.

    lissom compress examples/digits.py --target onnxruntime --drop 1% --out runs/digits

Lissom calls `build()` and compresses the model it returns. The data are the 1,797 scanned digits (8x8 pixels)
that ship with scikit-learn, so this one runs offline; it is also what `lissom demo` compresses. To write a
project of your own, replace the three parts: load a trained model in place of `train`, your data in place of
`digits`, and say in the `Task` what counts as good.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
import lissom.data
from lissom.data import Batches, Images
from lissom.errors import ProjectError


class DigitsNet(nn.Module):
    """`(b, 1, 8, 8)` images to `(b, 10)` logits: 93,546 parameters, one residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.conv1 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.stem(x))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def digits() -> Images:
    """The scans as uint8 images `(1797, 1, 8, 8)`."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as missing:
        raise ProjectError('The digits ship with scikit-learn: pip install "lissom[data]".') from missing
    scans = load_digits()
    # 17 levels of grey, spread over the 256 of an image.
    pixels = torch.as_tensor(scans.images * 15.9375).round().to(torch.uint8)[:, None]
    return Images(pixels, torch.as_tensor(scans.target), tuple("0123456789"))


def train(batches: Batches, epochs: int, seed: int) -> nn.Module:
    """A model trained from scratch; the same one for the same arguments and number of threads."""
    # Layers draw their first weights from the global generator; afterwards it is as the caller had it.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = DigitsNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * len(batches))
    for epoch in range(epochs):
        for x, y in batches.at_epoch(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def build(seed: int | str = 0, epochs: int | str = 8) -> tuple[nn.Module, lissom.Task]:
    """The trained model and its task. `--set epochs=20` on the command line sends text."""
    seed, epochs = int(seed), int(epochs)
    # The split has a seed of its own: models of different seeds are then measured on the same images.
    rest, test_images = lissom.data.split(digits(), 0.2, seed=0)
    train_images, validation_images = lissom.data.split(rest, 0.2, seed=0)
    training = Batches(train_images, batch_size=64, mean=0.3, std=0.35, shuffle=True, seed=seed)
    x, _ = next(iter(Batches(validation_images, batch_size=1, mean=0.3, std=0.35)))
    return train(training, epochs, seed), lissom.Task(
        example_inputs=(x,),
        train=training,
        calibration=Batches(train_images, batch_size=64, mean=0.3, std=0.35),
        validation=Batches(validation_images, batch_size=256, mean=0.3, std=0.35),
        test=Batches(test_images, batch_size=256, mean=0.3, std=0.35),
        loss=F.cross_entropy,
        metric=lissom.metrics.accuracy,
        name="digits",
    )
