"""How much faster a model is than another on a target, for transforms that have a latency to meet."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import nn

from lissom.export.catalogue import runtime_of
from lissom.measure.latency import interleave, paired_ratio
from lissom.pipeline.candidates import caller
from lissom.target import Target
from lissom.task import Task, repeated

ROUNDS = 20


def stopwatch(
    model: nn.Module, task: Task, target: Target, *, threads: int, batch_size: int
) -> Callable[[nn.Module], float]:
    """`model` is exported when the first question comes; every answer times both side by side.

    Returns:
        A function: a model -> latency of `model` / latency of that model, the median over interleaved rounds.
    """
    runtime, example = runtime_of(target), repeated(task.example, batch_size)

    def call(one: nn.Module, place: Path, name: str) -> Callable[[], object]:
        artifact = runtime.export(one, task.example, target.name, place, name)
        return caller(runtime.load(artifact, place, threads), artifact, example)

    def faster(other: nn.Module) -> float:
        with tempfile.TemporaryDirectory(prefix="lissom-") as scratch:
            calls = {"before": call(model, Path(scratch), "before"), "after": call(other, Path(scratch), "after")}
            samples = interleave(calls, rounds=ROUNDS)
        return paired_ratio(samples["before"], samples["after"]).median

    return faster
