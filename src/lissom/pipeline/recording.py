"""Steps as records: what the report says about each transform, and about the channels of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pydantic
from torch.fx import GraphModule

from lissom.files import write_text
from lissom.graph.graph import ChannelGroup, Graph, Layer, Node
from lissom.graph.groups import with_groups
from lissom.graph.moments import READABLE
from lissom.graph.trace import Trace
from lissom.measure.records import (
    ChannelRecord,
    CorrectionRecord,
    DistillationRecord,
    EpochRecord,
    SkipRecord,
    StepRecord,
    TrainingRecord,
)
from lissom.measure.synthesis import SynthesisRecord
from lissom.pipeline.transforming import Step
from lissom.recipe import title_of
from lissom.training.history import History, Pace
from lissom.training.settings import Training
from lissom.transforms.architecture import Choose
from lissom.transforms.base import Plan
from lissom.transforms.finetuning import Train
from lissom.transforms.pruning import Cut
from lissom.transforms.pruning.surgery import EXPORTED
from lissom.transforms.quantization import PrecisionTable
from lissom.transforms.quantization.searching import TABLE
from lissom.transforms.sparsity import ZeroWeights

RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
Axes = tuple[str, int, tuple[str, int] | None]
"""The parameter and axis of a layer's output channels, and those of its input channels."""


def step_records(steps: Sequence[Step], made_up: Sequence[str] = ()) -> tuple[StepRecord, ...]:
    """`made_up`: splits of the task that are no real data."""
    return tuple(
        StepRecord(
            transform=step.transform.name,
            settings=step.transform.model_dump(mode="json"),
            seconds=round(step.seconds, 3),
            metric=step.metric,
            title=title_of(step.transform),
            did=done_text(step.plan),
            macs=step.plan.predicted.macs,
            parameters=step.plan.predicted.parameters,
            module="exported graph" if isinstance(step.model, GraphModule) else "own class",
            reason=str(step.notes.get(EXPORTED, "")),
            training=_training(step),
            distillation=_distillation(step),
            synthesis=_synthesis(step),
            made_up=_made_up(step, made_up),
            corrections=_corrections(step),
        )
        for step in steps
    )


def _training(step: Step) -> TrainingRecord | None:
    if "history" not in step.notes:
        return None
    found = History.model_validate(step.notes["history"])
    # Timed when the model was studied; the training itself had no choice left.
    pace = Pace.model_validate(step.notes["pace"]) if "pace" in step.notes else found.pace
    return TrainingRecord(
        metric_name=found.metric_name,
        epochs=tuple(
            EpochRecord(loss=one.loss, learning_rate=one.learning_rate, metric=one.metric, seconds=one.seconds)
            for one in found.epochs
        ),
        chosen=found.chosen,
        precision=found.pace.precision,
        channels_last=found.pace.channels_last,
        step_ms=pace.step_ms,
    )


def _distillation(step: Step) -> DistillationRecord | None:
    found = step.notes.get("distillation")
    return None if found is None else DistillationRecord.model_validate(found)


def _synthesis(step: Step) -> SynthesisRecord | None:
    return None if "history" not in step.notes else History.model_validate(step.notes["history"]).synthesis


def _made_up(step: Step, made_up: Sequence[str]) -> tuple[str, ...]:
    """Splits that the step needs and that were made up; `train` for one that makes its inputs while it trains."""
    own = step.transform
    synthesized = isinstance(own, Training) and own.synthesis is not None
    found = {split for split in own.uses() if split in made_up} | ({"train"} if synthesized else set())
    return tuple(sorted(found))


def _corrections(step: Step) -> tuple[CorrectionRecord, ...]:
    """What was tried while ranges were set, then while weights were rounded."""
    noted = [step.notes.get(name) for name in ("corrections", "rounding")]
    return tuple(CorrectionRecord.model_validate(one) for each in noted if isinstance(each, list) for one in each)


def write_tables(steps: Sequence[Step], folder: Path) -> None:
    """`precision.json`: what a search for bits found out of each layer, to be asked again under another bound."""
    for step in steps:
        if TABLE in step.notes:
            table = PrecisionTable.model_validate(step.notes[TABLE])
            write_text(folder / "precision.json", table.model_dump_json(indent=1))


def skip_records(steps: Sequence[Step]) -> tuple[SkipRecord, ...]:
    return tuple(
        SkipRecord(transform=step.transform.name, layer=skip.layer, reason=skip.reason)
        for step in steps
        for skip in step.plan.skipped
    )


def channel_records(steps: Sequence[Step]) -> tuple[ChannelRecord, ...]:
    """Every layer's channels before the first pruning step and after the last; empty where nothing was pruned."""
    found: dict[str, ChannelRecord] = {}
    for step in steps:
        if Cut not in step.transform.actions.values():
            continue
        for one in layer_channels(step.trace, step.plan):
            first = found.get(one.layer)
            if first is not None:
                one = one.model_copy(update={"before": first.before, "inputs_before": first.inputs_before})
            found[one.layer] = one if one.before == one.after else one.model_copy(update={"reason": ""})
    return tuple(found.values())


