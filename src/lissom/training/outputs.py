"""Which of a model's outputs are compared, and which rows of them.

Models return a tensor, a tuple, a dict, a dataclass, or any of these inside another. An output has a name: the keys,
fields and positions on the way to it, joined by dots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from lissom.errors import DataError, nearest
from lissom.training.augment import Mixed

MAIN = "logits"


def named_outputs(outputs: object, prefix: str = "") -> dict[str, Tensor]:
    """Floating point tensors by name; a bare tensor is ""."""
    if isinstance(outputs, Tensor):
        return {prefix: outputs} if outputs.is_floating_point() else {}
    found: dict[str, Tensor] = {}
    for name, value in _items(outputs):
        found.update(named_outputs(value, f"{prefix}.{name}" if prefix else name))
    return found


def _items(outputs: object) -> list[tuple[str, object]]:
    if isinstance(outputs, Mapping):
        return [(str(key), value) for key, value in cast(Mapping[object, object], outputs).items()]
    if isinstance(outputs, (tuple, list)):
        return [(str(index), value) for index, value in enumerate(cast("list[object]", outputs))]
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        return [(field.name, getattr(outputs, field.name)) for field in dataclasses.fields(outputs)]
    return []


def output_of(outputs: object, name: str | None, target: Any, whose: str) -> Tensor:
    """The output `name`; without one the only output, `logits`, or the first that has a row for each class target.

    Raises:
        DataError: there is none, or it cannot be told which.
    """
    found = named_outputs(outputs)
    if name is not None:
        if name not in found:
            raise DataError(f"The {whose} has no output {name!r}. {nearest(name, found)}")
        return found[name].float()
    if len(found) == 1:
        return next(iter(found.values())).float()
    if MAIN in found:
        return found[MAIN].float()
    classes = classes_of(target)
    fitting = [one for one in found.values() if classes is not None and _fits(one, classes)]
    if fitting:
        return fitting[0].float()
    shown = ", ".join(f"{key!r} {tuple(one.shape)}" for key, one in found.items())
    if not found:
        raise DataError(
            f"The {whose} returned no tensor of floating point numbers but {type(outputs).__name__}: there is nothing "
            "to compare. Let it return its logits."
        )
    raise DataError(
        f"Which of the {whose}'s outputs is to be compared? It returned {shown}. Name one: losses=[{{'kind': 'kl', "
        f"'output': {next(iter(found))!r}}}]."
    )


def classes_of(target: Any) -> Tensor | None:
    """The target if it is class indices; of mixed examples, those of the first."""
    target = target.first if isinstance(target, Mixed) else target
    whole = isinstance(target, Tensor) and target.dtype in (torch.uint8, torch.int16, torch.int32, torch.int64)
    return target if whole else None


def _class_axis(logits: Tensor, classes: Tensor) -> int | None:
    """Last as in language models, or 1 as in segmentation; None where the targets are not of these logits."""
    if logits.ndim < 2:
        return None
    if classes.shape == logits.shape[:-1]:
        return logits.ndim - 1
    return 1 if classes.shape == (logits.shape[0], *logits.shape[2:]) else None


def _fits(logits: Tensor, classes: Tensor) -> bool:
    axis = _class_axis(logits, classes)
    return axis is not None and int(classes.max()) < logits.shape[axis]


class Rows(NamedTuple):
    """One row for each example, token or pixel."""

    student: Tensor
    """(n, c)."""
    teachers: Tensor
    """(k, n, c)."""
    classes: Tensor | None
    """(n,) true classes, if they are known."""
    others: Tensor | None
    """(n,) of the second example of mixed ones."""


def rows_of(student: Tensor, teachers: Tensor, target: Any) -> Rows:
    """Rows whose target is a class: padding (-100, or any other number that is none) is left out.

    Args:
        student: logits `(b, c)`, `(b, positions, c)`, or `(b, c, h, w)`.
        teachers: of k teachers, `(k, ...)`.
    """
    classes = classes_of(target)
    axis = _class_axis(student, classes) if classes is not None else None
    if axis is None:
        classes = None
        axis = 1 if student.ndim >= 4 else student.ndim - 1
    count = student.shape[axis]
    rows = student.movedim(axis, -1).reshape(-1, count)
    taught = teachers.movedim(axis + 1, -1).reshape(len(teachers), -1, count)
    if classes is None:
        return Rows(rows, taught, None, None)
    flat = classes.reshape(-1)
    others = target.second.reshape(-1) if isinstance(target, Mixed) else None
    kept = (flat >= 0) & (flat < count)
    if bool(kept.all()):
        return Rows(rows, taught, flat, others)
    return Rows(rows[kept], taught[:, kept], flat[kept], None if others is None else others[kept])


def check_same(left: Tensor, right: Tensor, whose: str, others: str) -> None:
    """
    Raises:
        DataError: outputs of different shapes.
    """
    if left.shape == right.shape:
        return
    shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
    if left.ndim == right.ndim and left.shape[:-1] == right.shape[:-1]:
        raise DataError(
            f"Outputs of {whose} have {left.shape[-1]} classes and those of {others} {right.shape[-1]} (shapes "
            f"{shapes}): they are not of the same classes or vocabulary. Take another teacher, or wrap it in a module "
            "that returns these classes alone."
        )
    raise DataError(
        f"The outputs of {whose} and {others} have the shapes {shapes}, and losses compare them number by number. Name "
        "the output to compare, or take losses of inner values."
    )
