"""The frame every transform fits: needs, plan, apply, and what a plan is."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import SerializeAsAny
from torch import nn

from lissom.graph.graph import Graph
from lissom.graph.statistics import Statistics
from lissom.graph.trace import Trace, quiet
from lissom.settings import Setting
from lissom.target import Target
from lissom.task import Split, Task

M = TypeVar("M", bound=nn.Module)


class Action(Setting):
    """One change that a plan makes; each transform has its own kinds."""

    kind: str
    layer: str


class Skip(Setting):
    """A layer that was selected and is left as it is, and why."""

    layer: str
    reason: str


class Cost(Setting):
    """Predicted cost of the model after a plan."""

    macs: int
    parameters: int
    bytes: int


class Plan(Setting):
    """What a transform will do. Touches no weights, is JSON, and can be replayed on a fresh original."""

    transform: str
    settings: dict[str, Any]
    actions: tuple[SerializeAsAny[Action], ...]
    skipped: tuple[Skip, ...]
    predicted: Cost

    def of(self, kind: type[Action]) -> list[Any]:
        return [action for action in self.actions if isinstance(action, kind)]


Stage = Literal["fold", "structure", "train", "quantize"]


class Transform(Setting, ABC):
    """A frozen setting that plans and applies one change of a model.

    `plan` is a pure function of the graph, the statistics and the target; `apply` returns a new module and never
    touches the one it was given.
    """

    stage: ClassVar[Stage]
    """Where in a recipe it may stand; see `lissom.recipe`."""
    actions: ClassVar[dict[str, type[Action]]]
    """Kinds of action its plans hold, for reading them back."""

    @property
    def name(self) -> str:
        return type(self).__name__

    def needs(self) -> frozenset[Split]:
        """Splits of the task without which it cannot work."""
        return frozenset()

    def watch(self, graph: Graph, target: Target) -> Collection[str]:
        """Values whose statistics the plan needs."""
        return ()

    @abstractmethod
    def plan(self, graph: Graph, statistics: Statistics | None, target: Target) -> Plan:
        """What would be done; every selected layer is in `actions` or in `skipped`."""

    @abstractmethod
    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        """A new module with the plan carried out. `trace` is of `model`."""

    def read_plan(self, data: dict[str, Any]) -> Plan:
        """A plan of this transform from JSON.

        Raises:
            KeyError: an action of a kind this transform does not have.
            ValueError: a field is missing or wrong.
        """
        actions = tuple(self.actions[a["kind"]].model_validate(a) for a in data["actions"])
        return Plan.model_validate({**data, "actions": actions})


def clone(model: M) -> M:
    """A deep copy: the caller's module is never touched."""
    with quiet():
        return copy.deepcopy(model)
