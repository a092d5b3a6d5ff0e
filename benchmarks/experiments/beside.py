"""BESIDE: what a user would pick instead, on the same models and data in the same run; nothing is trained.

The snippets are those of `benchmarks.usercode`, carried out as they stand; "lines" counts them. "seconds" is processor
time of the whole snippet on one thread, so that neighbours on the machine count on neither side; those of Lissom hold
what its call does besides: export and timing of the original and the compressed model, and the report. "making" is the
recipe and the export alone. Accuracy is on the test split, of what the runtime computes; latency at batch 1 on one
thread, all contenders of a section interleaved. One seed.

Static int8, ResNet-20 on CIFAR-10, 512 images for calibration: NNCF on OpenVINO, ONNX Runtime's `quantize_static`.
Latencies of the same models are also those of Q2.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import lissom
from benchmarks import usercode
from benchmarks.context import Context
from benchmarks.protocol import folded, retarget
from benchmarks.results import Goal, Outcome
from benchmarks.sidebyside import (
    Arm,
    file_of,
    judged,
    making,
    network,
    ours,
    side_by_side,
)

TITLE = "Side by side with NNCF and ONNX Runtime's tool: static int8, and what a user writes"
NEEDS = ("data", "weights")
GOAL = Goal(text="a record: accuracy, size, latency, processor time and lines of user code, side by side")


def run(context: Context) -> Outcome:
    return side_by_side(context, GOAL, (int8,))


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
