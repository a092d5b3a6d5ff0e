"""Bits for every layer under a bound: what was found out of each layer, and the choice that follows from it.

    min  sum of errors     so that  sum of costs <= bound,      one number of bits per layer

The error of a layer at so many bits is the relative squared error of the model's first output with that layer alone
rounded; errors of several layers are taken to add up. Costs are bytes in the target's file, or milliseconds measured on
the target, layer by layer. The choice is exact (`functional.knapsack`) and takes no look at the model: another bound
needs the table alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import pydantic

from lissom.errors import GoalError, RunFolderError, UsageError
from lissom.functional import allocation
from lissom.functional.knapsack import optimum
from lissom.settings import Setting, explain
from lissom.transforms.quantization.precision import FLOAT, Precision

Ratio = Literal["size_ratio", "latency_ratio"]
Chosen = dict[str, Precision]
"""Layer to bits: a mapping that `Quantize(precision=...)` takes."""


class BitsOption(Setting):
    """What a layer costs and loses at so many bits. `milliseconds` is None where it was not measured."""

    bits: Precision
    bytes: int
    error: float
    milliseconds: float | None = None


class LayerOptions(Setting):
    """One layer, or several that share a weight, and what it may become."""

    layer: str
    nodes: tuple[str, ...]
    options: tuple[BitsOption, ...]

    def at(self, bits: Precision) -> BitsOption:
        return next(option for option in self.options if option.bits == bits)


class Judged(Setting):
    """A choice whose metric was taken on validation examples: how far it dropped, and the upper limit of that."""

    bits: Chosen
    bytes: int
    drop: float
    limit: float


class PrecisionTable(Setting):
    """What a search found out; `precision.json` in a run folder."""

    target: str
    bytes: int
    """Of the float model's weights."""
    bytes_fixed: int
    """Of what is not in `layers`: as the rules of the recipe have it."""
    milliseconds: float | None
    """Of the float model on the target, where latency was measured."""
    examples: int
    """That errors were taken on."""
    layers: tuple[LayerOptions, ...]
    judged: tuple[Judged, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> PrecisionTable:
        """
        Raises:
            RunFolderError: the file is missing or no such table.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except pydantic.ValidationError as wrong:
            raise RunFolderError(f"{explain(wrong, str(path), cls)} Make the run again.") from wrong
        except (OSError, UnicodeDecodeError) as wrong:
            raise RunFolderError(
                f"{path} cannot be read: {wrong}. A run with Quantize(precision='auto') writes it."
            ) from wrong

    def solve(
        self,
        *,
        size_ratio: float | None = None,
        latency_ratio: float | None = None,
        max_drop: float | None = None,
    ) -> Chosen:
        """Bits of every layer for one bound; ratios are float model / compressed one, both as predicted.

        `max_drop` takes the smallest of the choices that were judged on validation examples and dropped no more.

        Raises:
            UsageError: no bound or several, or one in what was not measured.
            GoalError: out of reach; says how far it goes.
        """
        wishes = {"size_ratio": size_ratio, "latency_ratio": latency_ratio, "max_drop": max_drop}
        named = [name for name, wish in wishes.items() if wish is not None]
        if len(named) != 1:
            raise UsageError(f"solve needs exactly one of {', '.join(wishes)}, got {' and '.join(named) or 'none'}.")
        if max_drop is not None:
            return self._dropping(max_drop)
        if size_ratio is not None:
            return self.within("size_ratio", size_ratio)
        return self.within("latency_ratio", latency_ratio or 1.0)

    def furthest(self, name: Ratio) -> float:
        """The largest ratio that any choice is predicted to have."""
        whole, of = self._measure(name)
        least = self._rest(name) + sum(min(of(option) for option in line.options) for line in self.layers)
        return whole / max(least, 1e-12)

    def ratio(self, name: Ratio, chosen: Mapping[str, Precision]) -> float:
        """Float model / this choice, as predicted."""
        whole, of = self._measure(name)
        return whole / (self._rest(name) + sum(of(line.at(chosen[line.layer])) for line in self.layers))

    def error(self, chosen: Mapping[str, Precision]) -> float:
        return sum(line.at(chosen[line.layer]).error for line in self.layers)

    def within(self, name: Ratio, wish: float) -> Chosen:
        """The choice of least error whose predicted ratio is at least `wish`.

        Raises:
            UsageError: latency was not measured.
            GoalError: there is none.
        """
        whole, of = self._measure(name)
        budget = whole / wish
        options = {
            line.layer: [allocation.Option(of(option), option.error) for option in line.options] for line in self.layers
        }
        found = optimum(options, budget - self._rest(name))
        if found is None:
            raise GoalError(
                f"Quantize({name}={wish:g}) is out of reach: the most that these layers give is "
                f"{self.furthest(name):.2f}, as predicted. Wish for less, or cut the model first (Prune, Factorize)."
            )
        return {line.layer: line.options[found[line.layer]].bits for line in self.layers}

    def _measure(self, name: Ratio) -> tuple[float, Callable[[BitsOption], float]]:
        """What the whole float model costs, and what an option does."""
        if name == "size_ratio":
            return float(self.bytes), lambda option: option.bytes
        if self.milliseconds is None:
            raise UsageError(
                "This table holds no latencies: Quantize(precision='auto', latency_ratio=...) measures them, in "
                "lissom.compress. Ask for size_ratio or max_drop."
            )
        return self.milliseconds, lambda option: option.milliseconds or 0.0

    def _rest(self, name: Ratio) -> float:
        """What the layers of the table have no part in."""
        if name == "size_ratio":
            return float(self.bytes_fixed)
        whole, of = self._measure(name)
        return whole - sum(of(line.at(FLOAT)) for line in self.layers)

    def _dropping(self, wish: float) -> Chosen:
        found = [one for one in self.judged if one.limit <= wish]
        if not found:
            tried = ", ".join(f"{one.limit:.4g}" for one in self.judged) or "none"
            raise GoalError(
                f"No choice of this table was judged to drop by {wish:g} at most (limits that were: {tried}). Run "
                f"Quantize(precision='auto', max_drop={wish:g}), which judges others."
            )
        return min(found, key=lambda one: one.bytes).bits
