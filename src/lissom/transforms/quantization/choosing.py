"""Which operators a recipe computes in integers: what the target offers, less what this machine, the training or the
data forbid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from lissom.graph.graph import Graph, Node
from lissom.graph.statistics import Statistics
from lissom.target import OpKind, Target
from lissom.transforms.base import Skip
from lissom.transforms.quantization import placement, planning
from lissom.transforms.quantization.concat import NEGATIVE, negative
from lissom.transforms.quantization.operators import (
    ACTIVATIONS,
    KINDS,
    RESTORED,
    UNLEARNED,
    Kind,
    is_plain,
    label,
    offered,
)
from lissom.transforms.quantization.placement import Point

OVERFLOWS = "sums of two products of activations may overflow 16 bits on this processor, and no scale prevents it"


def choose(
    graph: Graph,
    ops: Collection[OpKind],
    target: Target,
    floats: Collection[str],
    seen: Statistics | None,
    *,
    fix: planning.OverflowFix,
    training: bool,
) -> tuple[list[Node], list[Skip]]:
    """Operators in integers, and the others with the reason.

    `floats` are names of nodes that the recipe leaves in float, `fix` is its `overflow_fix`, `training` learns the
    rounding. What was `seen` decides on concatenations of values that can be negative.
    """
    without: dict[Kind, str] = {}
    if planning.spares(fix, target) and target.integers.signed == "int8":
        without |= dict.fromkeys(ACTIVATIONS, OVERFLOWS)
    if training:
        without |= dict.fromkeys(UNLEARNED, "training with rounding does not learn it")
    barred = {node.name: without[kind] for node in graph.nodes if (kind := KINDS.get(node.op)) in without}
    if target.integers.transposed == "plain":
        some = f"{target.title} has an integer kernel for transposed convolutions of images without groups only"
        rest = [node for node in graph.nodes if KINDS.get(node.op) == "transposed_conv" and not is_plain(node)]
        barred |= {node.name: some for node in rest if node.name not in barred}
    kinds = offered(target, ops)
    chosen, skipped = placement.partition(graph, kinds, target, floats, barred)
    if seen is not None and target.integers.joins == "nonnegative":
        low = negative(seen, placement.joined(graph, chosen, target))
        barred |= {node.name: NEGATIVE for node in chosen if KINDS[node.op] == "concat" and node.name in low}
        chosen, skipped = placement.partition(graph, kinds, target, floats, barred)
    return chosen, skipped


def able(
    graph: Graph,
    chosen: Sequence[Node],
    skipped: Sequence[Skip],
    target: Target,
    refuse: Callable[[Graph, Node, Target], str | None],
) -> tuple[list[Node], list[Skip]]:
    """Without those whose inputs `refuse` gives no ranges at run time; what is only restored needs none."""
    computed = [node for node in chosen if KINDS[node.op] not in RESTORED]
    refused = {node.name: why for node in computed if (why := refuse(graph, node, target))}
    more = [Skip(layer=label(node), reason=refused[node.name]) for node in computed if node.name in refused]
    return [node for node in chosen if node.name not in refused], [*skipped, *more]


def also_seen(graph: Graph, chosen: Sequence[Node], target: Target, *, undecided: bool) -> list[Point]:
    """What has to be looked at besides the points of `chosen`: all that makes the range of a family. And each value by
    itself, where it is `undecided` whether a family stays together or only values never negative are joined."""
    tops = [Point(top, top) for family in placement.joined(graph, chosen, target) for top in family.tops]
    if not tops or not (undecided or target.integers.joins == "nonnegative"):
        return tops
    apart = [node for node in chosen if KINDS[node.op] != "concat"]
    return [*tops, *placement.points(graph, apart, target)]
