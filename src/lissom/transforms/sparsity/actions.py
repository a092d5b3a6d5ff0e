"""What `Sparsify` plans, and what it looks at before."""

from __future__ import annotations

from typing import Literal

import pydantic

from lissom.settings import Setting
from lissom.transforms.base import Action


class ZeroWeights(Action):
    """Set `zeros` of the `size` weights of `parameter` to zero; `nodes` multiply by it.

    With a `pattern` N:M, so many of every M inputs; `order_kept` says why the inputs stay in the order that they have,
    where they do. With a block, in whole blocks. `skips_zeros`: whether the target has kernels for the pattern.
    """

    kind: Literal["zero-weights"] = "zero-weights"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    parameter: str
    zeros: int
    size: int
    nodes: tuple[str, ...]
    pattern: str | None = None
    order_kept: str | None = None
    skips_zeros: bool = False


class PermuteChannels(Action):
    """Put the channels of `group` in another order wherever they are made or read: `order[i]` comes to place i.

    Of the scores of the weights that read them (`readers`), the pattern keeps the share `after` instead of `before`.
    """

    kind: Literal["permute-channels"] = "permute-channels"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    group: str
    order: tuple[int, ...]
    readers: tuple[str, ...]
    before: float
    after: float


class Timed(Setting):
    """A layer and the same layer in its pattern on the target, milliseconds, and the 95 % interval of their ratio."""

    dense_ms: float
    sparse_ms: float
    low: float
    high: float

    @property
    def faster(self) -> bool:
        return self.low > 1.0

    def __str__(self) -> str:
        return (
            f"{self.sparse_ms:.3g} ms instead of {self.dense_ms:.3g} ms, {self.dense_ms / self.sparse_ms:.2f} times as "
            f"fast, interval {self.low:.2f} to {self.high:.2f}"
        )


class Study(Setting):
    """What a plan has to know beyond the graph."""

    zeros: dict[str, int] = pydantic.Field(default_factory=dict[str, int])
    """What the global ranking gives each weight to lose, by parameter."""
    orders: tuple[PermuteChannels, ...] = ()
    kept_orders: dict[str, str] = pydantic.Field(default_factory=dict[str, str])
    """Why the inputs of a weight keep their order, by parameter."""
    timed: dict[str, Timed] = pydantic.Field(default_factory=dict[str, Timed])
    """By parameter."""
