"""Plain and data-aware factors of one network at equal ranks, before any training: what the data say is worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

from torch import nn

from benchmarks.answers import difference, percent, right
from benchmarks.context import Context
from benchmarks.results import Beside, Figure, Goal, Outcome, Run
from lissom.files import write_text
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.lowrank import Factorize
from lissom.transforms.lowrank.parts import Method

Recovery = Literal["none", "reconstruct"]


class Compared(NamedTuple):
    """The paired difference for every method and ratio, every run, and how often the original is right."""

    value: dict[str, Figure]
    runs: tuple[Run, ...]
    original: float

    def outcome(self, goal: Goal, more: Mapping[str, Figure] = MappingProxyType({})) -> Outcome:
        beside = Beside(what="the original", value=self.original, unit="%", source="the same run")
        value = {**self.value, **more}
        return Outcome(goal=goal, value=value, reference=(), control=(beside,), seeds=(0,), runs=self.runs)


def figure(method: Method, ratio: float, recovery: Recovery = "none") -> str:
    return f"aware over plain, {method} {ratio}" + ("" if recovery == "none" else ", recovered")


def compared(
    context: Context,
    model: nn.Module,
    task: Task,
    *,
    methods: Sequence[Method],
    ratios: Sequence[float],
    exclude: tuple[str, ...],
    judged: Callable[[], Iterable[Batch]],
    recoveries: Sequence[Recovery] = ("none",),
) -> Compared:
    """`ratios`: shares of the multiplications of every layer that are saved; ranks are those of the plain singular
    values. `judged`: the examples that are answered, anew at each call. What was answered is kept."""
    target, traced = load_target("torch"), trace(model, task.example)
    context.kept.mkdir(parents=True, exist_ok=True)
    memory = context.kept / "runs.json"
    done: dict[str, list[int]] = json.loads(memory.read_text(encoding="utf-8")) if memory.exists() else {}

    def answered(key: str, one: nn.Module) -> None:
        done[key] = right(one, judged())
        write_text(memory, json.dumps(done))

    if "original" not in done:
        answered("original", model)
    context.say(f"original: {percent(done['original'])} %")
    runs = [Run(name="original", figures={"accuracy %": percent(done["original"])})]
    value: dict[str, Figure] = {}
    for method in methods:
        for ratio in ratios:
            plain = Factorize(
                method=method, ratio=ratio, exclude=exclude, data_aware=False, recovery="none", round_to=1
            )
            plan = plain.plan(traced.graph, plain.study(model, traced, task, target), target)
            for recovery in recoveries:
                names = {kind: f"{method} {ratio}, {kind}, recovery {recovery}" for kind in ("plain", "aware")}
                for kind, name in names.items():
                    if name not in done:
                        one = plain.model_copy(update={"data_aware": kind == "aware", "recovery": recovery})
                        answered(name, one.apply(model, plan, traced, task))
                    context.say(f"{name}: {percent(done[name])} %")
                    figures: dict[str, float | str] = {
                        "accuracy %": percent(done[name]),
                        "MACs ratio": round(traced.graph.macs / plan.predicted.macs, 3),
                        "layers split": len(plan.actions),
                    }
                    runs.append(Run(name=name, figures=figures))
                value[figure(method, ratio, recovery)] = difference(done[names["aware"]], done[names["plain"]])
    return Compared(value, tuple(runs), percent(done["original"]))
