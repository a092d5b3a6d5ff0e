"""What criteria look at: weights, gradients on labelled data, activations on any data."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Interpreter
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.errors import DataError
from lissom.functional.importance import Activity, activity
from lissom.graph.channels import Channels, listed_names
from lissom.graph.coupling import Call
from lissom.graph.describe import op_name
from lissom.graph.moments import PRODUCTS
from lissom.graph.statistics import check_inputs, run_over
from lissom.graph.trace import Trace
from lissom.task import Batch, fitting
from lissom.transforms.base import clone

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Consumer:
    """A product that reads channels: the value it reads, the axis they are on there, and its weight."""

    node: str
    source: str
    source_axis: int
    weight: str
    weight_axis: int


def rows_of(tensor: Tensor, axis: int, places: Tensor) -> Tensor:
    """(channels, everything that is cut with one of them)."""
    return tensor.movedim(axis, 0)[places].reshape(len(places), -1)


def tensors_of(trace: Trace) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, listed in listed_names(trace).items():
        value: object = operator.attrgetter(name)(trace.module)
        assert isinstance(value, Tensor)
        found[listed] = value.detach()
    return found


def consumers_of(trace: Trace, channels: Channels) -> tuple[Consumer, ...]:
    values = channels.on(trace.module)
    names = listed_names(trace)
    found: list[Consumer] = []
    for node in trace.module.graph.nodes:
        if op_name(node) not in PRODUCTS or node.op != "call_function":
            continue
        call = Call.of(channels.axes, node, values)
        source = cast(FxNode, call.given["input"])
        weight = call.given["weight"]
        name = names.get(str(weight.target)) if isinstance(weight, FxNode) and weight.op == "get_attr" else None
        if name is None or not isinstance(values.get(source), tuple):
            continue
        rank, dims = len(call.need("input")), len(call.need("weight"))
        linear = op_name(node) == "linear"
        at = rank - 1 if linear else rank - dims + 1
        weight_axis = 1 if linear or "transpose" not in op_name(node) else 0
        found.append(Consumer(node.name, source.name, at, name, weight_axis))
    return tuple(found)


def gradients(trace: Trace, batches: Iterable[Batch], loss: Loss, each: Callable[[Mapping[str, Tensor]], None]) -> int:
    """Hand the gradients of every batch to `each`; how many batches there were.

    Raises:
        DataError: a batch has no target, or does not fit the model.
    """
    module = clone(trace.module)
    names = listed_names(trace)
    parameters = {listed: operator.attrgetter(name)(module) for name, listed in names.items()}
    wanted = {n: p for n, p in parameters.items() if isinstance(p, torch.nn.Parameter) and p.is_floating_point()}
    for parameter in wanted.values():
        parameter.requires_grad_(True)
    count = 0
    for batch in batches:
        if batch.target is None:
            raise DataError(
                "A criterion that uses gradients needs labelled calibration data: batches of (input, target). "
                "Choose criterion='magnitude', or one that looks at activations, for data without labels."
            )
        for piece in fitting(batch, trace.graph.fixed_batch):
            target: Any = batch.target if piece is batch else None
            if target is None:
                continue  # filled up by repetition: its targets are gone
            check_inputs(trace.graph, pytree.tree_leaves((piece.args, dict(piece.kwargs))))
            with torch.enable_grad():
                value = loss(module(*piece.args, **piece.kwargs), target)
                found: tuple[Tensor | None, ...] = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
            each({n: g.detach() for n, g in zip(wanted, found, strict=True) if g is not None})  # pyright: ignore[reportUnnecessaryComparison]  unused ones
            count += 1
    if not count:
        raise DataError(
            f"The model takes batches of exactly {trace.graph.fixed_batch} examples, and the calibration data has "
            "none of that size. Give batches of that size."
        )
    return count


class _Listener(Interpreter):
    def __init__(self, trace: Trace, wanted: Sequence[tuple[str, int]]) -> None:
        super().__init__(trace.module)
        self._axes: dict[str, list[int]] = {}
        for name, axis in dict.fromkeys(wanted):
            self._axes.setdefault(name, []).append(axis)
        self.seen: dict[tuple[str, int], Activity] = {}

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point():
            for axis in self._axes.get(n.name, ()):
                new, old = activity(value, axis), self.seen.get((n.name, axis))
                self.seen[n.name, axis] = old.merge(new) if old else new
        return value


@torch.no_grad()
def activations(
    trace: Trace, batches: Iterable[Batch], consumers: Sequence[Consumer]
) -> dict[tuple[str, int], Activity]:
    """What is seen of each channel that a product reads, over examples and places; by value and axis.

    Raises:
        DataError: a batch does not fit the model.
    """
    listener = _Listener(trace, [(c.source, c.source_axis) for c in consumers])
    run_over(listener, trace.graph, batches)
    return listener.seen
