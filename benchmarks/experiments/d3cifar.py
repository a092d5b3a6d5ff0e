"""CIFAR-10 without data, part of D3: ResNet-56 loses half of its multiplications and is taught by what it was.

A whole run as a user without data makes it (`lissom.compress(data_free=...)`): the student is the teacher itself after
`Prune`, which without data goes by magnitude, so that it starts from weights, not from chance; `Finetune` makes up
inputs from the teacher (fast meta-synthesis). No real image is in training or stopping: the task has a test split
alone, which is read once, after the last epoch. Controls: the cut alone, and training on noise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lissom
from benchmarks.cifar import project, trained
from benchmarks.context import Context, remembered
from benchmarks.protocol import recorded
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.recipe import Recipe
from lissom.task import Task

TITLE = "CIFAR-10 without data: ResNet-56 cut to half, taught on images made up from it (part of D3)"
NEEDS = ("data", "weights")
OURS, NOISE, CUT = "made up", "noise", "only cut"
CIFAR = project()
LOW = round(min((0 - mean) / std for mean, std in zip(CIFAR.MEAN, CIFAR.STD, strict=True)), 3)
HIGH = round(max((1 - mean) / std for mean, std in zip(CIFAR.MEAN, CIFAR.STD, strict=True)), 3)
"""Of valid pixels, as the network reads them: part of its input format."""
BRIEF = lissom.DataFree.of(f"meta,low={LOW},high={HIGH},examples=256")
PRUNED = lissom.Prune(macs_ratio=2.1, round_to=1)
SCHEDULE: dict[str, Any] = {
    "epochs": 6, "learning_rate": 0.01, "teacher": "original", "temperature": 4.0, "crop": 4, "flip": True,
}  # fmt: skip
BOUNDS: dict[str, Any] = {"low": LOW, "high": HIGH, "steps": 200, "batch_size": 64}
ARMS = {
    OURS: Recipe([PRUNED, lissom.Finetune(**SCHEDULE, synthesis={"method": "meta", **BOUNDS})]),
    NOISE: Recipe([PRUNED, lissom.Finetune(**SCHEDULE, synthesis={"method": "noise", **BOUNDS})]),
    CUT: Recipe([PRUNED]),
}


def goal() -> Goal:
    return Goal(
        text=(
            "ResNet-56 with 2.1 times fewer MACs, no image seen: as accurate on the test split as an hour of two cores "
            "allows, and better than the cut alone and than noise"
        ),
        wishes=(Wish(figure="over the better control", at_least=0.0),),
    )


def run(context: Context) -> Outcome:
    model, task = trained(context, 56)
    return compared(context, model, task, ARMS, BRIEF)


def compared(context: Context, model: Any, task: Task, arms: dict[str, Recipe], brief: lissom.DataFree) -> Outcome:
    """The experiment for any network and its task, of which only the test split is used."""
    blind = replace(task, train=None, calibration=None, validation=None, name=f"{task.name}-without-data")
    found: dict[str, dict[str, Any]] = {}
    for name, recipe in arms.items():
        context.say(name)
        found[name] = remembered(
            context.kept / name.replace(" ", "-"),
            lambda place, recipe=recipe: recorded(model, blind, place, recipe=recipe, target="torch", data_free=brief),
        )
    percent = {name: round(100 * one["after"]["metric"]["value"], 2) for name, one in found.items()}
    ours = found[OURS]
    return Outcome(
        goal=goal(),
        value={
            "accuracy": Figure(value=percent[OURS], unit="%"),
            "over the better control": Figure(
                value=round(percent[OURS] - max(percent[NOISE], percent[CUT]), 2), unit="points"
            ),
            "MACs": Figure(value=round(ours["ratios"]["macs"], 3), unit="x"),
            "minutes": Figure(value=round(sum(step["seconds"] for step in ours["steps"]) / 60, 1), unit="min"),
        },
        reference=(),
        control=(
            *(Beside(what=name, value=percent[name], unit="%", source="the same run") for name in (NOISE, CUT)),
            Beside(
                what="the teacher", value=round(100 * ours["before"]["metric"]["value"], 2), unit="%",
                source="the same run",
            ),
        ),
        seeds=(0,),
        runs=tuple(Run(name=name, figures={"accuracy %": value}) for name, value in percent.items()),
    )  # fmt: skip
