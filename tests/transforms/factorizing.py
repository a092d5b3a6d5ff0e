"""A model traced with its task, and `Factorize` carried out on it for the target "torch"."""

from __future__ import annotations

from torch import Tensor, nn

from lissom.graph.trace import Trace, trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan
from lissom.transforms.lowrank import Factorize

TARGET = load_target("torch")


def prepared(model: nn.Module, *inputs: Tensor, data: bool = False) -> tuple[nn.Module, Trace, Task]:
    task = Task(example_inputs=inputs, calibration=[inputs] if data else None, feed=lambda raw: Batch(raw))
    return model, trace(model, task.example), task


def made(one: Factorize, model: nn.Module, traced: Trace, task: Task) -> tuple[nn.Module, Plan]:
    plan = one.plan(traced.graph, one.study(model, traced, task, TARGET), TARGET)
    return one.apply(model, plan, traced, task), plan
