"""S3, its part with low rank and int8: a speech model at least 15 times smaller, by factors and int8 weights.

Spoken digits (fsdd, 8 kHz; the test split is the one its authors recommend: takes 0 to 4 of every speaker) as log-mel
spectra, 40 bands by 64 frames, reach a network of five convolutions and two linear layers. It is trained here from a
seed, factorized to `LEFT` of its parameters, fine-tuned with the dense network as its teacher, and stored in int8 for
ONNX Runtime. Sizes are those of the exported files. The amounts in `TRIED` are tried in order, and the validation split
chooses: the smallest file that loses at most the allowed points there. Control: the dense network, in float and in int8
without factors.
"""

from __future__ import annotations

import json
from typing import Any

import lissom
from benchmarks.cifar import PROJECT, project
from benchmarks.context import Context
from benchmarks.dense import trained_once
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.recipe import Recipe
from lissom.training.settings import Training

TITLE = "A speech model by low rank and int8: 15 times smaller (part of S3)"
NEEDS = ("data",)
SMALLER, DROP_PT = 15.0, 1.5
TRIED = (4.5, 6.0, 8.0)
"""Times fewer parameters."""
speech = project(PROJECT.with_name("speech.py"))
DENSE = Training(epochs=8, learning_rate=0.05, weight_decay=5e-4)
AFTER = lissom.Finetune(
    epochs=5, learning_rate=0.002, weight_decay=5e-4, clip_norm=1.0, teacher="original", temperature=4.0
)


def goal() -> Goal:
    return Goal(
        text=(
            f"an exported speech model at least {SMALLER:g} times smaller than in float, accuracy on the test split "
            f"at most {DROP_PT} points lower"
        ),
        wishes=(Wish(figure="size", at_least=SMALLER), Wish(figure="drop", at_most=DROP_PT)),
    )


def run(context: Context) -> Outcome:
    task = speech.task(context.folder("data", "fsdd"))
    context.kept.mkdir(parents=True, exist_ok=True)
    dense = trained_once(context, speech.seeded(), task, DENSE, "dense")
    found: dict[str, dict[str, Any]] = {}
    steps: dict[str, list[Any]] = {"int8 alone": [lissom.Fold(), lissom.Quantize()]}
    for times in TRIED:
        split = lissom.Factorize(parameters_ratio=times, exclude=("features.0", "out"))
        steps[f"{times:g} times fewer, int8"] = [split, AFTER, lissom.Fold(), lissom.Quantize()]
    for name, recipe in steps.items():
        context.say(name)
        out = context.kept / name.replace(" ", "-").replace(",", "")
        result = lissom.compress(dense, task, recipe=Recipe(recipe), target="onnxruntime", out=out, threads=1)
        record = json.loads((out / "result.json").read_text(encoding="utf-8"))
        metric = [step["metric"]["value"] for step in record["steps"] if step["metric"]][-1]
        found[name] = {"validation %": 100 * metric, "record": record, "bytes": result.after.size_bytes}
    before = 100 * found["int8 alone"]["record"]["before"]["metric"]["value"]
    chosen = chosen_of(found)
    record = found[chosen]["record"]
    return Outcome(
        goal=goal(),
        value={
            "size": Figure(value=round(record["ratios"]["size"], 2), unit="x", note=chosen),
            "drop": Figure(value=round(before - 100 * record["after"]["metric"]["value"], 2), unit="points"),
            "parameters": Figure(value=round(record["ratios"]["parameters"], 2), unit="x"),
            "MACs": Figure(value=round(record["ratios"]["macs"], 2), unit="x"),
        },
        reference=(),
        control=(
            Beside(what="the dense network in float", value=round(before, 2), unit="%", source="the same run"),
            Beside(
                what="int8 without factors, times smaller",
                value=round(found["int8 alone"]["record"]["ratios"]["size"], 2),
                unit="x",
                source="the same run",
            ),
        ),
        seeds=(0,),
        runs=tuple(
            Run(
                name=name,
                figures={
                    "validation %": round(one["validation %"], 2),
                    "test %": round(100 * one["record"]["after"]["metric"]["value"], 2),
                    "times smaller": round(one["record"]["ratios"]["size"], 2),
                    "bytes": one["bytes"],
                },
            )
            for name, one in found.items()
        ),
    )


def chosen_of(found: dict[str, dict[str, Any]]) -> str:
    """The smallest that the validation split allows; the most accurate there where it allows none."""
    split = {name: one for name, one in found.items() if name != "int8 alone"}
    whole = found["int8 alone"]["validation %"]
    good = [name for name, one in split.items() if one["validation %"] >= whole - DROP_PT]
    if good:
        return min(good, key=lambda name: split[name]["bytes"])
    return max(split, key=lambda name: split[name]["validation %"])
