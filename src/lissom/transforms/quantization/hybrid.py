"""Which layers get their ranges at run time, in a graph where the others have fixed ones: `Quantize(mode="hybrid")`.

Fixed ranges cost nothing at run time, and lose much where an input now and then is far larger than usual: the grid is
then coarse for all, or clips the few. With E_s and E_d the error of the model's first output with one layer alone in
integers, by fixed ranges and by those of each call (weights rounded alike),

    at run time   if  E_s > 4 E_d,  E_s > 1e-6,  and the layer is not slower than in float on the target

4 is what one bit of a grid makes. Errors are relative squared ones, on 64 calibration examples, one at a time where the
graph lets them: in a batch, a runtime that takes one range for a whole tensor does worse. Latency is that of the layer
by itself, where there is a target to measure on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from pydantic import JsonValue

from lissom.transforms.base import Plan
from lissom.transforms.quantization.corrections import Findings
from lissom.transforms.quantization.precision import INTEGER, Precision
from lissom.transforms.quantization.shop import Bits, Errors, Shop, Unit, milliseconds, units_of

GAIN = 4.0
WORTH = 1e-6
"""Error below which a layer is left as it is: a thousandth of the output."""

Planned = Callable[[Bits, Mapping[str, str]], Plan]
"""A plan for bits of nodes, and for the nodes with ranges at run time and why."""


def with_later(found: Findings, shop: Shop, able: frozenset[str], planned: Planned) -> Findings:
    """With the nodes whose ranges are taken at run time. `able` are those for which the target can; all is noted."""
    chosen = [node for node in shop.chosen if node.name in able]
    units = [unit for unit in units_of(shop.graph, chosen, chosen) if _whole(shop, unit, able)]
    if not units:
        return found
    now = Errors(replace(shop, plan=lambda bits: planned(bits, {})), alone=True)
    later = Errors(replace(shop, plan=lambda bits: planned(bits, dict.fromkeys(able, "tried"))), alone=True)
    lines: list[dict[str, JsonValue]] = []
    reasons: dict[str, str] = {}
    for unit in units:
        bits: Precision = shop.bits[unit.nodes[0]] if shop.bits[unit.nodes[0]] <= INTEGER else INTEGER
        errors = now(unit, bits), later(unit, bits)
        times = milliseconds(shop, [unit], shop.work.race).get(unit.name) if better(errors) and shop.work.race else None
        taken = better(errors) and (times is None or times[1] <= times[0])
        if taken:
            why = (
                f"ranges at run time: alone in integers it changes the output by {percent(errors[1])} so, and by "
                f"{percent(errors[0])} with fixed ranges"
            )
            reasons.update(dict.fromkeys(unit.nodes, why))
        lines.append(
            {
                "layer": unit.name,
                "error_static": errors[0],
                "error_dynamic": errors[1],
                "milliseconds_float": times[0] if times else None,
                "milliseconds_dynamic": times[1] if times else None,
                "dynamic": taken,
            }
        )
    shop.work.note("hybrid", list[JsonValue](lines))
    return found.model_copy(update={"later": reasons})


def better(errors: tuple[float, float]) -> bool:
    """Whether ranges at run time lose so much less, of the errors with fixed ranges and with those."""
    return errors[0] > WORTH and errors[0] > GAIN * errors[1]


def percent(error: float) -> str:
    return f"{100 * error**0.5:.2g} %"


def _whole(shop: Shop, unit: Unit, able: frozenset[str]) -> bool:
    """Whether all that read the unit's weights can have ranges at run time."""
    graph = shop.graph
    weights = {graph.by_name[name].parameter(1) for name in unit.nodes}
    return all(set(graph.tensor_by_name[name].used_by) <= able for name in weights if name)
