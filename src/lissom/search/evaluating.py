"""Candidates evaluated one by one here, or several at a time through joblib.

What travels to another process is the callable, once for every candidate, and the recipe; what comes back is a
measurement or a sentence. How joblib carries that out (`loky` processes here, a cluster) is its backend's business. Of
a Ray cluster see `search.clusters`.
"""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar, cast

import cloudpickle

from lissom.errors import LissomError, UsageError, VerificationError, WorkerError, first_line
from lissom.exhaustion import out_of_memory
from lissom.recipe import Recipe
from lissom.search.byvalue import by_value
from lissom.search.history import Failure, Measurement

Evaluate = Callable[[Recipe], Measurement]
Outcome = tuple[Measurement | Failure, float]
"""A measurement or why there is none, and the seconds that it took."""
T = TypeVar("T")


def evaluated(evaluate: Callable[[Recipe], T], recipe: Recipe) -> tuple[T | Failure, float]:
    """A candidate that cannot be made is an answer, not an error; an interruption is neither."""
    started = time.perf_counter()
    try:
        outcome: T | Failure = evaluate(recipe)
    except (VerificationError, WorkerError):  # neither a fault of ours nor of the workers is one candidate's failure
        raise
    except (LissomError, RuntimeError, MemoryError) as wrong:
        reason = first_line(wrong)
        outcome = Failure(reason=reason, passing=out_of_memory(wrong) or not isinstance(wrong, LissomError))
    return outcome, time.perf_counter() - started


class Workers:
    """`workers` processes of `backend` (a name that joblib knows); one is this process itself.

    Raises:
        UsageError: fewer than one.
    """

    def __init__(self, workers: int = 1, backend: str = "loky") -> None:
        if workers < 1:
            raise UsageError(f"workers must be at least 1, got {workers}. 1 evaluates in this process.")
        self.count, self._backend = workers, backend

    @property
    def away(self) -> bool:
        """Whether they are elsewhere, where they may not be reached."""
        return self._backend != "loky"

    @contextlib.contextmanager
    def ready(self, threads: int) -> Generator[Workers]:
        """Inside, they can be called; `threads` is what one candidate is computed on.

        Raises:
            WorkerError: they cannot be reached.
        """
        yield self

    def __call__(self, evaluate: Evaluate, recipes: Sequence[Recipe]) -> Iterator[Outcome]:
        """In the order of the recipes, as they are done.

        Raises:
            WorkerError: a worker died, or what is to be evaluated cannot be sent to it.
        """
        if self.count == 1 or len(recipes) == 1:
            yield from (evaluated(evaluate, recipe) for recipe in recipes)
            return
        import joblib

        try:
            pool = joblib.Parallel(n_jobs=self.count, backend=self._backend, return_as="generator")
        except ValueError as wrong:
            raise UsageError(
                f"joblib has no backend {self._backend!r}: {wrong}. Give the number of processes alone, or the name of "
                "a backend that is registered with joblib."
            ) from wrong
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        try:
            with by_value(cloudpickle):
                made = pool(joblib.delayed(evaluated)(evaluate, recipe) for recipe in recipes)
                yield from cast(Iterator[Outcome], made)
        except TerminatedWorkerError as wrong:
            raise WorkerError(
                f"A worker process was killed, by hand or for want of memory: {first_line(wrong)}. What is finished is "
                "kept: the same command continues. Give --workers fewer if it happens again."
            ) from wrong
        except pickle.PicklingError as wrong:
            raise WorkerError(unsendable(wrong)) from wrong


def unsendable(wrong: Exception) -> str:
    return (
        f"The model or its task cannot be sent to another process: {first_line(wrong)}. Lambdas, open files and locks "
        "inside them are the usual cause. Leave --workers out, or define what it names at the top of a module."
    )


def workers_of(wanted: int | str) -> Workers:
    """`4`; `"ray"`, `"ray:4"` or `"ray://HOST:PORT"`; or `"dask:4"`, a backend of joblib and how many at a time.

    Raises:
        UsageError: not understood.
    """
    from lissom.search.clusters import RayWorkers

    text = str(wanted)
    if text == "ray" or text.startswith("ray://"):
        return RayWorkers(None if text == "ray" else text)
    backend, sign, count = text.rpartition(":")
    if not count.isdecimal() or (sign and not backend):
        raise UsageError(
            f"workers={wanted!r} is not understood. Give a number of processes, such as 4, 'ray:4', "
            "'ray://HOST:10001', or a joblib backend and a number, such as 'dask:4'."
        )
    if backend == "ray":
        return RayWorkers(None, Workers(int(count)).count)
    return Workers(int(count), backend or "loky")
