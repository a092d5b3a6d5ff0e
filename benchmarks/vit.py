"""A small vision transformer for CIFAR-10, trained here in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
import lissom.data
from benchmarks.context import Context
from lissom.files import load_tensors, save_tensors
from lissom.pipeline.transforming import load_state, state_of, transform
from lissom.target import load_target

PATCH, WIDTH, DEPTH, HEADS = 8, 192, 4, 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Attention(nn.Module):
    """`(b, n, width)` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.ffn = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class VisionTransformer(nn.Module):
    """`(b, 3, 32, 32)` images to `(b, 10)` logits, 1.8 million parameters; the mean of the tokens is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.position = nn.Parameter(0.02 * torch.randn(1, (32 // PATCH) ** 2, WIDTH))
        self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


@dataclass(frozen=True)
class Length:
    """How long it is trained."""

    epochs: int
    learning_rate: float = 1e-3


def trained(context: Context, length: Length) -> tuple[nn.Module, lissom.Task]:
    """The network and its task; the weights are kept in `context.kept`.

    Raises:
        MissingDataError: no CIFAR-10.
    """
    task = task_of(context)
    torch.manual_seed(0)
    model = VisionTransformer().eval()
    file = context.kept / f"vit-{length.epochs}.safetensors"
    if file.is_file():
        load_state(model, load_tensors(file))
        return model, task
    context.say(f"training, {length.epochs} epochs")
    training = lissom.Finetune(epochs=length.epochs, optimizer="adamw", learning_rate=length.learning_rate)
    after = transform(model, task, lissom.Recipe([training]), load_target("torch"))[-1].model
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(file, state_of(after))
    return after, task


def task_of(context: Context) -> lissom.Task:
    """45,000 images to train on, 5,000 to judge on, the test split for the final figures."""
    data = context.folder("data", "cifar10")
    train, validation = lissom.data.split(lissom.data.parquet(data, "train"), 0.1, seed=0)
    _, calibration = lissom.data.split(train, 512 / len(train), seed=0)
    batches = partial(lissom.data.Batches, batch_size=128, mean=MEAN, std=STD)
    x, _ = next(iter(batches(validation, batch_size=1)))
    return lissom.Task(
        example_inputs=(x,),
        train=batches(train, shuffle=True, seed=0, augment=lissom.data.crop_and_flip(padding=4)),
        calibration=batches(calibration),
        validation=batches(validation),
        test=batches(lissom.data.parquet(data, "test")),
        loss=F.cross_entropy,
        metric=lissom.metrics.accuracy,
        name="vit-cifar10",
    )
