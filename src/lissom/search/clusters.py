"""Candidates evaluated by a Ray cluster, of this machine or of many.

Every candidate is one task. A task whose worker dies is started again by Ray on another one, and carries on from the
steps that are kept in the run folder, which all machines of the cluster have to see under the same path.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from lissom.errors import WorkerError, first_line
from lissom.recipe import Recipe
from lissom.search.byvalue import by_value
from lissom.search.evaluating import Evaluate, Outcome, Workers, evaluated, unsendable

RETRIES = 3
"""Workers that may die over one candidate."""


class RayWorkers(Workers):
    """Tasks of a cluster at `address`, or of one that is started on this machine with `workers` processes (default: one
    for every core)."""

    def __init__(self, address: str | None, workers: int | None = None) -> None:
        super().__init__(workers or 1, "ray")
        self._address, self._wanted, self._share = address, workers, 1

    @contextlib.contextmanager
    def ready(self, threads: int) -> Generator[Workers]:
        try:
            ray = _ray()
        except ImportError as wrong:
            raise WorkerError('Ray is not installed. pip install "lissom[ray]" brings it.') from wrong
        if ray.is_initialized():
            yield self._sized(ray, threads)
            return
        quiet = {"log_to_driver": False, "logging_level": "error"}
        try:
            if self._address is not None:
                ray.init(self._address, **quiet)
            else:
                ray.init("local", num_cpus=self._wanted, include_dashboard=False, **quiet)
        except Exception as wrong:  # Ray raises bare ones where a part of it does not start in time
            raise WorkerError(
                f"The Ray cluster {self._address or 'of this machine'!r} cannot be reached: {first_line(wrong)}. Start "
                "it, give --workers a number of processes here, or --fallback to go on without it."
            ) from wrong
        try:
            yield self._sized(ray, 1 if self._address is None else threads)
        finally:
            ray.shutdown()

    def _sized(self, ray: Any, threads: int) -> Workers:
        """As many candidates at a time as the cluster has room for."""
        made = RayWorkers(self._address, max(1, int(ray.cluster_resources().get("CPU", 1)) // threads))
        made._share = threads
        return made

    def __call__(self, evaluate: Evaluate, recipes: Sequence[Recipe]) -> Iterator[Outcome]:
        """As `Workers`."""
        ray = _ray()
        task = ray.remote(evaluated).options(num_cpus=self._share, max_retries=RETRIES)
        try:
            with by_value(ray.cloudpickle):
                sent = ray.put(evaluate)
                pending: list[Any] = [task.remote(sent, recipe) for recipe in recipes]
        except (TypeError, AttributeError) as wrong:
            raise WorkerError(unsendable(wrong)) from wrong
        try:
            for index, one in enumerate(pending):
                yield ray.get(one)
                pending[index] = None
        except ray.exceptions.RayTaskError as wrong:  # as it was raised there: a fault of ours, or no such worker
            raise wrong.cause from wrong
        except ray.exceptions.RayError as wrong:
            raise WorkerError(
                f"The Ray cluster gave a candidate up: {first_line(wrong)}. What is finished is kept: the same command "
                "continues."
            ) from wrong
        finally:
            for one in pending:
                if one is not None:
                    with contextlib.suppress(Exception):
                        ray.cancel(one, force=True)


def _ray() -> Any:
    """An extra, whose types are its own affair."""
    return importlib.import_module("ray")
