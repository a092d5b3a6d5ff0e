"""A1: the habits that are defaults, each taken away once: ResNet-20 on CIFAR-10 with 2.5 times fewer MACs.

`EPOCHS` in all, at one rate, taught by the original, whatever the arm. The default of `lissom.progressive` cuts at most
30 % of what is left at a time and trains for three epochs after each cut; the arms cut all at once, in two large steps,
or train little between cuts and long at the end; one leaves the warm-up out. Accuracy is that of the last epoch on the
test split; two seeds, which draw order and augmentation. The fourth habit, watching for saturation, concerns
processors whose 8-bit products saturate: `tests/contract/test_overflow_runtimes.py` finds the pairs of weights there.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

import lissom
from benchmarks.cifar import trained
from benchmarks.context import Context, remembered
from benchmarks.protocol import recorded
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.recipe import Recipe
from lissom.task import Task
from lissom.transforms.base import Transform

TITLE = "Good habits, each taken away: ResNet-20 with 2.5 times fewer MACs, CIFAR-10"
NEEDS = ("data", "weights")
DEPTH, RATIO, EPOCHS, SEEDS = 20, 2.5, 12, (0, 1)
DEFAULT, AT_ONCE, COLD = "steps of 30 %", "at once", "at once, no warm-up"
TAUGHT: Mapping[str, Any] = {"learning_rate": 0.02, "teacher": "original", "temperature": 4.0}


def goal() -> Goal:
    return Goal(
        text=(
            f"with {EPOCHS} epochs in all, steps of at most 30 % with three epochs after each are at least as good as "
            "every other way to cut, and warm-up at least as good as none; means of two seeds, within their spread"
        ),
        wishes=(
            Wish(figure="the default behind the best way to cut", at_most=0.0),
            Wish(figure="warm-up behind none", at_most=0.0),
        ),
    )


def arms(epochs: int, ratio: float) -> dict[str, Sequence[Transform]]:
    """Recipes with the same number of epochs; the default takes a quarter of them after each of its four cuts."""
    cut, part = lissom.Prune(macs_ratio=ratio, round_to=1), max(1, epochs // 4)

    def tuned(count: int, **more: Any) -> lissom.Finetune:
        return lissom.Finetune(epochs=count, **TAUGHT, **more)

    return {
        DEFAULT: lissom.progressive(cut, tuned(part)),
        AT_ONCE: (cut, tuned(epochs)),
        "two steps": lissom.progressive(cut, tuned(epochs // 2), steps=2),
        "steps of 30 %, an epoch after each": lissom.progressive(cut, tuned(1), final=tuned(max(1, epochs - 3))),
        COLD: (cut, tuned(epochs, warmup=0.0)),
        "not cut": (tuned(epochs),),
    }


def run(context: Context) -> Outcome:
    model, task = trained(context, DEPTH)
    return compared(context, model, task, arms(EPOCHS, RATIO), SEEDS)


def compared(
    context: Context, model: nn.Module, task: Task, ways: Mapping[str, Sequence[Transform]], seeds: Sequence[int]
) -> Outcome:
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        for name, steps in ways.items():
            context.say(f"{name}, seed {seed}")
            place = context.kept / f"{name}-{seed}".replace(", ", "-").replace(" ", "-").replace("%", "percent")
            found.setdefault(name, []).append(
                remembered(
                    place,
                    lambda folder, steps=steps, seed=seed: recorded(
                        model, task, folder, recipe=Recipe(steps), target="torch", seed=seed
                    ),
                )
            )
    seen = {name: [100 * one["after"]["metric"]["value"] for one in many] for name, many in found.items()}
    *cuts, _ = (name for name in seen if name != COLD)
    best = max(cuts, key=lambda name: statistics.mean(seen[name]))
    before = 100 * found[DEFAULT][0]["before"]["metric"]["value"]
    return Outcome(
        goal=goal(),
        value={
            "the default behind the best way to cut": behind(seen[DEFAULT], seen[best], best),
            "warm-up behind none": behind(seen[AT_ONCE], seen[COLD], COLD),
            **{f"drop, {name}": Figure(value=round(before - statistics.mean(seen[name]), 3), unit="points")
               for name in seen},
        },
        reference=(),
        control=(
            Beside(what="the original", value=round(before, 2), unit="%", source="the same run"),
            Beside(what="not cut, the same epochs", value=round(statistics.mean(seen["not cut"]), 2), unit="%",
                   source="the same run"),
        ),
        seeds=tuple(seeds),
        runs=tuple(
            Run(name=f"{name}, seed {seed}", figures={
                "accuracy %": round(100 * one["after"]["metric"]["value"], 2),
                "MACs": one["after"]["macs"],
                "seconds of the steps": round(sum(step["seconds"] for step in one["steps"]), 1),
            })
            for name, many in found.items()
            for seed, one in zip(seeds, many, strict=True)
        ),
    )  # fmt: skip


def behind(ours: Sequence[float], best: Sequence[float], name: str) -> Figure:
    """By more than the two spreads over seeds together."""
    spread = sum(statistics.stdev(each) if len(each) > 1 else 0.0 for each in (ours, best))
    gap = statistics.mean(best) - statistics.mean(ours)
    note = f"{name}: {statistics.mean(best):.2f} % against {statistics.mean(ours):.2f} %, spreads {spread:.2f}"
    return Figure(value=round(max(0.0, gap - spread), 3), unit="points", note=note)
