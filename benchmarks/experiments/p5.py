"""P5: the detector of the examples, pruned, taught by itself and quantized, for OpenVINO.

Squares, discs and triangles on noise are drawn from seeds: images and boxes that anyone can draw again. The detector of
`examples/detector.py` is trained on them; `RECIPE` is that of its page. The metric is the mean average precision at an
overlap of 0.5, on test images that nothing was chosen on. Controls: int8 alone, and the original trained on by the same
`Finetune`.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from torch import nn

import lissom
from benchmarks.cifar import PROJECT, project
from benchmarks.context import Context, remembered
from benchmarks.protocol import Contender, exported, faster, key, race, recorded
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from benchmarks.scenario import INT8, drop_points
from benchmarks.shapes import draw
from lissom.export.base import Artifact
from lissom.recipe import Recipe
from lissom.task import Task

TITLE = "A detector with CSP blocks, pruned, taught and quantized: shapes drawn on noise"
NEEDS = ()
SMALLER, DROP_PT, FASTER = 3.4, 1.2, 3.0
IMAGES = {"train": 2000, "validation": 300, "test": 1000}
EPOCHS = 40
TARGET, FLOAT = "openvino", ("openvino", "onnxruntime")
TRAINING = lissom.Finetune(epochs=15, learning_rate=0.002, optimizer="adamw", teacher="original", losses=["squared"])
OURS = "pruned, taught, int8"
RECIPES: dict[str, list[Any]] = {
    OURS: [lissom.Prune(macs_ratio=2), TRAINING, lissom.Fold(), lissom.Quantize()],
    "int8 alone": list(INT8.steps),
    "trained on": [TRAINING],
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
    model, task = original(context, IMAGES, EPOCHS)
    return compared(context, model, task, RECIPES)


def original(
    context: Context, images: dict[str, int], epochs: int, width: int = 16, size: int = 128
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


def compared(context: Context, model: nn.Module, task: Task, recipes: dict[str, list[Any]]) -> Outcome:
    found: dict[str, dict[str, Any]] = {}
    for name, steps in recipes.items():
        context.say(name)
        target = "torch" if name == "trained on" else TARGET
        found[name] = remembered(
            context.kept / name.replace(", ", "-").replace(" ", "-"),
            lambda place, steps=steps, target=target: recorded(model, task, place, recipe=Recipe(steps), target=target),
        )
    ours = found[OURS]
    context.say("latency")
    racing = [exported(model, task, target, context.scratch, name="float") for target in FLOAT]
    for name in (OURS, "int8 alone"):
        # What is remembered is a record; the file is made again where its folder is not at hand.
        place = context.kept / name.replace(", ", "-").replace(" ", "-")
        if not (place / "manifest.json").is_file():
            place = context.scratch / place.name
            recorded(model, task, place, recipe=Recipe(recipes[name]), target=TARGET)
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        racing.append(Contender(name, Artifact.model_validate(manifest["artifact"]), place))
    samples = race(racing, task.example, 1, rounds=context.rounds, threads=context.threads)
    middle = {one: sorted(times)[len(times) // 2] for one, times in samples.items()}
    best = min((f"{target}/float" for target in FLOAT), key=lambda one: middle[one])
    speed = {name: faster(samples, best, f"{TARGET}/{name}", f"of {best}") for name in (OURS, "int8 alone")}
    return Outcome(
        goal=goal(),
        value={
            "size": Figure(value=round(ours["ratios"]["size"], 3), unit="x"),
            "drop": Figure(value=drop_points(ours), unit="points"),
            "speed-up": speed[OURS],
            "MACs": Figure(value=round(ours["ratios"]["macs"], 3), unit="x"),
            "parameters": Figure(value=round(ours["ratios"]["parameters"], 3), unit="x"),
            "int8 alone, speed-up": speed["int8 alone"],
        },
        reference=(
            Beside(what="size", value=3.4, unit="x", source="27 MB to 8 MB, the claim that the goal starts from"),
        ),
        control=(
            Beside(what="the original", value=percent(ours["before"]), unit="%", source="the same run"),
            *(
                Beside(what=f"{name}, drop", value=drop_points(found[name]), unit="points", source="the same run")
                for name in found
                if name != OURS
            ),
            Beside(
                what="int8 alone, times smaller",
                value=round(found["int8 alone"]["ratios"]["size"], 3),
                unit="x",
                source="the same run",
            ),
        ),
        seeds=(0,),
        runs=(
            *(
                Run(
                    name=name,
                    figures={
                        "mAP %": percent(one["after"]),
                        "bytes": one["after"]["size_bytes"] or 0,
                        "MACs": one["after"]["macs"],
                        "parameters": one["after"]["parameters"],
                        "seconds of the steps": round(sum(step["seconds"] for step in one["steps"]), 1),
                    },
                )
                for name, one in found.items()
            ),
            *(Run(name=f"latency of {key(one)}", samples_ms=samples[key(one)]) for one in racing),
        ),
    )


def percent(measured: dict[str, Any]) -> float:
    return round(100 * measured["metric"]["value"], 2)
