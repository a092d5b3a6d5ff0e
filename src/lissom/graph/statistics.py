"""One pass over the calibration data for everything that plans need to know about activations.

Every example runs by itself: kernels may round differently for another batch size, and what is kept must not depend
on how the data were batched. A graph that takes one batch size only runs whole batches, each of which counts as one
example here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import pydantic
import torch
from torch.fx import Interpreter
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.errors import DataError, first_line
from lissom.functional.histogram import Histogram, Tally
from lissom.functional.ranges import MeanRange, Range, mean_of, range_of
from lissom.graph.graph import Graph
from lissom.graph.sample import Sample
from lissom.graph.trace import Trace
from lissom.settings import Setting
from lissom.task import Batch, fitting


class Statistics(Setting):
    """What was seen of activations, by node name (inputs included), over how many examples.

    `histograms` and `means` are there where they were asked for. `trials` holds, by node and calibration method, the
    relative squared error that rounding the node by that method causes in what its readers make of it.
    """

    ranges: dict[str, Range]
    examples: int
    histograms: dict[str, Histogram] = pydantic.Field(default_factory=dict[str, Histogram])
    means: dict[str, MeanRange] = pydantic.Field(default_factory=dict[str, MeanRange])
    trials: dict[str, dict[str, float]] = pydantic.Field(default_factory=dict[str, dict[str, float]])

    def merge(self, other: Statistics) -> Statistics:
        """What both parts of the data together would have given, without trials: they follow from the whole."""
        return Statistics(
            ranges=_merged(self.ranges, other.ranges),
            examples=self.examples + other.examples,
            histograms=_merged(self.histograms, other.histograms),
            means=_merged(self.means, other.means),
        )


class _Mergeable(Protocol):
    def merge(self, other: Any, /) -> Any: ...


M = TypeVar("M", bound=_Mergeable)


def _merged(ours: Mapping[str, M], theirs: Mapping[str, M]) -> dict[str, M]:
    both = {name: seen.merge(theirs[name]) if name in theirs else seen for name, seen in ours.items()}
    return {**both, **{name: seen for name, seen in theirs.items() if name not in ours}}


class _Watcher(Interpreter):
    def __init__(self, trace: Trace, watch: Collection[str], histograms: bool, sample: Sample | None) -> None:
        super().__init__(trace.module)
        self._watch = watch
        self._histograms = histograms
        self._sample = sample
        self.ranges: dict[str, Range] = {}
        self.means: dict[str, MeanRange] = {}
        self.tallies: dict[str, Tally] = {}

    def run(self, *args: Any, **kwargs: Any) -> Any:
        if self._sample is not None:
            self._sample.offer_(args)
        return super().run(*args, **kwargs)

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        if n.name in self._watch and isinstance(value, torch.Tensor) and value.is_floating_point():
            self._add_(n.name, value)
        return value

    def _add_(self, name: str, value: torch.Tensor) -> None:
        seen = range_of(value)
        if seen is None:
            return
        self.ranges[name] = self.ranges[name].merge(seen) if name in self.ranges else seen
        if self._histograms and seen.finite:
            mean = mean_of(seen)
            self.means[name] = self.means[name].merge(mean) if name in self.means else mean
            self.tallies.setdefault(name, Tally()).add_(value)


def observe(
    trace: Trace,
    batches: Iterable[Batch],
    watch: Collection[str],
    *,
    histograms: bool = False,
    sample: Sample | None = None,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Run the traced graph over `batches` and keep the range of every watched value.

    With `histograms` also its histogram and the mean range of an example. `sample` is offered the inputs of every
    example. Memory does not grow with the number of batches.

    Raises:
        DataError: a batch does not fit the model, or a value became infinite or NaN.
    """
    watcher = _Watcher(trace, watch, histograms, sample)
    examples = run_over(watcher, trace.graph, batches, alone=True, progress=progress)
    broken = [name for name, seen in watcher.ranges.items() if not seen.finite]
    if broken:
        where = trace.graph.by_name[broken[0]].layer if broken[0] in trace.graph.by_name else broken[0]
        raise DataError(
            f"Activations become infinite or NaN at {where or broken[0]!r} on the calibration data; look for "
            "overflow in the model or wrong input scaling before compressing."
        )
    return Statistics(
        ranges=watcher.ranges,
        examples=examples,
        histograms={name: tally.histogram() for name, tally in watcher.tallies.items()},
        means=watcher.means,
    )


@torch.no_grad()
def run_over(
    interpreter: Interpreter,
    graph: Graph,
    batches: Iterable[Batch],
    *,
    alone: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Run an interpreter of the traced graph over `batches`; how many examples there were.

    `alone` runs every example by itself, where the graph takes any batch size.

    Raises:
        DataError: a batch does not fit the model.
    """
    examples = 0
    for batch in batches:
        for piece in fitting(batch, graph.fixed_batch):
            whole = pytree.tree_leaves((piece.args, dict(piece.kwargs)))
            check_inputs(graph, whole)
            for inputs in _examples(graph, whole) if alone and graph.dynamic_batch else (whole,):
                try:
                    interpreter.run(*inputs, enable_io_processing=False)
                except (RuntimeError, IndexError) as wrong:
                    raise _misfit(graph, whole, first_line(wrong)) from wrong
        examples += batch.size
        if progress:
            progress(examples)
    return examples


def _examples(graph: Graph, inputs: Sequence[Any]) -> Iterator[list[Any]]:
    """The flat inputs of a call, example by example."""
    follows = [shape[:1] == ("N",) for shape in graph.input_shapes]
    sizes = {given.shape[0] for given, cut in zip(inputs, follows, strict=True) if cut}
    if len(sizes) != 1:
        raise _misfit(graph, inputs, f"the batch sizes {sorted(sizes)} differ")
    for index in range(sizes.pop()):
        yield [given[index : index + 1] if cut else given for given, cut in zip(inputs, follows, strict=True)]


def check_inputs(graph: Graph, inputs: Sequence[object]) -> None:
    """Many a wrong size runs through a graph without an error, and gives wrong ranges.

    Raises:
        DataError: the flat inputs of a call have another number, shape or type than those traced.
    """
    if len(inputs) != len(graph.inputs):
        raise _misfit(graph, inputs, f"{len(inputs)} inputs instead of {len(graph.inputs)}")
    for name, shape, dtype, given in zip(graph.inputs, graph.input_shapes, graph.input_dtypes, inputs, strict=True):
        if not isinstance(given, torch.Tensor):
            if dtype:
                raise _misfit(graph, inputs, f"the input {name!r} is no tensor")
            continue
        same = len(shape) == given.ndim and all(
            wanted in ("N", size) for wanted, size in zip(shape, given.shape, strict=True)
        )
        if not same:
            raise _misfit(graph, inputs, f"the input {name!r} has another shape")
        if dtype != str(given.dtype).removeprefix("torch."):
            raise _misfit(graph, inputs, f"the input {name!r} is {given.dtype}, traced with {dtype}")


def _misfit(graph: Graph, inputs: Sequence[object], reason: str) -> DataError:
    shapes = [tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in inputs]
    return DataError(
        f"A calibration batch does not fit the model: inputs of shape {shapes}, traced with "
        f"{list(graph.input_shapes)}. ({reason}) Give batches like Task(example_inputs=...), or Task(feed=...) a "
        "function that makes them so."
    )
