"""Quality: the metric over a split, and torch's simulation against what the runtime computes.

The value of a per-example metric is the mean of its scores in float64, so it does not depend on how the split
was cut into batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lissom.errors import DataError, VerificationError
from lissom.measure.metric_records import ClassShares, MetricValue, Quality
from lissom.measure.records import Parity
from lissom.metrics import Metric
from lissom.task import Batch

Predict = Callable[[Batch], Any]
"""A batch -> the outputs, in the structure that the model returns."""
Progress = Callable[[int], None]
"""Called after each batch with the number of examples done so far."""

STEPS = 255
"""Steps of an 8-bit code over an output's range."""
FLOAT_NOISE = 16 * float(np.finfo(np.float32).eps)
"""Relative difference that float32 kernels may show among themselves: a few roundings."""


def evaluate(
    predict: Predict,
    batches: Iterable[Batch],
    metric: Metric,
    *,
    split: Literal["test", "validation"],
    progress: Progress | None = None,
) -> MetricValue:
    """The metric's value over all batches, without gradients.

    Outputs are kept (on the CPU) only for a metric that needs the whole split at once.

    Raises:
        DataError: no batches, outputs that cannot be joined, or a metric that returns no finite number.
    """
    return assess(predict, batches, (metric,), split=split, progress=progress).metric


def assess(
    predict: Predict,
    batches: Iterable[Batch],
    metrics: Sequence[Metric],
    *,
    split: Literal["test", "validation"],
    progress: Progress | None = None,
) -> Quality:
    """Several metrics, the task's own first, in one pass: every batch is predicted once.

    Classes are told apart by the first metric that does.

    Raises:
        DataError: as `evaluate`, for the first metric that is concerned; classes that are none.
    """
    apart = next((one for one in metrics if one.by_class is not None), None)
    seen: list[tuple[Tensor, Tensor]] = []
    scored: dict[str, list[Tensor]] = {one.name: [] for one in metrics if one.per_example is not None}
    outputs: list[_Part] = []
    targets: list[_Part] = []
    done = 0
    for batch in batches:
        with torch.no_grad():
            predicted = predict(batch)
            for one in metrics:
                if one.per_example is not None:
                    result = one.per_example(predicted, batch.target)
                    scored[one.name].append(_checked_scores(one, result, batch.size))
            if apart is not None and apart.by_class is not None:
                seen.append(_checked_classes(apart, apart.by_class(predicted, batch.target)))
        if len(scored) < len(metrics):
            outputs.append(_Part(pytree.tree_map(_kept, predicted), batch.size))
            targets.append(_Part(pytree.tree_map(_kept, batch.target), batch.size))
        done += batch.size
        if progress is not None:
            progress(done)
    if not done:
        raise DataError(_no_batches(metrics[0]))

    def value(one: Metric) -> float:
        if one.whole is None:
            return float(torch.cat(scored[one.name]).mean())
        joined = _join(outputs, one, "outputs"), _join(targets, one, "targets")
        with torch.no_grad():
            return _number(one, one.whole(*joined))

    own, *further = (MetricValue(name=one.name, value=value(one), samples=done, split=split) for one in metrics)
    classes = _class_shares(apart, seen, split) if apart is not None else None
    return Quality(metric=own, further=tuple(further), classes=classes)


def _checked_classes(metric: Metric, found: object) -> tuple[Tensor, Tensor]:
    """Classes and scores of a batch, flat, on the CPU, copied."""
    pair = cast(tuple[object, ...], found) if isinstance(found, tuple) else ()
    labels, scores = pair if len(pair) == 2 else (None, None)
    if (
        not isinstance(labels, Tensor)
        or not isinstance(scores, Tensor)
        or labels.shape != scores.shape
        or labels.is_floating_point()
        or not bool(((scores >= 0) & (scores <= 1)).all())
    ):
        raise DataError(
            f"The metric {metric.name!r} must return classes and scores from by_class, two tensors of one shape, "
            f"integers and numbers in [0, 1], got {_shown(labels)} and {_shown(scores)}."
        )
    return (
        labels.detach().to("cpu", torch.int64, copy=True).flatten(),
        scores.detach().to("cpu", torch.float64, copy=True).flatten(),
    )


