"""What a model is for: the data it works on, how a batch is fed, what counts as good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lissom.errors import DataError, UsageError

Split = Literal["train", "calibration", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "calibration", "validation", "test")


@dataclass(frozen=True, eq=False)
class Batch:
    """One call of the model: `model(*args, **kwargs)`, and what it should have answered."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    target: Any = None

    def tensors(self) -> list[Tensor]:
        """The input tensors, in the order the exported model takes them."""
        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    @property
    def size(self) -> int:
        """Examples in this batch: the first axis of the first input tensor (1 for a scalar input)."""
        tensors = self.tensors()
        return tensors[0].shape[0] if tensors and tensors[0].ndim else 1


Feed = Callable[[Any], Batch]


def default_feed(batch: Any) -> Batch:
    """`(x, y)` is input and target; a dict is keyword inputs with `labels` as target; else all input."""
    if isinstance(batch, Batch):
        return batch
    if isinstance(batch, Mapping):
        inputs = {str(k): v for k, v in batch.items() if k not in ("labels", "label")}
        return Batch((), inputs, batch.get("labels", batch.get("label")))
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        *inputs, target = batch
        return Batch(tuple(inputs), {}, target)
    if isinstance(batch, (tuple, list)):
        return Batch(tuple(batch))
    return Batch((batch,))


@dataclass(frozen=True, eq=False)
class Task:
    """What a model is for.

    Everything but the example inputs is optional; a transform that needs what is missing says so by name.
    The splits are iterables of batches that can be iterated again and again (a `DataLoader`, a list);
    `feed` turns one of their batches into a `Batch` (default: `default_feed`). `metric` is a
    `lissom.metrics.Metric` or a callable `(outputs, targets) -> number` over a whole split; higher is better:
    what training, choices and searches go by. `metrics` are more of them by name, measured beside it in the same pass;
    a goal may bound them, too.
    `teacher` is what `Finetune(teacher="task")` learns from: a module, a function that is called as the model is and
    returns its outputs, the path of an ONNX file or of a finished run, or a list of them. `classes` names the outputs
    of a classifier in their order; `notes` are sentences about the data that the result repeats.

    Raises:
        UsageError: no example input tensor, or a split that is not iterable, or `metrics` that are no names
            with metrics, or stand without a `metric`.
        DataError: an example input holds NaN or infinite values.
    """

    example_inputs: tuple[Any, ...] = ()
    example_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    train: Iterable[Any] | None = None
    calibration: Iterable[Any] | None = None
    validation: Iterable[Any] | None = None
    test: Iterable[Any] | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    metric: Any = None
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    feed: Feed = default_feed
    name: str = "model"
    teacher: Any = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        example = cast(object, self.example_inputs)
        if not isinstance(example, tuple):
            raise UsageError(
                f"Task(example_inputs=...) must be a tuple of the model's positional inputs, got "
                f"{type(example).__name__}. Write example_inputs=(x,)."
            )
        if not self.example.tensors():
            raise UsageError("Task needs at least one example input tensor. Write Task(example_inputs=(x,)).")
        self._check_metrics()
        for split in SPLITS:
            loader: object = getattr(self, split)
            if loader is not None and not isinstance(loader, Iterable):
                raise UsageError(f"Task({split}=...) must be an iterable of batches, got {type(loader).__name__}.")
        check_finite(self.example, "the example inputs")

    def _check_metrics(self) -> None:
        further = cast(object, self.metrics)
        names: list[object] = list(self.metrics) if isinstance(further, Mapping) else [None]
        if not all(isinstance(name, str) and name for name in names):
            raise UsageError(
                f"Task(metrics=...) must be metrics by name, got {further!r}. Write metrics={{'f1': your_function}}."
            )
        if further and self.metric is None:
            raise UsageError(
                f"Task(metrics=...) stand beside Task(metric=...), which choices go by and which was not given. "
                f"Give one of {', '.join(self.metrics)} as metric=..."
            )

    @property
    def example(self) -> Batch:
        return Batch(self.example_inputs, self.example_kwargs)

    def has(self, split: Split) -> bool:
        return getattr(self, split) is not None

    def batches(self, split: Split, *, limit: int | None = None) -> Iterator[Batch]:
        """The batches of a split, fed, contiguous and checked; at most `limit` examples (the last batch is cut).

        Raises:
            DataError: the split is missing, empty, exhausted (a one-shot iterator), or holds NaN.
        """
        loader: Iterable[Any] | None = getattr(self, split)
        if loader is None:
            raise DataError(f"This needs Task({split}=...), which was not given.")
        iterator = iter(loader)
        if iterator is loader:
            # A generator can be walked once; every later pass would silently see nothing.
            raise DataError(
                f"Task({split}=...) is a one-shot iterator ({type(loader).__name__}): it would be exhausted "
                "after one pass. Give a DataLoader, a list of batches, or another object whose iter() starts anew."
            )
        seen = 0
        for index, raw in enumerate(iterator):
            batch = contiguous(_in_order(self.feed(raw), self.example_kwargs))
            if not batch.tensors():
                raise DataError(
                    f"Batch {index} of Task({split}=...) holds no input tensor (got {type(raw).__name__}). "
                    "Give Task(feed=...) a function from your batch to lissom.Batch(args, kwargs, target)."
                )
            check_finite(batch, f"batch {index} of Task({split}=...)")
            if limit is not None and seen + batch.size > limit:
                batch = sliced(batch, 0, limit - seen)
            seen += batch.size
            yield batch
            if limit is not None and seen >= limit:
                return
        if seen == 0:
            raise DataError(f"Task({split}=...) yielded no batch: the loader is empty.")


