"""Q6: weights of four bits, activations of eight, after training: ResNet-20 and ResNet-56 on CIFAR-10."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.cifar import trained
from benchmarks.context import Context
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.measure.quality import evaluate
from lissom.metrics import as_metric
from lissom.pipeline.transforming import transform
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize

TITLE = "Weights of 4 bits, activations of 8, after training: ResNet-20 and ResNet-56 on CIFAR-10"
NEEDS = ("data", "weights")
DEPTHS = (20, 56)
TARGET = "openvino"
DROP_PT = 0.7
WATCHED = 5000
"""First images of the test split, seen while the settings of GPTQ and AdaRound were chosen on ResNet-20."""
WAYS = {
    "as is": Quantize(weight_bits=4),
    "nearest": Quantize(weight_bits=4, corrections=()),
    "nearest, bias": Quantize(weight_bits=4, corrections=("bias",)),
    "adaround": Quantize(weight_bits=4, corrections=("adaround",)),
    "int8": Quantize(),
    "int8, no corrections": Quantize(corrections=()),
}
"""`as is` is what `weight_bits=4` does by itself, and what the goal is about."""
COMPARED = {20: tuple(WAYS), 56: ("as is", "nearest", "int8")}
"""The larger network shows that the default holds there too; the ways are compared on the smaller one."""


def goal() -> Goal:
    return Goal(
        text=(
            f"accuracy drop of at most {DROP_PT} points on the test split, simulated in torch, with the default "
            "corrections and 512 calibration images"
        ),
        wishes=tuple(
            Wish(figure=f"resnet{depth} drop{part}", at_most=DROP_PT)
            for depth in DEPTHS
            for part in ("", ", unwatched images")
        ),
    )


def run(context: Context) -> Outcome:
    value: dict[str, Figure] = {}
    control: list[Beside] = []
    runs: list[Run] = []
    for depth in DEPTHS:
        model, task = trained(context, depth)
        name = f"resnet{depth}"
        before = accuracy(model, task)
        unwatched = accuracy(model, task, skip=WATCHED)
        control.append(Beside(what=f"{name} float accuracy", value=before, unit="%", source="the same run"))
        for way in COMPARED[depth]:
            context.say(f"{name}: {way}")
            found = one(f"{name}, {way}", model, task, WAYS[way], before, unwatched)
            runs.append(found)
            drop = float(found.figures["drop points"])
            value[f"{name} drop" if way == "as is" else f"{name} drop, {way}"] = Figure(value=drop, unit="points")
            if way == "as is":
                rest = float(found.figures["drop points, unwatched images"])
                note = f"test images after the first {WATCHED:,}, on which no setting was watched"
                value[f"{name} drop, unwatched images"] = Figure(value=rest, unit="points", note=note)
    return Outcome(goal=goal(), value=value, reference=(), control=tuple(control), seeds=(0,), runs=tuple(runs))


def one(name: str, model: nn.Module, task: Task, quantize: Quantize, before: float, unwatched: float) -> Run:
    """One way to round, on the folded network."""
    step = transform(model, task, Recipe([Fold(), quantize]), load_target(TARGET))[-1]
    after = accuracy(step.model, task)
    tried = [trial for key in ("corrections", "rounding") for trial in step.notes.get(key, [])]
    figures: dict[str, float | str] = {
        "accuracy %": round(after, 2),
        "drop points": round(before - after, 4),
        "drop points, unwatched images": round(unwatched - accuracy(step.model, task, skip=WATCHED), 4),
        "kept": ", ".join(trial["name"] for trial in tried if trial["accepted"]) or "nothing",
        "rolled back": ", ".join(trial["name"] for trial in tried if not trial["accepted"]) or "nothing",
    }
    return Run(name=name, figures=figures)


def accuracy(model: nn.Module, task: Task, skip: int = 0) -> float:
    """Per cent of the test split without its first `skip` images, in torch."""

    def predict(batch: Batch) -> object:
        with torch.no_grad():
            return model(*batch.args, **batch.kwargs)

    return 100 * evaluate(predict, _after(task, skip), as_metric(task.metric), split="test").value


def _after(task: Task, skip: int) -> Iterator[Batch]:
    seen = 0
    for batch in task.batches("test"):
        seen += batch.size
        if seen > skip:
            yield batch
