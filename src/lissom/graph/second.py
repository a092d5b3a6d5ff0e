"""Second moments around the mean or not: of what products read, and of what they make, in one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.fx import Interpreter
from torch.fx import Node as FxNode

from lissom.errors import DataError
from lissom.graph.describe import op_name, schema_of
from lissom.graph.moments import PIECE, rows_read
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
    for name, seen in (*watcher.read.items(), *watcher.made.items()):
        if not torch.isfinite(seen.products).all():
            node = trace.graph.by_name[name]
            raise DataError(
                f"Activations become infinite or NaN at {node.layer or name!r} on the calibration data; look for "
                "overflow in the model or wrong input scaling before compressing."
            )
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
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            names = [argument.name for argument in schema_of(cast(Any, n.target)).arguments]
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            for piece in _pieces(given["input"], given["weight"]):
                _count(self.read, n.name, rows_read(op_name(n), piece, given)[0])
        if n.name in self._made:
            _count(self.made, n.name, rows_made(op_name(n), value).float())
        return value


def rows_made(op: str, value: Tensor) -> Tensor:
    """The outputs (rows, out) of a product or a look-up: one row per position."""
    dims = 0 if op in ("linear", "embedding") else int(op.removesuffix("d")[-1])
    return value.movedim(-1 - dims, -1).reshape(-1, value.shape[-1 - dims])


def _count(found: dict[str, Second], name: str, rows: Tensor) -> None:
    # Products in the type of the data, sums over batches in float64.
    seen = Second((rows.T @ rows).double().cpu(), rows.sum(0, dtype=torch.float64).cpu(), len(rows))
    found[name] = found[name].plus(seen) if name in found else seen


def _pieces(values: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Examples that are laid out together: under a kernel each value is repeated."""
    repeats = values.numel() * weight[0, 0].numel()
    if values.ndim < weight.ndim or repeats <= PIECE:
        return (values,)
    return values.split(max(1, PIECE * len(values) // repeats))