def _in_order(batch: Batch, example: Mapping[str, Any]) -> Batch:
    """The batch with its keyword inputs in the order of the example's: exported programs take them by position."""
    if list(batch.kwargs) == list(example) or set(batch.kwargs) != set(example):
        return batch
    return Batch(batch.args, {name: batch.kwargs[name] for name in example}, batch.target)


def contiguous(batch: Batch) -> Batch:
    """Plain memory order: a channels-last input would bake its strides into exported programs."""

    def fix(leaf: Any) -> Any:
        return leaf.contiguous() if isinstance(leaf, Tensor) else leaf

    args, kwargs = pytree.tree_map(fix, (batch.args, dict(batch.kwargs)))
    return Batch(args, kwargs, batch.target)


def sliced(batch: Batch, start: int, stop: int) -> Batch:
    """Examples `start` to `stop`: everything whose first axis is the batch axis is cut."""
    size = batch.size

    def cut(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == size:
            return leaf[start:stop]
        return leaf

    args, kwargs, target = pytree.tree_map(cut, (batch.args, dict(batch.kwargs), batch.target))
    return Batch(args, kwargs, target)


def repeated(batch: Batch, count: int) -> Batch:
    """A batch of exactly `count` examples made by repeating (and cutting) the inputs of this one."""
    size = batch.size
    times = -(-count // size)

    def repeat(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == size:
            return torch.cat([leaf] * times)[:count].contiguous()
        return leaf

    args, kwargs = pytree.tree_map(repeat, (batch.args, dict(batch.kwargs)))
    return Batch(args, kwargs)


def fitting(batch: Batch, size: int | None) -> Iterator[Batch]:
    """The batch in pieces of exactly `size` examples (the last one filled by repetition), or whole for None."""
    if size is None or batch.size == size:
        yield batch
        return
    for start in range(0, batch.size, size):
        yield repeated(sliced(batch, start, start + size), size)


def check_finite(batch: Batch, where: str) -> None:
    for index, tensor in enumerate(batch.tensors()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise DataError(
                f"Input {index} in {where} holds {bad} NaN or infinite values (shape {tuple(tensor.shape)}). "
                "Clean the data before compressing: ranges and metrics would be meaningless."
            )
