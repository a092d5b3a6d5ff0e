"""Candidates evaluated one by one here, or several at a time through joblib.

What travels to another process is the callable, once for every candidate, and the recipe; what comes back is a
measurement or a sentence. How joblib carries that out (`loky` processes here, a cluster) is its backend's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from lissom.errors import LissomError, UsageError, VerificationError, WorkerError, first_line
from lissom.exhaustion import out_of_memory
from lissom.recipe import Recipe
from lissom.search.history import Failure, Measurement

Evaluate = Callable[[Recipe], Measurement]
Outcome = tuple[Measurement | Failure, float]
"""A measurement or why there is none, and the seconds that it took."""


def evaluated(evaluate: Evaluate, recipe: Recipe) -> Outcome:
    """A candidate that cannot be made is an answer, not an error; an interruption is neither."""
    started = time.perf_counter()
    try:
        outcome: Measurement | Failure = evaluate(recipe)
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

    def __call__(self, evaluate: Evaluate, recipes: Sequence[Recipe]) -> Iterator[Outcome]:
        """In the order of the recipes, as they are done."""
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
        made = pool(joblib.delayed(evaluated)(evaluate, recipe) for recipe in recipes)
        yield from cast(Iterator[Outcome], made)


def workers_of(wanted: int | str) -> Workers:
    """`4`, or `"dask:4"`: a backend of joblib and how many evaluations it does at a time.

    Raises:
        UsageError: not understood.
    """
    text = str(wanted)
    backend, sign, count = text.rpartition(":")
    if not count.isdecimal() or (sign and not backend):
        raise UsageError(
            f"workers={wanted!r} is not understood. Give a number of processes, such as 4, or a joblib backend and a "
            "number, such as 'dask:4'."
        )
    return Workers(int(count), backend or "loky")
