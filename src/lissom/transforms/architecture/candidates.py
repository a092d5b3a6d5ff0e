"""Searching the subnets of a trained supernet: proposals from the candidates so far, kept in a file.

    nsga2     Deb et al. 2002 (IEEE TEC 6(2)): the front of metric and cost
    reward    the same algorithm over one number, the reward of `functional.reward`
    random    the control

The first candidates are fixed: the largest subnet, the smallest, and the uniform ones in between. As in
`lissom.search`, a sampler is made anew for every proposal and asked all questions of the past again, so that what it
proposes depends on the candidates and the seed alone: a search that was killed goes on as if it had not been.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic
import torch

from lissom.files import write_text
from lissom.functional.reward import reward
from lissom.settings import Setting
from lissom.transforms.architecture.space import Space, Subnet

Searcher = Literal["nsga2", "reward", "random"]
POPULATION = 16
AGAIN = 20
"""Proposals of known subnets after which chance proposes."""
UNIFORM = (0.0, 1.0, 0.5, 0.25, 0.75)
NAME = "candidates.json"


class Candidate(Setting):
    """`cost` is a share of the whole network's, in what the wish is about: 1 / (times faster), or MACs, parameters."""

    subnet: tuple[int, ...]
    metric: float
    cost: float
    macs: int
    parameters: int


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
        found.append(measure(proposed(space, aim, found)))
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


def proposed(space: Space, aim: Aim, known: Sequence[Candidate]) -> Subnet:
    """A subnet that is not among the known ones; there has to be one."""
    seen = {one.subnet for one in known}
    for share in UNIFORM:
        if (subnet := space.uniform(share)) not in seen:
            return subnet
    found = None if aim.searcher == "random" else _sampled(space, aim, known)
    generator = torch.Generator().manual_seed(aim.seed * 1_000_003 + len(known))
    while found is None or found in seen:
        found = space.drawn(generator)
    return found


def _sampled(space: Space, aim: Aim, known: Sequence[Candidate]) -> Subnet | None:
    import optuna  # brings sqlalchemy: late

    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        str(at): optuna.distributions.IntDistribution(0, len(axis.choices) - 1) for at, axis in enumerate(space.axes)
    }
    seen = {one.subnet for one in known}
    directions: list[Literal["maximize", "minimize"]] = ["maximize"] if aim.searcher == "reward" else ["maximize", "minimize"]
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=aim.seed)
            study = optuna.create_study(directions=directions, sampler=sampler)
            for one in known:
                study.enqueue_trial({str(at): choice for at, choice in enumerate(one.subnet)})
                answers = [aim.reward(one)] if aim.searcher == "reward" else [one.metric, one.cost]
                study.tell(study.ask(distributions), answers)
            for _ in range(AGAIN):
                params = study.ask(distributions).params
                subnet = tuple(int(params[str(at)]) for at in range(len(space.axes)))
                if subnet not in seen:
                    return subnet
    finally:
        optuna.logging.set_verbosity(verbosity)
    return None


def front(candidates: Sequence[Candidate]) -> tuple[int, ...]:
    """Places of the candidates that none beats in metric and cost at once, cheapest first."""
    found: list[int] = []
    best = float("-inf")
    for at in sorted(range(len(candidates)), key=lambda i: (candidates[i].cost, -candidates[i].metric)):
        if candidates[at].metric > best:
            best = candidates[at].metric
            found.append(at)
    return tuple(found)
