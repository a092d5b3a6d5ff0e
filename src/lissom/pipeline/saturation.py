"""What a target's integers do to a model: which values are clipped, where the noise comes from, what can overflow.

The model is folded and quantized as `Quantize` would do it, without corrections, so that the figures are those of the
rounding itself. Ranges and clipped shares come from the calibration data. Noise is given three times for each product:
of its own rounding alone, accumulated over all layers before it, and at the end as the runtime computes it. Overflow:
`lissom.functional.overflow`.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from lissom.errors import TargetError
from lissom.export.base import run
from lissom.export.catalogue import runtime_of
from lissom.functional.clipping import clipped_share, rounding_sqnr_db, tail
from lissom.functional.overflow import LARGEST_INPUT, saturates_here, worst_pair
from lissom.graph.lockstep import attribute
from lissom.graph.statistics import Statistics
from lissom.graph.trace import Trace, trace
from lissom.measure.environment import available_cores
from lissom.measure.layers import Rounded, own_sqnr_db, ratio_db, sqnr_db
from lissom.measure.records import LayerSaturation, Saturation, ValueSaturation
from lissom.progress import Report
from lissom.target import Target, load_target
from lissom.task import Batch, Task, repeated, sliced
from lissom.transforms.base import Plan, Work, calibration_split
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize
from lissom.transforms.quantization.actions import RoundActivation, StoreWeight
from lissom.transforms.quantization.calibrating import Calibration
from lissom.transforms.quantization.placement import root_of

EXAMPLES = 64
"""Examples that noise is measured on."""


def saturation(
    model: nn.Module,
    task: Task,
    *,
    target: str = "onnxruntime",
    calibration: Calibration = "auto",
    progress: Report | None = None,
) -> Saturation:
    """Clipping, noise and overflow of `model` in the integers of `target`. The model is not changed.

    Raises:
        TargetError: no such target.
        DataError: the task has no calibration data and no training data.
    """
    chosen = load_target(target)
    folded, traced = _folded(model, task, chosen)
    quantize = Quantize(calibration=calibration, corrections=())
    # Min-max keeps no histograms by itself, and they tell what would be clipped.
    seen_by = Quantize(calibration="mse", corrections=()) if calibration == "minmax" else quantize
    split = calibration_split(quantize.name, task)
    if progress:
        progress(0.1, "calibrate")
    work = Work(tick=lambda share: progress(0.1 + 0.5 * share, "calibrate")) if progress else Work()
    study = seen_by.study(folded, traced, task, chosen, work)
    assert study is not None  # static
    plan = quantize.plan(traced.graph, study, chosen)
    simulated = quantize.apply(folded, plan, traced, task)
    assert isinstance(simulated, GraphModule)
    # What could overflow is told on every machine: also where the rounding above was widened against it.
    bare = quantize.model_copy(update={"overflow_fix": "off"})
    plain = bare.apply(folded, bare.plan(traced.graph, study, chosen), traced, task)
    assert isinstance(plain, GraphModule)
    if progress:
        progress(0.7, "noise")
    batch = _sample(task, split, traced.graph.fixed_batch)
    layers = _layers(traced, plan, simulated, plain, batch)
    wanted = _outputs(traced.module, batch)
    runtime_db, note = _on_runtime(simulated, task, chosen, batch, wanted)
    if progress:
        progress(1.0, "noise")
    return Saturation(
        target=chosen.name,
        calibration=calibration,
        examples=study.examples,
        vnni=not saturates_here(),
        values=_values(plan, study, traced),
        layers=layers,
        simulated_db=ratio_db(wanted, _outputs(simulated, batch)),
        runtime_db=runtime_db,
        notes=(note,) if note else (),
    )


def _folded(model: nn.Module, task: Task, target: Target) -> tuple[nn.Module, Trace]:
    first, fold = trace(model, task.example), Fold()
    folded = fold.apply(model, fold.plan(first.graph, None, target), first, task)
    return folded, trace(folded, task.example)


def _sample(task: Task, split: str, fixed: int | None) -> Batch:
    kind: Literal["calibration", "train"] = "calibration" if split == "calibration" else "train"
    first = next(task.batches(kind, limit=EXAMPLES))
    return repeated(first, fixed) if fixed is not None else sliced(first, 0, EXAMPLES)


def _values(plan: Plan, study: Statistics, traced: Trace) -> tuple[ValueSaturation, ...]:
    found: list[ValueSaturation] = []
    for action in plan.of(RoundActivation):
        seen = study.histograms.get(root_of(traced.graph, action.value))
        if seen is None:
            continue
        found.append(
            ValueSaturation(
                value=action.value,
                layer=action.layer,
                low=action.range.low,
                high=action.range.high,
                grid_low=action.numbers.low,
                grid_high=action.numbers.high,
                dtype=action.numbers.dtype,
                method=action.method,
                clipped=clipped_share(seen, action.numbers),
                tail=tail(seen),
                sqnr_db=rounding_sqnr_db(seen, action.numbers),
            )
        )
    return tuple(found)


def _layers(
    traced: Trace, plan: Plan, simulated: GraphModule, plain: GraphModule, batch: Batch
) -> tuple[LayerSaturation, ...]:
    """Noise of `simulated`, overflow of the weights of `plain`."""
    inputs = {reader: one.numbers for one in plan.of(RoundActivation) for reader in one.readers}
    steps: dict[str, Tensor] = {}
    jobs: dict[str, Rounded] = {}
    for stored in plan.of(StoreWeight):
        held = attribute(simulated, f"{stored.parameter}_int8")
        shape = [-1] + [1] * (held.ndim - 1)
        scale = attribute(simulated, f"{stored.parameter}_scale").reshape(shape)
        for node in stored.nodes:
            steps[node] = attribute(plain, f"{stored.parameter}_int8")
            jobs[node] = Rounded(inputs.get((node, 0)), held.float() * scale)
    own = own_sqnr_db(traced.module, batch, jobs)
    accumulated = sqnr_db(traced.module, simulated, batch, set(jobs))
    found: list[LayerSaturation] = []
    for node in traced.graph.nodes:
        numbers = inputs.get((node.name, 0))
        if node.name not in jobs or numbers is None:
            continue
        pair = worst_pair(steps[node.name], LARGEST_INPUT)
        found.append(
            LayerSaturation(
                layer=node.layer or node.name,
                op=node.op,
                input_dtype=numbers.dtype,
                highest=pair.highest,
                lowest=pair.lowest,
                rows=steps[node.name].shape[0],
                rows_at_risk=pair.rows,
                own_db=own.get(node.name),
                accumulated_db=accumulated.get(node.name),
            )
        )
    return tuple(found)


def _outputs(module: GraphModule, batch: Batch) -> list[Tensor]:
    with torch.no_grad():
        made = module(*batch.args, **dict(batch.kwargs))
    return [t.double() for t in pytree.tree_leaves(made) if isinstance(t, Tensor) and t.is_floating_point()]


def _on_runtime(
    simulated: nn.Module, task: Task, target: Target, batch: Batch, wanted: list[Tensor]
) -> tuple[float | None, str]:
    runtime = runtime_of(target)
    here = runtime.availability()
    if not here.found:
        return None, f"{target.title} was not asked: {here.detail}"
    with tempfile.TemporaryDirectory(prefix="lissom-") as place:
        try:
            artifact = runtime.export(simulated, task.example, target.name, Path(place), "model")
        except TargetError as wrong:
            return None, f"{target.title} was not asked: {wrong}"
        made = run(runtime.load(artifact, Path(place), available_cores()), artifact, batch)
    found = ratio_db(wanted, [t.double() for t in made if t.is_floating_point()])
    return (found if found is None or math.isfinite(found) else None), ""
