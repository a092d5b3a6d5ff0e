"""QAT: weights and activations of four bits, ResNet-20 on CIFAR-10, trained with learned step sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from torch import nn

import lissom.data
from benchmarks.cifar import trained
from benchmarks.context import Context, remembered
from benchmarks.experiments.d1 import percent
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.graph.trace import trace
from lissom.pipeline.transforming import transform
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Task
from lissom.training.finetune import finetune
from lissom.transforms.base import Work
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import QAT, Quantize

DEPTH, TARGET, DROP_PT = 20, "openvino", 1.0
TRAINING = QAT(epochs=8, views=4)
"""Four passes of crops and flips, used twice each: the teacher answers each of them once."""
TITLE = f"Weights and activations of 4 bits: ResNet-20 on CIFAR-10, trained for {TRAINING.epochs} epochs"
NEEDS = ("data", "weights")
QUANTIZE = Quantize(activation_bits=4, weight_bits=4)


def goal() -> Goal:
    return Goal(
        text=(
            f"ResNet-{DEPTH} with weights and activations of 4 bits at most {DROP_PT} point below float on the test "
            f"split after at most {TRAINING.epochs} epochs, last epoch, simulated in torch. Images and logits have 8 "
            "bits, and so has what is added; the first and the last layer have 4 like all others"
        ),
        wishes=(Wish(figure="drop", at_most=DROP_PT),),
    )


def run(context: Context) -> Outcome:
    model, task = trained(context, DEPTH)
    return compared(context, model, task, TRAINING)


def compared(context: Context, model: nn.Module, task: Task, training: QAT, seed: int = 0) -> Outcome:
    """The experiment for any classifier."""
    assert isinstance(task.train, lissom.data.Batches)
    task = replace(task, train=replace(task.train, seed=seed))
    before = percent(model, task)

    def tuned(folder: Path) -> dict[str, Any]:
        made = finetune(model, task, training, folder=folder, seed=seed)
        return {"accuracy %": percent(made.model, task), "seconds": sum(e.seconds for e in made.history.epochs)}

    found: dict[str, dict[str, Any]] = {}
    for name, make in {
        "after training": lambda folder: quantized(model, task, QUANTIZE, folder, seed),
        "trained": lambda folder: quantized(
            model, task, QUANTIZE.model_copy(update={"training": training}), folder, seed
        ),
        "float, fine-tuned": tuned,
    }.items():
        context.say(name)
        found[name] = remembered(context.kept / name.replace(", ", "-").replace(" ", "-"), make)
    right = {name: one["accuracy %"] for name, one in found.items()}
    return Outcome(
        goal=goal(),
        value={
            "drop": Figure(value=round(before - right["trained"], 3), unit="points"),
            "drop, not trained": Figure(value=round(before - right["after training"], 3), unit="points"),
            "drop beside float with the same training": Figure(
                value=round(right["float, fine-tuned"] - right["trained"], 3), unit="points"
            ),
        },
        reference=(),
        control=(
            Beside(what="float", value=before, unit="%", source="the same run"),
            Beside(
                what="float, the same training and teacher",
                value=right["float, fine-tuned"],
                unit="%",
                source="the same run",
            ),
        ),
        seeds=(seed,),
        runs=tuple(
            Run(name=name, figures={"accuracy %": one["accuracy %"], "seconds": round(one["seconds"], 3)})
            for name, one in found.items()
        ),
    )


def quantized(model: nn.Module, task: Task, quantize: Quantize, folder: Path, seed: int) -> dict[str, Any]:
    """Folded, calibrated, and trained if the setting says so; goes on where it was killed."""
    target = load_target(TARGET)
    folded = transform(model, task, Recipe([Fold()]), target)[-1].model
    traced = trace(folded, task.example)
    notes: dict[str, JsonValue] = {}
    work = Work(folder=folder, seed=seed, original=model, note=notes.__setitem__)
    plan = quantize.plan(traced.graph, quantize.study(folded, traced, task, target, work), target)
    after = quantize.apply(folded, plan, traced, task, work)
    history: Any = notes.get("history", {"epochs": []})
    return {"accuracy %": percent(after, task), "seconds": sum(epoch["seconds"] for epoch in history["epochs"])}
