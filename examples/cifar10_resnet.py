"""CIFAR-10 with the residual networks of He et al. (2016): a project on data and weights of your own.

    lissom compress examples/cifar10_resnet.py --set data=FOLDER --set weights=FOLDER --set depth=56

    data/train.parquet, data/test.parquet    CIFAR-10 as Hugging Face stores it: `image.bytes`, `label`
    weights/resnet56-cifar10.safetensors     `conv1`, `bn1`, `layer{1,2,3}.N.{conv1,bn1,conv2,bn2}`, `linear`

The networks are those of section 4.2. Their shortcuts are of option A, without parameters: where the image
halves, every second pixel is taken and the new channels are zero. ResNet-20 has 0.27 million parameters,
ResNet-56 0.85 million. Training images are cropped and flipped as there, so `Finetune` has nothing to add:

    - Finetune: {epochs: 5, learning_rate: 0.01}

K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition, CVPR 2016.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

import lissom
import lissom.data
from lissom.errors import ProjectError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Block(nn.Module):
    """`(b, inputs, h, w)` to `(b, outputs, h/stride, w/stride)`: two convolutions, a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        grown = outputs - inputs
        self.padding = (0, 0, 0, 0, grown // 2, grown // 2)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride == 2:
            x = F.pad(x[:, :, ::2, ::2], self.padding)
        return F.relu(out + x)


class ResNet(nn.Module):
    """`(b, 3, 32, 32)` images to `(b, classes)` logits; `depth` = 6 n + 2 weighted layers."""

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[Block(16, 16, 1) for _ in range(n)])
        self.layer2 = nn.Sequential(Block(16, 32, 2), *[Block(32, 32, 1) for _ in range(n - 1)])
        self.layer3 = nn.Sequential(Block(32, 64, 2), *[Block(64, 64, 1) for _ in range(n - 1)])
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def build(
    data: str | Path | None = None,
    weights: str | Path | None = None,
    depth: int | str = 20,
    batch_size: int | str = 128,
    seed: int | str = 0,
) -> tuple[nn.Module, lissom.Task]:
    """The trained network and its task. Numbers may arrive as text, from `--set name=value`.

    Raises:
        ProjectError: `data` or `weights` is not given, the weights are of another network, or a bad number.
    """
    depth, batch_size, seed = _whole("depth", depth), _whole("batch_size", batch_size), _whole("seed", seed)
    if depth < 8 or depth % 6 != 2:
        raise ProjectError(f"depth={depth}: these networks have 6 n + 2 layers. Pass 20, 32, 44, 56 or 110.")
    if data is None:
        raise ProjectError(
            "data is not given: the folder that holds train.parquet and test.parquet of CIFAR-10, with the "
            "columns image (encoded) and label. Pass --set data=FOLDER."
        )
    if weights is None:
        raise ProjectError(
            f"weights is not given: the folder that holds resnet{depth}-cifar10.safetensors, or such a file. "
            "Pass --set weights=FOLDER."
        )
    model = load(ResNet(depth), Path(weights), depth)

    # Published weights have seen all 50,000 training images: on `validation` they score near 100 %, which
    # shows how well what they learned is kept, not how good the network is: that is what `test` is for.
    images, test = lissom.data.parquet(data, "train"), lissom.data.parquet(data, "test")
    train, validation = lissom.data.split(images, 0.1, seed=0)
    _, calibration = lissom.data.split(train, min(0.5, 512 / len(train)), seed=0)

    batches = partial(lissom.data.Batches, batch_size=batch_size, mean=MEAN, std=STD)
    x, _ = next(iter(batches(validation, batch_size=1)))
    return model, lissom.Task(
        example_inputs=(x,),
        train=batches(train, shuffle=True, seed=seed, augment=lissom.data.crop_and_flip(padding=4)),
        calibration=batches(calibration),
        validation=batches(validation),
        test=batches(test),
        loss=F.cross_entropy,
        metric=lissom.metrics.accuracy,
        name=f"resnet{depth}-cifar10",
    )


def load(model: ResNet, weights: Path, depth: int) -> nn.Module:
    """`model` with the weights of `weights`, a file or the folder it is in, in eval mode."""
    file = weights / f"resnet{depth}-cifar10.safetensors" if weights.is_dir() else weights
    if not file.is_file():
        raise ProjectError(
            f"weights={weights}: there is no file {file}. Pass the folder that holds "
            f"resnet{depth}-cifar10.safetensors, or such a file."
        )
    try:
        missing, unexpected = model.load_state_dict(load_file(file), strict=False)
    except (SafetensorError, RuntimeError) as wrong:
        raise ProjectError(f"{file} does not hold a ResNet-{depth}: {wrong}") from wrong
    # How many batches a normalization has seen does not matter to what it computes.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ProjectError(
            f"{file} does not fit a ResNet-{depth}: it lacks {', '.join(missing[:3]) or 'nothing'} and has "
            f"{', '.join(unexpected[:3]) or 'nothing'} too many. Pass the weights of this depth."
        )
    return model.eval()


def _whole(name: str, value: int | str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ProjectError(f"{name}={value!r} is not a whole number. Pass --set {name}=NUMBER.") from None
