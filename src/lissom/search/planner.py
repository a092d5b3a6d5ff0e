"""A search that fits into the time there is: cheap looks at many candidates, training for the best few.

    probe      a few candidates are timed layer by layer, on the first examples and without a metric: `search.latency`
    explore    a searcher proposes, candidates get no training: what is told apart is cost and the drop before recovery
    recover    the best few of those that keep the costs are trained, for more and more epochs, fewer of them each time
               (successive halving: Jamieson and Talwalkar 2016, arXiv:1502.07943), as far as the time allows

The last two in turns, one searcher after the other, until the goal holds, time or number of trials is used up, or
nobody has a proposal left. Times are those that were measured: no candidate is begun that would not end in time by
the slowest of its kind so far. Every trial that is done stays, and the choice is made among all of them, so that a
search never ends with less than it had; the model as it is, folded, is the first candidate. What was measured on
another machine is measured again before anything else, those that were ahead there first: latencies of two machines are
not compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lissom.functional.front import front, hypervolume
from lissom.goal import Goal
from lissom.recipe import Recipe
from lissom.search.evaluating import Evaluate, Workers, evaluated
from lissom.search.explaining import Explanation, explain
from lissom.search.fitness import arrived, best, bounds, loss, missed, objectives, reference, values
from lissom.search.history import Failure, Measurement, Probe, Timed, Trial, view
from lissom.search.latency import Accuracy, accuracy
from lissom.search.probing import FORETELLING, probed
from lissom.search.searchers import Searcher
from lissom.search.space import Point, Space
from lissom.search.starting import aim_of
from lissom.search.study import Study

TRIALS = 40
"""Where neither time nor number is given."""
EXPLORING = 0.5
"""Share of the time that is left which goes into exploring, where candidates can be trained."""
PROBING = 0.1
"""Share of the time, and a quarter of the number of trials, that the table of layers may take."""
POLL = 0.1
"""Seconds between two looks at what other processes are doing."""
RECOVERY = "recovery"
FEW = 4
"""Candidates that training begins with; half of them get more of it each time."""


@dataclass(frozen=True)
class Limits:
    """When to stop: after `seconds` from now, after `trials` altogether."""

    seconds: float | None = None
    trials: int | None = None


@dataclass(frozen=True)
class Found:
    """What a search ends with. `front` and `chosen` are numbers of trials."""

    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    hypervolume: float
    """Dominated, in the drop and the shares of the costs that the goal names."""
    objectives: tuple[str, ...]
    chosen: Trial | None
    explanation: Explanation
    moved: Mapping[str, tuple[int, int]]
    """Other machine -> how many candidates measured there were measured here too, and how many were not."""
    original: Measurement
    probes: tuple[Probe, ...] = ()
    step: int = 1

    @cached_property
    def latency(self) -> Accuracy:
        """How well latency is foretold. Fits the model once for every candidate."""
        return accuracy(self.original, self.trials, self.probes, self.step)


@dataclass
class Search:
    """One process at work on a study. `run` goes on from whatever the study holds."""

    evaluate: Evaluate
    space: Space
    study: Study
    goal: Goal
    original: Measurement
    searchers: Sequence[Searcher]
    limits: Limits = field(default_factory=Limits)
    workers: Workers = field(default_factory=Workers)
    seed: int = 0
    probe: Callable[[Recipe], Timed] | None = None
    """Times a candidate layer by layer."""
    step: int = 1
    """Channels that the target computes together."""
    progress: Callable[[float, str], None] = lambda share, text: None
    clock: Callable[[], float] = time.monotonic

    def run(self) -> Found:
        self._end = None if self.limits.seconds is None else self.clock() + self.limits.seconds
        self._most = TRIALS if self._end is None and self.limits.trials is None else self.limits.trials
        self._began = self.clock()
        self._carry_out([Point()], self.searchers[0].name)  # whatever the time: there is something to hand back
        if not self._over():
            self._probe()
        self._again()
        for stage in range(len(self.searchers)):
            self._explore(stage)
            self._recover(stage)
            if self._over():
                break
        self._wait(lambda trial: True)
        return self.found()

    def found(self) -> Found:
        """From what the study holds now."""
        trials = tuple(t for t in self.study.trials() if t.state != "running")
        done = [(t, t.measurement) for t in trials if t.measurement is not None]
        names = objectives(self.goal, self.original)
        points = [values(names, self.original, m) for _, m in done]
        ahead = front(points)
        explored = sum(t.point.epochs == 0 for t in trials)
        return Found(
            trials=trials,
            front=tuple(done[i][0].number for i in ahead),
            hypervolume=hypervolume([points[i] for i in ahead], reference(names)),
            objectives=names,
            chosen=best(trials, self.goal, self.original),
            explanation=explain(
                trials,
                self.goal,
                self.original,
                untried=self.space.size - explored,
                longest=self.space.epochs[-1],
                trained=max((t.point.epochs for t, _ in done), default=0),
            ),
            moved=self.study.moved(),
            original=self.original,
            probes=tuple(self.study.probes().values()),
            step=self.step,
        )

    def _again(self) -> None:
        """What another machine has measured, as far as the time allows. Where it was on the front its weights are kept,
        and it is not trained again."""
        names = objectives(self.goal, self.original)
        left = [(t, t.measurement) for t in self.study.elsewhere() if t.measurement is not None]
        ahead = [left[i][0] for i in front([values(names, self.original, m) for _, m in left])]
        rest = [trial for trial, _ in left if trial not in ahead]
        for trial in (*ahead, *rest):
            longest = self._expected(0) if trial in ahead else trial.seconds
            if self._end is None or self.clock() + longest <= self._end:
                self._carry_out([trial.point], trial.by)

    def _probe(self) -> None:
        """The table of layers, where a searcher asks it and the goal is about latency."""
        asked = FORETELLING & {one.name for one in self.searchers} and "latency" in objectives(self.goal, self.original)
        if self.probe is None or not asked:
            return
        kept = self.study.probes()
        until = None if self._end is None else self.clock() + PROBING * (self._end - self.clock())
        most = None if self._most is None else max(1, self._most // 4)
        for point in probed(self.space)[:most]:
            recipe = self.space.recipe(point)
            slowest = max((one.seconds for one in kept.values()), default=self._expected(0))
            if until is not None and self.clock() + slowest > until:
                return
            if recipe.id in kept:
                continue
            outcome, seconds = evaluated(self.probe, recipe)
            failure = outcome.reason if isinstance(outcome, Failure) else ""
            timed = None if isinstance(outcome, Failure) else outcome
            kept[recipe.id] = Probe(point=point, timed=timed, failure=failure, seconds=seconds)
            self.study.keep(recipe.id, kept[recipe.id])
            self._tell(f"table of layers, {len(kept)} candidates")

    def _explore(self, stage: int) -> None:
        """With the searcher of this stage, up to its share of the time or of the number of trials."""
        searcher, trains, later = self.searchers[stage], len(self.space.epochs) > 1, len(self.searchers) - stage - 1
        until, most = self._end, self._most
        if until is not None:
            share = (EXPLORING if trains else 1.0) / (1.0 if trains or not later else later + 1.0)
            until = self.clock() + share * (until - self.clock())
        if most is not None:
            share = (EXPLORING if trains else 1.0) * (stage + 1) / len(self.searchers)
            most = max(1, int(share * most))
        while not self._over() and not self._late(0, until):
            trials = self.study.trials()
            room = self.workers.count if most is None else most - sum(t.point.epochs == 0 for t in trials)
            batch = self._proposed(stage, min(self.workers.count, room))
            if batch:
                self._carry_out(batch, searcher.name, most)
            # What others still explore is waited for: the best are chosen among the same candidates by all.
            elif not self._wait(lambda trial: trial.point.epochs == 0):
                return

    def _proposed(self, stage: int, room: int) -> list[Point]:
        """As many as there are workers: of a batch, each is proposed knowing that those before it are being tried.

        What later searchers tried is not proposed again, and tells this one nothing: it would have told it nothing the
        first time, and a search that was killed must go on as it began.
        """
        known = {s.name for s in self.searchers[: stage + 1]}
        trials = [t for t in self.study.trials() if t.point.epochs == 0]
        told = [t for t in trials if t.by in known]
        taken = [t.point for t in trials if t.by not in known or t.state == "running"]
        batch: list[Point] = []
        probes = tuple(self.study.probes().values())
        while len(batch) < room:
            seen = view(
                self.space, self._aim(), self.original, told,
                pending=[*taken, *batch], seed=self.seed, probes=probes, step=self.step,
            )  # fmt: skip
            point = self.searchers[stage].propose(seen)
            if point is None:
                break
            batch.append(point)
        return batch

    @property
    def _saves(self) -> bool:
        """Whether the goal wishes for a cost."""
        return len(bounds(self.goal, self.original)) > 1

    def _aim(self) -> Goal:
        return aim_of(self.space, self.goal, self.original)

    def _recover(self, stage: int) -> None:
        """The best few with the fewest epochs, half of them with more, and so on."""
        known, count = {s.name for s in self.searchers[: stage + 1]}, FEW
        seen = [t for t in self.study.trials() if t.point.epochs == 0 and t.by in known]
        chosen = self._promising(seen, count)
        for epochs in self.space.epochs[1:]:
            points = [point.with_(epochs=epochs) for point in chosen]
            left = points
            while left:
                if self._over() or self._late(epochs, self._end):
                    return
                room = len(left) if self._most is None else max(0, self._most - len(self.study.trials()))
                size = min(room, self.workers.count)
                self._carry_out(left[:size], RECOVERY, self._most)
                left = left[size:]
            self._wait(lambda trial: trial.point in points)  # noqa: B023  called at once
            count = max(1, count // 2)
            chosen = self._promising([t for t in self.study.trials() if t.point in points], count)

    def _wait(self, concerns: Callable[[Trial], bool]) -> bool:
        """Until such trials of other processes are finished, given up, or the time is over; False without any."""
        waited = False
        while any(t.state == "running" and concerns(t) for t in self.study.trials()):
            if self._late(None, self._end):
                break
            time.sleep(POLL)
            self.study.reset()
            waited = True
        return waited

    def _promising(self, trials: Sequence[Trial], count: int) -> list[Point]:
        """Those that miss the goal's costs least, and of these the ones that lost least; where the goal names no cost,
        those that cost least of the ones that training may bring back."""
        done = [(t, t.measurement) for t in trials if t.measurement is not None]
        cut = [(t, m) for t, m in done if t.point.with_(epochs=0) != Point()]

        aim = self._aim()
        allowed = aim.metric_drop or 0.0

        def rank(pair: tuple[Trial, Measurement]) -> tuple[float, ...]:
            trial, one = pair
            lost = max(0.0, loss(aim, self.original, one))
            if self._saves:
                costs = missed(self.goal, self.original, one, costs_only=True)
                soft = missed(self.goal, self.original, one, costs_only=True, soft=True)
                return (costs, max(0.0, lost - allowed), soft, lost, 1.0 / one.latency_ratio, trial.number)
            left = sum(values(objectives(self.goal, self.original)[1:], self.original, one))
            return (max(0.0, lost - allowed), left, trial.number)

        return [trial.point.with_(epochs=0) for trial, _ in sorted(cut, key=rank)[:count]]

    def _carry_out(self, points: Sequence[Point], by: str, most: int | None = None) -> None:
        """`most` is how many such candidates there may be, those of other processes included (`Study.claim`)."""
        recipes = [self.space.recipe(point) for point in points]
        claimed = [
            (trial, recipe)
            for point, recipe in zip(points, recipes, strict=True)
            if (trial := self.study.claim(point, recipe.id, by, most)) is not None
        ]
        if not claimed:  # done already, or another process has them
            return
        open_ = [trial for trial, _ in claimed]
        try:
            outcomes = self.workers(self.evaluate, [recipe for _, recipe in claimed])
            for trial, (outcome, seconds) in zip(tuple(open_), outcomes, strict=True):
                self.study.finish(trial, outcome, seconds)
                open_.remove(trial)
                self._tell(f"candidate {len(self.study.trials())}, {trial.by}")
        finally:
            for trial in open_:
                self.study.release(trial)

    def _tell(self, text: str) -> None:
        done = len(self.study.trials())
        shares = [done / self._most] if self._most else []
        if self._end is not None:
            shares.append((self.clock() - self._began) / max(self._end - self._began, 1e-9))
        self.progress(min(max(shares, default=0.0), 1.0), text)

    def _over(self) -> bool:
        """The goal holds, the time is over, or enough was tried."""
        if self._saves:  # a drop alone is kept by the original, which is no reason to stop
            chosen = best(self.study.trials(), self.goal, self.original)
            if chosen and chosen.measurement and arrived(self.goal, self.original, chosen.measurement):
                return True
        spent = self._most is not None and len(self.study.trials()) >= self._most
        return spent or self._late(None, self._end)

    def _late(self, epochs: int | None, until: float | None) -> bool:
        """Whether a candidate with that much training would end after `until`; None asks for the clock alone."""
        if until is None:
            return False
        return self.clock() + (self._expected(epochs) if epochs is not None else 0.0) > until

    def _expected(self, epochs: int) -> float:
        """Seconds: the slowest without training, and the slowest epoch seen for each of the epochs."""
        trials = self.study.trials()
        plain = max((t.seconds for t in trials if t.point.epochs == 0 and t.measurement), default=0.0)
        paces = [t.measurement.epoch_seconds for t in trials if t.measurement and t.measurement.epoch_seconds]
        return plain + epochs * max(paces, default=0.0)
