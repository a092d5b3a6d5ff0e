"""Values outside the integer grid, counted in service from what goes into a model and comes out of it.

A grid was set on calibration data. Inputs that lie outside it more often than then are clipped: the data have drifted,
and accuracy with them. With k of n values outside, the share is taken for larger than the allowed p0 when the lower
end of Wilson's interval is:

    (p + z^2 / 2n - z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n) > p0           p = k / n,  z = 2.576 (99 %)

Reference: Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22, 209-212. Values
of one input are not independent of each other, so the interval is narrower than it should be; `calls` says how many
there were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydantic_core

from lissom.errors import DataError, UsageError
from lissom.files import write_text
from lissom.settings import Setting

Array = np.ndarray[Any, np.dtype[Any]]

Z = 2.576
"""Of a one-sided 99.5 % or two-sided 99 % interval."""
ALLOWED = 0.001
"""Share of clipped values that calibration methods themselves give up at most."""


class Watched(Setting):
    """An input or output; `low` and `high` are where its grid ends, None where it is not rounded."""

    name: str
    low: float | None = None
    high: float | None = None


class Drift(Setting):
    """What was seen of an input or output so far."""

    name: str
    calls: int
    values: int
    lowest: float | None
    highest: float | None
    not_finite: int
    outside: int | None
    """Values beyond the grid; None where there is no grid."""
    share: float | None
    at_least: float | None
    """Lower end of the interval of the share."""
    drifted: bool
    """More values are outside than allowed, or some are not finite."""


@dataclass
class _Count:
    calls: int = 0
    values: int = 0
    finite: int = 0
    outside: int = 0
    lowest: float = math.inf
    highest: float = -math.inf


@dataclass
class Monitor:
    """Counts, call by call. Costs two comparisons a value; keeps no values."""

    inputs: tuple[Watched, ...]
    outputs: tuple[Watched, ...]
    allowed: float = ALLOWED
    _counts: dict[str, _Count] = field(default_factory=dict[str, _Count])

    def __post_init__(self) -> None:
        if not 0 <= self.allowed < 1:
            raise UsageError(f"allowed is a share of values, in [0, 1), got {self.allowed}. Write allowed=0.001.")
        for side, watched in (("input", self.inputs), ("output", self.outputs)):
            for one in watched:
                self._counts[f"{side} {one.name}"] = _Count()

    def see_(self, inputs: Sequence[Array], outputs: Sequence[Array] = ()) -> None:
        """Count one call: arrays in the order of the exported file. Integer arrays (token ids) are counted as calls.

        Raises:
            DataError: another number of arrays than the model takes or gives.
        """
        self._see_("input", self.inputs, inputs)
        if outputs:
            self._see_("output", self.outputs, outputs)

    def _see_(self, side: str, watched: Sequence[Watched], given: Sequence[Array]) -> None:
        if len(given) != len(watched):
            names = ", ".join(one.name for one in watched)
            raise DataError(f"The model has {len(watched)} {side}s ({names}), got {len(given)} arrays. Give them all.")
        for one, array in zip(watched, given, strict=True):
            count = self._counts[f"{side} {one.name}"]
            values = np.asarray(array)
            count.calls += 1
            count.values += values.size
            if values.dtype.kind != "f" or not values.size:
                count.finite += values.size
                continue
            finite = values[np.isfinite(values)]
            count.finite += finite.size
            if finite.size:
                count.lowest = min(count.lowest, float(finite.min()))
                count.highest = max(count.highest, float(finite.max()))
            if one.low is not None and one.high is not None:
                count.outside += values.size - int(np.count_nonzero((values >= one.low) & (values <= one.high)))

    def report(self) -> tuple[Drift, ...]:
        """Inputs, then outputs."""
        sides = (("input", self.inputs), ("output", self.outputs))
        return tuple(self._drift(side, one) for side, watched in sides for one in watched)

    def _drift(self, side: str, one: Watched) -> Drift:
        count = self._counts[f"{side} {one.name}"]
        rounded = one.low is not None and one.high is not None
        bound = lower_bound(count.outside, count.values) if rounded and count.values else None
        broken = count.values - count.finite
        return Drift(
            name=one.name,
            calls=count.calls,
            values=count.values,
            lowest=count.lowest if math.isfinite(count.lowest) else None,
            highest=count.highest if math.isfinite(count.highest) else None,
            not_finite=broken,
            outside=count.outside if rounded else None,
            share=count.outside / count.values if rounded and count.values else None,
            at_least=bound,
            drifted=broken > 0 or (bound is not None and bound > self.allowed),
        )

    def write(self, path: str | Path) -> None:
        """The report as JSON.

        Raises:
            RunFolderError: the file cannot be written; an earlier one stays whole.
        """
        data = [one.model_dump(mode="json") for one in self.report()]
        write_text(Path(path), pydantic_core.to_json(data, indent=2).decode())


def lower_bound(outside: int, values: int) -> float:
    """Lower end of Wilson's interval for a share of `outside` in `values`.

    Raises:
        ValueError: no values, or more outside than there are.
    """
    if values <= 0 or not 0 <= outside <= values:
        raise ValueError(f"a share needs 0 <= outside <= values and values > 0, got {outside} of {values}")
    if not outside:
        return 0.0  # exactly: the difference below leaves a rounding
    share, square = outside / values, Z * Z
    middle = share + square / (2 * values)
    spread = Z * math.sqrt(share * (1 - share) / values + square / (4 * values**2))
    return (middle - spread) / (1 + square / values)
