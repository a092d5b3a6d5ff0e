"""BESIDECUT: as BESIDE, for channels beside Torch-Pruning, a distillation loss in a loop, factors beside tensorly.

The snippets are those of `benchmarks.usercode`, carried out as they stand; "lines" counts them. "seconds" is processor
time of the whole snippet on one thread, so that neighbours on the machine count on neither side; those of Lissom hold
what its call does besides: export and timing of the original and the compressed model, and the report. "making" is the
recipe and the export alone. Accuracy is on the test split, of what the runtime computes; latency at batch 1 on one
thread, all contenders of a section interleaved. One seed.

- Channels, ResNet-20 on CIFAR-10, 2.1 times fewer multiplications by magnitude, then `EPOCHS` epochs of `IMAGES`
  training images at the same rate and schedule: Torch-Pruning, once as documented and once kept away from the
  shortcuts. These have no parameters and pad channels (option A), which its graph takes for channels with the same
  numbers.
- Distillation of that pruned network by its original: the formula of torchdistill's `KDLoss` in a loop, since the
  package is not among those of the benchmarks. Control: the same training without a teacher.
- Tucker-2 of five kernels of the same network at rank `RANK`, no training: tensorly, rebuilt by hand.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import nn

import lissom
import lissom.data
from benchmarks import usercode
from benchmarks.context import Context
from benchmarks.protocol import compressed, exported, key
from benchmarks.results import Goal, Outcome
from benchmarks.sidebyside import Arm, clocked, judged, module_of, network, ours, place_for, side_by_side
from lissom.data import Batches
from lissom.pipeline.transforming import transform
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Task

TITLE = "Side by side with Torch-Pruning, a distillation loss in a loop, and tensorly"
NEEDS = ("data", "weights")
IMAGES, EPOCHS, BATCH = 6_000, 1, 64
RANK = 32
TUCKER = [f"layer3.{block}.{conv}" for block in range(3) for conv in ("conv1", "conv2")][1:]
"""Kernels of 64 by 64 channels."""
GOAL = Goal(text="a record: accuracy, size, latency, processor time and lines of user code, side by side")


def run(context: Context) -> Outcome:
    return side_by_side(context, GOAL, (channels, distilled, tucker))


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
    others = tuple(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and n not in TUCKER)
    for name, data in (("Lissom without data", Task(example_inputs=task.example_inputs)), ("Lissom", task)):
        step = lissom.Factorize(method="tucker", rank=RANK, exclude=others, break_even="macs")
        place = place_for(context, name)
        contender, seconds = clocked(
            compressed, model=model, task=data, recipe=Recipe([step]), target="onnxruntime", folder=place, name=name
        )
        arms.append(replace(own, making=seconds) if data is task else Arm(contender, making=seconds))
    ratios = {"speed beside tensorly": ("onnxruntime/tensorly", "onnxruntime/Lissom")}
    return judged(context, arms, model, task, ratios)


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
