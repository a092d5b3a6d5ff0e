"""Channels put in an order in which the layers that read them lose less to their pattern.

Channels that are coupled (`lissom.graph.channels`) come in one order everywhere: a convolution's outputs, the
normalization behind it, what is added to them, and the inputs of whatever reads them. Putting all of these in another
order changes no output of the model, so nothing has to be gathered at run time. The order is chosen for the layers that
read the channels (`lissom.functional.permutation`), each counted relative to the sum of its scores; it is then carried
out in all weights, and what the model computes is compared.

Channels keep their order where the group cannot be cut either: inputs and outputs of the model, and what is tied to
them. What can be cut one by one can be exchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lissom.errors import VerificationError
from lissom.functional.nm import Pattern, by_inputs
from lissom.functional.permutation import best_order
from lissom.graph.agreement import ALLOWED_GAP, apart, outputs
from lissom.graph.axes import Indices
from lissom.graph.channels import Channels, Group, Member, find_channels, listed_names
from lissom.graph.trace import Trace
from lissom.task import Batch
from lissom.transforms.base import clone
from lissom.transforms.sparsity.actions import PermuteChannels

NOT_FREE = "nothing in the model could make its inputs in another order"
GAIN = 1e-6
"""Of all scores: what an order has to keep more to be worth it."""


def find_orders(
    model: nn.Module, trace: Trace, scores: Mapping[str, Tensor], pattern: Pattern
) -> tuple[tuple[PermuteChannels, ...], dict[str, str]]:
    """Orders of channels in which the weights with these `scores` keep more, and, by parameter, why others keep theirs.

    Scores have the shape of their weight.
    """
    channels = find_channels(trace)
    held = _Held.of(model, trace)
    reasons = {name: NOT_FREE for name in scores if not channels.axes.places(channels.term(name, 1))}
    found: list[PermuteChannels] = []
    for group in channels.groups:
        readers = [m for m in group.members if m.axis == 1 and m.parameter in scores]
        if not readers:
            continue
        why = group.reason or held.refuses(group)
        spans = {m.parameter: _spans(m, pattern) for m in readers}
        fitting = [m.parameter for m in readers if isinstance(spans[m.parameter], list)] if why is None else []
        reasons |= {name: why or str(spans[name]) for name in spans if name not in fitting}
        if not fitting:
            continue
        order = best_order(torch.cat([_columns(scores[n], spans[n], group.size) for n in fitting]), pattern)
        if order.after - order.before <= GAIN * len(fitting):
            reasons |= dict.fromkeys(fitting, "no order that was tried keeps more")
            continue
        found.append(
            PermuteChannels(
                layer=group.name.partition("#")[0].rpartition(".")[0],
                group=group.name,
                order=tuple(order.columns.tolist()),
                readers=tuple(fitting),
                before=order.before / len(fitting),
                after=order.after / len(fitting),
            )
        )
    moved = {name for action in found for name in action.readers}
    return tuple(found), {name: reason for name, reason in reasons.items() if name not in moved}


@torch.no_grad()
def permuted(model: nn.Module, trace: Trace, actions: Sequence[PermuteChannels], example: Batch) -> nn.Module:
    """A copy of the model with its channels in these orders, which computes the same.

    Raises:
        VerificationError: it does not.
    """
    channels = find_channels(trace)
    made = _carried_out(model, channels, actions)
    gap = _gap(model, made, example)
    if not gap <= ALLOWED_GAP:
        alone = (a for a in actions if not _gap(model, _carried_out(model, channels, [a]), example) <= ALLOWED_GAP)
        culprit = next((repr(a.group) for a in alone), "none, only together")
        raise VerificationError(
            f"With its channels in another order the model differs by {gap:.1e} of the largest output (allowed "
            f"{ALLOWED_GAP:.0e}); the first group that does so alone: {culprit}. This is a bug in Lissom's channel "
            "coupling: please report the model. Sparsify(permute=False) leaves all orders as they are."
        )
    return made


def _gap(model: nn.Module, other: nn.Module, example: Batch) -> float:
    pairs = zip(outputs(model, example), outputs(other, example), strict=True)
    return max((apart(a, b) for a, b in pairs), default=0.0)


def _carried_out(model: nn.Module, channels: Channels, actions: Sequence[PermuteChannels]) -> nn.Module:
    made = clone(model)
    tensors = dict(made.named_parameters(remove_duplicate=False)) | dict(made.named_buffers(remove_duplicate=False))
    groups = {group.name: group for group in channels.groups}
    for action in actions:
        for member in groups[action.group].members:
            tensor = tensors[member.parameter]
            places = _places(member, action.order, tensor.shape[member.axis])
            tensor.copy_(tensor.index_select(member.axis, torch.from_numpy(places).to(tensor.device)))
    return made


def _places(member: Member, order: Sequence[int], size: int) -> Indices:
    """Where the value at every place of the axis comes from."""
    found = np.arange(size, dtype=np.int64)
    found[member.places] = member.places[np.array(order, dtype=np.int64)]
    return found


def _spans(member: Member, pattern: Pattern) -> list[int] | str:
    """First places of the runs in which the channels lie one after the other, whole groups of M each; or why not."""
    count, times = member.places.shape
    if count == 1 or (times > 1 and times % pattern.m == 0 and bool((np.diff(member.places, axis=1) == 1).all())):
        return f"each of its channels fills whole groups of {pattern.m} inputs, whatever their order"
    starts: list[int] = member.places[0].tolist()
    runs = bool((np.diff(member.places, axis=0) == 1).all())
    if not runs or count % pattern.m or any(start % pattern.m for start in starts):
        return f"the channels that can be exchanged do not fill whole groups of {pattern.m} inputs"
    return starts


def _columns(scores: Tensor, spans: list[int] | str, count: int) -> Tensor:
    """The scores of the weights of a reader that read the channels, (rows, channels), in shares of their sum."""
    rows = by_inputs(scores)
    parts = torch.cat([rows[:, int(start) : int(start) + count] for start in spans])
    return parts / parts.sum().clamp_min(1e-30)


@dataclass(frozen=True, eq=False)
class _Held:
    """What is saved with a model, and what of it the traced graph does not read."""

    saved: Collection[str]
    unread: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, model: nn.Module, trace: Trace) -> _Held:
        used = {tensor.name for tensor in trace.graph.tensors if tensor.used_by}
        read = {name for name, listed in listed_names(trace).items() if listed in used}
        unread = {name: tuple(p.shape) for name, p in model.named_parameters() if name not in read}
        return cls(frozenset(model.state_dict()), unread)

    def refuses(self, group: Group) -> str | None:
        for member in group.members:
            if member.parameter not in self.saved:
                return f"{member.parameter!r} comes in their order and is not saved with the weights"
        for name, shape in self.unread.items():
            if len(shape) > 1 and shape[1] == group.size:
                return f"{name!r}, which the model does not read when it is evaluated, may come in their order"
        return None
