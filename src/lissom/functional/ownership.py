"""Which weights of a shared backbone belong to which task.

`owner` holds, for each weight, 0 where it is free and k where the k-th task keeps it. A task keeps the largest free
weights after it was trained, and nothing that has an owner ever changes:

    kept = the m free positions with the largest |w|          Mallya and Lazebnik 2018 (arXiv:1711.05769), section 3

An array that grows keeps what it held in its leading block; what is new is free.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

FREE = 0


def keep_largest(weight: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Bool, shape of `weight`: the `count` candidates of the largest magnitude, the first of equal ones.

    Raises:
        ValueError: there are fewer candidates.
    """
    places = candidates.flatten().nonzero().squeeze(1)
    if count > len(places):
        raise ValueError(f"{count} of {len(places)} candidates cannot be kept")
    order = weight.flatten()[places].abs().argsort(descending=True, stable=True)
    kept = torch.zeros(weight.numel(), dtype=torch.bool)
    kept[places[order[:count]]] = True
    return kept.reshape(weight.shape)


def embedded(block: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros of `shape` with `block` in the leading corner."""
    if tuple(block.shape) == tuple(shape):
        return block
    whole = torch.zeros(tuple(shape), dtype=block.dtype)
    whole[tuple(slice(size) for size in block.shape)] = block
    return whole


def width_needed(
    layers: Iterable[tuple[int, int, int]], share: float, *, step: float = 1 / 64, largest: float = 64.0
) -> float | None:
    """The smallest width, in multiples of `step`, at which every layer has the room for one more task.

    A task takes the share `share` of the weights that a layer has at that width.

    Args:
        layers: of each: weights now, free ones of them, and on how many axes (0 to 2) it grows with the width.
        share: in (0, 1).
        largest: widths beyond are not looked at.

    Returns:
        None where no width up to `largest` is enough: a layer that does not grow is full.
    """
    needed = 1.0
    for weights, free, axes in layers:
        # At width v a layer has v^axes n weights, of which used stay used: v^axes n - used >= share v^axes n.
        used = weights - free
        factor = used / (weights * (1.0 - share))
        if factor <= 1.0:
            continue
        if not axes:
            return None
        needed = max(needed, factor ** (1.0 / axes))
    rounded = math.ceil(round(needed / step, 9)) * step
    return rounded if rounded <= largest else None
