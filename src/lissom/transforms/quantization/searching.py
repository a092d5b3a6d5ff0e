"""Bits of every layer by search: a table of what each costs and loses, and the exact choice under one bound.

`size_ratio`: the least error with at most so many bytes. `latency_ratio`: the least error with at most so many
milliseconds as predicted from single layers; the bound of the prediction is moved until the whole model, measured on
the target, is fast enough. `max_drop`: the smallest model whose metric keeps to the bound on validation examples, by
bisection over the size (`guarding`). Layers that a rule of the recipe names keep its bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lissom.errors import GoalError, UsageError
from lissom.functional.paired import Drop
from lissom.transforms.paced import least_cut
from lissom.transforms.quantization import placement
from lissom.transforms.quantization.actions import HalveWeight
from lissom.transforms.quantization.corrections import Findings
from lissom.transforms.quantization.guarding import Judge
from lissom.transforms.quantization.operators import KINDS, WEIGHTED
from lissom.transforms.quantization.precision import FLOAT, HALF, INTEGER, Precision
from lissom.transforms.quantization.shop import Errors, Shop, Unit, milliseconds, only, raised, units_of
from lissom.transforms.quantization.tables import BitsOption, Chosen, Judged, LayerOptions, PrecisionTable

TRIES = 9
CLOSE = 1.005
"""Sizes of a ratio below this are not told apart."""
TABLE = "precision table"
"""The note that holds it."""
OUT_OF_REACH = (
    "Quantize(latency_ratio=%g) is out of reach by fewer bits: the fastest that was measured is {fastest} times "
    "faster. Wish for less, or cut channels with Prune as well."
)


def layers_of(shop: Shop) -> list[Unit]:
    """What the search decides: free layers with weights. Additions and pooling go with the rest of the recipe."""
    integers = {node.name for node in shop.chosen if KINDS.get(node.op) in WEIGHTED}
    halved = {name for action in shop.plan(dict.fromkeys(shop.bits, HALF)).of(HalveWeight) for name in action.nodes}
    nodes = [
        node for node in placement.candidates(shop.graph) if node.name in shop.free and node.name in integers | halved
    ]
    return units_of(shop.graph, nodes, shop.chosen)


def tabled(shop: Shop, units: Sequence[Unit], *, timed: bool) -> PrecisionTable:
    """Errors, bytes and, if `timed`, milliseconds of every unit; one pass over the examples for each number of bits.

    Bits that save neither bytes nor milliseconds beside more of them are left out.

    Raises:
        UsageError: nothing here can be timed.
        DataError: no examples to take errors on.
    """
    errors = Errors(shop)
    clock: dict[str, tuple[float, float]] = {}
    whole: float | None = None
    if timed:
        race, original = shop.work.race, shop.work.original
        if race is None or original is None:
            raise UsageError(
                "Quantize(latency_ratio=...) measures on the target, which a dry run does not. Use lissom.compress, or "
                "Quantize(size_ratio=...)."
            )
        clock = milliseconds(shop, units, race)
        whole = sorted(race({"whole": shop.trace.module}, shop.task.example)["whole"])[0]
    floats: dict[str, Precision] = {**shop.bits, **{name: FLOAT for unit in units for name in unit.nodes}}
    base = shop.plan(floats).predicted.bytes
    lines: list[LayerOptions] = []
    for index, unit in enumerate(units):
        lines.append(_line(shop, unit, errors, clock.get(unit.name)))
        shop.work.tick(0.5 * (index + 1) / len(units))
    fixed = base - sum(line.at(FLOAT).bytes for line in lines)
    return PrecisionTable(
        target=shop.target.name,
        bytes=shop.graph.bytes,
        bytes_fixed=fixed,
        milliseconds=whole,
        examples=errors.examples,
        layers=tuple(lines),
    )


def _line(shop: Shop, unit: Unit, errors: Errors, clock: tuple[float, float] | None) -> LayerOptions:
    held = {t.name: t.bytes for t in shop.graph.tensors if any(name in t.used_by for name in unit.nodes)}
    own = sum(held.values())
    options: list[BitsOption] = []
    rungs: tuple[Precision, ...] = (FLOAT, HALF, INTEGER, *shop.fewer) if unit.integer else (FLOAT, HALF)
    for bits in rungs:
        size = own + shop.plan(only(shop, unit, bits)).predicted.bytes - shop.graph.bytes
        spent = None if clock is None else clock[0 if bits >= HALF else 1]
        cheaper = not options or size < options[-1].bytes or (spent or 0.0) < (options[-1].milliseconds or 0.0)
        if cheaper:
            options.append(BitsOption(bits=bits, bytes=size, error=errors(unit, bits), milliseconds=spent))
    return LayerOptions(layer=unit.name, nodes=unit.nodes, options=tuple(options))


def searched(
    shop: Shop, seen: Findings, size_ratio: float | None, latency_ratio: float | None, judge: Judge | None
) -> Findings:
    """With bits of nodes under one bound, and why, for those in float. The table is noted.

    Raises:
        GoalError: the bound is out of reach.
    """
    units = layers_of(shop)
    table = tabled(shop, units, timed=latency_ratio is not None)
    whole: dict[str, Precision] = {}
    if size_ratio is not None:
        chosen = table.within("size_ratio", size_ratio)
    elif latency_ratio is not None:
        chosen = _fast_enough(shop, units, table, latency_ratio)
    else:
        assert judge is not None
        chosen, table, whole = _good_enough(shop, units, table, judge)
    shop.work.note(TABLE, table.model_dump(mode="json"))
    precisions: dict[str, Precision] = {**raised(shop, units, chosen), **whole}
    reasons = {
        name: f"float by the search: in 8 bits alone it changes the output by {100 * line.at(8).error ** 0.5:.2g} %"
        for line in table.layers
        if chosen[line.layer] == FLOAT and any(option.bits == INTEGER for option in line.options)
        for name in line.nodes
    }
    why = "put back in float: with it in 8 bits no choice of the other layers keeps the metric"
    found = {"precisions": precisions, "reasons": {**seen.reasons, **reasons, **dict.fromkeys(whole, why)}}
    return seen.model_copy(update=found)


def _fast_enough(shop: Shop, units: Sequence[Unit], table: PrecisionTable, wish: float) -> Chosen:
    measure = shop.work.faster
    assert measure is not None

    def faster_at(predicted: float) -> float | None:
        try:
            chosen = table.within("latency_ratio", predicted)
        except GoalError:
            return None
        return measure(shop.finished(shop.plan(raised(shop, units, chosen))))

    return table.within("latency_ratio", least_cut(wish, faster_at, shop.work.tick, OUT_OF_REACH % wish))


def _good_enough(
    shop: Shop, units: Sequence[Unit], table: PrecisionTable, judge: Judge
) -> tuple[Chosen, PrecisionTable, dict[str, Precision]]:
    """The smallest choice that the judge lets pass, the table with all that were judged, and what is float besides."""
    nothing: dict[str, Precision] = {}
    besides = _others(shop, units)
    for others in (nothing, besides) if besides else (nothing,):
        chosen, table = _smallest(shop, units, table, judge, others)
        if chosen is not None:
            return chosen, table, others
    return {line.layer: FLOAT for line in table.layers}, table, besides


def _others(shop: Shop, units: Sequence[Unit]) -> dict[str, Precision]:
    """Free integer operators that are not in the table, in float."""
    listed = {name for unit in units for name in unit.nodes}
    return {node.name: FLOAT for node in shop.chosen if node.name in shop.free and node.name not in listed}


def _smallest(
    shop: Shop, units: Sequence[Unit], table: PrecisionTable, judge: Judge, others: Mapping[str, Precision]
) -> tuple[Chosen | None, PrecisionTable]:
    known: dict[tuple[Precision, ...], Drop] = {}
    judged: list[Judged] = []
    best: Chosen | None = None
    low, high = 1.0, table.furthest("size_ratio") * (1 - 1e-9)
    ratio = high
    for tried in range(TRIES):
        chosen = table.within("size_ratio", ratio)
        key = tuple(chosen.values())
        if key not in known:
            bits: dict[str, Precision] = {**raised(shop, units, chosen), **others}
            plan = shop.plan(bits)
            known[key] = drop = judge(shop.finished(plan))
            judged.append(Judged(bits=chosen, bytes=plan.predicted.bytes, drop=drop.mean, limit=drop.limit))
        shop.work.tick(0.5 + 0.5 * (tried + 1) / TRIES)
        if judge.meets(known[key]):
            best, low = chosen, max(ratio, table.ratio("size_ratio", chosen))
            if tried == 0:
                break
        else:
            high = ratio
        if high / low < CLOSE:
            break
        ratio = (low * high) ** 0.5
    return best, table.model_copy(update={"judged": (*table.judged, *judged)})
