"""BESIDE: what a user would pick instead, on the same models and data in the same run; nothing is trained.

The snippets are those of `benchmarks.usercode`, carried out as they stand; "lines" counts them. "seconds" is processor
time of the whole snippet on one thread, so that neighbours on the machine count on neither side; those of Lissom hold
what its call does besides: export and timing of the original and the compressed model, and the report. "making" is the
recipe and the export alone. Accuracy is on the test split, of what the runtime computes; latency at batch 1 on one
thread, all contenders of a section interleaved. One seed.

- Static int8, ResNet-20 on CIFAR-10, 512 images for calibration: NNCF on OpenVINO, ONNX Runtime's `quantize_static`.
- Tucker-2 of five kernels of the same network at rank `RANK`: tensorly, rebuilt by hand.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import nn

import lissom
from benchmarks import usercode
from benchmarks.context import Context
from benchmarks.protocol import compressed, exported, folded, retarget
from benchmarks.results import Goal, Outcome
from benchmarks.sidebyside import (
    Arm,
    clocked,
    file_of,
    judged,
    making,
    module_of,
    network,
    ours,
    place_for,
    side_by_side,
)
from lissom.recipe import Recipe
from lissom.task import Task

TITLE = "Side by side with NNCF, ONNX Runtime's tool and tensorly"
NEEDS = ("data", "weights")
RANK = 32
TUCKER = [f"layer3.{block}.{conv}" for block in range(3) for conv in ("conv1", "conv2")][1:]
"""Kernels of 64 by 64 channels."""
GOAL = Goal(text="a record: accuracy, size, latency, processor time and lines of user code, side by side")


def run(context: Context) -> Outcome:
    return side_by_side(context, GOAL, (int8, tucker))


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
