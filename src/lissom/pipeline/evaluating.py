"""One candidate carried out, exported and measured: the callable that a search is given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from lissom.errors import DataError, WorkerError
from lissom.export.base import Artifact
from lissom.export.catalogue import runtime_of
from lissom.files import write_text
from lissom.graph.trace import Trace, trace
from lissom.inputs import save_example
from lissom.measure.artifacts import peak_memory
from lissom.measure.energy import survey, weigh
from lissom.measure.environment import environment, machine, unlike
from lissom.measure.latency import bootstrap_median, interleave, paired_ratio, summarise
from lissom.measure.metric_records import Quality
from lissom.pipeline.candidates import caller, exported
from lissom.pipeline.profiling import layer_times
from lissom.pipeline.quiet import Quiet, Shared
from lissom.pipeline.timing import Stopwatch
from lissom.pipeline.transforming import Step, transform, validate
from lissom.recipe import Recipe
from lissom.runfolder import StageFolder
from lissom.search import LayerTime, Measurement, Timed
from lissom.target import Target
from lissom.task import Batch, Split, Task, default_feed, repeated
from lissom.transforms.base import Work
from lissom.transforms.finetuning import Finetune

ROUNDS = 10
ORIGINAL = "search-original"
LOOKED_AT: tuple[Split, ...] = ("calibration", "train")
"""By transforms, the first of them that the task has."""
Samples = dict[str, tuple[float, ...]]
EXAMPLES = 32
"""That a probe is made from."""


def prefix_of(recipe: Recipe) -> str:
    """Of the stages that a candidate's steps are kept as: the one that is chosen is not carried out again."""
    return f"search/{recipe.id}/"


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Travels to other processes, with the model and its task. `memory`, `classes` and `energy` say whether these are
    kept."""

    model: nn.Module
    task: Task
    target: Target
    stages: StageFolder
    quiet: Quiet
    threads: int
    batch_size: int
    seed: int
    memory: bool
    machine: str
    """That the search runs on."""
    classes: bool = False
    energy: bool = False
    layers: bool = False
    """Whether candidates are taken apart by the runtime's profiler."""

    @cached_property
    def traced(self) -> Trace:
        """The model's, once in a process: every candidate begins with it."""
        return trace(self.model, self.task.example)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "traced"}

    def original(self) -> Measurement:
        """The model as it is, exported; what candidates are timed against."""
        self._check_machine()
        place = self._place(ORIGINAL)
        with self.quiet.working() as share:
            artifact = self._original(share)
            with share.alone():
                calls = {"original": self._call(artifact, place)}
                samples = interleave(calls, rounds=ROUNDS)
                used = self._energy(calls)
                layers = self._layers(self.model, artifact, place)
        graph = self.traced.graph
        found = validate(self.model, self.task)
        assert found is not None, "a search is begun with a metric and validation data only"
        timed = summarise(samples["original"])
        return Measurement(
            metric=found.metric.value,
            metrics=found.by_name,
            classes=self._classes(found),
            examples=found.metric.samples,
            latency_ms=timed.median,
            latency_p95_ms=timed.p95,
            batch_size=self.batch_size,
            latency_ratio=1.0,
            latency_low=1.0,
            latency_high=1.0,
            size_bytes=artifact.size_bytes,
            macs=graph.macs,
            parameters=graph.parameters,
            machine=self.machine,
            peak_memory_bytes=self._peak(artifact, place),
            energy_joules=bootstrap_median(used["original"]).median if used else None,
            energy_ratio=1.0 if used else None,
            layers=layers,
        )

    def probe(self, recipe: Recipe) -> Timed:
        """The candidate as fast as it can be made: on the first examples, without a metric, nothing kept.

        How long it takes depends on its channels, and not on the numbers in it. Which channels and blocks are cut may
        differ from what all the examples say; that is part of what a prediction is off by.

        Raises:
            LissomError: the candidate cannot be made, exported or loaded.
        """
        with self.quiet.working() as share, tempfile.TemporaryDirectory(dir=self._place(ORIGINAL)) as scratch:
            work = self._work(Path(scratch) / "timed", share)
            after = transform(self.model, _first(self.task), recipe, self.target, work=work)[-1].model
            artifact = exported(after, self.task, self.target, Path(scratch))
            samples, _ = self._timed(artifact, Path(scratch), share, weighed=False)
            with share.alone():
                layers = self._layers(after, artifact, Path(scratch))
        return Timed(
            latency_ms=bootstrap_median(samples["after"]).median,
            latency_ratio=paired_ratio(samples["before"], samples["after"]).median,
            layers=layers,
        )

    def __call__(self, recipe: Recipe) -> Measurement:
        """
        Raises:
            LissomError: the candidate cannot be made, exported or loaded.
            WorkerError: this process runs on another kind of machine than the search.
        """
        self._check_machine()
        with self.quiet.working() as share:
            steps = self._transformed(recipe, share)
            after = steps[-1].model
            place = self._place(prefix_of(recipe))
            artifact = exported(after, self.task, self.target, place)
            samples, used = self._timed(artifact, place, share)
            with share.alone():
                layers = self._layers(after, artifact, place)
            ratio = paired_ratio(samples["before"], samples["after"])
            quality = steps[-1].quality
            if quality is None:
                raise DataError("The candidate's metric could not be taken: the task has no validation data.")
            cost = steps[-1].plan.predicted
            return Measurement(
                metric=quality.metric.value,
                metrics=quality.by_name,
                classes=self._classes(quality),
                examples=quality.metric.samples,
                latency_ms=bootstrap_median(samples["after"]).median,
                batch_size=self.batch_size,
                latency_ratio=ratio.median,
                latency_low=ratio.low,
                latency_high=ratio.high,
                size_bytes=artifact.size_bytes,
                macs=cost.macs,
                parameters=cost.parameters,
                machine=self.machine,
                peak_memory_bytes=self._peak(artifact, place),
                energy_joules=bootstrap_median(used["after"]).median if used else None,
                energy_ratio=paired_ratio(used["before"], used["after"]).median if used else None,
                epoch_seconds=_pace(steps),
                layers=layers,
            )

    def _check_machine(self) -> None:
        here = machine(environment(self.threads))
        if here != self.machine:
            raise WorkerError(
                f"A worker runs on another kind of machine than the search: {unlike(here, self.machine)}, not "
                f"{unlike(self.machine, here)}. Latencies of the two cannot be compared. Take workers of one kind, or "
                "start a search of its own on each kind of machine with the same storage."
            )

    def _timed(
        self, artifact: Artifact, place: Path, share: Shared, *, weighed: bool = True
    ) -> tuple[Samples, Samples]:
        """Milliseconds beside the original, and joules."""
        original = self._original(share)
        with share.alone():
            calls = {"before": self._call(original, self._place(ORIGINAL)), "after": self._call(artifact, place)}
            return interleave(calls, rounds=ROUNDS), self._energy(calls) if weighed else {}

    def _layers(self, model: nn.Module, artifact: Artifact, place: Path) -> tuple[LayerTime, ...]:
        if not self.layers:
            return ()
        batch = repeated(self.task.example, self.batch_size)
        return layer_times(model, self.task, self.target, artifact, place, self.threads, batch)

    def _transformed(self, recipe: Recipe, share: Shared) -> list[Step]:
        return transform(
            self.model, self.task, recipe, self.target,
            folder=self.stages, prefix=prefix_of(recipe), measure=True,
            work=self._work(self._place(prefix_of(recipe)) / "timed", share),
        )  # fmt: skip

    def _work(self, place: Path, share: Shared) -> Work:
        watch = Stopwatch(self.model, self.task, self.target, self.threads, self.batch_size, place)

        def faster(other: nn.Module) -> float:
            with share.alone():
                return watch(other)

        def race(modules: Mapping[str, nn.Module], example: Batch) -> Mapping[str, tuple[float, ...]]:
            with share.alone():
                return watch.race(modules, example)

        return Work(seed=self.seed, faster=faster, race=race, kernels=watch.kernels, traced=self.traced)

    def _place(self, name: str) -> Path:
        place = self.stages.state / name
        place.mkdir(parents=True, exist_ok=True)
        return place

    def _original(self, share: Shared) -> Artifact:
        place = self._place(ORIGINAL)
        path = place / "artifact.json"
        if not path.exists():
            with share.alone():  # two processes do not write the same files
                if not path.exists():
                    write_text(path, exported(self.model, self.task, self.target, place).model_dump_json())
        return Artifact.model_validate_json(path.read_text(encoding="utf-8"))

    def _call(self, artifact: Artifact, place: Path) -> Callable[[], object]:
        runner = runtime_of(self.target).load(artifact, place, self.threads)
        return caller(runner, artifact, repeated(self.task.example, self.batch_size))

    def _classes(self, found: Quality) -> dict[int, float]:
        return found.classes.by_label if self.classes and found.classes else {}

    def _energy(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, tuple[float, ...]]:
        """Joules per input; empty where the goal does not limit them."""
        if not self.energy:
            return {}
        meter, reason = survey()
        if meter is None:
            raise WorkerError(f"The goal limits energy, and {reason}.")
        return weigh(calls, meter, inputs=self.batch_size)

    def _peak(self, artifact: Artifact, place: Path) -> int | None:
        if not self.memory:
            return None
        save_example(place / "example.safetensors", self.task.example)
        return peak_memory(place, artifact, self.threads, self.batch_size)


def _first(task: Task) -> Task:
    """With the first examples of what transforms look at, as one batch."""
    split = next(filter(task.has, LOOKED_AT), None)
    few = None if split is None else list(task.batches(split, limit=EXAMPLES))
    return replace(task, train=None, calibration=few, validation=None, test=None, feed=default_feed)


def _pace(steps: list[Step]) -> float | None:
    trained = [(step.transform.epochs, step.seconds) for step in steps if isinstance(step.transform, Finetune)]
    epochs = sum(count for count, _ in trained)
    return sum(seconds for _, seconds in trained) / epochs if epochs else None
