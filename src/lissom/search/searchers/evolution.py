"""NSGA-II and TPE, as Optuna has them, over the drop and the costs of the goal.

    NSGA-II   Deb et al. 2002, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE TEC 6(2)
    TPE       Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"; of several objectives Ozaki et al.
              2022, "Multiobjective Tree-Structured Parzen Estimator", JAIR 73

A sampler of Optuna changes with every question. Here it is a new one for every proposal, in a study in memory whose
answers are the known trials, so that what it proposes depends on the history and the seed alone. NSGA-II counts its
generations while it is asked, and is asked all questions of the past again. Trials that other searchers proposed are
answers like any other.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lissom.search.fitness import objectives, values
from lissom.search.history import View
from lissom.search.searchers.control import Random
from lissom.search.space import DIMENSIONS, Point

if TYPE_CHECKING:
    import optuna

POPULATION = 10
AGAIN = 20
"""Proposals of known points after which chance proposes."""


@dataclass(frozen=True)
class Sampled:
    """A sampler of Optuna."""

    name: Literal["nsga2", "tpe"]

    def propose(self, view: View) -> Point | None:
        import optuna  # brings sqlalchemy: late

        names = objectives(view.goal, view.original)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            verbosity = optuna.logging.get_verbosity()
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            try:
                sampler = self._sampler(view.seed, len(view.trials))
                study = optuna.create_study(directions=["minimize" for _ in names], sampler=sampler)
                for trial in view.trials:
                    answers = values(names, view.original, trial.measurement) if trial.measurement else None
                    self._answer(study, view, trial.point, answers)
                for point in sorted(view.pending, key=lambda p: view.space.levels(p)):
                    study.enqueue_trial(_params(view, point))
                    study.ask(_distributions(view))
                return self._new(study, view) or Random().propose(view)
            finally:
                optuna.logging.set_verbosity(verbosity)

    def _sampler(self, seed: int, asked: int) -> optuna.samplers.BaseSampler:
        import optuna

        if self.name == "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
        return optuna.samplers.TPESampler(seed=seed + asked, n_startup_trials=POPULATION, multivariate=True)

    def _answer(self, study: optuna.Study, view: View, point: Point, answers: tuple[float, ...] | None) -> None:
        import optuna

        failed = optuna.trial.TrialState.FAIL
        if self.name == "nsga2":
            study.enqueue_trial(_params(view, point))
            asked = study.ask(_distributions(view))
            study.tell(asked, answers, state=None if answers else failed)
        elif answers:
            params, distributions = _params(view, point), _distributions(view)
            study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, values=answers))

    def _new(self, study: optuna.Study, view: View) -> Point | None:
        for _ in range(AGAIN):
            asked = study.ask(_distributions(view)).params
            levels = [int(asked[name]) if name in asked else 0 for name in DIMENSIONS]
            point = view.space.at(levels)
            if view.new(point):
                return point
        return None


def _distributions(view: View) -> dict[str, Any]:
    """Places of values; those of the precision stand in no order."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    found: dict[str, Any] = {}
    for name in view.space.open:
        count = len(view.space.values(name))
        found[name] = CategoricalDistribution(range(count)) if name == "precision" else IntDistribution(0, count - 1)
    return found


def _params(view: View, point: Point) -> dict[str, Any]:
    places = dict(zip(DIMENSIONS, view.space.levels(point), strict=True))
    return {name: places[name] for name in view.space.open}
