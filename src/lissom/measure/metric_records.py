"""Metrics as they were measured: one value each, all of one pass over a split."""

from __future__ import annotations

from typing import Literal

from lissom.settings import Setting


class MetricValue(Setting):
    name: str
    value: float
    samples: int
    """How many examples the value is over."""
    split: Literal["test", "validation"]


class Quality(Setting):
    """What one pass over a split found out about a model."""

    metric: MetricValue
    """The task's own."""
    further: tuple[MetricValue, ...] = ()
    """Those of `Task(metrics=...)`, in its order."""

    @property
    def by_name(self) -> dict[str, float]:
        """Values of the further ones."""
        return {one.name: one.value for one in self.further}
