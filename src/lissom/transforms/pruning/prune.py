"""`Prune`: whole channels, features, heads and groups removed, wherever the graph proves that they can be.

What has to be cut together is found on the traced graph (`graph.channels`); which of it, by a criterion
(`functional.importance`) and a ranking (`functional.selection`); what is left is fitted again to what the whole model
computed (`recovery`). The result is checked against the masked original before it is handed back.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated, ClassVar, Literal

import numpy as np
import pydantic
import torch
from torch import nn

from lissom.errors import DataError, GoalError, UsageError
from lissom.functional.importance import Normalization, Reduction
from lissom.functional.selection import Scope, kept_of, select, select_to_budget
from lissom.graph.axes import Atom
from lissom.graph.channels import Channels, Group, find_channels
from lissom.graph.graph import Graph
from lissom.graph.narrowed import Narrowed, narrowed
from lissom.graph.resize import Kept, Sizes
from lissom.graph.select import select as match
from lissom.graph.trace import Trace
from lissom.settings import only_wish
from lissom.target import Target
from lissom.task import Batch, Split, Task
from lissom.transforms.base import (
    ALONE,
    Action,
    Cost,
    Plan,
    Recovery,
    Stage,
    Transform,
    Work,
    calibration_split,
    has_data,
)
from lissom.transforms.paced import least_cut
from lissom.transforms.pruning.multiples import finer, suited
from lissom.transforms.pruning.scores import ACTIVATION, GRADIENT, Criterion, Reading, Scores, score
from lissom.transforms.pruning.staying import skips
from lissom.transforms.pruning.surgery import EXPORTED, Pruned, Refit, prune
from lissom.transforms.pruning.ties import FREE, Ties, ties_of

Share = Annotated[float, pydantic.Field(ge=0.0, lt=1.0)]
Times = Annotated[float, pydantic.Field(ge=1.0)]
BUDGETS = ("macs_ratio", "parameters_ratio", "size_ratio")
WISHES = ("ratio", *BUDGETS, "latency_ratio")
OUT_OF_REACH = (
    "Prune(latency_ratio=%g) is out of reach by cutting channels: the fastest that was measured is {fastest} times "
    "faster. Wish for less, raise max_ratio, or take blocks out with PruneDepth first."
)


class Cut(Action):
    """Keep only these places of one axis of a parameter; `groups` are the channel groups that lie on it.

    Nothing is kept of a parameter whose module is left out.
    """

    kind: Literal["cut"] = "cut"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    parameter: str
    axis: int
    kept: tuple[int, ...]
    size: int
    groups: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Study:
    """The coupled channels of a model and how much each matters."""

    channels: Channels
    costs: Narrowed
    scores: Scores
    ties: Ties = FREE
    """What the user's own code asks of the groups, for the result to be of its class."""
    macs_ratio: float | None = None
    """At which the wished latency was measured."""


