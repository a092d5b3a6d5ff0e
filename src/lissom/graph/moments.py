"""One pass over the data for the second moments of what layers read: squared norms, or the whole matrix X'X."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.fx import Interpreter
from torch.fx import Node as FxNode

from lissom.errors import DataError
from lissom.functional.sparsity import patches
from lissom.graph.describe import op_name
from lissom.graph.lockstep import given
from lissom.graph.statistics import run_over
from lissom.graph.trace import Trace
from lissom.task import Batch

PIECE = 2**24
"""Values that are laid out at once: the patches of a convolution repeat each input up to as often as its kernel."""

WIDEST = 4608
"""Values of a row, kernel included, above which X'X (float64, squared) does not pay."""

READABLE = frozenset({"linear", "conv1d", "conv2d", "conv3d"})
"""Operators whose inputs can be laid out as rows of a matrix product."""

PRODUCTS = READABLE | {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
"""Operators that multiply a value by a weight."""


def input_moments(
    trace: Trace,
    batches: Iterable[Batch],
    nodes: Collection[str],
    *,
    full: bool,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """For every node, summed over all rows X it reads: X'X (groups, n, n) if `full`, else its diagonal (groups, n).

    n is the length of a row of the weight: inputs, or inputs per group times kernel. A convolution reads one row per
    position of its output.

    Raises:
        DataError: a batch does not fit the model, or a value became infinite or NaN.
    """
    watcher = _Watcher(trace, nodes, full)
    run_over(watcher, trace.graph, batches, progress=progress)
    refuse_infinite(trace, watcher.found, "before")
    return watcher.found


def refuse_infinite(trace: Trace, found: Mapping[str, Tensor], where: Literal["before", "at"]) -> None:
    """
    Raises:
        DataError: what was seen before or at a node is not finite.
    """
    for name, seen in found.items():
        if not torch.isfinite(seen).all():
            node = trace.graph.by_name[name]
            raise DataError(
                f"Activations become infinite or NaN {where} {node.layer or name!r} on the calibration data; look for "
                "overflow in the model or wrong input scaling before compressing."
            )


class _Watcher(Interpreter):
    def __init__(self, trace: Trace, nodes: Collection[str], full: bool) -> None:
        super().__init__(trace.module)
        self._nodes = nodes
        self._full = full
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: FxNode) -> Any:
        if n.name in self._nodes:
            self._add(n, given(self, n))
        return super().run_node(n)

    def _add(self, node: FxNode, given: Mapping[str, Any]) -> None:
        for piece in laid_out(given["input"], given["weight"]):
            rows = rows_read(op_name(node), piece, given)
            seen = rows.transpose(1, 2) @ rows if self._full else rows.square().sum(1)
            self.found[node.name] = self.found[node.name] + seen if node.name in self.found else seen


def laid_out(values: Tensor, weight: Tensor) -> Iterable[Tensor]:
    """`values`, in pieces whose rows for `weight` hold at most `PIECE` numbers."""
    repeats = weight[0, 0].numel()
    if repeats == 1 or values.ndim < weight.ndim or values.numel() * repeats <= PIECE:
        return (values,)
    return values.split(max(1, PIECE * values.shape[0] // (values.numel() * repeats)))


def rows_read(op: str, values: Tensor, given: Mapping[str, Any]) -> Tensor:
    """The rows (groups, rows, n) that a product multiplies its weight with, in float32."""
    values, weight = values.float(), cast(Tensor, given["weight"])
    if op == "linear":
        return values.reshape(1, -1, weight.shape[1])
    kernel = weight.shape[2:]
    padding = given.get("padding", 0)
    return patches(
        values,
        kernel,
        stride=_each(given.get("stride", 1), len(kernel)),
        padding=padding if isinstance(padding, str) else _each(padding, len(kernel)),
        dilation=_each(given.get("dilation", 1), len(kernel)),
        groups=int(given.get("groups", 1)),
    )


def rows_made(op: str, value: Tensor) -> Tensor:
    """The outputs (rows, out) of a product or a look-up: one row per position."""
    dims = 0 if op in ("linear", "embedding") else int(op.removesuffix("d")[-1])
    return value.movedim(-1 - dims, -1).reshape(-1, value.shape[-1 - dims])


def _each(value: object, dims: int) -> list[int]:
    """One number per dimension; operators take one for all as well."""
    numbers = [value] if isinstance(value, int) else list(cast(Iterable[int], value))
    return numbers * (dims if len(numbers) == 1 else 1)
