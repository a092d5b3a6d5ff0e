"""How much faster a model, or a layer, is than another on a target: for transforms that go by measured latency."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from lissom.export.catalogue import runtime_of
from lissom.export.kernels import match_kernels
from lissom.graph.trace import trace
from lissom.measure.latency import interleave, paired_ratio
from lissom.pipeline.candidates import caller
from lissom.pipeline.naming import by_planned_name
from lissom.target import Target
from lissom.task import Batch, Task, repeated

ROUNDS = 20
LAYER_ROUNDS = 15
LAYER_BLOCK_MS = 10.0


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

    def race(self, modules: Mapping[str, nn.Module], example: Batch) -> dict[str, tuple[float, ...]]:
        """Milliseconds per call of every module, one for each round. `example` is what belongs to one example of the
        task; it is repeated to the batch size."""
        runtime, inputs = runtime_of(self.target), repeated(example, example.size * self.batch_size)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as made:
            place = Path(made)
            calls: dict[str, Callable[[], object]] = {}
            for name, module in modules.items():
                artifact = runtime.export(module, inputs, self.target.name, place, name)
                calls[name] = caller(runtime.load(artifact, place, self.threads), artifact, inputs)
            block = LAYER_BLOCK_MS
            return interleave(calls, rounds=LAYER_ROUNDS, block_ms=block, warmup_ms=5 * block, rest_ms=block)

    def kernels(self, other: nn.Module) -> dict[str, str]:
        """How the target computes the operators of `other`, by node of its own graph."""
        runtime = runtime_of(self.target)
        self.folder.mkdir(parents=True, exist_ok=True)
        artifact = runtime.export(other, self.task.example, self.target.name, self.folder, "read")
        graph = trace(other, self.task.example).graph
        ran = match_kernels(artifact, runtime.kernels(artifact, self.folder), graph)
        return by_planned_name(other, graph, ran)

    @cached_property
    def _before(self) -> Callable[[], object]:
        """Exported when the first question comes, and once."""
        return self._call(self.model, "before")

    def _call(self, one: nn.Module, name: str) -> Callable[[], object]:
        runtime, example = runtime_of(self.target), repeated(self.task.example, self.batch_size)
        self.folder.mkdir(parents=True, exist_ok=True)
        artifact = runtime.export(one, self.task.example, self.target.name, self.folder, name)
        return caller(runtime.load(artifact, self.folder, self.threads), artifact, example)
