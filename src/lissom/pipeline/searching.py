"""A recipe searched for: the space opened, candidates measured, the outcome as a record."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lissom._version import __version__
from lissom.advise.scenarios import Scenario, searched_of
from lissom.errors import ExportError, StorageError, UsageError, WorkerError
from lissom.goal import Goal
from lissom.graph.trace import Trace
from lissom.measure.environment import environment, machine, unlike
from lissom.measure.search_records import LayerSensitivity, Moved, SearchRecord, SearchTrial
from lissom.metrics import metrics_of
from lissom.pipeline.evaluating import Evaluator, prefix_of
from lissom.pipeline.layerwise import layer_sensitivity, layers_seconds
from lissom.pipeline.quiet import Quiet
from lissom.recipe import Recipe
from lissom.runfolder import RunFolder, fingerprint
from lissom.search import (
    Found,
    Limits,
    Measurement,
    Search,
    Space,
    Study,
    Trial,
    Workers,
    opened,
    searchers_of,
    workers_of,
)
from lissom.search.opening import open_space, restricted
from lissom.target import Target
from lissom.task import Task

SEARCH_SECONDS = 300.0
"""What the progress bar takes a search without a budget to last."""
FINAL_SHARE, FINAL_SECONDS, FINAL_TIMES = 0.2, 20.0, 3.0
"""Of a budget, kept back for export, the full measurement and the report: the smaller of the first two, and at least
so many times what it took to export and measure the original shortly."""


@dataclass(frozen=True)
class Wanted:
    """A search as it was asked for."""

    searcher: str
    storage: str | None
    workers: Workers
    seconds: float | None
    scenario: Scenario | None = None
    """Whose methods the search keeps to."""
    fallback: bool = False
    """Whether to go on here where storage or workers cannot be reached."""


@dataclass(frozen=True)
class Place:
    """Where and how candidates are measured."""

    folder: RunFolder
    seed: int
    threads: int
    batch_size: int


def wanted_search(
    search: str | None,
    storage: str | None,
    workers: int | str,
    seconds: float | None,
    *,
    recipe: Recipe | None,
    fallback: bool = False,
) -> Wanted | None:
    """What a call asks for; None for a call without a budget or a search, or with a recipe.

    Raises:
        UsageError: unknown names, or arguments that do nothing.
    """
    made = workers_of(workers)
    if recipe is not None and search is not None:
        raise UsageError(f"search={search!r} finds a recipe, and one is given: {recipe.title}. Leave one of them out.")
    if recipe is not None or (search is None and seconds is None):
        for name, value, usual in (("storage", storage, None), ("workers", workers, 1), ("fallback", fallback, False)):
            if value != usual:
                raise UsageError(
                    f"{name}={value!r} is of a search, and there is none. Give search='auto' or a budget, and no "
                    "recipe."
                )
        return None
    searchers_of(search or "auto")
    if fallback and storage is None and not made.away:
        raise UsageError(
            "fallback=True says what to do where storage or workers cannot be reached, and both are here. Give a "
            "storage or a cluster, or leave it out."
        )
    return Wanted(search or "auto", storage, made, seconds, fallback=fallback)


def searched(  # noqa: PLR0913  keywords of one call site
    place: Place,
    model: nn.Module,
    task: Task,
    traced: Trace,
    target: Target,
    *,
    goal: Goal,
    wanted: Wanted,
    deadline: float | None,
    tick: Callable[[float], None],
) -> tuple[list[dict[str, Any]], SearchRecord, str]:
    """The chosen recipe, the record of the search, and the prefix of the stages that hold its steps.

    Raises:
        DataError: the task cannot tell a good candidate from a bad one.
        StorageError: the storage cannot be used.
        WorkerError: the workers cannot be used.
        RunFolderError: the storage is of another model, other data, another space or target.
        ExportError: no candidate could be made.
    """
    folder = place.folder
    space = open_space(traced, task, target)
    if wanted.scenario is not None:
        space = restricted(space, *searched_of(wanted.scenario), f"not of the scenario {wanted.scenario.name!r}")
    memory = goal.peak_memory_bytes is not None
    identity = {
        "model": fingerprint(model),
        "data": _data(task),
        "space": hashlib.sha256(space.model_dump_json().encode()).hexdigest()[:16],
        "target": target.name,
        "metric": ", ".join(one.name for one in metrics_of(task)),
        "settings": f"batch {place.batch_size}, threads {place.threads}, seed {place.seed}"
        + (", peak memory" if memory else "")
        + (", classes" if goal.by_class else "")
        + (", energy" if goal.by_energy else ""),
        "version": __version__,
    }
    here = machine(environment(place.threads))
    with contextlib.ExitStack() as held:
        study, alone = _study(held, wanted, folder, task.name, identity, here)
        workers, single = _workers(held, wanted, place.threads)
        evaluator = Evaluator(
            model, task, target, folder.stages, Quiet(Path(tempfile.gettempdir()) / f"lissom-quiet-{study.key}"),
            place.threads, place.batch_size, place.seed, memory, here, goal.by_class,
            goal.by_energy, _by_latency(goal),
        )  # fmt: skip
        before = time.monotonic()
        original = folder.stage("search-original", Measurement, evaluator.original)
        short = time.monotonic() - before
        layers = folder.stage(
            "search-layers", LayerSensitivity,
            lambda: layer_sensitivity(model, task, traced.graph, space, layers_seconds(wanted.seconds)),
        )  # fmt: skip
        wanted = replace(wanted, workers=workers)
        used = study.used() / workers.count
        search = Search(
            evaluator, space, study, goal, original, searchers_of(wanted.searcher),
            limits=Limits(seconds=_left(wanted.seconds, deadline, used, short)),
            workers=workers, seed=place.seed, probe=evaluator.probe, step=target.channel_multiple,
        )  # fmt: skip

        def progress(share: float, _: str) -> None:
            tick(share)
            _tidy(folder.state, space, search.found(), study.trials())

        search = replace(search, progress=progress)
        found = search.run()
    if found.chosen is None:
        reasons = "; ".join(dict.fromkeys(t.failure for t in found.trials))
        raise ExportError(f"None of {len(found.trials)} candidates could be made. {reasons}")
    recipe = space.recipe(found.chosen.point)
    return recipe.to_data(), _record(found, space, original, wanted, here, layers, (*alone, *single)), prefix_of(recipe)


def _study(
    held: contextlib.ExitStack, wanted: Wanted, folder: RunFolder, name: str, identity: Mapping[str, str], here: str
) -> tuple[Study, tuple[str, ...]]:
    """The study, and what to say if it is not where it was asked for."""

    def at(storage: str) -> Study:
        return held.enter_context(opened(storage, name, identity, place=folder.manifest.id, machine=here))

    own = f"sqlite:///{(folder.state / 'search.db').resolve()}"
    try:
        return at(wanted.storage or own), ()
    except StorageError as wrong:
        if not wanted.fallback or wanted.storage is None:
            raise
        reason = str(wrong).split(". ")[0]
        return at(own), (f"{reason}. As asked, trials were kept in the run folder instead, and shared with nobody.",)


def _workers(held: contextlib.ExitStack, wanted: Wanted, threads: int) -> tuple[Workers, tuple[str, ...]]:
    """The workers, and what to say if they are not those that were asked for."""
    try:
        return held.enter_context(wanted.workers.ready(threads)), ()
    except WorkerError as wrong:
        if not wanted.fallback:
            raise
        reason = str(wrong).split(". ")[0]
        return Workers(), (f"{reason}. As asked, candidates were evaluated in one process here.",)


def _by_latency(goal: Goal) -> bool:
    """Whether the search goes by latency: the goal bounds it, or no cost at all."""
    costs = [name for name in goal.model_dump(exclude_none=True) if not name.startswith(("metric", "class", "soft"))]
    return not costs or any(name.startswith(("latency", "throughput")) for name in costs)


def _left(seconds: float | None, deadline: float | None, used: float, short: float) -> float | None:
    """Seconds that the search may take, after what it took before it was interrupted."""
    if seconds is None or deadline is None:
        return None
    kept = max(min(FINAL_SHARE * seconds, FINAL_SECONDS), FINAL_TIMES * short)
    return max(0.0, deadline - time.monotonic() - used - kept)


def _tidy(state: Path, space: Space, found: Found, trials: tuple[Trial, ...]) -> None:
    """Weights of what is neither on the front nor under way are not needed again."""
    kept = {t.recipe for t in trials if t.state == "running" or t.number in found.front}
    kept.add(found.chosen.recipe if found.chosen else "")
    for trial in trials:
        if trial.recipe not in kept:
            shutil.rmtree(state / prefix_of(space.recipe(trial.point)), ignore_errors=True)


def _data(task: Task) -> str:
    """Fingerprint of the first validation batch, and of which splits there are."""
    hashed = hashlib.sha256(" ".join(s for s in ("train", "calibration") if task.has(s)).encode())
    batch = next(task.batches("validation", limit=64))
    for value in (*batch.args, *batch.kwargs.values(), batch.target):
        if isinstance(value, torch.Tensor):
            hashed.update(f"{tuple(value.shape)}{value.dtype}".encode())
            hashed.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()[:16]


def _record(
    found: Found,
    space: Space,
    original: Measurement,
    wanted: Wanted,
    here: str,
    layers: LayerSensitivity,
    fallbacks: tuple[str, ...],
) -> SearchRecord:
    began = min((t.started for t in found.trials), default=0.0)
    return SearchRecord(
        searcher=wanted.searcher,
        budget_seconds=wanted.seconds,
        workers=wanted.workers.count,
        space={name: list(space.values(name)) for name in (*space.open, "epochs")},
        closed=space.closed,
        objectives=found.objectives,
        hypervolume=found.hypervolume,
        original_metric=original.metric,
        latency_error=found.latency.error,
        latency_layers=found.latency.layers,
        latency_candidates=found.latency.candidates,
        met=found.explanation.met,
        binding=found.explanation.binding,
        explanation=found.explanation.sentences,
        sensitivity=layers,
        fallbacks=fallbacks,
        moved=tuple(
            Moved(machine=unlike(other, here), again=again, left=left) for other, (again, left) in found.moved.items()
        ),
        trials=tuple(_trial(t, found, space, began) for t in found.trials),
    )


def _trial(trial: Trial, found: Found, space: Space, began: float) -> SearchTrial:
    one = trial.measurement
    return SearchTrial(
        number=trial.number,
        by=trial.by,
        recipe=space.recipe(trial.point).title,
        point=trial.point.model_dump(),
        metric=one.metric if one else None,
        metrics=one.metrics if one else {},
        worst_class=min(one.classes.values(), default=None) if one else None,
        latency_ms=one.latency_ms if one else None,
        latency_ratio=one.latency_ratio if one else None,
        latency_low=one.latency_low if one else None,
        latency_high=one.latency_high if one else None,
        size_bytes=one.size_bytes if one else None,
        energy_ratio=one.energy_ratio if one else None,
        macs=one.macs if one else None,
        parameters=one.parameters if one else None,
        started=round(trial.started - began, 3),
        seconds=round(trial.seconds, 3),
        on_front=trial.number in found.front,
        chosen=found.chosen is not None and trial.number == found.chosen.number,
        failure=trial.failure,
    )
