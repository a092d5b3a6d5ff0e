"""X1: the whole chain on ResNet-56: blocks and channels cut, taught by the original, rounded to integers, OpenVINO.

Blocks and channels are cut in whole sixteens: that many are computed at a time. Controls: int8 alone, and the original
trained on by the same `Finetune`.
"""

from __future__ import annotations

from collections.abc import Mapping

import lissom
from benchmarks import chain
from benchmarks.cifar import trained
from benchmarks.context import Context
from benchmarks.results import Goal, Outcome, Wish
from benchmarks.scenario import INT8
from lissom.recipe import Recipe

TITLE = "ResNet-56 by the whole chain: blocks, channels, distillation, int8; latency at batch 64"
NEEDS = ("data", "weights")
FASTER, DROP_PT, BATCH = 10.0, 0.5, 64
TRAINING = lissom.Finetune(epochs=15, learning_rate=0.01, teacher="original", temperature=4.0, views=4)
RECIPES: Mapping[str, Recipe] = {
    "blocks, channels, int8": Recipe(
        [
            lissom.PruneDepth(macs_ratio=1.8),
            lissom.Prune(macs_ratio=1.5),
            TRAINING,
            lissom.Fold(),
            lissom.Quantize(),
        ]
    ),
    "int8 alone": INT8,
    chain.TRAINED_ONLY: Recipe([TRAINING]),
}


def goal() -> Goal:
    return Goal(
        text=(
            f"at batch {BATCH} at least {FASTER:g} times faster than the faster of two float runtimes, accuracy on the "
            f"test split, last epoch, at most {DROP_PT} points lower"
        ),
        wishes=(Wish(figure="speed-up", at_least=FASTER), Wish(figure="drop", at_most=DROP_PT)),
    )


def run(context: Context) -> Outcome:
    model, task = trained(context, 56)
    return chain.compared(context, model, task, RECIPES, goal=goal(), unit="accuracy %", batch=BATCH)
