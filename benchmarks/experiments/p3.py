"""P3: 40 % of the channels of ResNet-56 cut by the scale of their normalization, then 15 epochs."""

from __future__ import annotations

import lissom
from benchmarks.cifar import trained
from benchmarks.context import Context, remembered
from benchmarks.protocol import recorded
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.recipe import Recipe

EPOCHS = 15
TRAINING = lissom.Finetune(epochs=EPOCHS, learning_rate=0.02, teacher="original", temperature=4.0)
TITLE = f"40 % of the channels of ResNet-56 by the scale of their normalization, {EPOCHS} epochs"
NEEDS = ("data", "weights")
DROP_PT = 0.5
PRUNED = lissom.Prune(ratio=0.4, criterion="bn_scale", round_to=1)


def goal() -> Goal:
    return Goal(
        text=f"accuracy on the test split, last of {EPOCHS} epochs (at most 15), falls by at most {DROP_PT} points",
        wishes=(Wish(figure="drop", at_most=DROP_PT),),
    )


def run(context: Context) -> Outcome:
    model, task = trained(context, 56)
    found = {}
    for name, steps in (("right after surgery", [PRUNED]), ("fine-tuned", [PRUNED, TRAINING])):
        context.say(name)
        found[name] = remembered(
            context.kept / name.replace(" ", "-"),
            lambda place, steps=steps: recorded(model, task, place, recipe=Recipe(steps), target="torch"),
        )
    percent = {name: 100 * one["after"]["metric"]["value"] for name, one in found.items()}
    before = 100 * found["fine-tuned"]["before"]["metric"]["value"]
    return Outcome(
        goal=goal(),
        value={
            "drop": Figure(value=round(before - percent["fine-tuned"], 4), unit="points"),
            "MACs": Figure(value=round(found["fine-tuned"]["ratios"]["macs"], 3), unit="x"),
            "parameters": Figure(value=round(found["fine-tuned"]["ratios"]["parameters"], 3), unit="x"),
        },
        reference=(),
        control=(Beside(what="the original", value=round(before, 2), unit="%", source="the same run"),),
        seeds=(0,),
        runs=tuple(Run(name=name, figures={"accuracy %": round(value, 2)}) for name, value in percent.items()),
    )
