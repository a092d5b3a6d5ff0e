"""Training some weights of a matrix beside others that must not move.

    w = where(open, q(t), m f)             t trained, f frozen, q rounding to int8 or nothing, m = 1 or a learned mask

The mask of old weights is learned as in Mallya et al. 2018 (Piggyback, arXiv:1801.06519), section 3: a real score for
each weight begins at 0.01, m = 1 where it is above 0.005, and the gradient of m is taken for that of the score.
Rounding passes the gradient on inside the range of the int8 scale and none outside (Bengio et al. 2013,
arXiv:1308.3432). Nothing is rounded in channels that have no scale yet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom.functional.affine import SMALLEST_SCALE, WEIGHT_LIMIT

BEGIN, THRESHOLD = 0.01, 0.005
"""Of the scores."""


@dataclass(frozen=True, eq=False)
class Part:
    """What is known about one shared weight while a task is added. All tensors have its shape but `scales`."""

    begin: Tensor
    """Values that training begins with."""
    open: Tensor
    """bool: may be trained."""
    frozen: Tensor
    """Values of earlier tasks, zero elsewhere."""
    old: Tensor
    """bool: earlier tasks have it."""
    scores: Tensor | None
    """Of the old weights; None: all of them are used."""
    scales: Tensor | None
    """(channels,), 0 where a channel has none yet; None: the weights are floats."""
    axis: int

    @property
    def picked(self) -> Tensor:
        """bool: old weights that are used."""
        return self.old if self.scores is None else self.old & (self.scores > THRESHOLD)


def rounded(values: Tensor, scales: Tensor, axis: int) -> Tensor:
    """Int8 values times their scales, with a gradient inside the range; as they are where the scale is 0."""
    shape = [1] * values.ndim
    shape[axis] = -1
    scale = scales.reshape(shape)
    step = scale.clamp_min(SMALLEST_SCALE)
    inside = values.clamp(-WEIGHT_LIMIT * step, WEIGHT_LIMIT * step)
    steps = torch.round(inside.detach() / step).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
    return torch.where(scale > 0, steps * step + (inside - inside.detach()), values)


class Mixed(nn.Module):
    """The parametrization of one weight."""

    frozen: Tensor
    open: Tensor
    old: Tensor
    scales: Tensor | None

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.axis = part.axis
        self.register_buffer("frozen", part.frozen)
        self.register_buffer("open", part.open)
        self.register_buffer("old", part.old)
        self.register_buffer("scales", part.scales)
        self.scores = None if part.scores is None else nn.Parameter(part.scores.clone())

    def forward(self, trained: Tensor) -> Tensor:
        value = trained if self.scales is None else rounded(trained, self.scales, self.axis)
        frozen = self.frozen
        if self.scores is not None:
            frozen = frozen * ((self.scores > THRESHOLD) + (self.scores - self.scores.detach()))
        return torch.where(self.open, value, frozen)


def mixed(model: nn.Module, parts: Mapping[str, Part]) -> nn.Module:
    """`model` itself, its shared weights now computed from their parts."""
    for name, part in parts.items():
        owner_name, _, leaf = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        device = getattr(owner, leaf).device
        setattr(owner, leaf, nn.Parameter(part.begin.clone().to(device)))
        parametrize.register_parametrization(owner, leaf, Mixed(part).to(device))
    return model


@torch.no_grad()
def parts_of(model: nn.Module, parts: Mapping[str, Part]) -> dict[str, Part]:
    """The same parts after training."""
    found: dict[str, Part] = {}
    for name, part in parts.items():
        owner_name, _, leaf = name.rpartition(".")
        held = model.get_submodule(f"{owner_name}.parametrizations.{leaf}".lstrip("."))
        how = held.get_submodule("0")
        assert isinstance(how, Mixed)
        trained = held.get_parameter("original").detach().cpu().clone()
        scores = None if how.scores is None else how.scores.detach().cpu().clone()
        found[name] = Part(trained, part.open, part.frozen, part.old, scores, part.scales, part.axis)
    return found


def private_of(model: nn.Module, shared: Collection[str]) -> dict[str, Tensor]:
    """Everything of the state that no other task has: head, biases, normalizations, buffers."""
    return {
        name: value.detach().cpu().clone()
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and name not in shared and "parametrizations." not in name
    }
