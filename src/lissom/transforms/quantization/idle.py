"""Operators that gain nothing from their integers, put back in float.

A runtime computes an operator in integers only where one of its patterns fits. Elsewhere it carries out the roundings
that the file holds and computes in float between them: slower than float, and no more exact. So the rounded model is
written for the target once, and its kernels are read back. Operators that compute in float are put back where that
pays: a product always, a sum or a pooling if the file then holds a rounding less. What changed is read again.

With `timed`, products are timed on the target too, alone and in both forms. Those slower in integers are put back if
the whole model is faster without them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pydantic import JsonValue
from torch import nn

from lissom.errors import UsageError
from lissom.graph.graph import Graph, Node
from lissom.target import Target
from lissom.transforms.base import Kernels
from lissom.transforms.quantization import placement
from lissom.transforms.quantization.corrections import Findings
from lissom.transforms.quantization.operators import KINDS, PRODUCTS
from lissom.transforms.quantization.precision import FLOAT
from lissom.transforms.quantization.shop import Shop, milliseconds, units_of

RemoveIdle = Literal["auto", "timed", "off"]
READS = 3
"""Files that are read back at most: taking roundings away can free others."""
FASTER = 1.02
"""How many times faster the whole model has to be: less is not told apart."""

Settle = Callable[[Findings], tuple[Findings, Sequence[Node]]]
"""Findings completed by the ranges that they need, and the nodes rounded by fixed ranges."""
Written = Callable[[Findings], nn.Module]
"""The rounded model of complete findings."""


def idle(graph: Graph, chosen: Sequence[Node], target: Target, ran: Mapping[str, str]) -> list[str]:
    """Those of `chosen`, all that are rounded by fixed ranges, that `ran` in float and had better do so.

    None where no product at all ran in integers: then the file was asked for, and not the arithmetic.
    """
    products = {node.name for node in chosen if KINDS[node.op] in PRODUCTS}
    if not any(ran.get(name, "").startswith("int8") for name in products):
        return []
    values = {point.value for point in placement.points(graph, chosen, target)}
    found: list[str] = []
    for node in chosen:
        if ran.get(node.name) != "float32":
            continue
        others = [one for one in chosen if one is not node]
        if node.name in products or values - {point.value for point in placement.points(graph, others, target)}:
            found.append(node.name)
    return found


def without_idle(
    found: Findings, graph: Graph, target: Target, settle: Settle, written: Written, kernels: Kernels
) -> Findings:
    """With the idle operators in float, and why."""
    for _ in range(READS):
        found, chosen = settle(found)
        more = idle(graph, chosen, target, kernels(written(found)))
        if not more:
            return found
        why = f"put back in float: {target.title} computes it in float between its roundings"
        found = in_float(graph, found, chosen, dict.fromkeys(more, why))
    return settle(found)[0]


def in_float(graph: Graph, found: Findings, chosen: Sequence[Node], reasons: Mapping[str, str]) -> Findings:
    """With these nodes in float, and all that share a weight with them."""
    together = dict(reasons)
    for unit in units_of(graph, chosen, chosen):
        first = next((name for name in unit.nodes if name in reasons), None)
        if first is not None:
            together.update({name: reasons[first] for name in unit.nodes if name not in together})
    return found.model_copy(
        update={
            "precisions": {**found.precisions, **dict.fromkeys(together, FLOAT)},
            "reasons": {**found.reasons, **together},
        }
    )


def without_slow(found: Findings, shop: Shop, settle: Settle, written: Written) -> Findings:
    """With the products in float that are slower in integers, if that makes the whole model faster.

    Raises:
        UsageError: nothing here can be timed.
    """
    race = shop.work.race
    if race is None:
        raise UsageError(
            "Quantize(remove_idle='timed') times layers on the target, which a dry run does not. Use lissom.compress, "
            "or Quantize(remove_idle='auto')."
        )
    found, chosen = settle(found)
    products = [node for node in chosen if KINDS[node.op] in ("conv", "linear")]
    units = units_of(shop.graph, products, products)
    times = milliseconds(shop, units, race)
    slow = {unit.name: times[unit.name] for unit in units if unit.name in times and slower(times[unit.name])}
    reasons = {
        name: f"put back in float: by itself it takes {slow[unit.name][1]:.3g} ms in integers and "
        f"{slow[unit.name][0]:.3g} ms in float on {shop.target.title}"
        for unit in units
        if unit.name in slow
        for name in unit.nodes
    }
    if not reasons:
        return found
    lighter, _ = settle(in_float(shop.graph, found, chosen, reasons))
    samples = race({"integers": written(found), "lighter": written(lighter)}, shop.task.example)
    gain = statistics.median(a / b for a, b in zip(samples["integers"], samples["lighter"], strict=True))
    layers = list[JsonValue](sorted(slow))
    shop.work.note("slow in integers", {"layers": layers, "faster_without": gain, "put_back": gain >= FASTER})
    return lighter if gain >= FASTER else found


def slower(times: tuple[float, float]) -> bool:
    """Whether integers take longer, of milliseconds in float and in integers."""
    return times[1] > FASTER * times[0]
