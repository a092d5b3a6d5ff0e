"""Original against compressed on one runtime: metric on its own outputs, interleaved latency, memory, kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pydantic
import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from lissom.errors import FailureError, VerificationError, first_line
from lissom.export.base import Artifact, Runner, run
from lissom.export.catalogue import runtime_of
from lissom.export.kernels import match_kernels
from lissom.graph.graph import Graph
from lissom.graph.trace import Trace, evaluation, trace
from lissom.measure.artifacts import peak_memory, predictor, structure_of
from lissom.measure.energy import summed_up, survey, weigh
from lissom.measure.latency import interleave, paired_ratio, summarise
from lissom.measure.layers import sqnr_db
from lissom.measure.metric_records import Quality
from lissom.measure.quality import assess, parity
from lissom.measure.records import EnergyUse, LayerRecord, Parity, Ratios, Side
from lissom.metrics import metrics_of
from lissom.pipeline.candidates import caller
from lissom.pipeline.naming import by_planned_name
from lissom.pipeline.transforming import Step
from lissom.pipeline.zeros import nonzeros, unrounded, zero_shares
from lissom.runfolder import RunFolder
from lissom.target import Target
from lissom.task import Batch, Split, Task, repeated, sliced
from lissom.transforms.quantization import planned_precision, stored_as

ROUNDS = 40
ERROR_EXAMPLES = 64
"""Examples that per-layer quantization errors and the parity of torch and runtime are taken on."""
PARITY_LIMIT = 1.0
"""Mean difference of torch and runtime, in int8 steps of the output's range, beyond which a run is refused."""


@dataclass(frozen=True)
class Measured:
    before: Side
    after: Side
    ratios: Ratios
    layers: tuple[LayerRecord, ...]
    parity: Parity | None
    notes: tuple[str, ...]


class _Quality(pydantic.BaseModel):
    found: Quality | None


class _Samples(pydantic.BaseModel):
    before: tuple[float, ...]
    after: tuple[float, ...]


class _Memory(pydantic.BaseModel):
    before: int | None
    after: int | None
    failure: str = ""


class _Energy(pydantic.BaseModel):
    before: EnergyUse | None = None
    after: EnergyUse | None = None
    failure: str = ""


class _Layers(pydantic.BaseModel):
    layers: tuple[LayerRecord, ...]
    parity: Parity | None
    note: str = ""


