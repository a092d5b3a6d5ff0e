"""The one way contenders are compared: same process, same runtime settings, interleaved blocks, own outputs."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lissom
from benchmarks.results import Figure
from lissom.export.base import Artifact, Runner, artifact_of, run
from lissom.export.catalogue import runtime_of
from lissom.measure.artifacts import predictor, structure_of
from lissom.measure.environment import environment, versions
from lissom.measure.latency import interleave, paired_ratio
from lissom.measure.quality import Predict, evaluate, scores
from lissom.measure.records import Environment
from lissom.metrics import as_metric
from lissom.pipeline.candidates import caller
from lissom.pipeline.transforming import Step, transform
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Batch, Task, repeated
from lissom.transforms.folding import Fold

REST_MS = 60.0
"""Longer than in the product: twice as many contenders, and the figures are published."""
PEERS = ("nncf", "transformers", "timm", "torch-pruning", "tensorly")
Samples = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Contender:
    """A file and the runtime it runs on. `seconds`: what making it took, export included."""

    name: str
    artifact: Artifact
    folder: Path
    seconds: float = 0.0

    @property
    def target(self) -> str:
        return self.artifact.target

    def load(self, threads: int) -> Runner:
        """Every contender, ours or not, is loaded by the same code with the same settings."""
        return runtime_of(load_target(self.target)).load(self.artifact, self.folder, threads)


def machine(threads: int) -> Environment:
    """The environment with the versions of the peers."""
    found = environment(threads)
    return found.model_copy(update={"versions": {**found.versions, **versions(PEERS)}})


def recorded(model: nn.Module, task: Task, place: Path, **asked: Any) -> dict[str, Any]:
    """`result.json` of a whole run in `place`, as a user asks for it; a killed one goes on there."""
    # One thread wherever it runs: a folder is continued with the threads that it was begun with.
    lissom.compress(model, task, out=place, threads=1, **asked)
    return json.loads((place / "result.json").read_text(encoding="utf-8"))


def compressed(
    model: nn.Module, task: Task, recipe: Recipe, target: str, folder: Path, *, name: str = "lissom"
) -> Contender:
    """Ours: the recipe, planned for the target, exported."""
    started = time.perf_counter()
    steps: list[Step] = transform(model, task, recipe, load_target(target))
    after = steps[-1].model if steps else model
    return exported(after, task, target, folder, name=name, started=started)


def folded(model: nn.Module, task: Task, target: str, folder: Path) -> Contender:
    """The float control, normalizations folded: what every quantizer here starts from."""
    return compressed(model, task, Recipe([Fold()]), target, folder, name="float")


def exported(
    model: nn.Module, task: Task, target: str, folder: Path, *, name: str, started: float | None = None
) -> Contender:
    began = time.perf_counter() if started is None else started
    written = runtime_of(load_target(target)).export(model, task.example, target, folder, f"{name}-{target}")
    return Contender(name, written, folder, round(time.perf_counter() - began, 2))


def retarget(contender: Contender, target: str, *, name: str | None = None) -> Contender:
    """The same file on another runtime."""
    moved = contender.artifact.model_copy(update={"target": target})
    return Contender(name or contender.name, moved, contender.folder, contender.seconds)


def foreign(name: str, target: str, files: Sequence[Path], like: Artifact, seconds: float) -> Contender:
    """A peer's file, with the inputs and outputs of the float file it was made from."""
    folder = files[0].parent
    described = artifact_of(
        target,
        folder,
        [file.name for file in files],
        like.inputs,
        like.outputs,
        batch=like.batch,
        fixed=like.fixed,
    )
    return Contender(name, described, folder, round(seconds, 2))


def key(contender: Contender) -> str:
    return f"{contender.target}/{contender.name}"


def race(
    contenders: Sequence[Contender], example: Batch, batch_size: int, *, rounds: int, threads: int, block_ms: float = 60
) -> Samples:
    """Milliseconds a call of every contender, block medians, interleaved, with a rest before every block."""
    inputs = repeated(example, batch_size)
    runners = {key(c): (c, c.load(threads)) for c in contenders}
    calls = {name: caller(runner, contender.artifact, inputs) for name, (contender, runner) in runners.items()}
    gc.collect()
    return interleave(calls, rounds=rounds, block_ms=block_ms, rest_ms=REST_MS)


def faster(samples: Mapping[str, Sequence[float]], slow: str, fast: str, note: str = "") -> Figure:
    """How many times faster `fast` is than `slow`, paired by round."""
    return Figure.of(paired_ratio(samples[slow], samples[fast]), "x", note)


def accuracy(contender: Contender, model: nn.Module, task: Task, threads: int) -> float:
    """Per cent of the test split, of the outputs that the runtime itself computes."""
    found = evaluate(
        _predict(contender, model, task, threads), task.batches("test"), as_metric(task.metric), split="test"
    )
    return 100 * found.value


def answers(contender: Contender, model: nn.Module, task: Task, threads: int) -> list[int]:
    """1 for every example of the test split whose class the runtime finds, else 0."""
    found = scores(_predict(contender, model, task, threads), task.batches("test"), as_metric(task.metric))
    assert found is not None, "accuracy is a score of each example"
    return found.int().tolist()


def _predict(contender: Contender, model: nn.Module, task: Task, threads: int) -> Predict:
    return predictor(contender.load(threads), contender.artifact, structure_of(model, task.example))


def outputs(contender: Contender, inputs: Sequence[Batch], threads: int) -> np.ndarray:
    """The first output for all batches, rows joined."""
    runner = contender.load(threads)
    return torch.cat([run(runner, contender.artifact, batch)[0] for batch in inputs]).numpy()


def sqnr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    """10 log10(sum of wanted^2 / sum of (wanted - got)^2)."""
    signal, noise = np.square(wanted, dtype=np.float64), np.square(wanted - got, dtype=np.float64)
    return float(10 * np.log10(signal.sum() / max(noise.sum(), np.finfo(np.float64).tiny)))


def made(contender: Contender, errors: Mapping[str, float]) -> dict[str, float | str]:
    """What a run says beside its samples; the float file that errors are taken against has none itself."""
    figures: dict[str, float | str] = {"bytes": contender.artifact.size_bytes, "seconds to make": contender.seconds}
    return {"SQNR dB": errors[key(contender)], **figures} if key(contender) in errors else figures
