"""Searching the subnets of a trained supernet: proposals from the candidates so far, kept in a file.

    nsga2     NSGA-II over metric and cost: Deb et al. 2002 (IEEE TEC 6(2)), with the domination under constraints of
              their section VI: within the goal comes before beyond it, and beyond it the nearer before the farther
    reward    the same with one number in place of front and crowding: the reward of `functional.reward`
    random    the control

One child at a time replaces the worst of the population (the steady state of Durillo et al. 2009, EMO, LNCS 5467), so
that a proposal is a function of the candidates and the seed alone: a search that was killed goes on as if it had not
been. The first candidates are fixed: the largest subnet, the smallest, and the uniform ones in between;
then chance fills the population.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic
import torch

from lissom.files import write_text
from lissom.functional.front import front as pareto
from lissom.functional.reward import reward
from lissom.settings import Setting
from lissom.transforms.architecture.space import Space, Subnet

Searcher = Literal["nsga2", "reward", "random"]
Proposer = Literal["uniform", "chance", "search"]
POPULATION = 16
AGAIN = 20
"""Children that are known already, after which chance proposes."""
UNIFORM = (0.0, 1.0, 0.5, 0.25, 0.75)
NAME = "candidates.json"


class Candidate(Setting):
    """`cost` is a share of the whole network's, in what the wish is about: 1 / (times faster), or MACs, parameters.

    `by` says who proposed it; those by chance are the control.
    """

    subnet: tuple[int, ...]
    metric: float
    cost: float
    macs: int
    parameters: int
    by: Proposer = "search"


class _File(Setting):
    of: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Aim:
    """What candidates are compared by: `goal` is the share of the cost that is wished for."""

    searcher: Searcher
    goal: float
    exponent: float
    soft: bool
    seed: int

    def reward(self, one: Candidate) -> float:
        return reward(one.metric, one.cost, self.goal, exponent=self.exponent, soft=self.soft)

    def best(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """Of those within the goal the one with the best metric, then the cheapest; None where none is."""
        within = [one for one in candidates if one.cost <= self.goal]
        return max(within, key=lambda one: (one.metric, -one.cost), default=None)


def searched(
    space: Space,
    aim: Aim,
    count: int,
    measure: Callable[[Subnet], Candidate],
    *,
    folder: Path | None = None,
    of: str = "",
    tick: Callable[[float], None] = lambda share: None,
) -> tuple[Candidate, ...]:
    """At most `count` candidates, each subnet once, in the order in which they were measured.

    `folder` keeps them; those of another search (`of`) are not read.
    """
    path = folder / NAME if folder else None
    found = list(_read(path, of)) if path else []
    while len(found) < min(count, space.size):
        subnet, by = proposed(space, aim, found)
        found.append(measure(subnet).model_copy(update={"by": by}))
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, _File(of=of, candidates=tuple(found)).model_dump_json(indent=1))
        tick(len(found) / count)
    return tuple(found[:count])


def _read(path: Path, of: str) -> tuple[Candidate, ...]:
    try:
        held = _File.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, pydantic.ValidationError):
        return ()
    return held.candidates if held.of == of else ()


def proposed(space: Space, aim: Aim, known: Sequence[Candidate]) -> tuple[Subnet, Proposer]:
    """A subnet that is not among the known ones, and who proposes it; there has to be one."""
    seen = {one.subnet for one in known}
    for share in UNIFORM:
        if (subnet := space.uniform(share)) not in seen:
            return subnet, "uniform"
    generator = torch.Generator().manual_seed(aim.seed * 1_000_003 + len(known))
    for _ in range(AGAIN if aim.searcher != "random" and len(known) >= POPULATION else 0):
        if (subnet := _child(space, aim, known, generator)) not in seen:
            return subnet, "search"
    while (subnet := space.drawn(generator)) in seen:
        pass
    return subnet, "chance"


def _child(space: Space, aim: Aim, known: Sequence[Candidate], generator: torch.Generator) -> Subnet:
    """Two parents, each the better of two at random; every axis from either, then changed one time in their number."""
    population = sorted(range(len(known)), key=_order(aim, known))[:POPULATION]

    def coin(share: float) -> bool:
        return float(torch.rand((), generator=generator)) < share

    def parent() -> Subnet:
        places = torch.randint(len(population), (2,), generator=generator)
        return known[population[int(places.min())]].subnet  # they are in order: the better one comes first

    one, other, fresh = parent(), parent(), space.drawn(generator)
    crossed = [a if coin(0.5) else b for a, b in zip(one, other, strict=True)]
    return tuple(new if coin(1 / len(crossed)) else old for old, new in zip(crossed, fresh, strict=True))


def _order(aim: Aim, known: Sequence[Candidate]) -> Callable[[int], tuple[float, ...]]:
    """The better a candidate, the less."""
    if aim.searcher == "reward":
        return lambda at: (-aim.reward(known[at]),)
    beyond = [max(0.0, one.cost - aim.goal) for one in known]
    rank, crowding = [0] * len(known), [0.0] * len(known)
    left = [at for at in range(len(known)) if not beyond[at]]
    number = 0
    while left:
        ahead = [left[place] for place in front([known[at] for at in left])]
        for place, at in enumerate(ahead):
            rank[at] = number
            inside = 0 < place < len(ahead) - 1
            crowding[at] = _gap(known, ahead[place - 1], ahead[place + 1]) if inside else float("inf")
        left = [at for at in left if at not in set(ahead)]
        number += 1
    return lambda at: (beyond[at], rank[at], -crowding[at])


def _gap(known: Sequence[Candidate], cheaper: int, dearer: int) -> float:
    """Of two neighbours on the front, in both objectives, as shares of what all candidates span."""
    metrics, costs = [one.metric for one in known], [one.cost for one in known]
    spans = max(metrics) - min(metrics) or 1.0, max(costs) - min(costs) or 1.0
    return abs(metrics[dearer] - metrics[cheaper]) / spans[0] + abs(costs[dearer] - costs[cheaper]) / spans[1]


def front(candidates: Sequence[Candidate]) -> tuple[int, ...]:
    """Places of the candidates that none beats in metric and cost at once, cheapest first."""
    found = pareto([(one.cost, -one.metric) for one in candidates])
    return tuple(sorted(found, key=lambda at: candidates[at].cost))