def measure(  # noqa: PLR0913  keywords of one call site
    model: nn.Module,
    task: Task,
    graph: Graph,
    steps: Sequence[Step],
    target: Target,
    artifacts: tuple[Artifact, Artifact],
    *,
    folder: RunFolder,
    threads: int,
    batch_size: int,
    tick: Callable[[float], None],
) -> Measured:
    """Everything the report says about two artifacts (original, compressed); each part saved when done.

    Raises:
        VerificationError: the runtime's outputs are not those that torch simulated.
    """
    runtime, place = runtime_of(target), folder.path
    original, compressed = artifacts
    runners = [runtime.load(a, place, threads) for a in artifacts]
    after_model = steps[-1].model if steps else model
    after_trace = trace(after_model, task.example)

    layers = folder.stage(
        "layers",
        _Layers,
        lambda: _layers(task, graph, steps, after_trace, runtime, compressed, runners[1], folder),
    )
    tick(0.15)
    with evaluation(model):
        rebuild = structure_of(model, task.example)
    split: Split = "test" if task.has("test") else "validation"
    qualities: list[Quality | None] = []
    for index, (name, artifact, runner) in enumerate(zip(("before", "after"), artifacts, runners, strict=True)):
        predict = predictor(runner, artifact, rebuild)
        saved = folder.stage(f"metric-{name}", _Quality, lambda p=predict: _Quality(found=_quality(task, split, p)))
        qualities.append(saved.found)
        tick(0.15 + 0.25 * (index + 1))
    memory = folder.stage("memory", _Memory, lambda: _memory(folder, artifacts, threads, batch_size))
    tick(0.75)
    example = repeated(task.example, batch_size)
    samples = folder.stage(
        "latency",
        _Samples,
        lambda: _Samples(
            **interleave(
                {
                    "before": caller(runners[0], original, example),
                    "after": caller(runners[1], compressed, example),
                },
                rounds=ROUNDS,
                progress=lambda share: tick(0.75 + 0.25 * share),
            )
        ),
    )
    energy = folder.stage("energy", _Energy, lambda: _energy(runners, artifacts, example))
    sides = [
        Side(
            metric=quality.metric if quality else None,
            metrics=quality.further if quality else (),
            classes=quality.classes if quality else None,
            latency_ms=summarise(taken),
            batch_size=batch_size,
            size_bytes=artifact.size_bytes,
            parameters=found.parameters,
            macs=found.macs,
            peak_memory_bytes=peak,
            nonzeros=nonzeros(own),
            energy=used,
        )
        for quality, taken, artifact, found, own, peak, used in zip(
            qualities,
            (samples.before, samples.after),
            artifacts,
            (graph, _counted(steps, graph, after_trace.graph)),
            (steps[0].trace if steps else after_trace, unrounded(steps, after_trace)),
            (memory.before, memory.after),
            (energy.before, energy.after),
            strict=True,
        )
    ]
    ratio = paired_ratio(samples.before, samples.after)
    less = paired_ratio(energy.before.samples, energy.after.samples) if energy.before and energy.after else None
    return Measured(
        before=sides[0],
        after=sides[1],
        ratios=Ratios(
            size=sides[0].size_bytes / sides[1].size_bytes,
            latency=ratio.median,
            latency_low=ratio.low,
            latency_high=ratio.high,
            macs=_ratio(sides[0].macs, sides[1].macs),
            parameters=_ratio(sides[0].parameters, sides[1].parameters),
            energy=less.median if less else None,
            energy_low=less.low if less else None,
            energy_high=less.high if less else None,
        ),
        layers=layers.layers,
        parity=layers.parity,
        notes=tuple(_notes(graph, original, layers, memory, energy, split, measured=qualities[0] is not None)),
    )


def _ratio(before: int, after: int) -> float:
    return before / after if after else 1.0


def _counted(steps: Sequence[Step], graph: Graph, after: Graph) -> Graph:
    """The graph whose parameters and products the compressed model has: before rounding, which hides them."""
    if not steps:
        return graph
    return steps[-1].trace.graph if steps[-1].transform.stage == "quantize" else after


def _quality(task: Task, split: Split, predict: Callable[[Batch], object]) -> Quality | None:
    if task.metric is None or not task.has(split):
        return None
    kind = "test" if split == "test" else "validation"
    return assess(predict, task.batches(split), metrics_of(task), split=kind)


def _memory(folder: RunFolder, artifacts: tuple[Artifact, Artifact], threads: int, batch_size: int) -> _Memory:
    try:
        before, after = (peak_memory(folder.path, a, threads, batch_size) for a in artifacts)
    except FailureError as wrong:
        return _Memory(before=None, after=None, failure=first_line(wrong))
    return _Memory(before=before, after=after)


def _energy(runners: Sequence[Runner], artifacts: tuple[Artifact, Artifact], example: Batch) -> _Energy:
    """Nothing, and no word about it, where the machine exposes no counters."""
    meter, _ = survey()
    if meter is None:
        return _Energy()
    calls = {
        name: caller(runner, artifact, example)
        for name, runner, artifact in zip(("before", "after"), runners, artifacts, strict=True)
    }
    try:
        used = weigh(calls, meter, inputs=example.size)
    except FailureError as wrong:
        return _Energy(failure=first_line(wrong))
    return _Energy(before=summed_up(used["before"]), after=summed_up(used["after"]))


