"""What counts as good. Higher is better, always: errors are negated (`negative_mse`).

A metric that scores each example (`per_example`) is averaged over the split and can be tested pair by pair;
one that only exists over a whole split (F1, mean average precision, perplexity) is a function of all outputs
(`whole`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lissom.errors import DataError, UsageError
from lissom.task import Task


@dataclass(frozen=True)
class Metric:
    """A name and exactly one of two functions of the model's outputs and the targets.

    Attributes:
        name: shown in reports; names the metric in error messages.
        per_example: (outputs, targets) of one batch -> one score per example, shape (batch,).
        whole: (outputs, targets) of a whole split, joined along the first axis -> one number.
        by_class: (outputs, targets) of one batch -> classes (integers) and scores in [0, 1], two tensors of one
            shape: what a bound on single classes is judged by, as the mean score of each class. Optional.

    Raises:
        UsageError: both functions are given, or none.
    """

    name: str
    per_example: Callable[[Any, Any], Tensor] | None = None
    whole: Callable[[Any, Any], float] | None = None
    by_class: Callable[[Any, Any], tuple[Tensor, Tensor]] | None = None

    def __post_init__(self) -> None:
        if (self.per_example is None) == (self.whole is None):
            given = "none" if self.whole is None else "both"
            raise UsageError(
                f"Metric({self.name!r}) needs exactly one of per_example=... (one score per example) and "
                f"whole=... (one number over a split), got {given}."
            )


def as_metric(value: object) -> Metric:
    """A `Metric` as it is; a plain callable `(outputs, targets) -> number` as a `whole` metric of its name.

    Raises:
        UsageError: neither of them.
    """
    if isinstance(value, Metric):
        return value
    if not callable(value):
        raise UsageError(
            "A metric is a lissom.metrics.Metric or a function (outputs, targets) -> number, higher is "
            f"better, got {value!r}. Ready ones: lissom.metrics.{', '.join(_READY)}."
        )
    return Metric(_name(value), whole=cast(Callable[[Any, Any], float], value))


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """The task's own metric, then the further ones under the names that it gives them; empty without a metric.

    Raises:
        UsageError: something that is no metric, or a further one with the name of the task's own.
    """
    if task.metric is None:
        return ()
    own = as_metric(task.metric)
    if own.name in task.metrics:
        raise UsageError(
            f"Task(metrics=...) holds {own.name!r}, which is the name of Task(metric=...). Give it another name."
        )
    return (own, *(replace(as_metric(one), name=name) for name, one in task.metrics.items()))


def logits_of(outputs: object) -> Tensor:
    """The logits in what a model returned: itself, `.logits`, `["logits"]`, or the first of a tuple or list.

    Raises:
        DataError: none of these.
    """
    found = _logits(outputs)
    if isinstance(found, Tensor):
        return found
    if isinstance(found, np.ndarray):
        return torch.as_tensor(np.array(cast(Any, found)))
    raise DataError(
        f"No logits in an output of type {type(outputs).__name__}{_keys(outputs)}: expected a tensor, a "
        "tuple whose first element is one, or something with `logits`. Give Task(metric=...) your own "
        "function."
    )


def _logits(outputs: object) -> object:
    if isinstance(outputs, (Tensor, np.ndarray)):
        return cast(object, outputs)
    if isinstance(outputs, Mapping):
        return cast(Mapping[str, object], outputs).get("logits")
    named: object = getattr(outputs, "logits", None)
    if named is not None:
        return named
    if isinstance(outputs, (tuple, list)) and outputs:
        return cast(Sequence[object], outputs)[0]
    return None


def _top_hits(outputs: object, targets: object, *, name: str, k: int) -> Tensor:
    """Share of an example's positions whose class is among the k best: (N, ..., classes) -> (N,)."""
    return _mean_of_each(class_hits(outputs, targets, name=name, k=k)[1])


def class_hits(outputs: object, targets: object, *, name: str = "accuracy", k: int = 1) -> tuple[Tensor, Tensor]:
    """The class of every position, and 1.0 where it is among the k largest logits, else 0.0: a `Metric(by_class=...)`.

    Args:
        outputs: logits (N, ..., classes), or something that holds them (`logits_of`).
        targets: class indices (N, ...).
        name: in messages.

    Raises:
        DataError: targets that are no class indices or do not fit the logits, or no more than k classes.
    """
    logits = logits_of(outputs)
    classes = _classes(name, targets, logits)
    if logits.shape[-1] <= k:
        raise DataError(
            f"{name} needs more than {k} classes on the last axis, got logits of shape {tuple(logits.shape)}"
            ": every answer would count as right. Give Task(metric=...) another metric."
        )
    # arg-max takes the first of equal logits, which top-k does not promise; quantized logits are often equal.
    best = logits.argmax(-1, keepdim=True) if k == 1 else logits.topk(k, dim=-1).indices
    hits = (best == classes.unsqueeze(-1)).any(dim=-1)
    # Both sort NaN first: an answer of NaN must not be right by luck.
    hits &= ~logits.isnan().any(dim=-1)
    return classes, hits.to(torch.float64)


