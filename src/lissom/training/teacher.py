"""Who teaches: the model that the recipe was given, those of the task, or the student's own averaged weights."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from lissom.errors import DataError, UsageError
from lissom.graph.trace import quiet
from lissom.task import Task
from lissom.training.settings import Training

Teacher = Callable[..., Any]
"""Called as the model is, with the inputs of a batch; returns outputs."""
OWN = "self"


def teachers_of(settings: Training, original: nn.Module, task: Task, device: torch.device) -> dict[str, Teacher]:
    """By name, in the order of the settings; modules are frozen copies on `device` in evaluation mode.

    "self" is left out: it is the training's own and changes with every step.

    Raises:
        DataError: "task", and the task has no teacher.
    """
    found: dict[str, Teacher] = {}
    for name in settings.teachers:
        if name == "original":
            found[name] = frozen(original, device)
        elif name == "task":
            given = _of_task(task)
            for index, one in enumerate(given):
                teacher = frozen(one, device) if isinstance(one, nn.Module) else one
                found[name if len(given) == 1 else f"task {index + 1}"] = teacher
    return found


def identity_of_task(task: Task) -> str:
    """As `identity`, of the teachers of the task.

    Raises:
        DataError: it has none.
    """
    return identity({str(index): one for index, one in enumerate(_of_task(task))}, task)


def identity(teachers: Mapping[str, Teacher], task: Task) -> str:
    """Sixteen hexadecimal digits of weights; of the answers to the example inputs where there are none to see."""
    hashed = hashlib.sha256()
    for name, teacher in teachers.items():
        hashed.update(name.encode())
        if isinstance(teacher, nn.Module):
            hashed.update(type(teacher).__qualname__.encode())
            values = teacher.state_dict().items()
        else:
            with torch.no_grad():
                answers = teacher(*task.example_inputs, **task.example_kwargs)
            values = enumerate(pytree.tree_leaves(answers))
        for key, value in values:
            if isinstance(value, Tensor):
                array: Any = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
                hashed.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
                hashed.update(array)
    return hashed.hexdigest()[:16]


def _of_task(task: Task) -> list[Teacher]:
    given: object = task.teacher
    if given is None:
        raise DataError(
            "teacher='task' is the teacher of the task, and the task has none. Give Task(teacher=...) a module, or set "
            "teacher='original'."
        )
    several = cast(Sequence[Any], given) if isinstance(given, (list, tuple)) else [given]
    for one in several:
        if not callable(one):
            raise UsageError(
                f"Task(teacher=...) is a module, a function that is called as the model is, or several of them, got "
                f"{type(one).__name__}. Paths of ONNX files and run folders are opened by lissom.compress and plan."
            )
    return list(several)


def frozen(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy in evaluation mode whose parameters take no gradients."""
    with quiet():
        copied = copy.deepcopy(model).to(device)
    if not isinstance(copied, GraphModule):
        copied.eval()
    return copied.requires_grad_(requires_grad=False)