def _layers(
    task: Task,
    graph: Graph,
    steps: Sequence[Step],
    after: Trace,
    runtime: object,
    artifact: Artifact,
    runner: Callable[..., object],
    folder: RunFolder,
) -> _Layers:
    """What each layer was planned to be, ran as, and lost; and whether torch and the runtime agree."""
    batch = _sample(task)
    found = runtime.kernels(artifact, folder.path)  # type: ignore[attr-defined]
    ran = match_kernels(artifact, found, after.graph)
    planned: dict[str, str] = {}
    stored: dict[str, str] = {}
    errors: dict[str, float] = {}
    last = steps[-1] if steps else None
    names = graph if last is None else last.trace.graph
    if last is not None and isinstance(last.model, GraphModule):
        planned, stored = planned_precision(last.plan), stored_as(last.plan)
        ran = by_planned_name(last.model, after.graph, ran)
        errors = sqnr_db(last.trace.module, last.model, batch, set(names.by_name))
    held = {layer.name: layer for layer in graph.layers}
    zeros = zero_shares(steps, after)
    records = tuple(
        LayerRecord(
            layer=layer.name,
            op=layer.op,
            macs=layer.macs,
            parameters_before=held[layer.name].parameters if layer.name in held else layer.parameters,
            parameters_after=layer.parameters,
            planned=planned.get(layer.node, "float32"),
            ran=ran.get(layer.node, "unknown"),
            sqnr_db=errors.get(layer.node),
            weights=stored.get(layer.node, "float32" if layer.bytes else ""),
            zeros=zeros.get(layer.name, (0.0, ""))[0],
            pattern=zeros.get(layer.name, (0.0, ""))[1],
        )
        for layer in names.layers
    )
    agreement = _parity(after, artifact, runner, batch, rounded=bool(planned))
    return _Layers(layers=records, parity=agreement)


def _sample(task: Task) -> Batch:
    for split in ("calibration", "validation", "test", "train"):
        if task.has(split):
            batch = next(task.batches(split, limit=ERROR_EXAMPLES))
            return sliced(batch, 0, ERROR_EXAMPLES)
    return task.example


def _parity(after: Trace, artifact: Artifact, runner: Callable[..., object], batch: Batch, *, rounded: bool) -> Parity:
    fixed = after.graph.fixed_batch
    if fixed is not None:
        batch = repeated(batch, fixed)
    with torch.no_grad():
        outputs = after.module(*batch.args, **dict(batch.kwargs))
    simulated = [t for t in pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor)]
    measured = run(runner, artifact, batch)  # type: ignore[arg-type]
    found = parity([t.numpy() for t in simulated], [t.numpy() for t in measured])
    if not np.isfinite(found.max_steps) or found.mean_steps > PARITY_LIMIT:
        raise VerificationError(
            f"The runtime's outputs differ from what torch simulated by {found.mean_steps:.2f} int8 steps on average "
            f"(allowed {PARITY_LIMIT:g}). The exported file does not compute this model; try another target, and "
            "exclude the layers named in the plan's last actions to find the one that differs."
        )
    return found


def _notes(
    graph: Graph,
    original: Artifact,
    layers: _Layers,
    memory: _Memory,
    energy: _Energy,
    split: str,
    *,
    measured: bool,
) -> Iterator[str]:
    floats = [one.layer for one in layers.layers if one.planned.startswith("int") and not one.ran.startswith("int")]
    if floats:
        yield (
            f"{len(floats)} layers were quantized but do not run in integers on this runtime: {', '.join(floats[:8])}"
            f"{', ...' if len(floats) > 8 else ''}."
        )
    if not graph.dynamic_batch:
        yield "The model accepts only the example's batch size; other sizes are run in pieces of it."
    if graph.uncounted:
        yield f"Operators whose cost is not counted: {', '.join(sorted(graph.uncounted))}."
    if not measured:
        yield "No metric was measured: the task has no metric or no test or validation data."
    elif split == "validation":
        yield "The metric is on the validation split, which also served to choose; the task has no test split."
    if memory.failure:
        yield f"Peak memory was not measured: {memory.failure}"
    if energy.failure:
        yield f"Energy was not measured: {energy.failure}"
    if original.batch is not None and not original.fixed:
        yield f"The exported model takes up to {original.batch} examples a call; larger batches are run in pieces."
