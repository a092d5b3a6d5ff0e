"""P5: the detector of the examples, pruned, taught by itself and quantized, for OpenVINO.

Squares, discs and triangles on noise are drawn from seeds: images and boxes that anyone can draw again. The detector of
`examples/detector.py` is trained on them; the recipe is that of its page. The metric is the mean average precision at
an overlap of 0.5, on test images that nothing was chosen on. It has the size of the one that the goal speaks of, 27 MB:
one of a sixteenth loses too much with half of its products, and spends its time between them. Controls: int8 alone,
and the original trained on by the same `Finetune`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from torch import nn

import lissom
from benchmarks import chain
from benchmarks.cifar import PROJECT, project
from benchmarks.context import Context
from benchmarks.results import Beside, Goal, Outcome, Wish
from benchmarks.scenario import INT8
from benchmarks.shapes import draw
from lissom.recipe import Recipe
from lissom.task import Task

TITLE = "A detector with CSP blocks, pruned, taught and quantized: shapes drawn on noise"
NEEDS = ()
SMALLER, DROP_PT, FASTER = 3.4, 1.2, 3.0
IMAGES = {"train": 2000, "validation": 300, "test": 1000}
WIDTH, EPOCHS = 64, 20
TRAINING = lissom.Finetune(epochs=10, learning_rate=0.002, optimizer="adamw", teacher="original", losses=["squared"])
OURS, ALONE = "pruned, taught, int8", "int8 alone"
RECIPES: Mapping[str, Recipe] = {
    OURS: Recipe([lissom.Prune(macs_ratio=2), TRAINING, lissom.Fold(), lissom.Quantize()]),
    ALONE: INT8,
    chain.TRAINED_ONLY: Recipe([TRAINING]),
}


def goal() -> Goal:
    return Goal(
        text=(
            f"a file at least {SMALLER:g} times smaller than in float, mean average precision at most {DROP_PT} points "
            f"lower on test images, one image at a time at least {FASTER:g} times faster than the faster of "
            "two float runtimes"
        ),
        wishes=(
            Wish(figure="size", at_least=SMALLER),
            Wish(figure="drop", at_most=DROP_PT),
            Wish(figure="speed-up", at_least=FASTER),
        ),
    )


def run(context: Context) -> Outcome:
    model, task = original(context, IMAGES, EPOCHS, WIDTH)
    return compared(context, model, task, RECIPES)


def compared(context: Context, model: nn.Module, task: Task, recipes: Mapping[str, Recipe]) -> Outcome:
    return chain.compared(
        context,
        model,
        task,
        recipes,
        goal=goal(),
        unit="mAP %",
        batch=1,
        reference=(
            Beside(what="size", value=3.4, unit="x", source="27 MB to 8 MB, the claim that the goal starts from"),
        ),
    )


def original(
    context: Context, images: Mapping[str, int], epochs: int, width: int, size: int = 128
) -> tuple[nn.Module, Task]:
    """Trained once on images drawn once."""
    for seed, (split, count) in enumerate(images.items()):
        whole = context.kept / "images" / split
        if not whole.is_dir():
            part = whole.with_name(f"{split}.part")
            shutil.rmtree(part, ignore_errors=True)
            draw(part, count, seed, size)
            part.rename(whole)
    context.say("training")
    return project(PROJECT.with_name("detector.py")).build(
        context.kept / "images", context.kept / "float.safetensors", epochs=epochs, width=width, size=size
    )
