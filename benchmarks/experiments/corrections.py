"""CORRECTIONS: what every correction of static quantization does by itself, and whether its gate decides rightly.

Each correction is tried as a recipe would try it, which gives the gate's verdict on calibration examples; where it was
put back, it is carried out once more with every gate open. Accuracy is that of the simulation in torch on validation
images, which neither saw. The published weights have seen them, so that they tell how well what was learned is kept. A
verdict counts as right or wrong only where images that change sides could hardly do so by chance; what is done once is
kept, and a run that was killed goes on there.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.cifar import trained
from benchmarks.context import Context
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, write_text
from lissom.measure.quality import scores
from lissom.metrics import as_metric
from lissom.pipeline.transforming import transform
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize

TITLE = "Each correction of static quantization alone, and whether its gate was right: ResNet-20 on CIFAR-10"
NEEDS = ("data", "weights")
DEPTHS = (20,)
TARGET = "openvino"
IMAGES = 2000
SURE = 1.96
"""Standard deviations of the number of images that change sides, beyond which a difference is no chance."""
TRIED: dict[int, tuple[Any, ...]] = {
    8: ("equalize", "smooth", "bias", "reestimate"),
    4: ("equalize", "smooth", "gptq", "adaround", "reestimate"),
}
"""By bits of the weights; activations have 8. With fewer bits biases move after a fitted rounding only."""
Found = dict[str, Any]


def goal() -> Goal:
    return Goal(text="a record: accuracy with each correction alone, the gate's verdict, and whether it was right")


def run(context: Context) -> Outcome:
    value: dict[str, Figure] = {}
    control: list[Beside] = []
    runs: list[Run] = []
    for depth in DEPTHS:
        model, task = trained(context, depth)
        name = f"resnet{depth}"
        table = compared(context, name, model, task)
        float_accuracy = table["float"]["accuracy"]
        control.append(Beside(what=f"{name} float accuracy", value=float_accuracy, unit="%", source="the same run"))
        verdicts = [one["gate was"] for one in table.values() if "gate was" in one]
        for verdict in ("right", "wrong", "not told apart from chance"):
            figure = Figure(value=verdicts.count(verdict), unit=f"of {len(verdicts)}")
            value[f"{name} gate {verdict}"] = figure
        runs += [Run(name=f"{name}, {label}", figures=one) for label, one in table.items() if label != "float"]
    return Outcome(goal=goal(), value=value, reference=(), control=tuple(control), seeds=(0,), runs=tuple(runs))


def compared(context: Context, name: str, model: nn.Module, task: Task) -> dict[str, Found]:
    """By what was done: `float`, `W8A8`, `W8A8 bias`, ..."""
    memory = context.kept / f"{name}-{IMAGES}.json"
    held: dict[str, Found] = json.loads(memory.read_text("utf-8")) if memory.exists() else {}
    rights: dict[str, Tensor] = {}

    def keep(label: str, found: Found, right: Tensor) -> None:
        held[label] = {**found, "right": right.int().tolist()}
        write_text(memory, json.dumps(held))

    if "float" not in held:
        right = answers(model, task)
        keep("float", {"accuracy": percent(right)}, right)
    for bits, names in TRIED.items():
        plain = f"W{bits}A8"
        for label, corrections in ((plain, ()), *((f"{plain} {one}", (one,)) for one in names)):
            if label not in held:
                context.say(f"{name}: {label}")
                keep(label, *one(model, task, bits, corrections))
            rights[label] = torch.tensor(held[label]["right"]).bool()
            if corrections:
                held[label].update(judged(held[label], rights[plain], rights[label]))
    return {label: {key: value for key, value in found.items() if key != "right"} for label, found in held.items()}


def one(model: nn.Module, task: Task, bits: Any, corrections: tuple[Any, ...]) -> tuple[Found, Tensor]:
    """Accuracy with the corrections carried out, whatever the gate says, and what it says."""
    recipe = Recipe([Fold(), Quantize(weight_bits=bits, corrections=corrections)])
    step = transform(model, task, recipe, load_target(TARGET))[-1]
    tried = [trial for key in ("corrections", "rounding") for trial in step.notes.get(key, [])]
    if tried and not tried[0]["accepted"]:
        with open_gates():
            step = transform(model, task, recipe, load_target(TARGET))[-1]
    right = answers(step.model, task)
    found: Found = {"accuracy": percent(right)}
    if corrections:
        found["layers"] = tried[0]["layers"] if tried else 0
        found["gate"] = ("kept" if tried[0]["accepted"] else "put back") if tried else "nothing to do"
        found["output error without %"] = round(100 * tried[0]["error_before"], 4) if tried else 0.0
        found["output error with %"] = round(100 * tried[0]["error_after"], 4) if tried else 0.0
    return found, right


@contextmanager
def open_gates() -> Generator[None]:
    """Every correction seems to lower the error: whatever is tried is carried out."""
    ever = (2.0**-number for number in count())
    with mock.patch("lissom.transforms.quantization.corrections.relative_error", side_effect=ever):
        yield


def judged(found: Found, before: Tensor, after: Tensor) -> Found:
    """The effect on the same images, and whether the gate went with it."""
    better, worse = int((after & ~before).sum()), int((before & ~after).sum())
    effect = 100 * (better - worse) / len(before)
    if found["gate"] == "nothing to do":
        return {"effect points": effect}
    sure = abs(better - worse) > SURE * max(better + worse, 1) ** 0.5
    right = (better > worse) == (found["gate"] == "kept")
    return {
        "effect points": effect,
        "images better": better,
        "images worse": worse,
        "gate was": ("right" if right else "wrong") if sure else "not told apart from chance",
    }


def answers(model: nn.Module, task: Task) -> Tensor:
    """Which of the validation images are right, (images,)."""

    def predict(batch: Batch) -> object:
        with torch.no_grad():
            return model(*batch.args, **batch.kwargs)

    found = scores(predict, task.batches("validation", limit=IMAGES), as_metric(task.metric))
    assert found is not None
    return found > 0.5


def percent(right: Tensor) -> float:
    return round(100 * float(right.double().mean()), 4)