def done_text(plan: Plan) -> str:
    """A plan in a few words: "3 groups of channels cut, in 9 layers", "272,474 parameters trained in bfloat16"."""
    cuts, trained = plan.of(Cut), plan.of(Train)
    parts: list[str] = []
    if cuts:
        layers = {cut.layer for cut in cuts}
        groups = {group for cut in cuts for group in cut.groups}
        parts.append(f"{_count(len(groups), 'group')} of channels cut, in {_count(len(layers), 'layer')}")
    if axes := plan.of(Choose):
        narrower = sum(one.chosen != one.choices[0] for one in axes)
        parts.append(f"{narrower} of {len(axes)} parts of the architecture smaller")
    for train in trained:
        order = ", channels last" if train.channels_last is True else ""
        parts.append(f"{train.parameters:,} parameters trained in {train.precision}{order}")
    if sparse := plan.of(ZeroWeights):
        zeros, size = sum(one.zeros for one in sparse), sum(one.size for one in sparse)
        pattern = f", {sparse[0].pattern}" if sparse[0].pattern else ""
        parts.append(f"{zeros:,} of {size:,} weights zero in {_count(len(sparse), 'layer')}{pattern}")
        if sparse[0].pattern and not sparse[0].skips_zeros:
            parts.append("no kernel of the target skips them")
    kinds: dict[str, int] = {}
    for action in plan.actions:
        if not isinstance(action, (Choose, Cut, Train, ZeroWeights)):
            kinds[action.kind] = kinds.get(action.kind, 0) + 1
    parts += [f"{count} x {kind}" for kind, count in kinds.items()]
    return "; ".join(parts) or "nothing"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def layer_channels(trace: Trace, plan: Plan) -> tuple[ChannelRecord, ...]:
    """The channels of every layer of the traced model before and after the cuts of a plan."""
    graph = with_groups(trace)
    cuts: dict[tuple[str, int], Cut] = {(cut.parameter, cut.axis): cut for cut in plan.of(Cut)}
    reasons = {skip.layer: skip.reason for skip in plan.skipped}
    groups = {(m.parameter, m.axis): group for group in reversed(graph.groups) for m in group.members}
    layers: dict[str, tuple[Layer, Axes]] = {}
    for layer in graph.layers:
        axes = _axes(graph, layer)
        if axes is not None:
            layers.setdefault(layer.name, (layer, axes))
    made = {name: groups.get(axes[:2]) for name, (_, axes) in layers.items()}
    return tuple(_record(graph, cuts, layer, axes, made, reasons) for layer, axes in layers.values())


def _record(
    graph: Graph,
    cuts: dict[tuple[str, int], Cut],
    layer: Layer,
    axes: Axes,
    made: dict[str, ChannelGroup | None],
    reasons: dict[str, str],
) -> ChannelRecord:
    parameter, axis, inputs = axes
    before, after = _size(graph, cuts, parameter, axis)
    sizes = _size(graph, cuts, *inputs) if inputs else (None, None)
    group = made[layer.name]
    same = (name for name, other in made.items() if group is not None and other is group and name != layer.name)
    return ChannelRecord(
        layer=layer.name,
        op=layer.op,
        before=before,
        after=after,
        inputs_before=sizes[0],
        inputs_after=sizes[1],
        coupled=tuple(same),
        reason="" if after < before else _reason(group, reasons),
    )


def _axes(graph: Graph, layer: Layer) -> Axes | None:
    """None for a layer without channels of its own, such as a normalization."""
    node = graph.by_name[layer.node]
    held = [o.source for o in node.operands if o.kind == "parameter" and len(graph.tensor_by_name[o.source].shape) > 1]
    if not held:
        return None
    first = held[0]
    shape = graph.tensor_by_name[first].shape
    if node.op in READABLE:  # their weight is (outputs, inputs, ...)
        grouped = node.op != "linear" and _grouped(graph, node, shape[1])
        return first, 0, None if grouped else (first, 1)
    if node.op.startswith("conv_transpose"):
        # Depthwise: both are on the first axis. Otherwise grouped ones: the axis holds a group's share.
        return (first, 0, None) if shape[1] == 1 and shape[0] > 1 else (first, 1, (first, 0))
    if node.op == "embedding":
        return first, 1, None
    if node.op in RECURRENT:
        return (held[1] if len(held) > 1 else first, 1, (first, 1))
    return (first, len(shape) - 1, (first, len(shape) - 2)) if node.op in ("matmul", "mm") else None


def _grouped(graph: Graph, node: Node, of_weight: int) -> bool:
    source = graph.shape_of(node.values[0]) if node.values else ()
    channels = source[1] if len(source) > 1 else None
    return channels != of_weight


def _size(graph: Graph, cuts: dict[tuple[str, int], Cut], parameter: str, axis: int) -> tuple[int, int]:
    before = graph.tensor_by_name[parameter].shape[axis]
    cut = cuts.get((parameter, axis))
    return before, len(cut.kept) if cut else before


def _reason(group: ChannelGroup | None, reasons: dict[str, str]) -> str:
    if group is None:
        return "its outputs are not channels that can be cut"
    own = group.name.split("#")[0].rpartition(".")[0] or group.name
    return reasons.get(own) or group.reason or "none of its channels is among the least important"


class _Plans(pydantic.RootModel[tuple[Plan, ...]]):
    pass


def plans_json(plans: tuple[Plan, ...]) -> str:
    return _Plans(plans).model_dump_json(indent=1)
