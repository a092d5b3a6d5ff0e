"""One pass over the calibration data for everything that plans need to know about activations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch.fx import Interpreter
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.errors import DataError
from lissom.functional.ranges import Range, range_of
from lissom.graph.graph import Graph
from lissom.graph.trace import Trace
from lissom.settings import Setting
from lissom.task import Batch, fitting


class Statistics(Setting):
    """Ranges of activations by node name (inputs included), over how many examples."""

    ranges: dict[str, Range]
    examples: int


class _Watcher(Interpreter):
    def __init__(self, trace: Trace, watch: Collection[str]) -> None:
        super().__init__(trace.module)
        self._watch = watch
        self.ranges: dict[str, Range] = {}

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        if n.name in self._watch and isinstance(value, torch.Tensor) and value.is_floating_point():
            seen = range_of(value)
            if seen is not None:
                before = self.ranges.get(n.name)
                self.ranges[n.name] = before.merge(seen) if before else seen
        return value


def observe(
    trace: Trace,
    batches: Iterable[Batch],
    watch: Collection[str],
    *,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Run the traced graph over `batches` and keep the range of every watched value.

    Raises:
        DataError: a batch does not fit the model, or a value became infinite or NaN.
    """
    watcher = _Watcher(trace, watch)
    examples = run_over(watcher, trace.graph, batches, progress=progress)
    broken = [name for name, seen in watcher.ranges.items() if not seen.finite]
    if broken:
        where = trace.graph.by_name[broken[0]].layer if broken[0] in trace.graph.by_name else broken[0]
        raise DataError(
            f"Activations become infinite or NaN at {where or broken[0]!r} on the calibration data; look for "
            "overflow in the model or wrong input scaling before compressing."
        )
    return Statistics(ranges=watcher.ranges, examples=examples)


@torch.no_grad()
def run_over(
    interpreter: Interpreter,
    graph: Graph,
    batches: Iterable[Batch],
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Run an interpreter of the traced graph over `batches`; how many examples there were.

    Raises:
        DataError: a batch does not fit the model.
    """
    examples = 0
    for batch in batches:
        for piece in fitting(batch, graph.fixed_batch):
            inputs = pytree.tree_leaves((piece.args, dict(piece.kwargs)))
            check_inputs(graph, inputs)
            try:
                interpreter.run(*inputs, enable_io_processing=False)
            except (RuntimeError, IndexError) as wrong:
                raise _misfit(graph, inputs, str(wrong).splitlines()[0]) from wrong
        examples += batch.size
        if progress:
            progress(examples)
    return examples


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
