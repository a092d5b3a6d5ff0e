"""Which layers are split, and at which ranks: each by itself, or all from one budget.

A layer stays whole where no choice costs less than it does, or where the parts were timed and are not faster
(`breakeven`); the reason has the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lissom.errors import OutOfReachError
from lissom.functional.allocation import Option, allocate
from lissom.graph.graph import Graph
from lissom.transforms.lowrank.breakeven import Timing, slow, told
from lissom.transforms.lowrank.evidence import Layer
from lissom.transforms.lowrank.options import (
    Choice,
    Multiple,
    Unit,
    best_of,
    choice,
    choices,
    least_ranks,
    ranks_above_noise,
    whole_cost,
)
from lissom.transforms.lowrank.parts import (
    Method,
    applies,
    at_rank,
    inapplicable,
    largest,
    macs_of,
    parameters_of,
)

WORDS: dict[Unit, str] = {"macs": "MACs", "parameters": "parameters"}

LOOK_UPS = (
    "a look-up multiplies nothing, and its parts do: parameters_ratio or break_even='parameters' makes tables smaller"
)


class Ranked(NamedTuple):
    """The choice for every layer that is split, and why the others stay whole."""

    chosen: dict[str, Choice]
    whole: dict[str, str]


@dataclass(frozen=True)
class Wish:
    """One of `rank`, `ratio`, `loss`, `budget`, and what the choice is from."""

    methods: tuple[Method, ...]
    unit: Unit
    """What costs are counted in."""
    multiple: Multiple
    rank: int | Literal["vbmf"] | None = None
    ratio: float | None = None
    """Share of every layer's cost to save."""
    loss: float | None = None
    """Share of the squared singular values that every layer may leave out."""
    budget: float | None = None
    """How many times smaller the model gets."""
    timings: tuple[Timing, ...] = ()
    tables: bool = False
    """Whether tables are split: smaller, they are slower to look up."""

    def ranked(self, graph: Graph, layers: Sequence[Layer]) -> Ranked:
        """
        Raises:
            OutOfReachError: the budget is below what is left when every layer is at its least rank.
        """
        return self._each(layers) if self.budget is None else self._budgeted(graph, layers, self.budget)

    def _budgeted(self, graph: Graph, layers: Sequence[Layer], ratio: float) -> Ranked:
        total = graph.macs if self.unit == "macs" else graph.parameters
        whole: dict[str, str] = {}
        racing: dict[str, list[Choice]] = {}
        for layer in layers:
            methods, reason = self._usable(layer)
            every = [c for m in methods for c in choices(layer, m, self.unit, self.multiple)]
            own = best_of([c for c in every if not slow(layer, c, self.timings)], self.unit)
            if own:
                racing[layer.name] = own
            else:
                whole[layer.name] = reason or told(layer, self.timings) or self._too_dear(layer, methods)
        costs = {layer.name: whole_cost(layer.shape, self.unit) for layer in layers}
        fixed = total - sum(costs[name] for name in racing)
        options = {
            name: [*(Option(c.cost(self.unit), c.loss or 0.0) for c in own), Option(costs[name], 0.0)]
            for name, own in racing.items()
        }
        found = allocate(options, total / ratio - fixed)
        what = WORDS[self.unit]
        if found is None:
            least = fixed + sum(min(o.cost for o in own) for own in options.values())
            timed = sum(told(layer, self.timings) is not None for layer in layers if layer.name in whole)
            slower = f" and {timed} layers whole that are no slower than their parts" if timed else ""
            raise OutOfReachError(
                f"Factorize cannot reach {total / ratio:,.0f} {what}: with every layer at its least rank{slower} the "
                f"model still has {least:,.0f} of {total:,}. Wish for at most {total / least:.4g} times fewer, lower "
                "round_to, exclude less, or cut channels with Prune as well.",
                total / least,
            )
        chosen: dict[str, Choice] = {}
        for name, index in found.items():
            if index < len(racing[name]):
                chosen[name] = racing[name][index]
            else:
                whole[name] = f"whole, its {costs[name]:,} {what} are within the budget"
        return Ranked(chosen, whole)

    def _each(self, layers: Sequence[Layer]) -> Ranked:
        chosen: dict[str, Choice] = {}
        whole: dict[str, str] = {}
        for layer in layers:
            methods, reason = self._usable(layer)
            found = reason or self._choose(layer, methods)
            if isinstance(found, str):
                whole[layer.name] = found
            else:
                chosen[layer.name] = found
        return Ranked(chosen, whole)

    def _usable(self, layer: Layer) -> tuple[list[Method], str]:
        if layer.shape.table and not self.tables:
            return [], LOOK_UPS
        methods: list[Method] = [method for method in self.methods if applies(layer.shape, method)]
        return methods, "" if methods else inapplicable(layer.shape, self.methods[0])

    def _choose(self, layer: Layer, methods: Sequence[Method]) -> Choice | str:
        """The best of what each method has for the wish, of those that are not slow."""
        if isinstance(self.rank, int) or self.rank == "vbmf":
            return self._at_rank(layer, methods, self.rank)
        dense = whole_cost(layer.shape, self.unit)
        cheaper = [c for method in methods for c in choices(layer, method, self.unit, self.multiple)]
        if not cheaper:
            return self._too_dear(layer, methods)
        if self.ratio is not None:
            good = [c for c in cheaper if c.cost(self.unit) <= (1.0 - self.ratio) * dense]
            if not good:
                least = min(cheaper, key=lambda c: c.cost(self.unit))
                saved = 1 - least.cost(self.unit) / dense
                return f"at its least rank, {least.ranks}, it saves {saved:.1%} of its {dense:,} {WORDS[self.unit]}"
            good.sort(key=lambda c: (c.loss or 0.0, -c.cost(self.unit)))
        else:
            allowed = self.loss or 0.0
            good = [c for c in cheaper if c.loss is not None and c.loss <= allowed]
            if not good:
                what = f"{dense:,} {WORDS[self.unit]}"
                return f"every rank that loses at most {allowed:.4g} of its energy costs at least its {what}"
            good.sort(key=lambda c: c.cost(self.unit))
        # A method's other ranks would lose more, or save less, than what was wished for.
        best: dict[Method, Choice] = {}
        for one in good:
            best.setdefault(one.method, one)
        found = [one for one in best.values() if not slow(layer, one, self.timings)]
        return found[0] if found else told(layer, self.timings) or ""

    def _at_rank(self, layer: Layer, methods: Sequence[Method], rank: int | Literal["vbmf"]) -> Choice | str:
        if rank == "vbmf":
            every = [choice(layer, method, ranks_above_noise(layer, method)) for method in methods]
        else:
            (method,) = methods
            most = max(largest(layer.shape, method))
            if rank > most:
                return f"rank {rank} is above its largest, {most}"
            every = [choice(layer, method, at_rank(layer.shape, method, rank))]
        every.sort(key=lambda c: c.cost(self.unit))
        cheaper = [c for c in every if c.cost(self.unit) < whole_cost(layer.shape, self.unit)]
        if not cheaper:
            return _dearer(every[0], layer)
        found = [c for c in cheaper if not slow(layer, c, self.timings)]
        return found[0] if found else told(layer, self.timings) or ""

    def _too_dear(self, layer: Layer, methods: Sequence[Method]) -> str:
        """The cheapest that there is, which is no cheaper than the layer."""
        shape = layer.shape
        least: list[tuple[Method, tuple[int, ...]]] = [(m, least_ranks(shape, m, self.multiple)) for m in methods]
        every = [Choice(m, r, macs_of(shape, m, r), parameters_of(shape, m, r), None) for m, r in least]
        return _dearer(min(every, key=lambda c: c.cost(self.unit)), layer)


def _dearer(found: Choice, layer: Layer) -> str:
    return (
        f"{found.method} at rank {'x'.join(map(str, found.ranks))} has {found.macs:,} MACs and {found.parameters:,} "
        f"parameters, the layer itself {layer.shape.macs:,} and {layer.shape.parameters:,}"
    )
