"""Which dimensions of the space are open: what the task has data for, the model parts for, the target kernels for."""

from __future__ import annotations

from collections.abc import Collection

import torch

from lissom.errors import DataError
from lissom.graph.blocks import find_blocks
from lissom.graph.trace import Trace
from lissom.search.space import Dimension, Precision, Space
from lissom.target import Target
from lissom.task import Task
from lissom.transforms.base import has_data

PRUNE = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
RANK = (1.0, 1.25, 1.6, 2.0, 3.0)
EPOCHS = (0, 1, 3, 10, 30)
DEPTHS = 3
"""Numbers of blocks that are tried, up to half of them."""
ATTENTIVE = frozenset({"scaled_dot_product_attention", "layer_norm"})
"""Operators of models that plain SGD trains badly."""


def open_space(traced: Trace, task: Task, target: Target) -> Space:
    """The space of a model and its task on a target.

    Raises:
        DataError: the task cannot tell a good candidate from a bad one.
    """
    if task.metric is None or not task.has("validation"):
        lacking = "metric" if task.metric is None else "validation"
        raise DataError(
            f"A search chooses by the metric on validation data, and the task has no {lacking}. Give "
            f"Task({lacking}=...), or a recipe instead of a budget or a search."
        )
    closed: dict[str, str] = {}
    observed = has_data(task)
    trains = task.has("train") and task.loss is not None
    if not trains:
        closed["epochs"] = "training needs Task(train=..., loss=...)"
    return Space(
        precision=_precisions(traced, target, closed, observed=observed),
        depth=_depths(traced, closed, observed=observed),
        prune=PRUNE,
        rank=RANK,
        epochs=EPOCHS if trains else (0,),
        teacher="original" if trains and learns_classes(task) else None,
        optimizer="adamw" if ATTENTIVE & {node.op for node in traced.graph.nodes} else "sgd",
        closed=closed,
    )


def restricted(space: Space, dimensions: Collection[Dimension], precisions: Collection[Precision], why: str) -> Space:
    """The space with these dimensions and precisions open at most; `why` says what closed the others.

    Values that change nothing, and training, stay.
    """
    changed: dict[str, object] = {}
    closed = dict(space.closed)
    for name in space.open:
        if name != "precision" and name not in dimensions:
            changed[name] = space.values(name)[:1]
            closed[name] = why
    kept = tuple(one for one in space.precision if one == "float32" or one in precisions)
    closed |= {one: why for one in space.precision if one not in kept}
    return Space.model_validate({**space.model_dump(), **changed, "precision": kept, "closed": closed})


def _precisions(traced: Trace, target: Target, closed: dict[str, str], *, observed: bool) -> tuple[Precision, ...]:
    found: list[Precision] = ["float32"]
    ops = {node.op for node in traced.graph.nodes}
    if target.halves == "storage":
        found.append("float16")
    else:
        closed["float16"] = f"{target.title} would turn halves into float32 at every call"
    if not set(target.integers.ops) & ops:
        closed["int8"] = "the model has no layer that the target computes in integers"
    elif observed:
        found.append("int8")
    else:
        closed["int8"] = "static int8 needs Task(calibration=...) or Task(train=...)"
    if set(target.dynamic.ops) & ops:
        found.append("dynamic")
    else:
        closed["dynamic"] = "the model has no layer that the target quantizes at run time"
    if observed and min(target.weights.bits) <= 4:
        found.append("int4")
    else:
        closed["int4"] = "needs a target that stores 4 bits, and calibration data"
    return tuple(found)


def _depths(traced: Trace, closed: dict[str, str], *, observed: bool) -> tuple[float, ...]:
    blocks = len(find_blocks(traced))
    if not blocks or not observed:
        closed["depth"] = "no residual block" if not blocks else "blocks are judged on calibration data"
        return (0.0,)
    counts = sorted({max(1, round(blocks / 2 * k / DEPTHS)) for k in range(1, DEPTHS + 1)})
    return (0.0, *(count / blocks for count in counts if count < blocks))


def learns_classes(task: Task) -> bool:
    """Whether targets are classes, so that a teacher's answers can be learned as probabilities."""
    target = next(task.batches("train", limit=1)).target
    return isinstance(target, torch.Tensor) and target.dtype == torch.int64 and target.ndim == 1
