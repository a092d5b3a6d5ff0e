"""A subnet in the integers of the target: what the `Quantize` of the recipe starts from.

The same code places quantizers, sets ranges and rounds as in that step, after normalizations are folded. Ranges are
plain (min-max) and nothing is corrected, so that a candidate costs little; the step itself does both.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from lissom.graph.trace import trace
from lissom.target import Target
from lissom.task import Task
from lissom.transforms.base import Transform
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize
from lissom.transforms.quantization.precision import Precision


def rounded(model: nn.Module, rules: Mapping[str, Precision], samples: int, task: Task, target: Target) -> nn.Module:
    """`model` with the bits of the rules, ranges from `samples` calibration examples. A new module."""
    precision = tuple(rules.items())
    steps = (Fold(), Quantize(precision=precision, samples=samples, calibration="minmax", corrections=()))
    for step in steps:
        model = _carried_out(step, model, task, target)
    return model


def _carried_out(step: Transform, model: nn.Module, task: Task, target: Target) -> nn.Module:
    traced = trace(model, task.example)
    plan = step.plan(traced.graph, step.study(model, traced, task, target), target)
    return step.apply(model, plan, traced, task)
