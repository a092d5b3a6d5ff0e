"""Second moments around the mean or not: of what products read, and of what they make, in one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Interpreter
from torch.fx import Node as FxNode

from lissom.graph.describe import op_name
from lissom.graph.lockstep import given
from lissom.graph.moments import laid_out, refuse_infinite, rows_made, rows_read
from lissom.graph.statistics import run_over
from lissom.graph.trace import Trace
from lissom.task import Batch


class Second(NamedTuple):
    """Sums over rows x, float64: x x' (n, n), x (n,), and how many rows."""

    products: Tensor
    sums: Tensor
    rows: int

    def plus(self, other: Second) -> Second:
        return Second(self.products + other.products, self.sums + other.sums, self.rows + other.rows)

    def shifted(self, by: Tensor) -> Second:
        """Of x - by."""
        by = by.double()
        cross = torch.outer(self.sums, by)
        return Second(
            self.products - cross - cross.T + self.rows * torch.outer(by, by), self.sums - self.rows * by, self.rows
        )

    @property
    def mean(self) -> Tensor:
        return self.sums / max(1, self.rows)

    def around(self, centred: bool) -> Tensor:
        """Sum of x x', or of (x - mean)(x - mean)'."""
        return self.products - torch.outer(self.sums, self.mean) if centred else self.products


def second_moments(
    trace: Trace,
    batches: Iterable[Batch],
    *,
    read: Collection[str] = (),
    made: Collection[str] = (),
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Second], dict[str, Second]]:
    """Of the rows that nodes in `read` multiply their weight with, and of the rows of outputs of the nodes in `made`.

    The products must not be grouped.

    Raises:
        DataError: a batch does not fit the model, or a value became infinite or NaN.
    """
    watcher = _Both(trace, read, made)
    run_over(watcher, trace.graph, batches, progress=progress)
    refuse_infinite(trace, {name: seen.products for name, seen in watcher.read.items()}, "before")
    refuse_infinite(trace, {name: seen.products for name, seen in watcher.made.items()}, "at")
    return watcher.read, watcher.made


class _Both(Interpreter):
    def __init__(self, trace: Trace, read: Collection[str], made: Collection[str]) -> None:
        super().__init__(trace.module)
        self._read, self._made = read, made
        self.read: dict[str, Second] = {}
        self.made: dict[str, Second] = {}

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        if n.name in self._read:
            called = given(self, n)
            for piece in laid_out(called["input"], called["weight"]):
                _count(self.read, n.name, rows_read(op_name(n), piece, called)[0])
        if n.name in self._made:
            _count(self.made, n.name, rows_made(op_name(n), value).float())
        return value


def _count(found: dict[str, Second], name: str, rows: Tensor) -> None:
    # Products in the type of the data, sums over batches in float64.
    seen = Second((rows.T @ rows).double().cpu(), rows.sum(0, dtype=torch.float64).cpu(), len(rows))
    found[name] = found[name].plus(seen) if name in found else seen
