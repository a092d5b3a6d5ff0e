"""The searchers by name."""

from __future__ import annotations

from lissom.errors import UsageError, nearest
from lissom.search.searchers.annealing import Annealing
from lissom.search.searchers.base import Searcher as Searcher
from lissom.search.searchers.control import Random
from lissom.search.searchers.evolution import Sampled
from lissom.search.searchers.growing import Growing
from lissom.search.searchers.knapsack import Knapsack
from lissom.search.searchers.netadapt import NetAdapt

NAMES = ("auto", "knapsack", "netadapt", "hypervolume", "nsga2", "tpe", "anneal", "random")


def searchers_of(name: str) -> tuple[Searcher, ...]:
    """One, or for `auto` several: each goes on where the one before has no more to propose.

    Raises:
        UsageError: no such searcher.
    """
    known: dict[str, tuple[Searcher, ...]] = {
        "auto": (Knapsack(), Growing()),
        "knapsack": (Knapsack(),),
        "netadapt": (NetAdapt(),),
        "hypervolume": (Growing(),),
        "nsga2": (Sampled("nsga2"),),
        "tpe": (Sampled("tpe"),),
        "anneal": (Annealing(),),
        "random": (Random(),),
    }
    if name not in known:
        raise UsageError(f"Unknown search {name!r}. {nearest(name, NAMES)}")
    return known[name]
