"""What ran as what, by the names of the graph that was planned."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.fx import GraphModule

from lissom.graph.cost import MACS
from lissom.graph.graph import Graph
from lissom.transforms.quantization import products_of


def by_planned_name(model: nn.Module, again: Graph, ran: Mapping[str, str]) -> dict[str, str]:
    """Precisions of operators by the names of `model`'s own graph: an attention that was taken apart is one of them.

    `again` is the trace of that model, whose products come in the same order under other names; `ran` goes by those.
    """
    traced = [node.name for node in again.nodes if node.op in MACS]
    products = products_of(model) if isinstance(model, GraphModule) else traced
    if len(traced) != len(products):
        return dict(ran)
    found: dict[str, set[str]] = {}
    for name, one in zip(products, traced, strict=True):
        found.setdefault(name, set()).add(ran[one])
    whole = {name: kinds.pop() if len(kinds) == 1 else "unknown" for name, kinds in found.items()}
    return {**{name: one for name, one in ran.items() if name not in traced}, **whole}
