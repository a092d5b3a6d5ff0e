"""Q5: bits of each layer of a vision transformer, by hand (attention 8, feed-forward 16) and by search."""

from __future__ import annotations

import time

from torch import nn

from benchmarks.context import Context
from benchmarks.experiments.q6 import accuracy
from benchmarks.protocol import compressed
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from benchmarks.vit import Length, trained
from lissom.export.catalogue import runtime_of
from lissom.measure.judge import written_bytes
from lissom.pipeline.transforming import transform
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Task
from lissom.transforms.quantization import PrecisionTable, Quantize, stored_as

TITLE = "Bits of each layer, by hand and by search: a vision transformer on CIFAR-10"
NEEDS = ("data",)
TARGET = "openvino"
LENGTH = Length(epochs=4)
DROP_PT = 0.3
HAND = {"*": 16, "blocks.*.attention.*": 8}
"""Attention in 8 bits, everything else in 16."""
WAYS = {
    "by hand": Quantize(precision=HAND),
    "by search": Quantize(precision="auto", max_drop=DROP_PT / 100),
    "8 bits everywhere": Quantize(),
    "16 bits everywhere": Quantize(precision=16),
}
GOAL = Goal(
    text=(
        f"at a drop of at most {DROP_PT} points on the test split, the search gives a file at least 3.7 times smaller "
        "than the float one, and smaller than the hand rule's"
    ),
    wishes=(
        Wish(figure="drop, by search", at_most=DROP_PT),
        Wish(figure="size ratio, by search", at_least=3.7),
        Wish(figure="smaller than by hand", at_least=1.0),
    ),
)


def run(context: Context) -> Outcome:
    model, task = trained(context, LENGTH)
    before = accuracy(model, task)
    plain = compressed(model, task, Recipe([Quantize(precision={"*": 32})]), TARGET, context.scratch, name="float")
    whole = plain.artifact.size_bytes
    runs = [Run(name="float", figures={"accuracy %": round(before, 2), "file bytes": whole})]
    sizes: dict[str, int] = {}
    value: dict[str, Figure] = {}
    for way, quantize in WAYS.items():
        context.say(way)
        found, sizes[way] = one(way, model, task, quantize, context)
        drop = round(before - float(found.figures["accuracy %"]), 4)
        runs.append(found)
        value[f"drop, {way}"] = Figure(value=drop, unit="points")
        value[f"size ratio, {way}"] = Figure(
            value=round(whole / sizes[way], 3), unit="x", note=written_bytes(sizes[way])
        )
    value["smaller than by hand"] = Figure(value=round(sizes["by hand"] / sizes["by search"], 3), unit="x")
    return Outcome(
        goal=GOAL,
        value=value,
        reference=(),
        control=(Beside(what="float accuracy", value=round(before, 2), unit="%", source="the same run"),),
        seeds=(0,),
        runs=tuple(runs),
    )


def one(way: str, model: nn.Module, task: Task, quantize: Quantize, context: Context) -> tuple[Run, int]:
    """Accuracy in torch on the test split, bytes of the exported file, what each layer got."""
    started = time.perf_counter()
    step = transform(model, task, Recipe([quantize]), load_target(TARGET))[-1]
    seconds = time.perf_counter() - started
    name = way.replace(" ", "-").replace(",", "")
    written = runtime_of(load_target(TARGET)).export(step.model, task.example, TARGET, context.scratch, name)
    stored: dict[str, int] = {}
    for how in stored_as(step.plan).values():
        stored[how] = stored.get(how, 0) + 1
    figures: dict[str, float | str] = {
        "accuracy %": accuracy(step.model, task),
        "file bytes": written.size_bytes,
        "seconds": round(seconds, 1),
        "weights": ", ".join(f"{count} {how}" for how, count in stored.items()),
    }
    if "precision table" in step.notes:
        table = PrecisionTable.model_validate(step.notes["precision table"])
        again = time.perf_counter()
        table.solve(size_ratio=2.5)
        figures["seconds to solve for another bound"] = round(time.perf_counter() - again, 4)
        figures["choices judged"] = len(table.judged)
    return Run(name=way, figures=figures), written.size_bytes