def _class_shares(
    metric: Metric, seen: Sequence[tuple[Tensor, Tensor]], split: Literal["test", "validation"]
) -> ClassShares | None:
    labels, scores = (torch.cat(parts) for parts in zip(*seen, strict=True))
    if not len(labels):
        return None
    known, place, examples = labels.unique(return_inverse=True, return_counts=True)
    shares = torch.zeros(len(known), dtype=torch.float64).index_add_(0, place, scores) / examples
    return ClassShares(
        metric=metric.name,
        split=split,
        labels=tuple(known.tolist()),
        examples=tuple(examples.tolist()),
        shares=tuple(shares.tolist()),
    )


def scores(
    predict: Predict, batches: Iterable[Batch], metric: Metric, *, progress: Progress | None = None
) -> Tensor | None:
    """One score per example, float64, shape (examples,), in the order of the batches.

    None for a metric that exists only over a whole split; the batches are then not read.

    Raises:
        DataError: no batches, or a metric that does not return one finite score per example.
    """
    if metric.per_example is None:
        return None
    parts: list[Tensor] = []
    done = 0
    for batch in batches:
        with torch.no_grad():
            result = metric.per_example(predict(batch), batch.target)
        parts.append(_checked_scores(metric, result, batch.size))
        done += batch.size
        if progress is not None:
            progress(done)
    if not parts:
        raise DataError(_no_batches(metric))
    return torch.cat(parts)


def parity(simulated: Sequence[npt.NDArray[Any]], measured: Sequence[npt.NDArray[Any]]) -> Parity:
    """How far the runtime's outputs are from torch's simulation, in 8-bit steps of each output's range.

        step = (max - min of the simulated output) / 255,    distance = |simulated - measured| / step

    An output that is constant to float32 precision has no step: it counts as 0 steps where the runtime agrees
    to float32 precision, and as infinitely many where it does not. So does NaN or infinity on one side only.

    Args:
        simulated: one array per output, examples first.
        measured: the same outputs from the runtime.

    Raises:
        VerificationError: another number of outputs, or another shape.
    """
    _check_outputs(simulated, measured)
    distances = [_steps(s, m).ravel() for s, m in zip(simulated, measured, strict=True)]
    distance = np.concatenate(distances) if distances else np.zeros(0)
    if not distance.size:
        raise VerificationError("The outputs are empty: there is nothing to compare. Run at least one example.")
    same = [
        s.argmax(1) == m.argmax(1)
        for s, m in zip(simulated, measured, strict=True)
        if s.ndim == 2 and s.shape[1] > 1 and np.issubdtype(s.dtype, np.floating)
    ]
    return Parity(
        max_steps=float(distance.max()),
        mean_steps=float(distance.mean()),
        agreement=float(np.concatenate(same).mean()) if same else None,
    )


def _steps(simulated: npt.NDArray[Any], measured: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    wanted, got = simulated.astype(np.float64), measured.astype(np.float64)
    known = wanted[np.isfinite(wanted)]
    span = float(np.ptp(known)) if known.size else 0.0
    noise = FLOAT_NOISE * (float(np.abs(known).max()) if known.any() else 1.0)
    with np.errstate(invalid="ignore"):
        difference = np.abs(wanted - got)
    difference[(wanted == got) | (np.isnan(wanted) & np.isnan(got))] = 0.0
    difference[np.isnan(difference)] = math.inf
    if span <= noise:
        return np.where(difference <= noise, 0.0, math.inf)
    return difference / (span / STEPS)


def _check_outputs(simulated: Sequence[npt.NDArray[Any]], measured: Sequence[npt.NDArray[Any]]) -> None:
    shapes = [s.shape for s in simulated], [m.shape for m in measured]
    if shapes[0] != shapes[1]:
        raise VerificationError(
            f"The runtime returns outputs of shapes {shapes[1]}, torch of shapes {shapes[0]}: the artifact "
            "is not the model that was simulated. Export it again."
        )


def _checked_scores(metric: Metric, result: object, size: int) -> Tensor:
    """A batch's scores as float64 on the CPU, copied: a runtime may reuse its output buffer."""
    if not isinstance(result, Tensor) or result.ndim != 1 or result.is_complex() or len(result) != size:
        shown = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else repr(result)
        raise DataError(
            f"The metric {metric.name!r} must return one score per example, a tensor of shape ({size},), got "
            f"{shown}. For one number over the split use Metric(name, whole=...)."
        )
    values = result.detach().to("cpu", torch.float64, copy=True)
    wrong = ~values.isfinite()
    if wrong.any():
        index = int(wrong.nonzero()[0, 0])
        raise DataError(
            f"The metric {metric.name!r} is {float(values[index])} for example {index} of a batch. Check the "
            "model's outputs and the targets for NaN and infinity."
        )
    return values


def _number(metric: Metric, value: object) -> float:
    found = cast(Any, value)
    item = found
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        item = found.item() if math.prod(found.shape) == 1 else None
    if not isinstance(item, (int, float)) or not math.isfinite(item):
        raise DataError(
            f"The metric {metric.name!r} returned {_shown(found)}, not a finite number. Return one float for "
            "all examples, higher is better; for one score per example use Metric(name, per_example=...)."
        )
    return float(item)


def _shown(value: object) -> str:
    if isinstance(value, Tensor) and value.numel() != 1:
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value)


