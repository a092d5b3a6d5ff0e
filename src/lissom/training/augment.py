"""Augmentation of a batch: crop, flip, mixup, cutmix. All chance comes from the generator that is passed.

Mixup, Zhang et al. 2018 (arXiv:1710.09412), section 2: `x = s x_i + (1 - s) x_j`, `s ~ Beta(α, α)`; the loss is the
same mixture of both targets' losses. Cutmix, Yun et al. 2019 (arXiv:1905.04899), equations 1, 2: a box of area `1 - s`
comes from `x_j`; `s` is then set to the share that is really left, since boxes are cut off at the border. One `s` and
one permutation per batch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from lissom.errors import DataError
from lissom.task import Batch
from lissom.training.settings import Training


class Mixed(NamedTuple):
    """The target of a mixed batch: class indices `(b,)` of both examples, and the share of the first."""

    first: Tensor
    second: Tensor
    share: float


def augmented(batch: Batch, settings: Training, generator: torch.Generator) -> Batch:
    """A new batch; its target is `Mixed` if mixup or cutmix is on.

    Raises:
        DataError: the inputs or the target are not of the kind that an augmentation needs.
    """
    if settings.crop or settings.flip:
        batch = _moved(batch, settings, generator)
    if settings.mixup or settings.cutmix:
        batch = _mixed(batch, settings, generator)
    return batch


def class_indices(target: Any, size: int, what: str) -> Tensor:
    """The target if it is class indices `(size,)`.

    Raises:
        DataError: it is something else; names the setting `what`.
    """
    if isinstance(target, Tensor) and target.shape == (size,) and not _real(target):
        return target
    shown = f"{target.dtype} of shape {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
    raise DataError(
        f"{what} needs targets that are class indices, integers of shape ({size},), got {shown}. Set {what} to 0, or "
        "let Task(feed=...) return such targets."
    )


def _real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool


def _image(batch: Batch, what: str) -> Tensor:
    images = [tensor for tensor in batch.tensors() if tensor.ndim == 4 and tensor.is_floating_point()]
    if len(images) != 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in batch.tensors())
        raise DataError(
            f"{what} needs exactly one input of images, floating point of shape (batch, channels, height, width), got "
            f"inputs of shape {shapes}. Switch {what} off, or augment in Task(train=...)."
        )
    return images[0]


def _with(batch: Batch, old: Tensor, new: Tensor) -> Batch:
    args, kwargs = pytree.tree_map(lambda leaf: new if leaf is old else leaf, (batch.args, dict(batch.kwargs)))
    return Batch(args, kwargs, batch.target)


def _moved(batch: Batch, settings: Training, generator: torch.Generator) -> Batch:
    """Crop and flip as one gather: `out[b, c, i, j] = padded[b, c, top_b + i, left_b + j]`, `j` mirrored or not."""
    what = "crop" if settings.crop else "flip"
    images = _image(batch, what)
    if any(isinstance(leaf, Tensor) and leaf.ndim > 2 for leaf in pytree.tree_leaves(batch.target)):
        raise DataError(
            f"{what} moves images only, and the targets have more than two axes: they would no longer fit. Set {what} "
            "off and augment both together in Task(train=...)."
        )
    b, c, h, w = images.shape
    pad = settings.crop
    top = torch.randint(2 * pad + 1, (b, 1), generator=generator) + torch.arange(h)
    left = torch.randint(2 * pad + 1, (b, 1), generator=generator) + torch.arange(w)
    if settings.flip:
        mirrored = torch.randint(2, (b, 1), generator=generator, dtype=torch.bool)
        left = torch.where(mirrored, left.flip(1), left)
    example, channel = torch.arange(b)[:, None, None, None], torch.arange(c)[:, None, None]
    padded = F.pad(images, (pad,) * 4)
    return _with(batch, images, padded[example, channel, top[:, None, :, None], left[:, None, None, :]])


def _mixed(batch: Batch, settings: Training, generator: torch.Generator) -> Batch:
    both = settings.mixup > 0 and settings.cutmix > 0
    # Drawn even where there is no choice: the other draws do not depend on which of the two is on.
    coin = bool(torch.randint(2, (), generator=generator))
    cut = coin if both else settings.cutmix > 0
    what, alpha = ("cutmix", settings.cutmix) if cut else ("mixup", settings.mixup)
    target = class_indices(batch.target, batch.size, what)
    partner = torch.randperm(batch.size, generator=generator)
    chance = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    share = float(chance.beta(alpha, alpha))
    if cut:
        images = _image(batch, what)
        new, share = _boxed(images, partner, share, chance)
        batch = _with(batch, images, new)
    else:
        batch = _blended(batch, partner, share)
    return Batch(batch.args, batch.kwargs, Mixed(target, target[partner], share))


def _blended(batch: Batch, partner: Tensor, share: float) -> Batch:
    size, count = batch.size, 0

    def blend(leaf: Any) -> Any:
        nonlocal count
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim and leaf.shape[0] == size:
            count += 1
            return torch.lerp(leaf[partner], leaf, share)
        return leaf

    args, kwargs = pytree.tree_map(blend, (batch.args, dict(batch.kwargs)))
    if not count:
        types = ", ".join(str(tensor.dtype) for tensor in batch.tensors())
        raise DataError(f"mixup blends floating point inputs, and the inputs are {types}. Set mixup to 0.")
    return Batch(args, kwargs, batch.target)


def _boxed(images: Tensor, partner: Tensor, share: float, chance: np.random.Generator) -> tuple[Tensor, float]:
    """Images with a box of their partner's, and the share of pixels that is their own."""
    h, w = images.shape[2:]
    side = math.sqrt(1.0 - share)
    y, x = chance.uniform(0, h), chance.uniform(0, w)
    top, bottom = (round(min(max(edge, 0), h)) for edge in (y - side * h / 2, y + side * h / 2))
    left, right = (round(min(max(edge, 0), w)) for edge in (x - side * w / 2, x + side * w / 2))
    new = images.clone()
    new[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return new, 1.0 - (bottom - top) * (right - left) / (h * w)
