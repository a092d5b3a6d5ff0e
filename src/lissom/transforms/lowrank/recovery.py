"""Recovery without labels and without training: the last part of every split layer fitted to the original's outputs.

The original and the split network run beside each other on the same data. Where the split network comes to the last
part of a layer, that part is fitted by least squares (`functional.leastsquares`) to what the original layer made, from
what the part really gets now: errors of layers before it are corrected with its own. A batch normalization whose input
changed takes its statistics from the data again. `bias` alone moves the mean only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Interpreter
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.functional.bias import bias_shift
from lissom.functional.channelstats import mean_and_variance
from lissom.functional.leastsquares import Moments, solve
from lissom.graph.describe import argument_names, layer_of, op_name
from lissom.graph.lockstep import MEMORY, example_bytes, first, given, interpreter, last_uses, run
from lissom.graph.moments import rows_made, rows_read
from lissom.graph.trace import Trace
from lissom.task import Batch
from lissom.transforms.base import RIDGE, Recovery
from lissom.transforms.lowrank.parts import has_bias


@dataclass(frozen=True, eq=False)
class Pair:
    """The original and the split network, traced; `layers` maps the nodes of split layers to their last part."""

    before: Trace
    after: Trace
    model: nn.Module
    """The split network itself, whose parameters are fitted."""
    layers: Mapping[str, str]
    """Name of the last part (`conv1.1`) to the node of the original layer."""
    centred: frozenset[str]
    """Last parts behind which a shift is made up for."""
    split: frozenset[str]
    """Layers that were split and are called once, those whose last part is not fitted too."""


@torch.no_grad()
def recover_(pair: Pair, batches: Iterable[Batch], how: Recovery, tick: Callable[[float], None]) -> None:
    """Fit `pair.model` in place. As many examples are taken as `lockstep.MEMORY` has room for."""
    if how == "none":
        return
    sizes = example_bytes(pair.before.module) + example_bytes(pair.after.module)
    pieces = list(first(batches, max(1, MEMORY // sizes), pair.after.graph.fixed_batch))
    if not pieces:
        return
    inputs = [pytree.tree_leaves((piece.args, dict(piece.kwargs))) for piece in pieces]
    before, after = _Stream(pair.before, inputs), _Stream(pair.after, inputs)
    moved: set[FxNode] = set()
    nodes = list(pair.after.module.graph.nodes)
    for index, node in enumerate(nodes):
        name = layer_of(node)
        if not moved.isdisjoint(node.all_input_nodes) or (
            not pair.split.isdisjoint((name, name.rpartition(".")[0])) and node.op != "get_attr"
        ):
            moved.add(node)
        if name in pair.layers and rows_are_read(node):
            wanted = before.up_to(pair.layers[name])
            _refit_(pair, name, node, after, wanted, how)
        elif op_name(node) == "batch_norm" and node in moved:
            _renormalize_(pair, node, after)
        after.step(node)
        tick((index + 1) / len(nodes))


def rows_are_read(node: FxNode) -> bool:
    return node.op == "call_function" and op_name(node) in ("linear", "conv1d", "conv2d", "conv3d")


class _Stream:
    """A graph carried on node by node for all pieces of data; what nobody reads any more is dropped."""

    def __init__(self, traced: Trace, inputs: list[list[Any]]) -> None:
        self._nodes = iter(traced.module.graph.nodes)
        self._last = last_uses(traced.module)
        self.runs: list[Interpreter] = [interpreter(traced.module, one) for one in inputs]
        self._held: dict[str, list[Tensor]] = {}

    def step(self, node: FxNode) -> None:
        for one in self.runs:
            run(one, node)
            for gone in self._last.get(node, ()):
                one.env.pop(gone, None)

    def up_to(self, name: str) -> list[Tensor]:
        """The values of a node that has not been passed yet."""
        for node in self._nodes:
            for one in self.runs:
                run(one, node)
            values = [one.env[node] for one in self.runs] if node.name == name else []
            for one in self.runs:
                for gone in self._last.get(node, ()):
                    one.env.pop(gone, None)
            if values:
                return values
        raise AssertionError(f"the original passed {name} before the split network came to it")


def _refit_(pair: Pair, name: str, node: FxNode, after: _Stream, wanted: list[Tensor], how: Recovery) -> None:
    part = cast(nn.Linear, pair.model.get_submodule(name))
    op = op_name(node)
    rows = [rows_made(op, value) for value in wanted]
    if how == "bias":
        if has_bias(part):
            got = [rows_made(op, run(one, node, keep=False)) for one in after.runs]
            _set_(pair, node, 2, part.bias, part.bias + bias_shift(rows, got, 1).to(part.bias))
        return
    weight = part.weight.detach()
    moments = Moments.of(weight[0].numel(), len(weight))
    for one, made in zip(after.runs, rows, strict=True):
        called = given(one, node)
        moments.add_(rows_read(op, called["input"], called)[0].cpu(), made.float().cpu())
    if name not in pair.centred:
        moments.x.zero_()
        moments.y.zero_()
    fitted, bias = solve(moments, weight.flatten(1).cpu().float(), RIDGE)
    _set_(pair, node, 1, part.weight, fitted.reshape(weight.shape).to(weight))
    if has_bias(part):
        _set_(pair, node, 2, part.bias, bias.to(part.bias))


def _renormalize_(pair: Pair, node: FxNode, after: _Stream) -> None:
    norm = pair.model.get_submodule(layer_of(node))
    mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        return
    found = mean_and_variance([given(one, node)["input"] for one in after.runs])
    names = argument_names(node)
    for name, own, value in zip(("running_mean", "running_var"), (mean, variance), found, strict=True):
        _set_(pair, node, names.index(name), own, value.to(own))


def _set_(pair: Pair, node: FxNode, position: int, own: Tensor, value: Tensor) -> None:
    """In the model, in the traced graph's copy of it, and in what the runs hold of that."""
    own.copy_(value)
    source = node.args[position] if position < len(node.args) else None
    if isinstance(source, FxNode) and source.op == "get_attr":
        holder, _, attribute = str(source.target).rpartition(".")
        getattr(pair.after.module.get_submodule(holder), attribute).copy_(value)