def _no_batches(metric: Metric) -> str:
    return f"The metric {metric.name!r} has no batches to be computed over. Check the task's data."


class _Part(NamedTuple):
    """One batch's outputs or targets, copied to the CPU, and how many examples it holds."""

    tree: Any
    size: int


def _kept(leaf: Any) -> Any:
    # A copy even on the CPU: runtimes may hand out the same output buffer at every call.
    if isinstance(leaf, Tensor):
        return leaf.detach().to("cpu", copy=True)
    return torch.as_tensor(np.array(cast(Any, leaf))) if isinstance(leaf, np.ndarray) else leaf


def _join(parts: Sequence[_Part], metric: Metric, what: str) -> Any:
    """Batches in one tree: tensors joined along the first axis, lists with one entry per example chained."""
    chained = any(
        isinstance(leaf, list)
        for part in parts
        for leaf in pytree.tree_leaves(part.tree, is_leaf=partial(_is_examples, size=part.size, chained=False))
    )
    flat = [
        pytree.tree_flatten(part.tree, is_leaf=partial(_is_examples, size=part.size, chained=chained)) for part in parts
    ]
    columns, specs = [leaves for leaves, _ in flat], [spec for _, spec in flat]
    if any(spec != specs[0] for spec in specs):
        raise DataError(_unjoinable(metric, what, "their structure differs from batch to batch"))
    joined = [_join_leaves(leaves, metric, what) for leaves in zip(*columns, strict=True)]
    return pytree.tree_unflatten(joined, specs[0])


def _is_examples(node: Any, *, size: int, chained: bool) -> bool:
    """Whether a list holds one entry per example (boxes, strings, numbers), not one tensor per output.

    `chained`: a list of another batch certainly does, so one that fits both readings does as well.
    """
    if not isinstance(node, list) or len(cast(list[Any], node)) != size:
        return False
    items = cast(list[Any], node)
    return chained or not all(isinstance(item, Tensor) and item.ndim and item.shape[0] == size for item in items)


def _join_leaves(leaves: tuple[Any, ...], metric: Metric, what: str) -> Any:
    first = leaves[0]
    if all(leaf is None for leaf in leaves):
        return None
    if isinstance(first, list):
        return [item for leaf in leaves for item in leaf]
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        names = ", ".join(sorted({type(leaf).__name__ for leaf in leaves}))
        raise DataError(_unjoinable(metric, what, f"they hold {names}"))
    tensors: list[Tensor] = [leaf if leaf.ndim else leaf.unsqueeze(0) for leaf in leaves]
    if len({(tensor.ndim, tensor.shape[1:]) for tensor in tensors}) > 1:
        shapes = " and ".join(str(shape) for shape in sorted({tuple(tensor.shape) for tensor in tensors})[:2])
        raise DataError(_unjoinable(metric, what, f"their shapes differ, such as {shapes}"))
    return torch.cat(tensors)


def _unjoinable(metric: Metric, what: str, reason: str) -> str:
    return (
        f"The {what} of all batches cannot be joined for the metric {metric.name!r}: {reason}. Pad them to "
        "one shape, or use Metric(name, per_example=...), which sees one batch at a time."
    )
