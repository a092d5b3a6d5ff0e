"""A candidate taken apart by the runtime's profiler: the time of every layer, inside the whole network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lissom.export.base import Artifact, arrays, ordered, pieces
from lissom.export.catalogue import runtime_of
from lissom.export.kernels import product_times
from lissom.graph.graph import Graph, Layer, Shape
from lissom.graph.trace import trace
from lissom.search.history import LayerTime
from lissom.target import Target
from lissom.task import Batch, Task

WEIGHTED = ("conv", "linear")


def layer_times(
    model: nn.Module, task: Task, target: Target, artifact: Artifact, place: Path, threads: int, batch: Batch
) -> tuple[LayerTime, ...]:
    """Of `model`, which `artifact` in the folder `place` was written from, on the first piece of `batch` that one call
    takes; empty where the runtime does not tell which kernels belong to which layer."""
    piece = next(iter(pieces(ordered(batch, artifact), artifact)))
    ran = runtime_of(target).profile(artifact, place, threads, arrays(piece))
    if not any(one.product for one in ran):
        return ()
    graph = trace(model, task.example).graph
    calls = batch.size / piece.size
    return by_layer(graph, {node: ms * calls for node, ms in product_times(ran, graph).items()})


def by_layer(graph: Graph, times: dict[str, float]) -> tuple[LayerTime, ...]:
    """Nodes of one module are one layer: its channels are those of the node with the most products."""
    together: dict[str, list[Layer]] = {}
    for layer in graph.layers:
        if layer.node in times:
            together.setdefault(layer.name, []).append(layer)
    found: list[LayerTime] = []
    for name, layers in together.items():
        inputs, outputs = _channels(max(layers, key=lambda one: one.macs), graph)
        ms = sum(times[one.node] for one in layers)
        found.append(LayerTime(name=name, inputs=inputs, outputs=outputs, macs=sum(one.macs for one in layers), ms=ms))
    return tuple(found)


def _channels(layer: Layer, graph: Graph) -> tuple[int, int]:
    """That one output depends on, and that are made; without a weight, the last axes of what is multiplied."""
    weight = _weight(layer, graph)
    if len(weight) > 1:
        made, read = (size if isinstance(size, int) else 1 for size in weight[:2])
        return (made, read) if "transpose" in layer.op else (read, made)
    return _last(layer.input_shape), _last(layer.output_shape)


def _weight(layer: Layer, graph: Graph) -> Shape:
    """Of a convolution or linear layer, also where it is restored from integers."""
    if layer.weight_shape is not None or not layer.op.startswith(WEIGHTED):
        return layer.weight_shape or ()
    source = graph.by_name[layer.node].value(1)
    return graph.shape_of(source) if source else ()


def _last(shape: Shape) -> int:
    return next((size for size in reversed(shape) if isinstance(size, int)), 1)
