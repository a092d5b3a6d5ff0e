"""BESIDE: what a user would pick instead, on the same models and data in the same run.

The snippets are those of `benchmarks.usercode`, carried out as they stand; "lines" counts them. "seconds" is processor
time of the whole snippet on one thread, so that neighbours on the machine count on neither side; those of Lissom hold
what its call does besides: export and timing of the original and the compressed model, and the report. "making" is the
recipe and the export alone, where they can be told apart without training twice. Accuracy is on the test split, of what
the runtime computes; latency at batch 1 on one thread, all contenders of a section interleaved. One seed.

- Static int8, ResNet-20 on CIFAR-10, 512 images for calibration: NNCF on OpenVINO, ONNX Runtime's `quantize_static`.
- Channels, 2.1 times fewer multiplications by magnitude, then one epoch of `IMAGES` training images at the same
  rate and schedule: Torch-Pruning, once as documented and once kept away from the shortcuts. These have no parameters
  and pad channels (option A), which its graph takes for channels with the same numbers.
- Distillation of that pruned network by its original: the formula of torchdistill's `KDLoss` in a loop, since the
  package is not among those of the benchmarks. Control: the same training without a teacher.
- Tucker-2 of five kernels at rank `RANK`, no training: tensorly, rebuilt by hand.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lissom
import lissom.data
from benchmarks import usercode
from benchmarks.cifar import trained
from benchmarks.context import Context, remembered
from benchmarks.peers import quiet
from benchmarks.protocol import Contender, accuracy, compressed, exported, faster, folded, foreign, key, race, retarget
from benchmarks.results import Beside, Figure, Goal, Outcome, Run
from lissom.data import Batches
from lissom.export.base import Artifact
from lissom.graph.trace import torch_threads, trace
from lissom.pipeline.transforming import transform
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Task
from lissom.transforms.base import Transform

TITLE = "Side by side with NNCF, ONNX Runtime, Torch-Pruning, a distillation loss and tensorly"
NEEDS = ("data", "weights")
IMAGES, EPOCHS, BATCH = 6_000, 1, 64
RANK = 32
TUCKER = [f"layer3.{block}.{conv}" for block in range(3) for conv in ("conv1", "conv2")][1:]
"""Kernels of 64 by 64 channels."""
COLUMNS = {
    "accuracy": "%",
    "size": "bytes",
    "latency": "ms",
    "seconds": "s",
    "making": "s",
    "lines": "",
    "MACs ratio": "x",
}

GOAL = Goal(text="a record: accuracy, size, latency, processor time and lines of user code, side by side")


@dataclass(frozen=True)
class Arm:
    """One contender; `seconds` and `lines` are of its snippets, None for what nobody writes (the original)."""

    contender: Contender
    seconds: float | None = None
    lines: int | None = None
    macs: float | None = None
    making: float | None = None


def run(context: Context) -> Outcome:
    value: dict[str, Figure] = {}
    runs: list[Run] = []
    with torch_threads(1):
        for section in (int8, channels, distilled, tucker):
            part = section.__name__
            context.say(part)
            found = remembered(context.kept / part, lambda _, one=section: one(context))
            for row in found["rows"]:
                name = f"{part}, {row['name']}"
                shown = {column: row[column] for column in COLUMNS if row[column] is not None}
                value |= {f"{name}: {column}": Figure(value=v, unit=COLUMNS[column]) for column, v in shown.items()}
                runs.append(Run(name=name, figures=shown, samples_ms=tuple(row["samples"])))
            value |= {f"{part}, {name}": Figure.model_validate(one) for name, one in found["ratios"].items()}
    control = tuple(
        Beside(what=one.name, value=float(one.figures["accuracy"]), unit="%", source="the same run")
        for one in runs
        if "original" in one.name
    )
    return Outcome(goal=GOAL, value=value, reference=(), control=control, seeds=(0,), runs=tuple(runs))


def int8(context: Context) -> dict[str, Any]:
    model, task = network(context)
    given = {"x": task.example.args[0], "calibration": task.calibration}
    base = folded(model, task, "openvino", context.scratch / "float")
    arms = [Arm(replace(retarget(base, target), name="original")) for target in ("openvino", "onnxruntime")]
    steps = [lissom.Fold(), lissom.Quantize()]
    for name, target, snippet in (
        ("NNCF", "openvino", usercode.nncf_static),
        ("ONNX Runtime's tool", "onnxruntime", usercode.ort_static),
    ):
        arms.append(file_of(context, name, target, base, snippet, model=copy.deepcopy(model), **given))
        own = ours(context, "Lissom", usercode.lissom_static, model=model, target=target, **given)
        arms.append(replace(own, making=making(context, model, task, steps, target)))
    pairs = {"NNCF": "openvino/NNCF", "ONNX Runtime's tool": "onnxruntime/ONNX Runtime's tool"}
    ratios = {f"speed beside {who}": (other, f"{other.split('/')[0]}/Lissom") for who, other in pairs.items()}
    return judged(context, arms, model, task, ratios)


def channels(context: Context) -> dict[str, Any]:
    model, task = network(context)
    x, train = task.example.args[0], some_images(task)
    base = exported(model, task, "onnxruntime", context.scratch, name="original")
    arms = [Arm(base)]
    for name, snippet in (
        ("Torch-Pruning", usercode.torch_pruning),
        ("Torch-Pruning inside blocks", usercode.torch_pruning_inside),
    ):
        cut, seconds = clocked(snippet, model=copy.deepcopy(model), x=x)
        arms.append(module_of(context, f"{name}, right after", cut, task, seconds, snippet))
        made, more = clocked(usercode.loop, model=cut, train=train, epochs=EPOCHS)
        arms.append(module_of(context, f"{name}, trained", made, task, seconds + more, snippet, usercode.loop))
        context.say(f"{name}: trained")
    given: dict[str, Any] = {"model": model, "x": x, "calibration": task.calibration}
    arms.append(ours(context, "Lissom, right after", usercode.lissom_pruning, **given))
    given |= {"train": train, "epochs": EPOCHS}
    arms.append(ours(context, "Lissom, trained", usercode.lissom_pruning_and_training, **given))
    ratios = {
        f"speed-up by {who}": (key(base), f"onnxruntime/{who}, trained")
        for who in ("Torch-Pruning", "Torch-Pruning inside blocks", "Lissom")
    }
    return judged(context, arms, model, task, ratios)


def distilled(context: Context) -> dict[str, Any]:
    model, task = network(context)
    x, train = task.example.args[0], some_images(task)
    student = cut_by_magnitude(model, task)
    arms = [
        Arm(exported(model, task, "onnxruntime", context.scratch, name="original")),
        Arm(exported(student, task, "onnxruntime", context.scratch, name="the student before")),
    ]
    alone, seconds = clocked(usercode.loop, model=copy.deepcopy(student), train=train, epochs=EPOCHS)
    arms.append(module_of(context, "no teacher, in a loop", alone, task, seconds, usercode.loop))
    context.say("no teacher: trained")
    given = {"teacher": model, "train": train, "epochs": EPOCHS}
    made, seconds = clocked(usercode.kd_loss, model=copy.deepcopy(student), **given)
    arms.append(module_of(context, "KDLoss in a loop", made, task, seconds, usercode.kd_loss))
    context.say("KDLoss: trained")
    arms.append(ours(context, "Lissom", usercode.lissom_taught, model=student, x=x, **given))
    return judged(context, arms, model, task, {})


def tucker(context: Context) -> dict[str, Any]:
    model, task = network(context)
    base = exported(model, task, "onnxruntime", context.scratch, name="original")
    given: dict[str, Any] = {"names": TUCKER, "rank": RANK}
    made, seconds = clocked(usercode.tensorly_tucker, model=copy.deepcopy(model), **given)
    arms = [Arm(base), module_of(context, "tensorly", made, task, seconds, usercode.tensorly_tucker)]
    given |= {"model": model, "x": task.example.args[0]}
    own = ours(context, "Lissom", usercode.lissom_tucker, calibration=task.calibration, **given)
    others = tuple(layer.layer for layer in trace(model, task.example).graph.layers if layer.layer not in TUCKER)
    for name, data in (("Lissom without data", Task(example_inputs=task.example_inputs)), ("Lissom", task)):
        step = lissom.Factorize(method="tucker", rank=RANK, exclude=others, break_even="macs")
        place = place_for(context, name)
        contender, seconds = clocked(
            compressed, model=model, task=data, recipe=Recipe([step]), target="onnxruntime", folder=place, name=name
        )
        arms.append(replace(own, making=seconds) if data is task else Arm(contender, making=seconds))
    ratios = {"speed beside tensorly": ("onnxruntime/tensorly", "onnxruntime/Lissom")}
    return judged(context, arms, model, task, ratios)


@functools.cache
def network(context: Context) -> tuple[nn.Module, Task]:
    return trained(context, 20)


def some_images(task: Task) -> Batches:
    """`IMAGES` of the training split, cropped and flipped as all of them are."""
    assert isinstance(task.train, Batches)
    assert isinstance(task.train.data, lissom.data.Images)
    _, some = lissom.data.split(task.train.data, IMAGES / task.train.examples, seed=0)
    return replace(task.train, data=some, batch_size=BATCH)


def cut_by_magnitude(model: nn.Module, task: Task) -> nn.Module:
    """The network that both sides train."""
    prune = lissom.Prune(macs_ratio=2.1, criterion="magnitude", round_to=1)
    return transform(model, task, Recipe([prune]), load_target("onnxruntime"))[-1].model


def clocked(snippet: Callable[..., Any], **given: Any) -> tuple[Any, float]:
    """What it hands back, and seconds of processor time, those of processes that it started included."""
    before = os.times()
    with quiet(), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        made = snippet(**given)
    after = os.times()
    return made, round(sum(after[:4]) - sum(before[:4]), 2)


def place_for(context: Context, name: str) -> Path:
    place = context.scratch / str(len(list(context.scratch.iterdir()))) / name.replace(" ", "-")
    place.mkdir(parents=True)
    return place


def ours(context: Context, name: str, snippet: Callable[..., Path], **given: Any) -> Arm:
    place = place_for(context, name)
    _, seconds = clocked(snippet, **{**given, "folder": place})
    held = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
    ratio = json.loads((place / "result.json").read_text(encoding="utf-8"))["ratios"]["macs"]
    contender = Contender(name, Artifact.model_validate(held["artifact"]), place)
    context.say(f"{name}, {contender.target}: {seconds} s")
    return Arm(contender, seconds, usercode.lines_of(snippet), ratio)


def file_of(
    context: Context, name: str, target: str, like: Contender, snippet: Callable[..., Path], **given: Any
) -> Arm:
    """A tool that hands back a file."""
    path, seconds = clocked(snippet, **given, folder=place_for(context, name))
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    context.say(f"{name}: {seconds} s")
    return Arm(foreign(name, target, files, like.artifact, seconds), seconds, usercode.lines_of(snippet))


def module_of(
    context: Context, name: str, model: nn.Module, task: Task, seconds: float, *snippets: Callable[..., Any]
) -> Arm:
    """A tool that hands back a module; it is exported as all are."""
    contender = exported(model, task, "onnxruntime", place_for(context, name), name=name)
    whole, now = (trace(one, task.example).graph.macs for one in (network(context)[0], model))
    return Arm(contender, seconds, usercode.lines_of(*snippets), whole / now)


def making(context: Context, model: nn.Module, task: Task, steps: Sequence[Transform], target: str) -> float:
    """Processor seconds of the recipe and the export, without anything measured."""
    place = place_for(context, "making")
    return clocked(compressed, model=model, task=task, recipe=Recipe(steps), target=target, folder=place)[1]


def judged(
    context: Context,
    arms: Sequence[Arm],
    model: nn.Module,
    task: Task,
    ratios: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    """Accuracy of every contender, latencies of all, and how many times faster the second of each pair is."""
    right = {key(arm.contender): accuracy(arm.contender, model, task, 1) for arm in arms}
    samples = race([arm.contender for arm in arms], task.example, 1, rounds=context.rounds, threads=1)
    several = len({arm.contender.target for arm in arms}) > 1
    return {
        "rows": [
            {
                "name": f"{arm.contender.name} on {arm.contender.target}" if several else arm.contender.name,
                "accuracy": round(right[key(arm.contender)], 2),
                "size": arm.contender.artifact.size_bytes,
                "latency": round(statistics.median(samples[key(arm.contender)]), 4),
                "seconds": arm.seconds,
                "making": arm.making,
                "lines": arm.lines,
                "MACs ratio": None if arm.macs is None else round(arm.macs, 3),
                "samples": samples[key(arm.contender)],
            }
            for arm in arms
        ],
        "ratios": {name: faster(samples, slow, fast).model_dump(mode="json") for name, (slow, fast) in ratios.items()},
    }
