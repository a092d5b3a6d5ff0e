"""The channels of every layer before and after the cuts of a plan."""

from __future__ import annotations

from lissom.graph.graph import ChannelGroup, Graph, Layer, Node
from lissom.graph.groups import with_groups
from lissom.graph.moments import READABLE
from lissom.graph.trace import Trace
from lissom.measure.records import ChannelRecord
from lissom.transforms.base import Plan
from lissom.transforms.pruning import Cut

RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
Axes = tuple[str, int, tuple[str, int] | None]
"""The parameter and axis of a layer's output channels, and those of its input channels."""


def layer_channels(trace: Trace, plan: Plan) -> tuple[ChannelRecord, ...]:
    """The channels of every layer of the traced model before and after the cuts of a plan."""
    graph = with_groups(trace)
    cuts: dict[tuple[str, int], Cut] = {(cut.parameter, cut.axis): cut for cut in plan.of(Cut)}
    reasons = {skip.layer: skip.reason for skip in plan.skipped}
    groups = {(m.parameter, m.axis): group for group in reversed(graph.groups) for m in group.members}
    layers: dict[str, tuple[Layer, Axes]] = {}
    for layer in graph.layers:
        axes = _axes(graph, layer)
        if axes is not None:
            layers.setdefault(layer.name, (layer, axes))
    made = {name: groups.get(axes[:2]) for name, (_, axes) in layers.items()}
    return tuple(_record(graph, cuts, layer, axes, made, reasons) for layer, axes in layers.values())


def _record(
    graph: Graph,
    cuts: dict[tuple[str, int], Cut],
    layer: Layer,
    axes: Axes,
    made: dict[str, ChannelGroup | None],
    reasons: dict[str, str],
) -> ChannelRecord:
    parameter, axis, inputs = axes
    before, after = _size(graph, cuts, parameter, axis)
    sizes = _size(graph, cuts, *inputs) if inputs else (None, None)
    group = made[layer.name]
    same = (name for name, other in made.items() if group is not None and other is group and name != layer.name)
    return ChannelRecord(
        layer=layer.name,
        op=layer.op,
        before=before,
        after=after,
        inputs_before=sizes[0],
        inputs_after=sizes[1],
        coupled=tuple(same),
        reason="" if after < before else _reason(group, reasons),
    )


def _axes(graph: Graph, layer: Layer) -> Axes | None:
    """None for a layer without channels of its own, such as a normalization."""
    node = graph.by_name[layer.node]
    held = [o.source for o in node.operands if o.kind == "parameter" and len(graph.tensor_by_name[o.source].shape) > 1]
    if not held:
        return None
    first = held[0]
    shape = graph.tensor_by_name[first].shape
    if node.op in READABLE:  # their weight is (outputs, inputs, ...)
        grouped = node.op != "linear" and _grouped(graph, node, shape[1])
        return first, 0, None if grouped else (first, 1)
    if node.op.startswith("conv_transpose"):
        # Depthwise: both are on the first axis. Otherwise grouped ones: the axis holds a group's share.
        return (first, 0, None) if shape[1] == 1 and shape[0] > 1 else (first, 1, (first, 0))
    if node.op == "embedding":
        return first, 1, None
    if node.op in RECURRENT:
        return (held[1] if len(held) > 1 else first, 1, (first, 1))
    return (first, len(shape) - 1, (first, len(shape) - 2)) if node.op in ("matmul", "mm") else None


def _grouped(graph: Graph, node: Node, of_weight: int) -> bool:
    source = graph.shape_of(node.values[0]) if node.values else ()
    channels = source[1] if len(source) > 1 else None
    return channels != of_weight


def _size(graph: Graph, cuts: dict[tuple[str, int], Cut], parameter: str, axis: int) -> tuple[int, int]:
    before = graph.tensor_by_name[parameter].shape[axis]
    cut = cuts.get((parameter, axis))
    return before, len(cut.kept) if cut else before


def _reason(group: ChannelGroup | None, reasons: dict[str, str]) -> str:
    if group is None:
        return "its outputs are not channels that can be cut"
    own = group.name.split("#")[0].rpartition(".")[0] or group.name
    return reasons.get(own) or group.reason or "none of its channels is among the least important"
