"""Metrics as they were measured: one value each, all of one pass over a split."""

from __future__ import annotations

from typing import Literal, NamedTuple

from lissom.settings import Setting


class ClassShare(NamedTuple):
    label: int
    share: float
    examples: int


class MetricValue(Setting):
    name: str
    value: float
    samples: int
    """How many examples the value is over."""
    split: Literal["test", "validation"]


class ClassShares(Setting):
    """Mean score of each class that occurs in the targets; `labels`, `examples` and `shares` go together."""

    metric: str
    """That told them apart."""
    split: Literal["test", "validation"]
    labels: tuple[int, ...]
    """In ascending order."""
    examples: tuple[int, ...]
    """Positions, where an example has several."""
    shares: tuple[float, ...]

    @property
    def worst(self) -> ClassShare:
        """The class with the least; the first of several."""
        return min(self._each(), key=lambda one: one.share)

    @property
    def by_label(self) -> dict[int, float]:
        return dict(zip(self.labels, self.shares, strict=True))

    def most_lost(self, before: ClassShares) -> tuple[ClassShare, ClassShare]:
        """The class that lost the most since `before`, then and now."""
        held = {one.label: one for one in before._each()}
        pairs = [(held[one.label], one) for one in self._each() if one.label in held]
        return max(pairs, key=lambda pair: pair[0].share - pair[1].share)

    def _each(self) -> list[ClassShare]:
        return [ClassShare(*one) for one in zip(self.labels, self.shares, self.examples, strict=True)]


class Quality(Setting):
    """What one pass over a split found out about a model."""

    metric: MetricValue
    """The task's own."""
    further: tuple[MetricValue, ...] = ()
    """Those of `Task(metrics=...)`, in its order."""
    classes: ClassShares | None = None
    """By the first metric that tells classes apart; None where none does."""

    @property
    def by_name(self) -> dict[str, float]:
        """Values of the further ones."""
        return {one.name: one.value for one in self.further}
