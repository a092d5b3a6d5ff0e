"""What a `Supernet` step searched and chose, as a record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lissom.measure.records import ChannelRecord
from lissom.measure.search_records import ArchitectureRecord, AxisRecord, ShapeRecord
from lissom.pipeline.channels import layer_channels
from lissom.transforms.architecture import Choose

if TYPE_CHECKING:
    from lissom.pipeline.transforming import Step


def architecture(step: Step) -> ArchitectureRecord | None:
    """None for a step that searched no architecture."""
    found = step.notes.get("architecture")
    if not isinstance(found, dict):
        return None
    note, axes = dict(found), step.plan.of(Choose)
    front, chosen, trials = note.pop("front"), note.pop("chosen"), note.pop("candidates")
    marked = [{**one, "on_front": at in front, "chosen": at == chosen} for at, one in enumerate(trials)]  # type: ignore[arg-type, operator, dict-item]
    own = [AxisRecord(axis=one.axis, members=one.members, choices=one.choices, chosen=one.chosen) for one in axes]
    return ArchitectureRecord.model_validate({**note, "axes": own, "trials": marked, "layers": _layers(step, axes)})


def _layers(step: Step, axes: list[Choose]) -> list[ShapeRecord]:
    gone = tuple(name for one in axes if one.axis == "depth" for name in one.members[one.chosen :])
    sides = {one.members[0]: one.chosen for one in axes if one.axis == "kernel"}
    bits = {weight: one.chosen for one in axes if one.axis == "bits" for weight in one.members}
    shapes = {tensor.name: tensor.shape for tensor in step.trace.graph.tensors}

    def shape(one: ChannelRecord) -> ShapeRecord:
        weight = f"{one.layer}.weight"
        kernel = shapes.get(weight, ())[2:]
        side = kernel[0] if len(kernel) == 2 and kernel[0] == kernel[1] else None
        left_out = any(one.layer == name or one.layer.startswith(f"{name}.") for name in gone)
        return ShapeRecord(
            layer=one.layer,
            op=one.op,
            before=one.before,
            after=0 if left_out else one.after,
            kernel_before=side,
            kernel_after=None if left_out else sides.get(weight, side),
            bits=None if left_out else bits.get(weight),
        )

    return [shape(one) for one in layer_channels(step.trace, step.plan)]
