"""Batches of a set in memory, the same ones for the same arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lissom.data._sets import Images, Sounds, generator_for, in_order
from lissom.errors import UsageError

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""`(x, generator) -> x`, drawing all its chance from `generator`."""

# Full scale of each stored type: uint8 pixels become [0, 1], int16 samples [-1, 1).
_FULL_SCALE = {torch.uint8: 255.0, torch.int16: 32768.0}


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches `(x, y)` of a set; every `iter()` starts anew, the last batch may be smaller.

    With `shuffle`, the order and the augmentation follow from `seed` and `epoch` alone: iterating twice
    repeats the same epoch, `at_epoch(n)` gives another one.

    Attributes:
        data: `Images`, `Sounds`, or a pair of tensors `(inputs, labels)` with one row per example.
            uint8 pixels become float32 in [0, 1], int16 samples float32 in [-1, 1), others stay as they are.
        batch_size: examples in a batch.
        mean, std: batches are `(x - mean) / std`; one number, or one per channel (axis 1), in those units.
        shuffle: draw a new order for each epoch; else the order of `data`.
        seed, epoch: decide the order and the augmentation, together.
        augment: `(x, generator) -> x` before the normalisation, drawing its chance from `generator` only.

    Raises:
        UsageError: an argument that is out of range or does not fit the data.
    """

    data: Images | Sounds | tuple[Tensor, Tensor]
    batch_size: int = 128
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    shuffle: bool = False
    seed: int = 0
    epoch: int = 0
    augment: Augment | None = None

    def __post_init__(self) -> None:
        inputs, labels = self._tensors()
        if len(inputs) != len(labels) or not len(labels):
            raise UsageError(
                f"Batches: data has {len(inputs)} inputs and {len(labels)} labels. "
                f"Pass as many of one as of the other, at least one."
            )
        if self.batch_size < 1:
            raise UsageError(f"Batches: batch_size must be at least 1, got {self.batch_size}.")
        normalised = self.mean is not None or self.std is not None
        if normalised and inputs.dtype not in _FULL_SCALE and not inputs.is_floating_point():
            raise UsageError(
                f"Batches: mean and std need pixels, samples or floats, got inputs of {inputs.dtype}. "
                f"Leave both out for integer inputs such as token ids."
            )
        _per_channel("mean", self.mean, inputs)
        if (std := _per_channel("std", self.std, inputs)) is not None and not bool((std > 0).all()):
            raise UsageError(f"Batches: std must be above 0 in every channel, got {self.std!r}.")

    def __len__(self) -> int:
        """How many batches one iteration gives."""
        return math.ceil(self.examples / self.batch_size)

    @property
    def examples(self) -> int:
        """How many examples one iteration gives."""
        return len(self._tensors()[1])

    def at_epoch(self, epoch: int) -> Batches:
        """The same batches in the order, and with the augmentation, of another epoch."""
        return replace(self, epoch=epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = self._tensors()
        mean, std = _per_channel("mean", self.mean, inputs), _per_channel("std", self.std, inputs)
        generator = generator_for("batches", self.seed, self.epoch)
        order = torch.randperm(len(labels), generator=generator) if self.shuffle else torch.arange(len(labels))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            x = inputs[rows]
            if (scale := _FULL_SCALE.get(x.dtype)) is not None:
                x = x.to(torch.float32).div_(scale)
            if self.augment is not None:
                x = self.augment(x, generator)
            if mean is not None:
                x = x - mean
            if std is not None:
                x = x / std
            yield in_order(x), labels[rows]

    def _tensors(self) -> tuple[Tensor, Tensor]:
        match self.data:
            case Images(pixels=inputs, labels=labels) | Sounds(samples=inputs, labels=labels):
                return inputs, labels
            case (inputs, labels):
                return inputs, labels


def crop_and_flip(padding: int) -> Augment:
    """A random crop of every image, padded by `padding` black pixels on each side, half of them mirrored.

    The usual augmentation of small images `(b, c, h, w)` (He et al. 2016, section 4.2).

    Raises:
        UsageError: a negative `padding`.
    """
    if padding < 0:
        raise UsageError(f"crop_and_flip: padding must be 0 or more pixels, got {padding}.")

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        b, c, h, w = x.shape
        top = torch.randint(2 * padding + 1, (b, 1), generator=generator) + torch.arange(h)
        left = torch.randint(2 * padding + 1, (b, 1), generator=generator) + torch.arange(w)
        mirrored = torch.randint(2, (b, 1), generator=generator, dtype=torch.bool)
        left = torch.where(mirrored, left.flip(1), left)
        image, channel = torch.arange(b)[:, None, None, None], torch.arange(c)[:, None, None]
        return F.pad(x, (padding,) * 4)[image, channel, top[:, None, :, None], left[:, None, None, :]]

    return augment


def _per_channel(what: str, value: float | Sequence[float] | None, inputs: Tensor) -> Tensor | None:
    """`value` shaped to broadcast along axis 1 of a batch of `inputs`."""
    if value is None or isinstance(value, (int, float)):
        return None if value is None else torch.tensor(float(value))
    channels = inputs.shape[1] if inputs.dim() > 1 else 0
    if len(value) != channels:
        raise UsageError(
            f"Batches: {what} has {len(value)} numbers, but inputs of shape {tuple(inputs.shape)} have "
            f"{channels} channels. Pass one number, or one per channel."
        )
    return torch.tensor(value, dtype=torch.float32).reshape(-1, *[1] * (inputs.dim() - 2))
