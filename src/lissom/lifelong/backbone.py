"""The weights that tasks share: values, owners, int8 scales; and what one task adds to them, as bytes.

A task's file holds two masks in one stream of bits (`functional.bitcoding`): which of the weights that were free it
keeps, then which of those that were taken it uses, unless it uses all. Values are stored once, by the task that keeps
them, in the order of their positions: int8 with the channel's scale, or float32. A channel's scale is set by the first
task that keeps a weight of it, and stored by that task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lissom.functional import bitcoding
from lissom.functional.affine import SMALLEST_SCALE, WEIGHT_LIMIT, quantize_weight
from lissom.functional.ownership import FREE, embedded

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Weights:
    """One shared parameter, all tasks together."""

    values: Tensor
    owner: Tensor
    """int16, 0 where free."""
    scales: Tensor | None
    """(channels,), 0 where not set; None for floats."""
    axis: int

    @property
    def free(self) -> Tensor:
        return self.owner == FREE

    def at(self, shape: tuple[int, ...]) -> Weights:
        """The same, wider."""
        scales = None if self.scales is None else embedded(self.scales, (shape[self.axis],))
        return Weights(embedded(self.values, shape), embedded(self.owner, shape), scales, self.axis)


@dataclass(frozen=True, eq=False)
class Share:
    """What one task has of one parameter."""

    own: Tensor
    """bool: weights that it keeps."""
    picked: Tensor
    """bool: weights of earlier tasks that it uses."""
    values: Tensor
    """Full shape; read where `own`."""


@dataclass(frozen=True, eq=False)
class Addition:
    """What one task adds, as it is stored."""

    masks: bytes
    tensors: dict[str, Tensor]
    """`value/NAME` and `scale/NAME`."""


@dataclass(frozen=True, eq=False)
class Backbone:
    """All shared parameters after some tasks."""

    weights: Mapping[str, Weights]
    tasks: int = 0
    used: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """bool: what the last task computes with."""

    @classmethod
    def empty(cls, shapes: Shapes, axes: Mapping[str, int], *, int8: bool) -> Backbone:
        return cls(
            {
                name: Weights(
                    torch.zeros(shape),
                    torch.zeros(shape, dtype=torch.int16),
                    torch.zeros(shape[axes[name]]) if int8 else None,
                    axes[name],
                )
                for name, shape in shapes.items()
            }
        )

    def at(self, shapes: Shapes) -> Backbone:
        return Backbone({name: one.at(shapes[name]) for name, one in self.weights.items()}, self.tasks)

    @property
    def size(self) -> int:
        return sum(one.values.numel() for one in self.weights.values())

    @property
    def free(self) -> int:
        return sum(int(one.free.sum()) for one in self.weights.values())

    def add(self, shares: Mapping[str, Share], scales: Mapping[str, Tensor]) -> Backbone:
        """With one more task. What has an owner stays as it is."""
        weights: dict[str, Weights] = {}
        for name, one in self.weights.items():
            share = shares[name]
            assert not bool((share.own & ~one.free).any())
            weights[name] = Weights(
                torch.where(share.own, share.values, one.values),
                torch.where(share.own, torch.tensor(self.tasks + 1, dtype=torch.int16), one.owner),
                None if one.scales is None else scales[name],
                one.axis,
            )
        used = {name: share.own | share.picked for name, share in shares.items()}
        return Backbone(weights, self.tasks + 1, used)

    def state(self) -> dict[str, Tensor]:
        """The shared parameters as the last task computes with them."""
        return {name: torch.where(self.used[name], one.values, 0.0) for name, one in self.weights.items()}


def write(before: Backbone, after: Backbone, *, picks: bool) -> Addition:
    """The last task of `after` as it is stored; `picks`: with the mask of the weights of earlier tasks."""
    own = {name: one.owner == after.tasks for name, one in after.weights.items()}
    flags = [own[name][one.free] for name, one in before.weights.items()]
    if picks:
        flags += [after.used[name][~one.free] for name, one in before.weights.items()]
    tensors: dict[str, Tensor] = {}
    for name, one in after.weights.items():
        held = one.values
        if one.scales is not None:
            held = quantize_weight(held, one.scales.clamp_min(torch.finfo(torch.float32).tiny), one.axis)
            new = _first_set(before.weights[name], own[name])
            tensors[f"scale/{name}"] = one.scales[new]
        tensors[f"value/{name}"] = held[own[name]]
    return Addition(bitcoding.encode(torch.cat(flags).numpy()), tensors)


def read(before: Backbone, stored: Addition, *, picks: bool) -> Backbone:
    """`before`, at the width of the task, with the task that was stored.

    Raises:
        ValueError: the bytes are not those of a task of this backbone.
    """
    count = before.free + (before.size - before.free if picks else 0)
    flags = torch.from_numpy(bitcoding.decode(stored.masks, count).astype(np.bool_))
    own = _placed(flags[: before.free], {name: one.free for name, one in before.weights.items()})
    old = {name: ~one.free for name, one in before.weights.items()}
    picked = _placed(flags[before.free :], old) if picks else old
    shares: dict[str, Share] = {}
    scales: dict[str, Tensor] = {}
    for name, one in before.weights.items():
        held = stored.tensors[f"value/{name}"]
        if len(held) != int(own[name].sum()):
            raise ValueError(f"{name}: {int(own[name].sum())} weights have {len(held)} values")
        values = torch.zeros_like(one.values)
        values[own[name]] = held.float()
        if one.scales is not None:
            new = _first_set(one, own[name])
            scales[name] = one.scales.clone()
            scales[name][new] = stored.tensors[f"scale/{name}"]
            shape = [1] * values.ndim
            shape[one.axis] = -1
            values = values * scales[name].reshape(shape)
        shares[name] = Share(own[name], picked[name], values)
    return before.add(shares, scales)


def _first_set(before: Weights, own: Tensor) -> Tensor:
    """bool, (channels,): channels of which a task is the first to keep a weight."""
    assert before.scales is not None
    return (before.scales == 0) & own.movedim(before.axis, 0).flatten(1).any(1)


def _placed(flags: Tensor, where: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flags of a stream back in their positions."""
    found: dict[str, Tensor] = {}
    done = 0
    for name, place in where.items():
        count = int(place.sum())
        found[name] = torch.zeros_like(place)
        found[name][place] = flags[done : done + count]
        done += count
    return found


def scales_for(before: Weights, own: Tensor, values: Tensor) -> Tensor | None:
    """Scales once a task keeps `own`: those that are set stay, max |w| / 127 of what it keeps for the others."""
    if before.scales is None:
        return None
    largest = torch.where(own, values, 0.0).abs().movedim(before.axis, 0).flatten(1).amax(1)
    new = _first_set(before, own)
    # A channel of nothing but zeros still needs a scale, to count as set.
    return torch.where(new, (largest / WEIGHT_LIMIT).clamp_min(SMALLEST_SCALE), before.scales)
