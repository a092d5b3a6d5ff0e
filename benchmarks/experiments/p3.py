"""P3: 40 % of the channels of ResNet-56 cut by the scale of their normalization, then trained for some epochs.

Scales are compared as they are, over the whole network (`normalization="none"`), as network slimming does (Liu et al.
2017), and a channel that several normalizations scale, as those of residual streams, counts by the largest
(`reduction="max"`). At a number of channels this spares the streams and early stages, whose channels cost most: fewer
multiplications go than with scales divided by the largest of their group, the default, which is ahead at a number of
multiplications (P2). Both are shown right after surgery; between them the validation split chose.
"""

from __future__ import annotations

import lissom
from benchmarks.cifar import trained
from benchmarks.context import Context, remembered
from benchmarks.protocol import recorded
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.recipe import Recipe

EPOCHS = 8
TRAINING = lissom.Finetune(epochs=EPOCHS, learning_rate=0.01, teacher="original", temperature=4.0, views=4)
TITLE = f"40 % of the channels of ResNet-56 by the scale of their normalization, {EPOCHS} epochs"
NEEDS = ("data", "weights")
DROP_PT = 0.5
PRUNED = lissom.Prune(ratio=0.4, criterion="bn_scale", normalization="none", reduction="max", round_to=1)
DIVIDED = PRUNED.model_copy(update={"normalization": "max", "reduction": "mean"})


def goal() -> Goal:
    return Goal(
        text=f"accuracy on the test split, last of {EPOCHS} epochs (at most 15), falls by at most {DROP_PT} points",
        wishes=(Wish(figure="drop", at_most=DROP_PT),),
    )


def run(context: Context) -> Outcome:
    model, task = trained(context, 56)
    found = {}
    recipes = {
        "divided scales, right after surgery": [DIVIDED],
        "right after surgery": [PRUNED],
        "fine-tuned": [PRUNED, TRAINING],
    }
    for name, steps in recipes.items():
        context.say(name)
        found[name] = remembered(
            context.kept / name.replace(",", "").replace(" ", "-"),
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
        runs=tuple(
            Run(name=name, figures={"accuracy %": round(percent[name], 2), "MACs x": round(one["ratios"]["macs"], 3)})
            for name, one in found.items()
        ),
    )
