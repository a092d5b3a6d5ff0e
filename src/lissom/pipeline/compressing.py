"""`compress`: from a model, its task and a goal to a measured artifact and a report."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lissom._version import __version__
from lissom.errors import GoalError, UsageError
from lissom.export.base import Artifact, digest
from lissom.export.catalogue import runtime_of
from lissom.files import load_tensors, save_tensors, write_text
from lissom.goal import Goal
from lissom.graph.graph import Graph
from lissom.graph.groups import with_groups
from lissom.graph.trace import Trace, trace
from lissom.inputs import save_example
from lissom.measure.environment import available_cores, environment, machine
from lissom.measure.judge import impossible, judge
from lissom.measure.records import RunRecord
from lissom.measure.synthesis import SynthesisRecord
from lissom.metrics import metrics_of
from lissom.pipeline.arguments import (
    check_arguments,
    check_data,
    check_needs,
    check_weights,
    refuse_impossible,
    seconds,
    taught_by,
)
from lissom.pipeline.candidates import Candidate, Choice, choose, recipes_for
from lissom.pipeline.datafree import DataFree, arranged, notes_of, supplied
from lissom.pipeline.expecting import expected
from lissom.pipeline.measuring import Measured, measure
from lissom.pipeline.recommending import begin
from lissom.pipeline.recording import (
    channel_records,
    moved_notes,
    plans_json,
    skip_records,
    step_records,
    write_tables,
)
from lissom.pipeline.result import REPORT, Result
from lissom.pipeline.searching import Place, Wanted, searched, wanted_search
from lissom.pipeline.teachers import with_teachers
from lissom.pipeline.timing import Stopwatch
from lissom.pipeline.transforming import Step, state_of, transform, validate
from lissom.progress import Report, Stages
from lissom.recipe import Recipe
from lissom.runfolder import (
    RunFolder,
    Source,
    fingerprint,
    opened,
    verify,
)
from lissom.target import Target
from lissom.task import Task
from lissom.training.synthesis.settings import Synthesis
from lissom.transforms.base import Work

RESULT = "result.json"
WEIGHTS = "model.safetensors"


def analyze(model: nn.Module, task: Task) -> Graph:
    """Layers, shapes, costs and coupled channels of a model, traced on the task's example inputs. Nothing is changed.

    Raises:
        ExportError: the model does not export; names the reason and the source line.
    """
    return with_groups(trace(model, task.example))


def compress(  # noqa: PLR0913  one keyword per wish
    model: nn.Module,
    task: Task,
    *,
    target: str = "auto",
    goal: Goal | None = None,
    recipe: Recipe | None = None,
    budget: str | float | None = None,
    scenario: str | None = None,
    search: str | None = None,
    storage: str | None = None,
    workers: int | str = 1,
    fallback: bool = False,
    out: str | Path | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    data_free: DataFree | Synthesis | str | None = None,
    progress: Report | None = None,
    command: str | None = None,
    project: tuple[str, Mapping[str, str]] | None = None,
) -> Result:
    """Compress `model` for `target` and measure the outcome against the original on the same runtime.

    Without a recipe, the recipes that fit the model are tried; with `target="auto"`, every compiled runtime installed
    here. With a budget or a search, and no recipe, one is searched for that meets the goal (`lissom.search`). The
    original is never changed. Killed at any point, the same call with the same `out` continues.

    Args:
        target: a name from `lissom targets`, or `auto`.
        goal: what the outcome is judged by; None for no wish.
        scenario: a name of `lissom recommend`: the run starts from its recipe, or searches among its methods.
        budget: time for the whole run, as `"10min"`, `"1h"` or seconds; with a recipe, for trying targets.
        search: `auto` (with a budget), `knapsack`, `netadapt`, `hypervolume`, `nsga2`, `tpe`, `anneal` or `random`.
        storage: URL of the trials' database as Optuna takes it (default: an SQLite file in the run folder).
        workers: candidates at a time, in processes; or `"ray:4"`, `"ray://HOST:10001"`, or joblib's `"dask:4"`.
        fallback: go on in the run folder, or in this process, where storage or cluster cannot be reached.
        out: the run folder (a fresh temporary one by default).
        batch_size: batch that latency is measured at (default: the example's).
        threads: threads of the runtime (default: the cores this process may use).
        data_free: make inputs up where the task has no data: `"auto"`, `"inversion,low=0,high=1"`, or settings.
        progress: called with (share done, what is being done).

    Raises:
        UsageError: wrong arguments, with the way out.
        FailureError: the model does not export, data is unusable, the folder is taken, or a promise did not hold.
    """
    check_arguments(model, task, recipe, goal)
    task = with_teachers(task)
    goal = goal or Goal()
    goal = goal.of_metric(metrics_of(task)[0].name) if task.metric is not None else goal
    threads = available_cores() if threads is None else threads
    batch_size = task.example.size if batch_size is None else batch_size
    if batch_size < 1 or threads < 1:
        raise UsageError(f"batch_size and threads must be at least 1, got {batch_size} and {threads}.")
    deadline = None if budget is None else time.monotonic() + seconds(budget)
    spare = None if budget is None else seconds(budget)
    sought = wanted_search(search, storage, workers, spare, recipe=recipe, fallback=fallback)
    check_weights(model)
    begun = begin(model, task, scenario, target=target, recipe=recipe, sought=sought, data_free=data_free)
    recipe, data_free, sought = begun.recipe, begun.data_free, begun.sought
    making = arranged(model, task, recipe, data_free) if data_free is not None else None
    recipe = making.recipe if making else recipe
    if recipe:
        check_needs(recipe, task, () if making is None else making.splits)
    targets = begun.targets
    wanted = {
        "target": target,
        "scenario": scenario,
        "goal": goal.model_dump(mode="json", exclude_defaults=True),
        "recipe": recipe.id if recipe else None,
        "batch_size": batch_size,
        "threads": threads,
        "teacher": taught_by(recipe, task),
        "data_free": making.words if making else None,
        "search": sought.searcher if sought else None,
    }
    source = Source(model=fingerprint(model), wanted=_words(wanted), seed=seed, lissom=__version__)
    path, settings = project if project else (None, {})
    with (
        _place(out) as place,
        opened(place, source, path, dict(settings)) as folder,
        torch.random.fork_rng(devices=[]),
    ):
        if folder.finished:
            if progress:
                progress(1.0, "already finished")
            return _finished(folder, model, task)
        stages = Stages(expected(recipe, len(targets), making, sought), progress)
        with stages("synthesize") as tick:
            task, made = supplied(model, task, making, seed=seed, folder=folder, tick=tick)
        told = command or _snippet(wanted)
        run = _Run(model, task, goal, folder, threads, batch_size, seed, told, stages, made, sought)
        return run.carry_out(recipe, targets, deadline)


@contextlib.contextmanager
def _place(out: str | Path | None) -> Generator[Path]:
    """The run folder; a temporary one is removed again when the run leaves nothing in it."""
    if out is not None:
        yield Path(out)
        return
    place = Path(tempfile.mkdtemp(prefix="lissom-"))
    try:
        yield place
    finally:
        with contextlib.suppress(OSError):
            place.rmdir()


@dataclass(frozen=True, eq=False)
class _Run:
    model: nn.Module
    task: Task
    goal: Goal
    folder: RunFolder
    threads: int
    batch_size: int
    seed: int
    command: str
    stages: Stages
    made: SynthesisRecord | None
    sought: Wanted | None

    def carry_out(self, recipe: Recipe | None, targets: Sequence[Target], deadline: float | None) -> Result:
        folder, task = self.folder, self.task
        with self.stages("analyze"):
            traced = trace(self.model, task.example)
            graph = traced.graph
            refuse_impossible(self.goal, graph, task)
            check_data(task)
            folder.of_graph(digest_of(graph))
            folder.of_machine(machine(environment(self.threads)))
            save_example(folder.path / "example.safetensors", task.example)
        with self.stages("try candidates") as tick:
            recipes = [recipe] if recipe else recipes_for(graph, task)
            if self.sought and len(targets) == 1:
                recipes = recipes[:1]
            candidates = [Candidate(t, r) for t in targets for r in recipes]
            choice = self._choose(candidates, graph, deadline, tick)
        chosen = next(filter(choice.names, candidates))
        if self.sought:
            with self.stages("search") as tick:
                choice = self._search(self.sought, traced, chosen.target, choice, deadline, tick)
            chosen = Candidate(chosen.target, Recipe.from_data(choice.recipe))
        with self.stages("transform") as tick:
            watch = Stopwatch(
                self.model, self.task, chosen.target, self.threads, self.batch_size, folder.state / "timed"
            )
            work = Work(tick=tick, seed=self.seed, faster=watch, race=watch.race, kernels=watch.kernels, traced=traced)
            steps = transform(
                self.model, task, chosen.recipe, chosen.target,
                folder=folder, prefix=choice.prefix, measure=True, work=work,
            )  # fmt: skip
        after = steps[-1].model if steps else self.model
        with self.stages("export") as tick:
            original, compressed = self._export(after, chosen, graph, tick)
        with self.stages("measure") as tick:
            measured = measure(
                self.model,
                task,
                graph,
                steps,
                chosen.target,
                (original, compressed),
                folder=folder,
                threads=self.threads,
                batch_size=self.batch_size,
                tick=tick,
            )
        with self.stages("report"):
            return self._report(chosen, steps, after, measured, choice, (original, compressed))

    def _choose(
        self, candidates: list[Candidate], graph: Graph, deadline: float | None, tick: Callable[[float], None]
    ) -> Choice:
        if len(candidates) == 1:
            return Choice.of(candidates[0], ())

        def compute() -> Choice:
            return Choice.of(
                *choose(
                    self.model,
                    self.task,
                    candidates,
                    goal=self.goal,
                    original=validate(self.model, self.task),
                    original_bytes=graph.bytes,
                    folder=self.folder,
                    threads=self.threads,
                    batch_size=self.batch_size,
                    deadline=deadline,
                    tick=tick,
                )
            )

        return self.folder.stage("choice", Choice, compute, holds=lambda saved: any(map(saved.names, candidates)))

    def _search(
        self,
        sought: Wanted,
        traced: Trace,
        target: Target,
        tried: Choice,
        deadline: float | None,
        tick: Callable[[float], None],
    ) -> Choice:
        def compute() -> Choice:
            chosen, record, prefix = searched(
                Place(self.folder, self.seed, self.threads, self.batch_size),
                self.model, self.task, traced, target,
                goal=self.goal, wanted=sought, deadline=deadline, tick=tick,
            )  # fmt: skip
            return Choice(target=target.name, recipe=chosen, trials=tried.trials, search=record, prefix=prefix)

        return self.folder.stage("searched", Choice, compute)

    def _export(
        self, after: nn.Module, chosen: Candidate, graph: Graph, tick: Callable[[float], None]
    ) -> tuple[Artifact, Artifact]:
        runtime, folder = runtime_of(chosen.target), self.folder
        stem = Path(chosen.target.artifact).stem

        def export(model: nn.Module, name: str) -> Callable[[], Artifact]:
            return lambda: runtime.export(model, self.task.example, chosen.target.name, folder.path, name)

        def whole(artifact: Artifact) -> bool:
            places = {folder.path / name: sha256 for name, sha256 in artifact.sha256.items()}
            return all(place.is_file() and digest(place) == sha256 for place, sha256 in places.items())

        original = folder.stage("export-original", Artifact, export(self.model, "original"), holds=whole)
        refuse_impossible(self.goal, graph, self.task, size_bytes=original.size_bytes)
        tick(0.5)
        compressed = folder.stage("export", Artifact, export(after, stem), holds=whole)
        return original, compressed

    def _report(
        self,
        chosen: Candidate,
        steps: list[Step],
        after: nn.Module,
        measured: Measured,
        choice: Choice,
        artifacts: tuple[Artifact, Artifact],
    ) -> Result:
        from lissom.report.html import write as write_report  # brings plotly: late

        folder = self.folder
        reason = impossible(self.goal, measured.before)
        if reason:
            raise GoalError(reason)
        record = RunRecord(
            lissom=__version__,
            name=self.task.name,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            target=chosen.target.name,
            before=measured.before,
            after=measured.after,
            ratios=measured.ratios,
            goal=judge(self.goal, measured.before, measured.after, measured.ratios),
            steps=step_records(steps, self.made.splits if self.made else ()),
            skipped=skip_records(steps),
            channels=channel_records(steps),
            layers=measured.layers,
            parity=measured.parity,
            trials=choice.trials,
            search=choice.search,
            notes=(
                *notes_of(self.made),
                *self.task.notes,
                *measured.notes,
                *moved_notes(folder.manifest.machines, choice.search),
            ),
            synthesis=self.made,
            recipe=chosen.recipe.to_data(),
            command=self.command,
            environment=environment(self.threads),
            seed=self.seed,
        )
        plans = tuple(s.plan for s in steps)
        write_text(folder.path / "recipe.yaml", chosen.recipe.to_yaml())
        write_text(folder.path / "plan.json", plans_json(plans))
        write_tables(steps, folder.path)
        save_tensors(folder.path / WEIGHTS, state_of(after))
        write_report([record], folder.path / REPORT)
        write_text(folder.path / RESULT, record.model_dump_json(indent=2))
        folder.finish(artifacts[1], artifacts[0], chosen.target.name)
        return Result(after, artifacts[1], record, plans, folder.path)


def _finished(folder: RunFolder, model: nn.Module, task: Task) -> Result:
    """A finished run is not done again: its result is read back."""
    from lissom.pipeline.reload import read_plans, read_result, replay

    verify(folder.path)
    folder.of_graph(digest_of(trace(model, task.example).graph))
    record = read_result(folder.path)
    recipe = Recipe.from_data(record.recipe)
    plans = read_plans(folder.path, recipe)
    after = replay(model, task.example, recipe, plans)
    after.load_state_dict(load_tensors(folder.path / WEIGHTS), strict=True)
    assert folder.manifest.artifact is not None
    return Result(after, folder.manifest.artifact, record, plans, folder.path)


def digest_of(graph: Graph) -> str:
    return hashlib.sha256(graph.model_dump_json().encode()).hexdigest()[:16]


def _words(wanted: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in wanted.items() if value not in (None, {}))


def _snippet(wanted: Mapping[str, object]) -> str:
    return f"lissom.compress(model, task, target={wanted['target']!r}, out=...)"
