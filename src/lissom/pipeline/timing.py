"""How much faster a model is than another on a target, for transforms that have a latency to meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from lissom.export.catalogue import runtime_of
from lissom.measure.latency import interleave, paired_ratio
from lissom.pipeline.candidates import caller
from lissom.target import Target
from lissom.task import Task, repeated

ROUNDS = 20


@dataclass(frozen=True, eq=False)
class Stopwatch:
    """Called with a model: latency of `model` / latency of that one, the median over interleaved rounds."""

    model: nn.Module
    task: Task
    target: Target
    threads: int
    batch_size: int
    folder: Path
    """Where the files that are timed lie; it may not exist yet."""

    def __call__(self, other: nn.Module) -> float:
        calls = {"before": self._before, "after": self._call(other, "after")}
        samples = interleave(calls, rounds=ROUNDS)
        return paired_ratio(samples["before"], samples["after"]).median

    @cached_property
    def _before(self) -> Callable[[], object]:
        """Exported when the first question comes, and once."""
        return self._call(self.model, "before")

    def _call(self, one: nn.Module, name: str) -> Callable[[], object]:
        runtime, example = runtime_of(self.target), repeated(self.task.example, self.batch_size)
        self.folder.mkdir(parents=True, exist_ok=True)
        artifact = runtime.export(one, self.task.example, self.target.name, self.folder, name)
        return caller(runtime.load(artifact, self.folder, self.threads), artifact, example)
