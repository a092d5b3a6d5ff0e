"""Trials in Optuna's storage: kept, shared between processes, each done once.

A trial is claimed by writing it, with its recipe's id and its owner, in one transaction; then everybody's claims of
that recipe are read, and the lowest number has it. Whoever writes second sees the first, so that two processes never
do the same trial, whatever database it is. What a claim came to is an attribute of the study, written before the trial
is closed: a process that is killed in between has lost nothing, and one that is killed before leaves a running trial
whose owner is gone (`search.owners`), which is given up and done again.

A candidate that cannot be made (`PRUNED` in Optuna's terms) is not tried again, unless the cause may have been the
machine's: then it is tried once more by whoever opens the study after the process that failed is gone. A claim that was
given up (`FAIL`), or that is tried again, counts as never made.

A latency says something on the machine that it was taken on. So a recipe is tried once on each machine, and a process
reads the trials of its own; those that were done elsewhere (`elsewhere`) are there to be done here as well.

No decision goes by the clock of the day, which may be set back between two runs: trials are in the order of their
numbers, what they took is measured by a clock that only goes forward, and none is said to begin before its predecessors
ended. (Of a process on another host nothing but the time is known, see `search.owners`.)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lissom.errors import RunFolderError
from lissom.search.history import Failure, Measurement, Probe, Trial
from lissom.search.owners import Owner
from lissom.search.space import Point
from lissom.search.storages import lost, reached, without_password

if TYPE_CHECKING:
    import optuna

FORMAT = "2"
OBJECTIVES = 3
"""Of the study as Optuna sees it: minus the metric, the share of the latency that is left, bytes."""
CLAIM, RESULT, AGAIN, PROBE = "lissom", "result", "again", "probe"


class Study:
    """An open study; `opened` makes one."""

    def __init__(self, study: optuna.Study, owner: Owner, place: str, machine: str, now: Callable[[], float]) -> None:
        self._study, self._owner, self._place, self._machine, self._now = study, owner, place, machine, now

    @property
    def key(self) -> str:
        """The same for everybody who works on this study, however they spell its storage."""
        return self._study.user_attrs["key"]

    def trials(self) -> tuple[Trial, ...]:
        """All that are running, done or failed on this machine, in the order of their numbers."""
        return tuple(trial for trial in self._trials() if trial.machine == self._machine)

    def elsewhere(self) -> tuple[Trial, ...]:
        """Those that were done on other machines and never begun here; of several for one recipe the last."""
        every = self._trials()
        here = {trial.recipe for trial in every if trial.machine == self._machine}
        found = {t.recipe: t for t in every if t.state == "done" and t.recipe not in here}
        return tuple(sorted(found.values(), key=lambda trial: trial.number))

    def moved(self) -> dict[str, tuple[int, int]]:
        """By other machine: how many of the candidates done there were done here too, and how many were not."""
        every = self._trials()
        here = {trial.recipe for trial in every if trial.machine == self._machine and trial.state != "running"}
        others = dict.fromkeys(t.machine for t in every if t.state == "done" and t.machine != self._machine)
        counts: dict[str, tuple[int, int]] = {}
        for other in others:
            recipes = {t.recipe for t in every if t.machine == other and t.state == "done"}
            counts[other] = (len(recipes & here), len(recipes - here))
        return counts

    def used(self) -> float:
        """Seconds that trials of this run took, on whatever machine."""
        return sum(trial.seconds for trial in self._trials() if trial.place == self._place)

    def _trials(self) -> list[Trial]:
        results = self._study.user_attrs
        return [_read(one, results) for one in self._claims()]

    def claim(self, point: Point, recipe: str, by: str, most: int | None = None) -> Trial | None:
        """The trial of this recipe on this machine, to be carried out and finished by the caller.

        None where somebody has it, or where there are `most` trials already: without training, if this one has none.
        """
        import optuna

        before = self._trials()
        if any((one.recipe, one.machine) == (recipe, self._machine) for one in before):
            return None
        trial = Trial(
            number=0, point=point, recipe=recipe, by=by, state="running",
            started=max([self._now(), *(one.started + one.seconds for one in before)]),
            place=self._place, machine=self._machine,
        )  # fmt: skip
        claim = {
            "recipe": recipe, "machine": self._machine, "owner": self._owner.id, "trial": trial.model_dump(mode="json"),
        }  # fmt: skip
        self._study.add_trial(
            optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={CLAIM: json.dumps(claim)})
        )
        same = sorted(
            (one.number, self._claim(one)["owner"])
            for one in self._claims()
            if (self._claim(one)["recipe"], self._claim(one)["machine"]) == (recipe, self._machine)
        )
        own = next(number for number, owner in same if owner == self._owner.id)
        ahead = sum(one.number < own and (one.point.epochs == 0 or point.epochs > 0) for one in self.trials())
        if same[0][1] != self._owner.id or (most is not None and ahead >= most):
            self._study.tell(own, state=optuna.trial.TrialState.FAIL)
            return None
        return trial.model_copy(update={"number": own})

    def finish(self, trial: Trial, outcome: Measurement | Failure, seconds: float) -> Trial:
        """Keep what came of a claimed trial: a measurement, or why there is none."""
        if isinstance(outcome, Failure):
            came = {"state": "failed", "failure": outcome.reason, "passing": outcome.passing}
        else:
            came = {"state": "done", "measurement": outcome}
        done = trial.model_copy(update={**came, "seconds": seconds})
        self._study.set_user_attr(f"{RESULT}:{trial.number}", done.model_dump_json())
        self._close(done)
        return done

    def release(self, trial: Trial) -> None:
        """Give a claim up: the work was interrupted."""
        import optuna

        self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def reset(self) -> int:
        """Give up, or close, the running trials whose owners are gone; how many were given up."""
        import optuna

        given_up, results = 0, self._study.user_attrs
        for one in self._claims():
            claim = self._claim(one)
            trial = _read(one, results)
            if one.state != optuna.trial.TrialState.RUNNING or not self._owner.gone(claim["owner"], trial.started):
                continue
            # Another process may do the same at this moment: the trial is closed once, by whoever is first.
            with contextlib.suppress(ValueError):
                if f"{RESULT}:{one.number}" in results:
                    self._close(trial)
                else:
                    self.release(trial)
                    given_up += 1
        return given_up

    def retry(self) -> int:
        """Give up the failed trials whose cause may have passed and whose owners are gone, once a recipe; how many."""
        results, given_up = self._study.user_attrs, 0
        tried = (_read(one, results) for one in self._all() if f"{AGAIN}:{one.number}" in results)
        before = {(one.recipe, one.machine) for one in tried}
        for one in self._claims():
            trial = _read(one, results)
            if (
                trial.passing
                and (trial.recipe, trial.machine) not in before
                and self._owner.gone(self._claim(one)["owner"], trial.started)
            ):
                self._study.set_user_attr(f"{AGAIN}:{one.number}", True)
                given_up += 1
        return given_up

    def probes(self) -> dict[str, Probe]:
        """What was made on this machine for the table of layers alone, by recipe."""
        kept, start = self._study.user_attrs, self._probed("")
        return {
            name.removeprefix(start): Probe.model_validate_json(kept[name])
            for name in sorted(kept)
            if name.startswith(start)
        }

    def keep(self, recipe: str, probe: Probe) -> None:
        """A probe of that recipe; of two that were made at once, the later one."""
        self._study.set_user_attr(self._probed(recipe), probe.model_dump_json())

    def _probed(self, recipe: str) -> str:
        return f"{PROBE}:{hashlib.sha256(self._machine.encode()).hexdigest()[:8]}:{recipe}"

    def _close(self, trial: Trial) -> None:
        import optuna

        if trial.measurement is None:
            self._study.tell(trial.number, state=optuna.trial.TrialState.PRUNED)
        else:
            one = trial.measurement
            self._study.tell(trial.number, (-one.metric, 1.0 / one.latency_ratio, float(one.size_bytes)))

    def _claims(self) -> Iterator[optuna.trial.FrozenTrial]:
        import optuna

        given_up = self._study.user_attrs
        for one in self._all():
            if one.state != optuna.trial.TrialState.FAIL and f"{AGAIN}:{one.number}" not in given_up:
                yield one

    def _all(self) -> list[optuna.trial.FrozenTrial]:
        held = [one for one in self._study.get_trials(deepcopy=False) if CLAIM in one.user_attrs]
        return sorted(held, key=lambda t: t.number)

    @staticmethod
    def _claim(one: optuna.trial.FrozenTrial) -> dict[str, Any]:
        return json.loads(one.user_attrs[CLAIM])


def _read(one: optuna.trial.FrozenTrial, results: Mapping[str, Any]) -> Trial:
    kept = results.get(f"{RESULT}:{one.number}")
    if kept is not None:
        return Trial.model_validate_json(kept)
    begun = Trial.model_validate(json.loads(one.user_attrs[CLAIM])["trial"])
    return begun.model_copy(update={"number": one.number})


@contextlib.contextmanager
def opened(
    storage: str,
    name: str,
    identity: Mapping[str, str],
    *,
    place: str = "",
    machine: str = "",
    now: Callable[[], float] = time.time,
) -> Generator[Study]:
    """The study of that name, new or continued; trials that dead processes left behind are given up.

    Args:
        storage: a URL as Optuna takes it, like `sqlite:///search.db`.
        identity: what its trials depend on, part by part: another model, other data or another space is refused.
        place: of this run, noted with its trials.
        machine: that trials are timed on.
        now: the time of day, in seconds since the epoch.

    Raises:
        StorageError: the storage cannot be reached or read, now or later.
        RunFolderError: the study was made with another identity; says which part differs.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    wanted = {"format": FORMAT, **identity}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings(), contextlib.ExitStack() as held:
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        owner = Owner(now)
        try:
            with owner.first():
                study = reached(held, storage, name, OBJECTIVES)
                study.set_metric_names(["-metric", "latency", "size_bytes"])
                _check_identity(study, wanted, storage, name)
            made = Study(study, owner, place, machine, now)
            made.reset()
            made.retry()
            yield made
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as wrong:
            raise lost(storage, wrong) from wrong
        finally:
            owner.close()
            optuna.logging.set_verbosity(verbosity)


def _check_identity(study: optuna.Study, wanted: Mapping[str, str], storage: str, name: str) -> None:
    held: dict[str, str] = study.user_attrs.get("identity", {})
    if not held:
        study.set_user_attr("key", uuid.uuid4().hex)
        study.set_user_attr("identity", dict(wanted))
        return
    for part in sorted({*held, *wanted}):
        if held.get(part) != wanted.get(part):
            raise RunFolderError(
                f"The storage {without_password(storage)!r} holds the study {name!r} of another {part}: "
                f"{held.get(part)!r}, this one's is {wanted.get(part)!r}. Its trials say nothing about this search. "
                "Give another storage, or give the task another name."
            )
