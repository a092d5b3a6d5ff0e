"""Which recipes and runtimes are worth trying for a model, tried and compared.

Every candidate is transformed and exported; their latencies are taken interleaved in one run, their metric on the
validation split. The fastest that keeps within the goal's metric drop and meets the other wishes is chosen; without
one, the one that misses least.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydantic
from torch import nn

from lissom.advise import DYNAMIC_SHARE
from lissom.errors import ExportError, TargetError, first_line
from lissom.export.base import Artifact, Runner, arrays, require, run
from lissom.export.catalogue import runtime_of, survey
from lissom.goal import Goal
from lissom.graph.graph import Graph
from lissom.measure.latency import bootstrap_median, interleave
from lissom.measure.metric_records import Quality
from lissom.measure.records import TargetTrial
from lissom.measure.search_records import SearchRecord
from lissom.pipeline.transforming import transform, validate
from lissom.recipe import Recipe
from lissom.runfolder import RunFolder
from lissom.search.fitness import DEFAULT_DROP
from lissom.target import Target, load_target
from lissom.task import Batch, Task, repeated
from lissom.transforms.base import has_data
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize

ROUNDS = 7


class Tried(pydantic.BaseModel):
    """A candidate as saved: what it scored, or why it failed."""

    artifact: Artifact | None
    quality: Quality | None
    failure: str = ""


@dataclass(frozen=True)
class Candidate:
    target: Target
    recipe: Recipe

    @property
    def key(self) -> str:
        return f"{self.target.name}-{self.recipe.id}"


class Choice(pydantic.BaseModel):
    """The candidate that was chosen, as saved."""

    target: str
    recipe: list[dict[str, object]]
    trials: tuple[TargetTrial, ...]
    search: SearchRecord | None = None
    prefix: str = ""
    """Of the stages in which the recipe was carried out already."""

    @classmethod
    def of(cls, best: Candidate, trials: tuple[TargetTrial, ...]) -> Choice:
        return cls(target=best.target.name, recipe=best.recipe.to_data(), trials=trials)

    def names(self, candidate: Candidate) -> bool:
        return candidate.target.name == self.target and candidate.recipe.to_data() == self.recipe


def targets_for(name: str) -> list[Target]:
    """The targets a name stands for: itself, or for `auto` every compiled runtime installed here.

    Raises:
        TargetError: unknown, or not installed (TensorRT files are written without TensorRT, but not measured).
    """
    if name != "auto":
        target = load_target(name)
        require(runtime_of(target).availability(), target.title)
        return [target]
    found = [t for t, here in survey().values() if here.found and t.name != "torch"]
    if not found:
        raise TargetError('No runtime is installed besides torch. pip install "lissom[openvino]" brings one.')
    return found


def recipes_for(graph: Graph, task: Task) -> list[Recipe]:
    """Recipes to try when the user names none."""
    found: list[Recipe] = []
    if has_data(task):
        found.append(Recipe([Fold(), Quantize()]))
    linear = sum(node.macs for node in graph.nodes if node.op == "linear")
    if not found or linear >= DYNAMIC_SHARE * graph.macs:
        found.append(Recipe([Fold(), Quantize(mode="dynamic")]))
    return [*found, Recipe([Fold()])]


def choose(  # noqa: PLR0913  keywords of one call site
    model: nn.Module,
    task: Task,
    candidates: Sequence[Candidate],
    *,
    goal: Goal,
    original: Quality | None,
    original_bytes: int,
    folder: RunFolder,
    threads: int,
    batch_size: int,
    deadline: float | None,
    tick: Callable[[float], None],
) -> tuple[Candidate, tuple[TargetTrial, ...]]:
    """Try every candidate (until the deadline) and pick one; the table says what each scored."""
    tried: dict[str, Tried] = {}
    for index, candidate in enumerate(candidates):
        late = deadline is not None and time.monotonic() > deadline and any(t.artifact for t in tried.values())
        tried[candidate.key] = (
            Tried(artifact=None, quality=None, failure="the time budget ended before its turn")
            if late
            else _try(model, task, candidate, folder)
        )
        tick(0.8 * (index + 1) / len(candidates))
    latencies = _latencies(candidates, tried, task, folder, threads, batch_size)
    tick(1.0)

    def rank(candidate: Candidate) -> tuple[float, ...]:
        one = tried[candidate.key]
        assert one.artifact is not None
        misses = {
            soft: sum(_misses(goal.part(soft=soft), original, one.quality, original_bytes, one.artifact.size_bytes))
            for soft in (False, True)
        }
        if original and one.quality and goal.allowed_drop(original.metric.value) is None:
            misses[False] += _excess(original.metric.value - one.quality.metric.value, DEFAULT_DROP)
        return (misses[False], misses[True], latencies[candidate.key])

    usable = [c for c in candidates if tried[c.key].artifact is not None]
    if not usable:
        reasons = "; ".join(f"{c.target.name}: {tried[c.key].failure}" for c in candidates)
        raise ExportError(f"No candidate could be exported. {reasons}")
    best = min(usable, key=rank)
    return best, tuple(
        TargetTrial(
            target=c.target.name,
            recipe=c.recipe.title,
            latency_ms=latencies.get(c.key),
            metric=_value(tried[c.key].quality),
            size_bytes=_size(tried[c.key].artifact),
            chosen=c is best,
            note=tried[c.key].failure,
        )
        for c in candidates
    )


HEAVY = 1e3
"""Quality first, then sizes."""


def _misses(
    goal: Goal, original: Quality | None, one: Quality | None, before_bytes: int, after_bytes: int
) -> Iterator[float]:
    """How far a candidate is from each bound on quality and size."""
    if original and one:
        yield from _quality_misses(goal, original, one)
    yield _miss(goal.size_ratio, before_bytes / after_bytes)
    yield _miss(after_bytes / goal.size_bytes, 1.0) if goal.size_bytes else 0.0


def _quality_misses(goal: Goal, original: Quality, one: Quality) -> Iterator[float]:
    yield _excess(original.metric.value - one.metric.value, goal.allowed_drop(original.metric.value))
    for name in goal.bounded:
        before, after = original.by_name[name], one.by_name[name]
        yield _excess(before - after, goal.allowed_drop(before, name))
    if one.classes and goal.class_floor is not None:
        yield _excess(goal.class_floor, one.classes.worst.share)
    if one.classes and original.classes and goal.class_drop is not None:
        then, now = one.classes.most_lost(original.classes)
        yield _excess(then.share - now.share, goal.class_drop)


def _excess(figure: float, bound: float | None) -> float:
    return 0.0 if bound is None else max(0.0, figure - bound) * HEAVY


def _value(quality: Quality | None) -> float | None:
    return quality.metric.value if quality else None


def _size(artifact: Artifact | None) -> int | None:
    return artifact.size_bytes if artifact else None


def _miss(wanted: float | None, reached: float) -> float:
    return max(0.0, wanted / reached - 1) if wanted else 0.0


def _try(model: nn.Module, task: Task, candidate: Candidate, folder: RunFolder) -> Tried:
    place = folder.state / "trials" / candidate.key

    def compute() -> Tried:
        place.mkdir(parents=True, exist_ok=True)
        try:
            steps = transform(model, task, candidate.recipe, candidate.target)
            after = steps[-1].model if steps else model
            artifact = exported(after, task, candidate.target, place)
            return Tried(artifact=artifact, quality=validate(after, task))
        except (ExportError, RuntimeError) as wrong:
            return Tried(artifact=None, quality=None, failure=first_line(wrong))

    return folder.stage(f"trials/{candidate.key}/tried", Tried, compute)


def _latencies(
    candidates: Sequence[Candidate],
    tried: dict[str, Tried],
    task: Task,
    folder: RunFolder,
    threads: int,
    batch_size: int,
) -> dict[str, float]:
    example = repeated(task.example, batch_size)
    calls: dict[str, Callable[[], object]] = {}
    for candidate in candidates:
        artifact = tried[candidate.key].artifact
        if artifact is not None:
            place: Path = folder.state / "trials" / candidate.key
            runner = runtime_of(candidate.target).load(artifact, place, threads)
            calls[candidate.key] = caller(runner, artifact, example)
    samples = interleave(calls, rounds=ROUNDS) if calls else {}
    return {key: bootstrap_median(found).median for key, found in samples.items()}


def exported(model: nn.Module, task: Task, target: Target, place: Path) -> Artifact:
    """Written and run once: a compiled file that does not load here is no candidate, whatever the exporter said.

    Raises:
        ExportError: it cannot be written.
        RuntimeError: it does not run.
    """
    runtime = runtime_of(target)
    artifact = runtime.export(model, task.example, target.name, place, "candidate")
    run(runtime.load(artifact, place, 1), artifact, task.example)
    return artifact


def caller(runner: Runner, artifact: Artifact, example: Batch) -> Callable[[], object]:
    """One call of the runtime, as it is timed: inputs ready, batches beyond the artifact's limit in pieces."""
    limit, size = artifact.batch, example.size
    if limit is None or size == limit or (size < limit and not artifact.fixed):
        inputs = arrays(example)
        return lambda: runner(inputs)
    return lambda: run(runner, artifact, example)
