"""What a recipe would do, as data: plans, channels of each layer, what other amounts would cost and save."""

from __future__ import annotations

from torch import nn

from lissom.measure.records import ChannelRecord
from lissom.pipeline.channels import layer_channels
from lissom.pipeline.transforming import Planned, dry_run
from lissom.recipe import Recipe
from lissom.settings import Setting
from lissom.target import Target, load_target
from lissom.task import Task
from lissom.transforms.base import Cost, Plan
from lissom.transforms.pruning import Outlook, Prune, PruneDepth, depth_outlook, outlook


class Foresight(Setting):
    """One step of a dry run. `channels` is empty for a step that cuts none, `outlook` for one that prunes nothing."""

    plan: Plan
    before: Cost
    """Of the model that the step starts from."""
    channels: tuple[ChannelRecord, ...]
    outlook: tuple[Outlook, ...]
    """The recipe's own amount first, then 10 % to 90 % of the channels or blocks."""


def foresee(model: nn.Module, task: Task, recipe: Recipe, target: str | Target = "onnxruntime") -> list[Foresight]:
    """The dry run of a recipe with everything a user decides by. The model is not changed.

    Raises:
        TargetError: no such target.
        DataError: a step needs data that the task lacks.
    """
    found = load_target(target) if isinstance(target, str) else target
    return [_of(planned, found) for planned in dry_run(model, task, recipe, found)]


def _of(planned: Planned, target: Target) -> Foresight:
    graph = planned.trace.graph
    pruning = isinstance(planned.transform, Prune)
    return Foresight(
        plan=planned.plan,
        before=Cost(macs=graph.macs, parameters=graph.parameters, bytes=graph.bytes),
        channels=layer_channels(planned.trace, planned.plan) if pruning else (),
        outlook=_outlook(planned, target),
    )


def _outlook(planned: Planned, target: Target) -> tuple[Outlook, ...]:
    match planned.transform:
        case Prune():
            return outlook(planned.transform, planned.trace.graph, planned.study, target)
        case PruneDepth():
            return depth_outlook(planned.transform, planned.trace.graph, planned.study)
        case _:
            return ()
