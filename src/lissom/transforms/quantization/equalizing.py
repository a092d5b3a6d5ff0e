"""Channels rescaled between two layers before rounding: where that is exact, by how much, and done.

A *pair* is a layer that makes channels (a convolution, a linear layer, a normalization with a gain) and the quantized
layers that read them, with nothing in between but operators f with f(s a) = s f(a) for s > 0. Formulas:
`lissom.functional.equalization`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode

from lissom.functional.equalization import (
    channel_ranges,
    cross_layer_scales,
    scale_inputs,
    scale_outputs,
    smooth_scales,
)
from lissom.graph.graph import Graph, Node
from lissom.graph.lockstep import attribute
from lissom.graph.statistics import run_over
from lissom.task import Batch
from lissom.transforms.quantization.actions import Equalize

_HOMOGENEOUS = """
relu leaky_relu dropout feature_dropout alias detach clone contiguous max_pool1d max_pool2d avg_pool2d
adaptive_avg_pool2d
"""
HOMOGENEOUS = frozenset(_HOMOGENEOUS.split())
"""Operators that keep channels apart and a positive factor per channel intact."""
KIND: Mapping[str, str] = {
    "conv1d": "conv",
    "conv2d": "conv",
    "conv3d": "conv",
    "linear": "linear",
    "layer_norm": "linear",
    "rms_norm": "linear",
}
"""Operator to the kind of layer that reads its channels where it puts them: on axis 1, or on the last one."""
PARAMETERS: Mapping[str, tuple[int, int]] = {"layer_norm": (2, 3), "rms_norm": (2, -1)}
"""Positions of gain and shift; of weight and bias elsewhere: 1 and 2."""
STRENGTH = 0.5
"""a of SmoothQuant: Xiao et al. use 0.5 for most models."""


@dataclass(frozen=True)
class Pair:
    """`source` makes the channels; `readers` (node, value it reads) multiply them."""

    source: Node
    outputs: tuple[str, ...]
    readers: tuple[tuple[Node, str], ...]
    groups: tuple[int, ...]

    @property
    def inputs(self) -> tuple[tuple[str, int], ...]:
        weights = [node.parameter(1) for node, _ in self.readers]
        return tuple((weight or "", groups) for weight, groups in zip(weights, self.groups, strict=True))


def find_pairs(graph: Graph, chosen: Collection[str]) -> list[Pair]:
    """Every pair whose readers are all among the `chosen` nodes, in graph order."""
    found = [_pair(graph, node, chosen) for node in graph.nodes if node.op in KIND]
    return [pair for pair in found if pair is not None]


def _pair(graph: Graph, source: Node, chosen: Collection[str]) -> Pair | None:
    weight_at, bias_at = PARAMETERS.get(source.op, (1, 2))
    weight, bias = source.parameter(weight_at), source.parameter(bias_at)
    if weight is None or source.value(weight_at) or source.value(bias_at):
        return None
    outputs = tuple(name for name in (weight, bias) if name)
    if source.op in PARAMETERS and any(len(graph.tensor_by_name[name].shape) != 1 for name in outputs):
        return None
    readers = _readers_of(graph, source, chosen)
    if not readers:
        return None
    weights = [node.parameter(1) or "" for node, _ in readers]
    owned = [*((name, source.name) for name in outputs), *zip(weights, (n.name for n, _ in readers), strict=True)]
    if any(not name or graph.tensor_by_name[name].used_by != (user,) for name, user in owned):
        return None
    if any(graph.tensor_by_name[name].dtype != "float32" for name, _ in owned):
        return None
    channels = graph.tensor_by_name[weight].shape[0]
    widths = [graph.tensor_by_name[name].shape[1] for name in weights]
    return Pair(source, outputs, tuple(readers), tuple(channels // width for width in widths))


def _readers_of(graph: Graph, source: Node, chosen: Collection[str]) -> list[tuple[Node, str]]:
    """Who multiplies the channels; empty where anything else reads them."""
    found: list[tuple[Node, str]] = []
    values = [source.name]
    while values:
        value = values.pop()
        if value in graph.outputs or not graph.consumers[value]:
            return []
        for user in graph.consumers[value]:
            node = graph.by_name[user]
            if node.op in HOMOGENEOUS and (KIND[source.op] == "conv" or "pool" not in node.op):
                values.append(user)
            elif node.name in chosen and KIND.get(node.op) == KIND[source.op] and node.values == (value,):
                found.append((node, value))
            else:
                return []
    return found


def equalize_(module: GraphModule, actions: Iterable[Equalize]) -> None:
    """Carry the actions out on the parameters of `module`, in place; its function stays."""
    with torch.no_grad():
        for action in actions:
            scales = torch.tensor(action.scales)
            for name in action.outputs:
                held = attribute(module, name)
                held.copy_(scale_outputs(held, scales))
            for name, groups in action.inputs:
                held = attribute(module, name)
                held.copy_(scale_inputs(held, scales, groups=groups))


Scale = Callable[[GraphModule, Pair], Tensor | None]


def cross_layer(module: GraphModule, pair: Pair) -> Tensor | None:
    """Scales from the weights on both sides; None after a normalization, whose gain is no weight matrix."""
    if pair.source.op in PARAMETERS:
        return None
    made = attribute(module, pair.outputs[0]).detach().abs().flatten(1).amax(1)
    return cross_layer_scales(made, _read(module, pair))


def smoothing(module: GraphModule, pairs: Iterable[Pair], batches: Iterable[Batch], graph: Graph) -> Scale:
    """Scales from the largest magnitude of every channel of what is read on `batches`, and from the weights."""
    axes = {value: 1 if KIND[pair.source.op] == "conv" else -1 for pair in pairs for _, value in pair.readers}
    watcher = _Magnitudes(module, axes)
    run_over(watcher, graph, batches)

    def scale(module: GraphModule, pair: Pair) -> Tensor | None:
        seen = [watcher.found[value] for _, value in pair.readers]
        return smooth_scales(torch.stack(seen).amax(0), _read(module, pair), STRENGTH)

    return scale


def equalizations(module: GraphModule, pairs: Iterable[Pair], scale: Scale) -> list[Equalize]:
    """One action per pair for which there are scales, each from the weights that the ones before it left.

    `module` is changed in place on the way.
    """
    found: list[Equalize] = []
    for pair in pairs:
        scales = scale(module, pair)
        if scales is not None and bool((scales != 1).any()):
            action = Equalize(
                layer=pair.source.layer or pair.source.name,
                outputs=pair.outputs,
                inputs=pair.inputs,
                scales=tuple(scales.tolist()),
            )
            equalize_(module, [action])
            found.append(action)
    return found


def _read(module: GraphModule, pair: Pair) -> Tensor:
    """The largest |weight| that reads each channel."""
    found = [channel_ranges(attribute(module, name), groups=groups) for name, groups in pair.inputs]
    return torch.stack(found).amax(0)


class _Magnitudes(Interpreter):
    def __init__(self, module: GraphModule, axes: Mapping[str, int]) -> None:
        super().__init__(module)
        self._axes = axes
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        if n.name in self._axes:
            seen = value.movedim(self._axes[n.name], -1).flatten(0, -2).abs().amax(0)
            self.found[n.name] = torch.maximum(self.found[n.name], seen) if n.name in self.found else seen
        return value