class Prune(Transform):
    """Structured pruning.

    How much is given by one of: `ratio`, the share of channels to cut; `macs_ratio`, `parameters_ratio`,
    `size_ratio`, how many times smaller the model gets (before / after); `latency_ratio`, how many times faster than
    the model that the recipe was given, measured on the target by `lissom.compress`. `max_ratio` bounds the share
    cut from any one group. `exclude` holds patterns of layers whose output channels stay whole.

    `round_to` keeps multiples of a number of channels, or whole groups. None takes the target's (`channel_multiple`),
    halved for a group of which one step would be more than a quarter; a unit that holds several channels side by side
    counts them, so heads of 64 features go one by one (`multiples`). A wish that is out of reach in such multiples is
    met in halves of them. What rounding cut too much for a budget is given back (`functional.selection`).

    `criterion` "auto" is "reconstruction" where the task has calibration or training data, and "magnitude" without;
    `criterion` with `reduction` over the members of a group and `normalization` inside it give the ranking, `scope`
    says who competes: the channels of one group, of all, or of groups of the same structure. `normalization` "auto"
    is "max" for "bn_scale" (few scales stand far out of weights that were not trained for it) and "mean" otherwise.

    `recovery` fits the layers that lost inputs again to what they computed, from `samples` unlabelled examples:
    "auto" does so where the task has calibration or training data; without, "constants" moves what cut channels that
    never change have added into the biases of their readers.
    """

    stage: ClassVar[Stage] = "structure"
    actions: ClassVar[dict[str, type[Action]]] = {"cut": Cut}

    ratio: Share | None = None
    macs_ratio: Times | None = None
    parameters_ratio: Times | None = None
    size_ratio: Times | None = None
    latency_ratio: Times | None = None
    criterion: Literal["auto", Criterion] = "auto"
    reduction: Reduction = "mean"
    normalization: Literal["auto", Normalization] = "auto"
    scope: Scope = "global"
    max_ratio: Share = 0.9
    round_to: Annotated[int, pydantic.Field(ge=1)] | None = None
    exclude: tuple[str, ...] = ()
    recovery: Literal["auto", "constants"] | Recovery = "auto"
    samples: Annotated[int, pydantic.Field(ge=1)] = 512
    seed: int = 0

    @pydantic.model_validator(mode="after")
    def _one_wish(self) -> Prune:
        way_out = (
            "Write Prune(ratio=0.3) for 30 % of the channels, or Prune(macs_ratio=2) for half the multiplications."
        )
        only_wish(self, WISHES, way_out)
        return self

    def needs(self) -> frozenset[Split]:
        data = self.criterion in GRADIENT | ACTIVATION or self.recovery in ("reconstruct", "bias")
        return frozenset({"calibration"}) if data else frozenset()

    def criterion_for(self, task: Task) -> Criterion:
        """What "auto" is for this task."""
        if self.criterion != "auto":
            return self.criterion
        return "reconstruction" if has_data(task) else "magnitude"

    def study(self, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work = ALONE) -> Study:
        """
        Raises:
            DataError: the criterion needs data or a loss that the task lacks.
        """
        if self.criterion in GRADIENT and task.loss is None:
            raise DataError(
                f"Prune(criterion={self.criterion!r}) needs Task(loss=...), which was not given. Choose "
                "criterion='magnitude' or 'reconstruction', which need none."
            )
        channels = find_channels(trace)
        groups = _cuttable(channels)
        criterion = self.criterion_for(task)
        if criterion != self.criterion:
            work.note("criterion", criterion)
        usual: Normalization = "max" if criterion == "bn_scale" else "mean"
        normalization = usual if self.normalization == "auto" else self.normalization
        reading = Reading(criterion, self.reduction, normalization, self.seed)
        found = score(trace, channels, groups, reading, lambda: self._batches(task), task.loss)
        work.tick(0.3)
        study = Study(channels, narrowed(trace, channels), found, ties_of(model, trace, channels))
        return study if self.latency_ratio is None else self._timed(model, trace, task, target, work, study)

    def _timed(self, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work, study: Study) -> Study:
        """With the MACs ratio at which the wished latency is measured."""
        measure = work.faster
        if measure is None or self.latency_ratio is None:
            raise UsageError(
                "Prune(latency_ratio=...) measures on the target, which a dry run does not. Use lissom.compress, or "
                "Prune(macs_ratio=...)."
            )

        def faster_at(macs_ratio: float) -> float | None:
            counted = self.model_copy(update={"latency_ratio": None, "macs_ratio": macs_ratio})
            try:
                plan = counted.plan(trace.graph, study, target)
            except GoalError:
                return None
            return measure(counted._cut(model, plan, trace, task.example, Refit()).module)

        return replace(
            study, macs_ratio=least_cut(self.latency_ratio, faster_at, work.tick, OUT_OF_REACH % self.latency_ratio)
        )

    def plan(self, graph: Graph, study: Study, target: Target) -> Plan:
        """
        Raises:
            RecipeError: an `exclude` pattern matches nothing.
            GoalError: the budget is below what is left when every group is at its floor.
        """
        groups = {g.name: g for g in _cuttable(study.channels)}
        whole = self._excluded(graph, study.channels)
        kept = self.kept(graph, study, target)
        atoms: dict[Atom, np.ndarray] = {
            groups[name].atom: np.array(places, dtype=np.int64)
            for name, places in kept.items()
            if len(places) < groups[name].size
        }
        counts = {atom: len(places) for atom, places in atoms.items()}
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=tuple(cuts(study.channels, atoms, study.costs)),
            skipped=tuple(skips(study.channels, atoms, whole, study.ties.whole, study.costs.gone(atoms))),
            predicted=Cost(
                macs=study.costs.macs(counts, atoms),
                parameters=study.costs.parameters(counts, atoms),
                bytes=study.costs.bytes(counts, atoms),
            ),
        )

    def kept(self, graph: Graph, study: Study, target: Target) -> Mapping[str, tuple[int, ...]]:
        """Group to the channels that stay, for every group that may be cut.

        Raises:
            RecipeError: an `exclude` pattern matches nothing.
            GoalError: the budget is below what is left when every group is at its floor.
        """
        groups = {g.name: g for g in _cuttable(study.channels)}
        whole = self._excluded(graph, study.channels) | study.ties.whole
        racing = {name: study.scores[name] for name in groups if name not in whole}
        held = {name: groups[name] for name in racing}
        if self.round_to is not None:
            return self._select(racing, held, study, dict.fromkeys(racing, self.round_to))
        *tried, single = finer(suited(held, target.channel_multiple, study.ties, study.costs.modules))
        if self.ratio is not None and tried:
            most = _count(self._select(racing, held, study, single))
            found = (self._select(racing, held, study, multiples) for multiples in (*tried, single))
            return next(kept for kept in found if _count(kept) <= most)
        for multiples in tried:
            with suppress(GoalError):
                return self._select(racing, held, study, multiples)
        return self._select(racing, held, study, single)

    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task, work: Work = ALONE) -> nn.Module:
        """
        Raises:
            VerificationError: the smaller network does not equal the masked original.
        """
        how = self.recovery
        if how == "auto":
            how = "reconstruct" if has_data(task) else "constants"
        batches = self._batches(task) if how in ("reconstruct", "bias") else ()
        pruned = self._cut(model, plan, trace, task.example, Refit(how, batches, work.tick))
        if not pruned.own:
            work.note(EXPORTED, pruned.reason)
        return pruned.module

    def restructure(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        return self._cut(model, plan, trace, task.example, Refit()).module

    def _cut(self, model: nn.Module, plan: Plan, trace: Trace, example: Batch, refit: Refit) -> Pruned:
        channels = find_channels(trace)
        return prune(model, trace, kept_by(plan, channels), example, channels, refit)

    def _batches(self, task: Task) -> Iterable[Batch]:
        return task.batches(calibration_split(self.name, task), limit=self.samples)

    def _select(
        self,
        racing: Mapping[str, torch.Tensor],
        groups: Mapping[str, Group],
        study: Study,
        multiples: Mapping[str, int],
    ) -> Mapping[str, tuple[int, ...]]:
        # Rounded up: more than max_ratio of no group is cut. The slack is what 0.1 * 10 may be off by.
        floors = {
            name: max(groups[name].floor, ceil(groups[name].size * (1 - self.max_ratio) - 1e-9)) for name in racing
        }
        classes = {name: _structure(groups[name]) for name in racing}
        sizes = {name: groups[name].size for name in racing}

        def tied(counts: Mapping[str, int]) -> dict[str, int]:
            return study.ties.tied(counts, sizes, floors, multiples)

        if self.ratio is not None:
            found = select(racing, self.ratio, scope=self.scope, classes=classes, floors=floors, round_to=multiples)
            return kept_of(racing, tied({n: len(places) for n, places in found.items()}))
        name = next((n for n in BUDGETS if getattr(self, n) is not None), "macs_ratio")
        measure, what = {
            "macs_ratio": (study.costs.macs, "number of MACs"),
            "parameters_ratio": (study.costs.parameters, "number of parameters"),
            "size_ratio": (study.costs.bytes, "size in bytes"),
        }[name]

        def cost(counts: Mapping[str, int]) -> float:
            counts = tied(counts)
            modules = {name: racing[name] for name in racing if groups[name].atom in study.costs.modules}
            kept = kept_of(modules, {name: counts.get(name, groups[name].size) for name in modules})
            return float(
                measure(
                    {groups[group].atom: count for group, count in counts.items()},
                    {groups[name].atom: np.array(places, dtype=np.int64) for name, places in kept.items()},
                )
            )

        budget = cost({}) / float(getattr(self, name) or study.macs_ratio or 1.0)
        chosen = select_to_budget(
            racing,
            cost,
            budget,
            scope=self.scope,
            classes=classes,
            floors=floors,
            round_to=multiples,
            what=what,
        ).kept
        return kept_of(racing, tied({n: len(places) for n, places in chosen.items()}))

    def _excluded(self, graph: Graph, channels: Channels) -> frozenset[str]:
        """Groups that hold output channels of an excluded layer."""
        if not self.exclude:
            return frozenset()
        layers = {parameter.rpartition(".")[0]: parameter for parameter in channels.parameters}
        named = match([layer for layer in layers if layer], self.exclude, "Prune(exclude=...)")
        return frozenset(
            group.name
            for group in channels.groups
            if any(member.axis == 0 and member.parameter.rpartition(".")[0] in named for member in group.members)
        )


def kept_by(plan: Plan, channels: Channels) -> Kept:
    """The channels that a plan's cuts leave, by atom."""
    cuts: dict[tuple[str, int], Cut] = {(cut.parameter, cut.axis): cut for cut in plan.of(Cut)}
    kept: dict[Atom, np.ndarray] = {}
    for group in channels.groups:
        for member in group.members:
            cut = cuts.get((member.parameter, member.axis))
            if cut is not None and group.name in cut.groups:
                # Where two groups share the axis, the other one may have cut some of a channel's places.
                stays = np.isin(member.places, np.array(cut.kept, dtype=np.int64)).any(axis=1)
                kept[group.atom] = np.flatnonzero(stays)
                break
    return kept


def _count(kept: Mapping[str, tuple[int, ...]]) -> int:
    return sum(map(len, kept.values()))


def _cuttable(channels: Channels) -> list[Group]:
    return [group for group in channels.groups if group.reason is None and group.size > 1]


def _structure(group: Group) -> str:
    """Groups with the same number of members of the same kinds on the same axes compete (isomorphic scope)."""
    parts = sorted(f"{member.parameter.rpartition('.')[2]}/{member.axis}" for member in group.members)
    return f"{len(parts)}-{zlib.crc32(' '.join(parts).encode()):08x}"


def cuts(channels: Channels, atoms: Kept, costs: Narrowed) -> Iterable[Cut]:
    """The slices that stay of every parameter when only these channels do."""
    sizes = Sizes(channels, atoms)
    gone = costs.gone(atoms)
    names = {group.atom: group.name for group in channels.groups}
    groups: dict[tuple[str, int], list[str]] = {}
    for group in channels.groups:
        if group.atom in atoms:
            for member in group.members:
                groups.setdefault((member.parameter, member.axis), []).append(group.name)
    for name, modules in gone.items():
        yield Cut(
            layer=name.rpartition(".")[0],
            parameter=name,
            axis=0,
            kept=(),
            size=channels.parameters[name][0].size if channels.parameters[name] else 1,
            groups=tuple(names[atom] for atom in modules if atom in atoms),
        )
    for (name, axis), own in groups.items():
        if name in gone:
            continue
        term = channels.term(name, axis)
        yield Cut(
            layer=name.rpartition(".")[0],
            parameter=name,
            axis=axis,
            kept=tuple(sizes.places(term).tolist()),
            size=term.size,
            groups=tuple(own),
        )