def _classes(name: str, targets: object, logits: Tensor) -> Tensor:
    """The targets as class indices that fit the logits."""
    classes = _tensor(name, targets).to(logits.device)
    if classes.is_floating_point() or classes.is_complex():
        raise DataError(
            f"{name} compares class indices: the targets must be integers, got {classes.dtype} of shape "
            f"{tuple(classes.shape)}. For one-hot targets use their argmax(-1); for regression use "
            "lissom.metrics.negative_mse."
        )
    if logits.ndim < 2 or classes.shape != logits.shape[:-1]:
        raise DataError(
            f"{name}: logits of shape {tuple(logits.shape)} need targets of shape {tuple(logits.shape[:-1])} "
            f"(classes on the last axis), got {tuple(classes.shape)}. Give Task(metric=...) a function of "
            "your own."
        )
    count = logits.shape[-1]
    outside = (classes < 0) | (classes >= count)
    if outside.any():
        raise DataError(
            f"{name}: {count} logits have classes 0 to {count - 1}, but a target is "
            f"{int(classes[outside][0])}. Renumber the targets, or give Task(metric=...) a "
            "function that leaves such positions out."
        )
    return classes


def _negative_error(outputs: object, targets: object, *, name: str, distance: Callable[[Tensor], Tensor]) -> Tensor:
    """Minus the mean distance of each example: (N, ...) -> (N,)."""
    predicted = logits_of(outputs).to(torch.float64)
    wanted = _tensor(name, targets).to(predicted.device, torch.float64)
    # (N, 1) against (N,) would broadcast to (N, N) and score every prediction against every target.
    if predicted.ndim == wanted.ndim + 1 and predicted.shape[-1] == 1:
        predicted = predicted.squeeze(-1)
    elif wanted.ndim == predicted.ndim + 1 and wanted.shape[-1] == 1:
        wanted = wanted.squeeze(-1)
    if predicted.shape != wanted.shape or not predicted.ndim:
        raise DataError(
            f"{name}: outputs of shape {tuple(predicted.shape)} need targets of the same shape, got "
            f"{tuple(wanted.shape)}. Give Task(metric=...) a function of your own."
        )
    return _mean_of_each(-distance(predicted - wanted))


def _tensor(name: str, targets: object) -> Tensor:
    if isinstance(targets, Tensor):
        return targets
    try:
        return torch.as_tensor(np.array(targets))
    except (TypeError, ValueError) as wrong:
        raise DataError(
            f"{name}: the targets must be a tensor or numbers, got {type(targets).__name__}. Let the batches "
            "be (inputs, targets), or give Task(metric=...) a function of your own."
        ) from wrong


def _mean_of_each(scores: Tensor) -> Tensor:
    """(N, ...) -> (N,)."""
    return scores.flatten(1).mean(1) if scores.ndim > 1 else scores


def _name(function: Callable[..., object]) -> str:
    inner: Callable[..., object] = function.func if isinstance(function, partial) else function
    name = getattr(inner, "__name__", type(inner).__name__)
    return "metric" if name == "<lambda>" else name


def _keys(outputs: object) -> str:
    if not isinstance(outputs, Mapping):
        return ""
    names = ", ".join(str(key) for key in cast(Mapping[object, object], outputs))
    return f" with the keys {names or '(none)'}"


accuracy = Metric("accuracy", per_example=partial(_top_hits, name="accuracy", k=1), by_class=class_hits)
"""Share of right arg-maxes over the last axis; several positions per example (tokens) are averaged first."""

top5 = Metric("top5", per_example=partial(_top_hits, name="top5", k=5), by_class=partial(class_hits, name="top5", k=5))
"""Share of examples whose class is among the five largest logits."""

negative_mse = Metric("negative_mse", per_example=partial(_negative_error, name="negative_mse", distance=torch.square))
"""Minus the mean squared error, in the square of the target's unit."""

negative_mae = Metric("negative_mae", per_example=partial(_negative_error, name="negative_mae", distance=torch.abs))
"""Minus the mean absolute error, in the target's unit."""

_READY = ("accuracy", "top5", "negative_mse", "negative_mae")
