"""Steps as records: what the report says about each transform, and about the channels of each layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pydantic
from torch.fx import GraphModule

from lissom.files import write_text
from lissom.measure.environment import unlike
from lissom.measure.records import (
    ChannelRecord,
    CorrectionRecord,
    DistillationRecord,
    EpochRecord,
    SkipRecord,
    StepRecord,
    TrainingRecord,
)
from lissom.measure.search_records import SearchRecord
from lissom.measure.synthesis import SynthesisRecord
from lissom.pipeline.architectures import architecture
from lissom.pipeline.channels import layer_channels
from lissom.pipeline.transforming import Step
from lissom.recipe import title_of
from lissom.training.history import History, Pace
from lissom.training.settings import Training
from lissom.transforms.architecture import Choose
from lissom.transforms.base import Plan, SetBits
from lissom.transforms.finetuning import Train
from lissom.transforms.pruning import Cut
from lissom.transforms.pruning.surgery import EXPORTED
from lissom.transforms.quantization import PrecisionTable
from lissom.transforms.quantization.searching import TABLE
from lissom.transforms.sparsity import ZeroWeights


def moved_notes(machines: Sequence[str], search: SearchRecord | None) -> Iterator[str]:
    """Of a run that was continued, or whose search was shared, on another machine, or went on without others."""
    if len(machines) > 1:
        others = "; ".join(unlike(one, machines[-1]) for one in dict.fromkeys(machines[:-1]) if one != machines[-1])
        yield f"The run was begun on another machine ({others}). Every latency was taken again on the one it ended on."
    yield from search.fallbacks if search else ()
    for one in search.moved if search else ():
        left = f"; {one.left} others were not, for want of time, and do not count" if one.left else ""
        yield (
            f"Candidates that had been measured on another machine ({one.machine}) were measured again before they "
            f"were compared: {one.again}{left}."
        )


def step_records(steps: Sequence[Step], made_up: Sequence[str] = ()) -> tuple[StepRecord, ...]:
    """`made_up`: splits of the task that are no real data."""
    return tuple(
        StepRecord(
            transform=step.transform.name,
            settings=step.transform.model_dump(mode="json"),
            seconds=round(step.seconds, 3),
            metric=step.metric,
            metrics=step.quality.further if step.quality else (),
            title=title_of(step.transform),
            did=_did(step),
            macs=step.plan.predicted.macs,
            parameters=step.plan.predicted.parameters,
            module="exported graph" if isinstance(step.model, GraphModule) else "own class",
            reason=str(step.notes.get(EXPORTED, "")),
            training=_training(step),
            distillation=_distillation(step),
            synthesis=_synthesis(step),
            made_up=_made_up(step, made_up),
            corrections=_corrections(step),
            architecture=architecture(step),
        )
        for step in steps
    )


def _training(step: Step) -> TrainingRecord | None:
    if "history" not in step.notes:
        return None
    found = History.model_validate(step.notes["history"])
    # Precision and order are timed when the model is studied; the training itself may have compiled it.
    studied = Pace.model_validate(step.notes["pace"]).step_ms if "pace" in step.notes else {}
    return TrainingRecord(
        metric_name=found.metric_name,
        epochs=tuple(
            EpochRecord(loss=one.loss, learning_rate=one.learning_rate, metric=one.metric, seconds=one.seconds)
            for one in found.epochs
        ),
        chosen=found.chosen,
        precision=found.pace.precision,
        channels_last=found.pace.channels_last,
        compiled=bool(found.pace.compiled_for),
        step_ms={**studied, **found.pace.step_ms},
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


def _did(step: Step) -> str:
    """With the criterion that was taken, where the recipe left it open."""
    criterion = step.notes.get("criterion")
    return done_text(step.plan) + (f", by {criterion}" if criterion else "")


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
    if rounded := plan.of(SetBits):
        few = sum(one.bits < 32 for one in rounded)
        parts.append(f"integers chosen for {_count(few, 'layer')}, for the Quantize that follows")
    kinds: dict[str, int] = {}
    for action in plan.actions:
        if not isinstance(action, (Choose, Cut, SetBits, Train, ZeroWeights)):
            kinds[action.kind] = kinds.get(action.kind, 0) + 1
    parts += [f"{count} x {kind}" for kind, count in kinds.items()]
    return "; ".join(parts) or "nothing"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


class _Plans(pydantic.RootModel[tuple[Plan, ...]]):
    pass


def plans_json(plans: tuple[Plan, ...]) -> str:
    return _Plans(plans).model_dump_json(indent=1)
