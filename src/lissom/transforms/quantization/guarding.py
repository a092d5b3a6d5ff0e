"""The metric guard: how far a rounded model dropped on validation examples, and the fewest layers to raise.

Scores of the same examples before and after are compared in pairs (`functional.paired`): what is bounded is the upper
limit of the mean drop, not the drop that these examples happen to show. A metric that exists only over a whole split
has no such pairs; there the bare difference counts.

Layers are raised in the order in which single ones lose (2 bits to 4, 4 to 8, 8 to float), and the fewest that meet
the bound are found by doubling and bisection, as if more were never worse.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from lissom.errors import DataError
from lissom.functional.paired import Drop, paired_drop
from lissom.graph.trace import evaluation
from lissom.measure.quality import evaluate, scores
from lissom.measure.records import MetricValue
from lissom.metrics import as_metric
from lissom.task import Batch, Task
from lissom.training.answers import fingerprint
from lissom.transforms.quantization.corrections import Findings
from lissom.transforms.quantization.precision import FLOAT, INTEGER, Precision
from lissom.transforms.quantization.shop import Errors, Shop, raised, units_of
from lissom.transforms.quantization.simulating import quick

RUNGS: tuple[Precision, ...] = (4, INTEGER, FLOAT)
"""What a layer of fewer bits is raised to, step by step."""
JUDGED = 5000
"""Validation examples that are looked at, each time a choice is judged."""


def check_judged(task: Task, max_drop: float) -> None:
    """
    Raises:
        DataError: the task has no metric or no validation data.
    """
    if task.metric is None or not task.has("validation"):
        missing = "metric" if task.metric is None else "validation"
        raise DataError(
            f"Quantize(max_drop={max_drop:g}) judges by the metric on validation data, and the task has no {missing}. "
            f"Give Task({missing}=...). A part of the training data serves for validation; the test data are for the "
            "final figure."
        )


class Judge:
    """How far a model's metric drops below the original's, on validation examples.

    Each batch is put to both models, so that a loader that shuffles gives pairs too; the original's scores of a batch
    that came before are those of then.
    """

    def __init__(self, original: nn.Module, task: Task, max_drop: float, confidence: float) -> None:
        self.max_drop, self.confidence = max_drop, confidence
        self._task, self._metric, self._original = task, as_metric(task.metric), original
        self._known: dict[str, Tensor] = {}
        self._whole: float | None = None

    def __call__(self, model: nn.Module) -> Drop:
        model = quick(model)
        with evaluation(self._original), evaluation(model):
            return self._compared(model) if self._metric.per_example else self._subtracted(model)

    def meets(self, drop: Drop) -> bool:
        # One example in a thousand is 0.001 as a number, and not always as a difference of two means.
        return drop.limit <= self.max_drop + 1e-12

    def _compared(self, model: nn.Module) -> Drop:
        before: list[Tensor] = []
        after: list[Tensor] = []
        for batch in self._batches():
            key = fingerprint(batch)
            if key not in self._known:
                self._known[key] = self._scores(self._original, batch)
            before.append(self._known[key])
            after.append(self._scores(model, batch))
        return paired_drop(torch.cat(before), torch.cat(after), self.confidence)

    def _subtracted(self, model: nn.Module) -> Drop:
        if self._whole is None:
            self._whole = self._value(self._original).value
        after = self._value(model)
        drop = self._whole - after.value
        return Drop(drop, drop, 0, 0, after.samples)

    def _batches(self) -> Iterator[Batch]:
        return self._task.batches("validation", limit=JUDGED)

    def _scores(self, model: nn.Module, batch: Batch) -> Tensor:
        found = scores(lambda one: _answer(model, one), [batch], self._metric)
        assert found is not None
        return found

    def _value(self, model: nn.Module) -> MetricValue:
        return evaluate(lambda one: _answer(model, one), self._batches(), self._metric, split="validation")


@torch.no_grad()
def _answer(model: nn.Module, batch: Batch) -> Any:
    return model(*batch.args, **batch.kwargs)


def fewest(count: int, meets: Callable[[int], bool]) -> int:
    """The smallest k for which `meets(k)`, up to `count`, which is not asked; true for k and all above it."""
    if not count or meets(0):
        return 0
    low, high = 0, 1
    while high < count and not meets(high):
        low, high = high, 2 * high
    high = min(high, count)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def ladder(units: Mapping[str, Precision], errors: Callable[[str, Precision], float]) -> list[tuple[str, Precision]]:
    """Raises of single units, those that save the most error first: (unit, its bits then)."""
    steps: dict[str, list[tuple[float, Precision]]] = {}
    for name, bits in units.items():
        rungs: list[Precision] = [bits, *(rung for rung in RUNGS if rung > bits)]
        at = [errors(name, rung) for rung in rungs]
        steps[name] = [(before - after, rung) for before, after, rung in zip(at, at[1:], rungs[1:], strict=False)]
    heap = [(-own[0][0], index, name) for index, (name, own) in enumerate(steps.items())]
    heapq.heapify(heap)
    found: list[tuple[str, Precision]] = []
    while heap:
        _, index, name = heapq.heappop(heap)
        _, rung = steps[name].pop(0)
        found.append((name, rung))
        if steps[name]:
            heapq.heappush(heap, (-steps[name][0][0], index, name))
    return found


def guarded(shop: Shop, found: Findings, judge: Judge) -> Findings:
    """With bits of nodes, the fewest layers raised, and why, for those that are put back in float."""
    units = {unit.name: unit for unit in units_of(shop.graph, shop.chosen, shop.chosen)}
    bits: dict[str, Precision] = {name: shop.bits[unit.nodes[0]] for name, unit in units.items()}
    order: list[tuple[str, Precision]] = []
    tried: dict[int, Drop] = {}

    def at(count: int) -> dict[str, Precision]:
        return {**bits, **dict(order[:count])}

    def meets(count: int) -> bool:
        tried[count] = judge(shop.finished(shop.plan(raised(shop, units.values(), at(count)))))
        shop.work.tick(1 - 0.5 ** len(tried))
        return judge.meets(tried[count])

    if units and not meets(0):
        errors = Errors(shop)
        known: dict[tuple[str, Precision], float] = {}

        def error(name: str, rung: Precision) -> float:
            known[name, rung] = errors(units[name], rung)
            return known[name, rung]

        order = ladder(bits, error)
        count = fewest(len(order), lambda k: k > 0 and meets(k))
    else:
        count, known = 0, {}
    shop.work.note("guard", _note(judge, tried, order[:count]))
    reasons: dict[str, str] = {}
    last = max((k for k in tried if k < count), default=0)
    for name, rung in order[:count]:
        if rung == FLOAT:
            why = (
                f"put back in float: alone in {bits[name]} bits it changes the output by "
                f"{100 * known[name, bits[name]] ** 0.5:.2g} %; with {last} raised instead of {count} the metric may "
                f"drop by {tried[last].limit:.4g}, and {judge.max_drop:g} is allowed"
            )
            reasons.update(dict.fromkeys(units[name].nodes, why))
    precisions = dict(raised(shop, units.values(), at(count)))
    return found.model_copy(update={"precisions": precisions, "reasons": {**found.reasons, **reasons}})


def _note(judge: Judge, tried: Mapping[int, Drop], put: list[tuple[str, Precision]]) -> dict[str, JsonValue]:
    return {
        "max_drop": judge.max_drop,
        "confidence": judge.confidence,
        "raised": [{"layer": name, "bits": bits} for name, bits in put],
        "tried": [{"raised": count, **drop._asdict()} for count, drop in sorted(tried.items())],
    }
