"""Recovery without labels and without training: layers fitted again to what they computed before the cut.

The original and the smaller graph run side by side, node by node, on the calibration data. A convolution or linear
layer whose inputs changed is fitted by least squares (`functional.leastsquares`) to the outputs of the original,
from the inputs that it really gets now, so that later layers correct what earlier ones left. A batch normalization
whose input changed takes its statistics from the data again. `bias` alone moves the mean only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.functional.channelstats import mean_and_variance
from lissom.functional.leastsquares import Moments, solve
from lissom.graph.coupling import Call, Terms
from lissom.graph.describe import op_name
from lissom.graph.lockstep import (
    MEMORY,
    example_bytes,
    first,
    interpreter,
    last_uses,
    readers,
    run,
    set_tensor,
    tensor_of,
)
from lissom.graph.moments import READABLE, WIDEST, rows_read
from lissom.graph.resize import Sizes, sliced_tensor
from lissom.task import Batch
from lissom.transforms.base import RIDGE, Recovery


@dataclass(frozen=True, eq=False)
class Pair:
    """The original and the smaller graph; their nodes have the same names."""

    before: GraphModule
    after: GraphModule
    sizes: Sizes
    fixed_batch: int | None
    """The only batch size the graphs take, if there is one."""


@torch.no_grad()
def recover_(pair: Pair, batches: Iterable[Batch], how: Recovery, tick: Callable[[float], None]) -> list[str]:
    """Fit the layers of `pair.after` in place; the names of the parameters that changed.

    All examples are held at the values that are still to be read: as many are taken as `MEMORY` has room for.
    """
    if how == "none":
        return []
    pieces = list(first(batches, max(1, MEMORY // (2 * example_bytes(pair.before))), pair.fixed_batch))
    if not pieces:
        return []
    walk = _Walk(pair, pieces)
    twins = {node.name: node for node in pair.after.graph.nodes}
    nodes = list(pair.before.graph.nodes)
    changed: set[str] = set()
    for index, before in enumerate(nodes):
        after = twins.get(before.name)
        if after is None:
            walk.step_before(before)
        else:
            changed.update(walk.fit(after, how))
            walk.step(after)
        tick((index + 1) / len(nodes))
    return sorted(changed)


class _Walk:
    def __init__(self, pair: Pair, pieces: list[Batch]) -> None:
        self.pair = pair
        self.twins: dict[str, FxNode] = {node.name: node for node in pair.before.graph.nodes}
        self.moved: set[str] = set()
        """Nodes of the smaller graph whose values are no longer those of the original."""
        self._runs: list[tuple[Interpreter, Interpreter]] = []
        for piece in pieces:
            inputs = pytree.tree_leaves((piece.args, dict(piece.kwargs)))
            self._runs.append((interpreter(pair.before, inputs), interpreter(pair.after, inputs)))
        self._last = last_uses(pair.after)
        self._last_before = last_uses(pair.before)
        self._values = pair.sizes.channels.on(pair.after)
        self._readers = readers(pair.after)

    def step_before(self, twin: FxNode) -> None:
        """A node that only the original has."""
        for before, _ in self._runs:
            run(before, twin)
            for gone in self._last_before.get(twin, ()):
                before.env.pop(gone, None)

    def step(self, node: FxNode) -> None:
        """Compute the node in both graphs, for all batches, and drop what nobody reads any more."""
        twin = self.twins[node.name]
        if self._has_moved(node):
            self.moved.add(node.name)
        for before, after in self._runs:
            run(before, twin)
            same = node.op == "call_function" and node.name not in self.moved
            if same and twin in before.env:
                after.env[node] = before.env[twin]
            else:
                # Nodes that only the resized graph has: sizes computed in proportion.
                for source in node.all_input_nodes:
                    if source not in after.env:
                        run(after, source)
                run(after, node)
            for gone in self._last.get(node, ()):
                after.env.pop(gone, None)
            for gone in self._last_before.get(twin, ()):
                before.env.pop(gone, None)

    def _has_moved(self, node: FxNode) -> bool:
        if node.op == "get_attr":
            return node.name in self.moved
        terms = self._values.get(node)
        twin = self.twins[node.name]
        if [s.name for s in node.all_input_nodes if s.name in self.twins] != [s.name for s in twin.all_input_nodes]:
            return True
        own = isinstance(terms, tuple) and self.pair.sizes.changed(terms)
        several = isinstance(terms, list) and any(self.pair.sizes.changed(t) for t in terms)
        return own or several or any(s.name in self.moved or self._sliced(s) for s in node.all_input_nodes)

    def _sliced(self, source: FxNode) -> bool:
        terms = self._values.get(source)
        return source.op == "get_attr" and isinstance(terms, tuple) and self.pair.sizes.changed(terms)

    def fit(self, node: FxNode, how: Recovery) -> list[str]:
        op = op_name(node)
        if node.op != "call_function":
            return []
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        if source is None or source.name not in self.moved:
            return []
        call = Call.of(self.pair.sizes.channels.axes, node, self._values)
        if op == "batch_norm":
            return self._renormalize(node, call)
        if op in READABLE and call.given.get("groups", 1) == 1:
            return self._refit(node, call, how)
        return []

    def _refit(self, node: FxNode, call: Call, how: Recovery) -> list[str]:
        weight_node = cast(FxNode, call.given["weight"])
        if weight_node.op != "get_attr" or self._readers.get(str(weight_node.target), 0) > 1:
            return []
        weight = tensor_of(self.pair.after, weight_node)
        rows = cast(Terms, self._values[node])
        out_axis = len(rows) - 1 if op_name(node) == "linear" else 1
        twin = self.twins[node.name]
        kept = self.pair.sizes.of_axes(rows)
        inputs = weight[0].numel()
        full = how == "reconstruct" and inputs <= WIDEST
        moments = Moments.of(inputs if full else 0, weight.shape[0])
        shift = torch.zeros(weight.shape[0], dtype=torch.float64)
        for before, after in self._runs:
            wanted = sliced_tensor(run(before, twin, keep=False), kept).movedim(out_axis, -1).flatten(0, -2)
            given = after.env[node.all_input_nodes[0]]
            if full:
                moments.add_(rows_read(op_name(node), given, {**call.given, "weight": weight})[0], wanted)
            else:
                got = run(after, node, keep=False).movedim(out_axis, -1).flatten(0, -2)
                shift += (wanted - got).double().sum(0)
                moments.rows += len(wanted)
        changed: list[str] = []
        bias_node = call.given.get("bias")
        if full:
            fitted, bias = solve(moments, weight.flatten(1), RIDGE)
            set_tensor(self.pair.after, weight_node, fitted.reshape(weight.shape))
            changed.append(str(weight_node.target))
        else:
            bias = (shift / max(1, moments.rows)).to(weight.dtype)
        if isinstance(bias_node, FxNode) and bias_node.op == "get_attr":
            if self._readers.get(str(bias_node.target), 0) > 1:
                return changed
            old = tensor_of(self.pair.after, bias_node)
            set_tensor(self.pair.after, bias_node, bias if full else old + bias)
            changed.append(str(bias_node.target))
        return changed

    def _renormalize(self, node: FxNode, call: Call) -> list[str]:
        names: list[Any] = [call.given[name] for name in ("running_mean", "running_var")]
        if any(not isinstance(n, FxNode) or n.op != "get_attr" for n in names) or call.given.get("training"):
            return []
        if any(self._readers.get(str(name.target), 0) > 1 for name in names):
            return []
        source = cast(FxNode, call.given["input"])
        found = mean_and_variance([after.env[source] for _, after in self._runs])
        for name, value in zip(names, found, strict=True):
            set_tensor(self.pair.after, name, value.to(tensor_of(self.pair.after, name).dtype))
        return [str(name.target) for name in names]
