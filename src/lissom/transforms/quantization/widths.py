"""How many bits a rounded activation has.

Few bits are for what matrix products multiply. Sums and poolings keep 8, and so does what enters and leaves the model:
pixels come in 8 bits, and 16 steps say little of a logit. A value that both kinds read is rounded once for each.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lissom.functional.affine import ActivationBits
from lissom.graph.graph import Graph
from lissom.transforms.quantization.operators import KINDS
from lissom.transforms.quantization.placement import OUTPUT, Point, Reader, moved_from


def with_bits(
    graph: Graph, points: Sequence[Point], chosen: Collection[str], bits: ActivationBits
) -> list[tuple[Point, ActivationBits]]:
    """Every point with its bits; one whose readers differ becomes two. `chosen` are the nodes in integers."""
    if bits == 8:
        return [(point, 8) for point in points]
    found: list[tuple[Point, ActivationBits]] = []
    for point in points:
        few = [r for r in point.readers if point.root not in graph.inputs and _multiplied(graph, point, r, chosen)]
        more = [reader for reader in point.readers if reader not in few]
        if more:
            found.append((Point(point.value, point.root, more), 8))
        if few:
            found.append((Point(point.value, point.root, few), bits))
    return found


def _multiplied(graph: Graph, point: Point, reader: Reader, chosen: Collection[str]) -> bool:
    """Whether only products see what `reader` gets, however it is moved on the way."""
    if reader.node == OUTPUT:
        return False
    return _only_products(graph, point.value, reader.node, chosen)


def _only_products(graph: Graph, value: str, node: str, chosen: Collection[str]) -> bool:
    if moved_from(graph, node) == value:
        return node not in graph.outputs and all(_only_products(graph, node, n, chosen) for n in graph.consumers[node])
    return node in chosen and KINDS[graph.by_name[node].op] in ("conv", "linear")
