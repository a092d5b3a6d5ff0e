"""The channel groups of a traced model as data: what `Graph.groups` holds."""

from __future__ import annotations

from lissom.graph.channels import Channels, Group, find_channels
from lissom.graph.graph import ChannelGroup, ChannelMember, Graph
from lissom.graph.narrowed import Narrowed, narrowed
from lissom.graph.trace import Trace


def with_groups(trace: Trace) -> Graph:
    """The graph with its channel groups."""
    channels = find_channels(trace)
    return trace.graph.model_copy(update={"groups": channel_groups(trace, channels, narrowed(trace, channels))})


def channel_groups(trace: Trace, channels: Channels, costs: Narrowed) -> tuple[ChannelGroup, ...]:
    """Every group of channels, also those that cannot be cut, in the order in which the graph meets them."""
    readers = _layers_by_tensor(trace.graph)
    whole = costs.macs({})
    return tuple(
        ChannelGroup(
            name=group.name,
            size=group.size,
            members=tuple(ChannelMember(parameter=m.parameter, axis=m.axis) for m in group.members),
            layers=_layers(group, readers),
            macs=whole - costs.macs({group.atom: 0}),
            reason=group.reason,
        )
        for group in channels.groups
    )


def _layers_by_tensor(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Parameter to the layers that use it, as they are listed in `Graph.layers`."""
    names = {layer.node: layer.name for layer in graph.layers}
    return {tensor.name: tuple(names[user] for user in tensor.used_by if user in names) for tensor in graph.tensors}


def _layers(group: Group, readers: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    found = (layer for member in group.members for layer in readers.get(member.parameter, ()))
    return tuple(dict.fromkeys(found))
