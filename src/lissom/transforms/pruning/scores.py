"""Importance of every channel of every group, by criterion: `functional.importance` on a real model.

A group's score is taken over its members: every parameter axis that is cut with it. Criteria that look at weights read
matrices and kernels, both those that make the channels and those that read them; gradient criteria read
normalizations and biases as well; `bn_scale`, `fpgm` and `cosine` read what their papers name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lissom.functional import importance
from lissom.functional.importance import Activity, Normalization, Reduction
from lissom.graph.channels import Channels, Group, Member
from lissom.graph.trace import Trace
from lissom.task import Batch
from lissom.transforms.pruning.evidence import (
    Consumer,
    Loss,
    activations,
    consumers_of,
    gradients,
    rows_of,
    tensors_of,
)

Criterion = Literal[
    "magnitude", "l1", "l2", "lamp", "fpgm", "cosine", "bn_scale", "gradient", "taylor", "fisher", "activation", "apoz",
    "reconstruction", "random",
]  # fmt: skip
GRADIENT = frozenset({"gradient", "taylor", "fisher"})
ACTIVATION = frozenset({"activation", "apoz", "reconstruction"})
Scores = dict[str, Tensor]
"""Group to (channels,) scores, float64; the least important channel has the least."""


@dataclass(frozen=True)
class Reading:
    """How scores are made."""

    criterion: Criterion
    reduction: Reduction
    normalization: Normalization
    seed: int = 0


def score(
    trace: Trace,
    channels: Channels,
    groups: Sequence[Group],
    reading: Reading,
    batches: Callable[[], Iterable[Batch]],
    loss: Loss | None,
) -> Scores:
    """The normalized scores of `groups`. `batches` is called by criteria that need data.

    Raises:
        DataError: the data have no labels, or do not fit the model.
    """
    tensors = tensors_of(trace)
    if reading.criterion in GRADIENT:
        assert loss is not None
        raw = _by_gradient(trace, groups, reading, tensors, batches(), loss)
    elif reading.criterion in ACTIVATION:
        consumers = consumers_of(trace, channels)
        raw = _by_activation(groups, reading, tensors, consumers, activations(trace, batches(), consumers))
    else:
        scales = _scales(trace)
        norms = _Norms(tensors)
        raw = {group.name: _by_weight(group, reading, norms, scales, at) for at, group in enumerate(groups)}
    return {name: importance.normalize(found, reading.normalization) for name, found in raw.items()}


class _Norms:
    """The tensors, and the norms of all slices of their axes: each taken once, however many groups share the axis."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self._found: dict[tuple[str, int, int], Tensor] = {}

    def of(self, member: Member, p: Literal[1, 2]) -> Tensor:
        """(channels,) the norm of everything that is cut with one of them: the norm of the norms of its places."""
        key = (member.parameter, member.axis, p)
        if key not in self._found:
            self._found[key] = importance.slice_norms(self.tensors[member.parameter], member.axis, p)
        return importance.magnitude(self._found[key][torch.from_numpy(member.places)], p)


def _rows(member: Member, tensors: Mapping[str, Tensor]) -> Tensor:
    return rows_of(tensors[member.parameter], member.axis, torch.from_numpy(member.places))


def _scales(trace: Trace) -> frozenset[str]:
    """Scale parameters of normalizations."""
    position = {"batch_norm": 1, "instance_norm": 1, "layer_norm": 2, "group_norm": 2, "rms_norm": 2}
    found = (node.parameter(position[node.op]) for node in trace.graph.nodes if node.op in position)
    return frozenset(name for name in found if name)


def _by_weight(group: Group, reading: Reading, norms: _Norms, scales: frozenset[str], at: int) -> Tensor:
    tensors = norms.tensors
    if reading.criterion == "random":
        return importance.random_scores(group.size, reading.seed * 100_003 + at)
    matrices = [m for m in group.members if tensors[m.parameter].ndim > 1]
    makers = [m for m in matrices if m.axis == 0] or matrices
    if reading.criterion == "bn_scale":
        own = [m for m in group.members if m.parameter in scales]
        scored = [importance.scale_magnitude(_rows(m, tensors)) for m in own]
        # Channels that no normalization scales: by the size of what makes them.
        scored = scored or [norms.of(m, 2) for m in makers or group.members]
        return importance.reduce_members(scored, reading.reduction)
    of_member: dict[str, Callable[[Member], Tensor]] = {
        "magnitude": lambda m: norms.of(m, 2).square(),
        "l1": lambda m: norms.of(m, 1),
        "l2": lambda m: norms.of(m, 2),
        "lamp": lambda m: importance.lamp(_rows(m, tensors)),
        "fpgm": lambda m: importance.median_distance(_rows(m, tensors)),
        "cosine": lambda m: importance.dissimilarity(_rows(m, tensors)),
    }
    chosen = makers if reading.criterion in ("fpgm", "cosine", "lamp") else matrices
    scored = [of_member[reading.criterion](m) for m in chosen or group.members]
    return importance.reduce_members([importance.normalize(s, "mean") for s in scored], reading.reduction)


def _by_gradient(
    trace: Trace,
    groups: Sequence[Group],
    reading: Reading,
    tensors: Mapping[str, Tensor],
    batches: Iterable[Batch],
    loss: Loss,
) -> Scores:
    total = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}

    def add(found: Mapping[str, Tensor]) -> None:
        for group in groups:
            pairs = [(_rows(m, tensors), _rows(m, found)) for m in group.members if m.parameter in found]
            if not pairs:
                continue
            if reading.criterion == "taylor":
                parts = [importance.contribution(w, g) for w, g in pairs]
                scored = torch.stack(parts).square()
            elif reading.criterion == "fisher":
                scored = torch.stack([importance.fisher(w, g.double().square()) for w, g in pairs])
            else:
                scored = torch.stack([importance.gradient_magnitude(g) for _, g in pairs])
            total[group.name] += importance.reduce_members(list(scored), reading.reduction)

    count = gradients(trace, batches, loss, add)
    return {name: scores / count for name, scores in total.items()}


def _by_activation(
    groups: Sequence[Group],
    reading: Reading,
    tensors: Mapping[str, Tensor],
    consumers: Sequence[Consumer],
    seen: Mapping[tuple[str, int], Activity],
) -> Scores:
    norms = _Norms(tensors)
    by_weight = {(c.weight, c.weight_axis): seen[c.source, c.source_axis] for c in consumers}
    found: Scores = {}
    for group in groups:
        scored: list[Tensor] = []
        for member in group.members:
            whole = by_weight.get((member.parameter, member.axis))
            if whole is None or len(whole.square) != tensors[member.parameter].shape[member.axis]:
                continue  # grouped: the weight's axis is not the value's
            mine = _of_channels(whole, torch.from_numpy(member.places))
            if reading.criterion == "activation":
                scored.append(importance.mean_activation(mine))
            elif reading.criterion == "apoz":
                scored.append(importance.active_share(mine))
            else:
                scored.append(importance.reconstruction(mine, [_rows(member, tensors)]))
        # Nothing that reads these channels could be watched: by the size of their weights.
        plain = Reading("magnitude", reading.reduction, reading.normalization)
        found[group.name] = (
            importance.reduce_members(scored, reading.reduction)
            if scored
            else _by_weight(group, plain, norms, frozenset(), 0)
        )
    return found


def _of_channels(whole: Activity, places: Tensor) -> Activity:
    """Sums over the places of each channel."""
    return Activity(
        whole.absolute[places].sum(1),
        whole.square[places].sum(1),
        whole.zeros[places].sum(1),
        whole[3] * places.shape[1],
    )
