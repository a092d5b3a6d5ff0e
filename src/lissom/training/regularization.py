"""Training that makes whole channels small: which slices each penalty pulls at, found once on the traced model.

    slimming      L1 on the scales of the normalizations behind the channels; groups that no normalization scales: the
                  group lasso of what makes the channels. What is small afterwards is found by `criterion="bn_scale"`.
    group_lasso   the norm of everything that is cut with a channel, stronger for the weaker channels of a group.
    growing       weight decay that grows, on the channels that a `Prune(ratio=...)` at the start would cut.

Only groups that can be cut and have something to train take part. The maths is in `functional.penalty`. A penalty is a
function of the weights and the step alone, so a training that goes on is the same training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lissom.errors import RecipeError
from lissom.functional import importance, penalty
from lissom.functional.penalty import Layout
from lissom.functional.selection import select
from lissom.graph.channels import Group, Member, find_channels
from lissom.graph.trace import Trace
from lissom.training.settings import Training

EVERY = 10
"""Steps after which the growing strength grows."""
MOST = 0.9
"""Largest share of one group that is to be cut: that of `Prune`."""
SCALES = {"batch_norm": 1, "instance_norm": 1, "layer_norm": 2, "group_norm": 2, "rms_norm": 2}
"""Operators with a scale per channel, and where they take it."""


@dataclass(frozen=True, eq=False)
class Regularizer:
    """A penalty on the channels of one model, or of copies of it."""

    settings: Training
    read: Mapping[str, tuple[int, ...]]
    """Parameter to the axes along which its energy is taken."""
    layout: Layout
    doomed: Tensor | None
    """(channels,) 1 for those that are to be cut; None where all are pulled."""
    steps: int

    @property
    def channels(self) -> int:
        return len(self.layout.weights)

    def energies(self, model: nn.Module) -> Tensor:
        """(channels,) sums of squares."""
        found = [(model.get_parameter(name), axes) for name, axes in self.read.items()]
        return penalty.channel_energies(penalty.position_energies(found), self.layout)

    def __call__(self, model: nn.Module, step: int) -> Tensor:
        """What is added to the loss at `step` of the whole training."""
        energies, strength = self.energies(model), self.settings.pull
        if self.doomed is not None:
            return penalty.weighted_decay(energies, self.doomed * penalty.grown(step, self.steps, EVERY, strength))
        pulls: Tensor | float = strength
        if self.settings.regularizer == "group_lasso":
            pulls = strength * penalty.rising(energies, self.layout)
        return penalty.group_lasso(energies, self.layout.weights, pulls)


def regularizer_of(model: nn.Module, traced: Trace, settings: Training, steps: int) -> Regularizer | None:
    """The penalty that the settings name, for `model` of which `traced` is the trace; None if they name none.

    Raises:
        RecipeError: no channel of the model can be cut.
    """
    if settings.regularizer is None:
        return None
    groups = [group for group in find_channels(traced).groups if group.reason is None and group.size > 1]
    named = dict(model.named_parameters(remove_duplicate=False))
    weights = {name: weight for name, weight in named.items() if weight.requires_grad and weight.is_floating_point()}
    held = [(group, [m for m in group.members if m.parameter in weights]) for group in groups]
    held = [(group, members) for group, members in held if members]
    if not held:
        raise RecipeError(
            f"regularizer={settings.regularizer!r} makes channels small that can be cut, and this model has "
            f"{'none that are trained' if groups else 'none'}. Leave the regularizer out."
        )
    scales = _scales(traced) if settings.regularizer == "slimming" else frozenset[str]()
    made = _Made(weights)
    for group, members in held:
        if settings.regularizer != "slimming":
            made.add(group.size, members)
        elif own := [m for m in members if m.parameter in scales]:
            for member in own:
                made.add_places(member)
        else:
            made.add(group.size, _makers(members, weights))
    doomed = _doomed(held, weights, settings.ratio) if settings.ratio is not None else None
    device = next(iter(weights.values())).device
    doomed = None if doomed is None else doomed.to(device)
    return Regularizer(settings, made.read, made.layout(device), doomed, steps)


class _Made:
    """A layout that grows group by group."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self.read: dict[str, tuple[int, ...]] = {}
        self._places: list[tuple[Member, np.ndarray]] = []
        """Members with the numbers of the channels that their places belong to."""
        self._counts: list[np.ndarray] = []
        self._groups: list[int] = []

    def add(self, size: int, members: Sequence[Member]) -> None:
        """Channels that are what all members hold of them."""
        self._group(members, [np.arange(size)[:, None].repeat(m.places.shape[1], 1) for m in members], size)

    def add_places(self, member: Member) -> None:
        """Every place a channel of its own."""
        count = member.places.size
        self._group([member], [np.arange(count).reshape(member.places.shape)], count)

    def _group(self, members: Sequence[Member], owners: Iterable[np.ndarray], size: int) -> None:
        start, counts = sum(map(len, self._counts)), np.zeros(size)
        for member, owner in zip(members, owners, strict=True):
            weight = self._weights[member.parameter]
            counts += np.bincount(owner.ravel(), minlength=size) * (weight.numel() // weight.shape[member.axis])
            axes = self.read.get(member.parameter, ())
            self.read[member.parameter] = axes if member.axis in axes else (*axes, member.axis)
            self._places.append((member, start + owner))
        self._groups += [len(self._counts)] * size
        self._counts.append(counts)

    def layout(self, device: torch.device) -> Layout:
        offsets: dict[tuple[str, int], int] = {}
        total = 0
        for name, axes in self.read.items():
            for axis in axes:
                offsets[name, axis] = total
                total += self._weights[name].shape[axis]
        source = [offsets[m.parameter, m.axis] + m.places.ravel() for m, _ in self._places]
        owner = [channels.ravel() for _, channels in self._places]
        return Layout(
            source=torch.from_numpy(np.concatenate(source)).to(device),
            owner=torch.from_numpy(np.concatenate(owner)).to(device),
            weights=torch.from_numpy(np.concatenate(self._counts)).float().to(device),
            group=torch.tensor(self._groups).to(device),
            groups=len(self._counts),
        )


def _scales(traced: Trace) -> frozenset[str]:
    """Scale parameters of normalizations."""
    found = (node.parameter(SCALES[node.op]) for node in traced.graph.nodes if node.op in SCALES)
    return frozenset(name for name in found if name)


def _makers(members: Sequence[Member], weights: Mapping[str, Tensor]) -> Sequence[Member]:
    """The matrices and kernels that make the channels, or what there is."""
    matrices = [m for m in members if weights[m.parameter].ndim > 1]
    return [m for m in matrices if m.axis == 0] or matrices or members


def _doomed(held: Sequence[tuple[Group, Sequence[Member]]], weights: Mapping[str, Tensor], ratio: float) -> Tensor:
    """1 for the channels that `Prune(ratio=..., round_to=1)` would cut now, in the order of `held`."""
    scores: dict[str, Tensor] = {}
    for group, members in held:
        matrices = [m for m in members if weights[m.parameter].ndim > 1] or members
        rows = [_rows(weights[m.parameter], m) for m in matrices]
        parts = [importance.normalize(importance.magnitude(row, 2).square(), "mean") for row in rows]
        scores[group.name] = importance.normalize(importance.reduce_members(parts, "mean"), "mean")
    floors = {group.name: max(group.floor, round(group.size * (1 - MOST))) for group, _ in held}
    kept = select(scores, ratio, scope="global", floors=floors)
    marks: list[Tensor] = []
    for name, found in scores.items():
        mark = torch.ones(len(found))
        mark[list(kept[name])] = 0.0
        marks.append(mark)
    return torch.cat(marks)


def _rows(weight: Tensor, member: Member) -> Tensor:
    """(channels, everything that is cut with one of them)."""
    places = torch.from_numpy(member.places).to(weight.device)
    return weight.detach().movedim(member.axis, 0)[places].reshape(len(places), -1).cpu()
