"""P1: the 30 % smallest weights of ResNet-56 set to zero, one shot, no training."""

from __future__ import annotations

import json

import lissom
from benchmarks.cifar import trained
from benchmarks.context import Context
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.recipe import Recipe

TITLE = "The 30 % smallest weights of ResNet-56 to zero, no training"
NEEDS = ("data", "weights")
RATIO, DROP_PT = 0.3, 0.1


def goal() -> Goal:
    return Goal(
        text=f"accuracy on the test split falls by at most {DROP_PT} points",
        wishes=(Wish(figure="drop", at_most=DROP_PT),),
    )


def run(context: Context) -> Outcome:
    model, task = trained(context, 56)
    runs: list[Run] = []
    drops: dict[str, float] = {}
    for criterion, scope in (("magnitude", "global"), ("magnitude", "local"), ("wanda", "local")):
        name = f"{criterion}, {scope}"
        context.say(name)
        step = lissom.Sparsify(ratio=RATIO, criterion=criterion, scope=scope)  # pyright: ignore[reportArgumentType]
        out = context.scratch / name.replace(", ", "-")
        lissom.compress(model, task, recipe=Recipe([step]), target="openvino", out=out)
        found = json.loads((out / "result.json").read_text(encoding="utf-8"))
        before, after = (100 * found[side]["metric"]["value"] for side in ("before", "after"))
        drops[name] = round(before - after, 4)
        runs.append(Run(name=name, figures={"accuracy %": round(after, 2), "drop points": drops[name]}))
    return Outcome(
        goal=goal(),
        value={
            "drop": Figure(value=drops["magnitude, global"], unit="points", note="magnitude, one ranking"),
            "drop, wanda": Figure(value=drops["wanda, local"], unit="points"),
        },
        reference=(),
        control=(Beside(what="the original", value=round(before, 2), unit="%", source="the same run"),),
        seeds=(0,),
        runs=tuple(runs),
    )
