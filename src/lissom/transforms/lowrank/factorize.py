"""`Factorize`: convolutions, linear layers and tables replaced by thinner ones, one after the other.

Every split layer becomes plain `nn.Conv*d`, `nn.Linear` or `nn.Embedding` layers in the user's own class, so that
pruning, quantization and every runtime take the result as they take any model. Formulas: `lissom.functional.svd`,
`spatial`, `tucker`, `hooi`, `cp`, `tensortrain`, `ring`, `kronecker`; ranks from one budget:
`lissom.functional.allocation`. A layer whose parts are not faster, or smaller where size is the goal, stays as it is,
and the plan says with which numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import torch
from torch import nn

from lissom.errors import GoalError, UsageError
from lissom.graph.graph import Graph
from lissom.graph.select import select
from lissom.graph.trace import Trace, trace
from lissom.settings import only_wish
from lissom.target import Target
from lissom.task import Batch, Task
from lissom.task import Split as DataSplit
from lissom.transforms.base import (
    ALONE,
    Action,
    Cost,
    Plan,
    Recovery,
    Skip,
    Stage,
    Transform,
    Work,
    calibration_split,
    clone,
    has_data,
)
from lissom.transforms.lowrank.actions import Split, split_of
from lissom.transforms.lowrank.breakeven import drawn_, time_choices, timing_of
from lissom.transforms.lowrank.evidence import Layer, Seen, Study, find_layers, look, weight_of, with_values
from lissom.transforms.lowrank.merging import MERGED, merged
from lissom.transforms.lowrank.options import Multiple, Unit, least_ranks
from lissom.transforms.lowrank.parts import Method, applies, build, makes_outputs, stages
from lissom.transforms.lowrank.ranking import Ranked, Wish
from lissom.transforms.lowrank.recovery import Pair, recover_
from lissom.transforms.lowrank.replacing import replace_, verify
from lissom.transforms.paced import least_cut

Share = Annotated[float, pydantic.Field(gt=0.0, lt=1.0)]
Times = Annotated[float, pydantic.Field(ge=1.0)]
BUDGETS = ("macs_ratio", "parameters_ratio")
WISHES = ("rank", "ratio", "energy", "error", *BUDGETS, "latency_ratio")
AUTO: tuple[Method, ...] = ("svd", "spatial", "tucker")
DRY = (
    "Factorize(%s) measures on the target, which a dry run does not. Use lissom.compress, or Factorize(macs_ratio=...) "
    "with break_even='macs'."
)
OUT_OF_REACH = (
    "Factorize(latency_ratio=%g) is out of reach by thinner layers: the fastest that was measured is {fastest} times "
    "faster. Wish for less, or cut channels with Prune as well."
)


class Factorize(Transform):
    """Low-rank factorization.

    How much is given by one of: `rank`, for every layer, or "vbmf" for what stands above the noise by variational
    Bayes; `ratio`, the share of every layer's multiplications to save; `energy`, the share of the squared singular
    values that every layer keeps; `error`, the relative error that every layer may have; `macs_ratio` or
    `parameters_ratio`, how many times smaller the model gets (before / after), shared between the layers by what their
    singular values are worth; `latency_ratio`, how many times faster than the model that the recipe was given,
    measured on the target by `lissom.compress`.

    `method` is "svd", "spatial", "tucker" (Tucker-2), "full-tucker", "cp", "tt", "ring", "kronecker", or "auto": for
    every layer the one of the first three that is best for the wish, and "svd" for a fixed rank. Tables
    (`nn.Embedding`) are split where size is the goal. `exclude` holds patterns of layers that stay whole. Ranks are
    multiples of `round_to`, by default of what the target computes at once.

    `break_even` says what the parts of a layer must have less of than the layer, or it stays whole: "macs",
    "parameters", or "latency", which times both on the target (`breakeven`). "auto" is "parameters" for
    `parameters_ratio`; else "latency" in a run that measures, and "macs" in a dry run, which does not.

    `data_aware` weighs what is lost by the calibration data (or training data), unlabelled; `recovery` fits the last
    part of every layer to what the whole layer made. Both are done by "auto" where the task has data. `samples`
    examples are used.

    `merge` puts layers that were split before together first and splits them anew: ranks fall, chains do not grow, and
    a wish is relative to the merged model. `lissom.progressive` sets it.
    """

    stage: ClassVar[Stage] = "structure"
    actions: ClassVar[dict[str, type[Action]]] = {"split": Split}

    method: Literal["auto"] | Method = "auto"
    rank: Annotated[int, pydantic.Field(ge=1)] | Literal["vbmf"] | None = None
    ratio: Share | None = None
    energy: Share | None = None
    error: Share | None = None
    macs_ratio: Times | None = None
    parameters_ratio: Times | None = None
    latency_ratio: Times | None = None
    break_even: Literal["auto", "latency", "macs", "parameters"] = "auto"
    exclude: tuple[str, ...] = ()
    round_to: Annotated[int, pydantic.Field(ge=1)] | None = None
    data_aware: bool | Literal["auto"] = "auto"
    recovery: Literal["auto"] | Recovery = "auto"
    samples: Annotated[int, pydantic.Field(ge=1)] = 512
    merge: bool = False

    @pydantic.model_validator(mode="after")
    def _one_wish(self) -> Factorize:
        way_out = "Write Factorize(macs_ratio=2) for half the multiplications, or Factorize(rank=64)."
        name = only_wish(self, WISHES, way_out)
        counts = self._counts()
        if counts and self.break_even in ("macs", "parameters") and self.break_even != counts:
            raise ValueError(
                f"Factorize({name}=...) counts {counts}, break_even={self.break_even!r} something else. Leave "
                f"break_even out, or write break_even={counts!r} or 'latency'."
            )
        if self.method in ("cp", "ring") and (self.rank == "vbmf" or name in ("energy", "error")):
            what = "rank='vbmf'" if self.rank == "vbmf" else name
            raise ValueError(
                f"Factorize(method={self.method!r}) has no {what}: what a "
                "rank loses is known only after its least squares. Give rank, ratio or a budget, or another method."
            )
        if self.merge and self.method not in ("auto", *MERGED):
            raise ValueError(f"chains of {self.method} are not merged. Leave merge out, or take one of {MERGED}.")
        return self

    @property
    def expected_seconds(self) -> float:
        return 5.0

    def needs(self) -> frozenset[DataSplit]:
        data = self.data_aware is True or self.recovery in ("reconstruct", "bias")
        return frozenset({"calibration"}) if data else frozenset()

    def uses(self) -> frozenset[DataSplit]:
        looked_at: frozenset[DataSplit] = frozenset({"calibration"} if self.data_aware == "auto" else ())
        return self.needs() | looked_at

    def study(self, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work = ALONE) -> Study:
        """
        Raises:
            DataError: data are asked for that the task lacks or that do not fit; a weight is not finite.
            RecipeError: an `exclude` pattern matches nothing.
            UsageError: a latency is asked for where nothing is measured.
            GoalError: the budget is out of reach with layers that are faster split.
        """
        if self.merge:
            model, trace = self._merged(model, trace, task)
        found = find_layers(model, trace.graph).model_copy(update={"aware": self._aware(task)})
        if self.merge:
            found = found.model_copy(update={"graph": trace.graph})
        if self.needs():
            calibration_split(self.name, task)
        chosen = frozenset(layer.name for layer in found.layers) - self._excluded(trace.graph)
        for name in sorted(chosen):
            if not next(model.get_submodule(name).parameters()).is_meta:
                weight_of(model, name)
        if self._ranked():
            found = self._with_values(found, model, trace, task, chosen, work)
        if self.latency_ratio is not None:
            found = found.model_copy(update={"macs_ratio": self._least_cut(found, model, trace, task, target, work)})
        return self._timed(found, model, trace.graph, target, work) if self._times(work) else found

    def _with_values(
        self, found: Study, model: nn.Module, trace: Trace, task: Task, chosen: frozenset[str], work: Work
    ) -> Study:
        methods = self._methods()
        seen: Mapping[str, Seen] = {}
        if self._aware(task) and self.rank != "vbmf":
            layers = [layer for layer in found.layers if layer.name in chosen]
            wanted: dict[str, Sequence[Method]] = {
                layer.name: [m for m in methods if applies(layer.shape, m)] for layer in layers
            }
            seen = look(
                trace, layers, wanted, self._batches(task), lambda n: work.tick(min(0.4, 0.4 * n / self.samples))
            )
        return with_values(found, model, seen, methods, chosen)

    def _least_cut(self, study: Study, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work) -> float:
        """The MACs ratio at which the wished latency is measured."""
        measure, wish = work.faster, self.latency_ratio
        if measure is None or wish is None:
            raise UsageError(DRY % "latency_ratio=...")

        def faster_at(macs_ratio: float) -> float | None:
            counted = self.model_copy(update={"latency_ratio": None, "macs_ratio": macs_ratio, "break_even": "macs"})
            try:
                plan = counted.plan(trace.graph, study, target)
            except GoalError:
                return None
            split = self.restructure(model, plan, trace, task)
            draws = torch.Generator().manual_seed(0)
            for action in plan.of(Split):
                drawn_(split.get_submodule(action.layer), draws)
            return measure(split)

        return least_cut(wish, faster_at, work.tick, OUT_OF_REACH % wish)

    def _timed(self, study: Study, model: nn.Module, graph: Graph, target: Target, work: Work) -> Study:
        """With the times of all parts that the plan will hold, and of those that were too slow for it."""
        race = work.race
        if race is None:
            raise UsageError(DRY % "break_even='latency'")
        multiple = self._wish(target, study).multiple

        def least(layer: Layer, method: Method) -> tuple[int, ...]:
            return least_ranks(layer.shape, method, multiple)

        budget = any(wish is not None for wish in (self.macs_ratio, self.parameters_ratio, self.latency_ratio))
        while True:
            chosen = self._rank(graph, study, target).chosen
            more = time_choices(model, study.layers, chosen, study.timings, race, least if budget else None)
            if not more:
                return study
            study = study.model_copy(update={"timings": (*study.timings, *more)})

    def plan(self, graph: Graph, study: Study, target: Target) -> Plan:
        """
        Raises:
            RecipeError: an `exclude` pattern matches nothing.
            GoalError: the budget is below what is left when every layer is at its least rank.
        """
        graph = study.graph or graph
        excluded = self._excluded(graph)
        free = [layer for layer in study.layers if layer.name not in excluded]
        skipped = [
            Skip(layer=one.name, reason="excluded by the recipe" if one.name in excluded else one.reason)
            for one in study.refused
        ]
        skipped += [Skip(layer=n.name, reason="excluded by the recipe") for n in study.layers if n.name in excluded]
        chosen, reasons = self._rank(graph, study, target)
        skipped += [Skip(layer=name, reason=reason) for name, reason in reasons.items()]
        actions = [
            split_of(layer, made, timing_of(layer, made, study.timings), aware=study.aware)
            for layer in free
            if (made := chosen.get(layer.name)) is not None
        ]
        saved = sum(a.parameters - a.parameters_after for a in actions)
        widths = {a.layer: graph.tensor_by_name[f"{a.layer}.weight"] for a in actions}
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=tuple(actions),
            skipped=tuple(skipped),
            predicted=Cost(
                macs=graph.macs - sum(a.macs - a.macs_after for a in actions),
                parameters=graph.parameters - saved,
                bytes=graph.bytes - sum((a.parameters - a.parameters_after) * _width(widths[a.layer]) for a in actions),
            ),
        )

    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task, work: Work = ALONE) -> nn.Module:
        """
        Raises:
            DataError: data are asked for that the task lacks or that do not fit; a weight is not finite.
            VerificationError: the model reads something of a replaced layer that its parts do not have.
        """
        actions: list[Split] = plan.of(Split)
        if self.merge:
            model, trace = self._merged(model, trace, task)
        if not actions:
            return clone(model)
        study = find_layers(model, trace.graph)
        layers = {layer.name: layer for layer in study.layers}
        own = [layers[action.layer] for action in actions]
        how = self._recovery(task)
        seen: Mapping[str, Seen] = {}
        if self._aware(task):
            wanted: dict[str, Sequence[Method]] = {action.layer: (action.method,) for action in actions}
            seen = look(trace, own, wanted, self._batches(task), lambda n: work.tick(0.4 * min(1.0, n / self.samples)))
        split, whole = clone(model), clone(model)
        done: dict[str, Split] = {}
        for action, layer in zip(actions, own, strict=True):
            centred = layer.centred and how != "none"
            done[action.layer] = replace_(split, whole, action, centred, seen.get(layer.name, Seen()))
        verify(whole, split, task.example, actions)
        if how != "none":
            self._recover_(split, actions, own, trace, task, how, work)
        work.settle(plan.model_copy(update={"actions": tuple(done.get(a.layer, a) for a in plan.actions)}))
        work.tick(1.0)
        return split

    def restructure(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        split = merged(model, self._excluded(trace.graph)) if self.merge else clone(model)
        for action in plan.of(Split):
            split.set_submodule(action.layer, build(split.get_submodule(action.layer), action.method, action.ranks))
        return split

    def _merged(self, model: nn.Module, before: Trace, task: Task) -> tuple[nn.Module, Trace]:
        """
        Raises:
            VerificationError: the model reads something of the parts that one layer does not have.
        """
        whole = merged(model, self._excluded(before.graph))
        verify(model, whole, task.example, ())
        return whole, trace(whole, task.example)

    def _recover_(
        self,
        split: nn.Module,
        actions: Sequence[Split],
        layers: Sequence[Layer],
        before: Trace,
        task: Task,
        how: Recovery,
        work: Work,
    ) -> None:
        lasts = {
            f"{a.layer}.{len(stages(one.shape, a.method, a.ranks)) - 1}": one
            for a, one in zip(actions, layers, strict=True)
            # What is called again gets inputs that its own first call has moved.
            if len(one.nodes) == 1 and makes_outputs(one.shape, a.method)
        }
        pair = Pair(
            before=before,
            after=trace(split, task.example),
            model=split,
            layers={part: one.nodes[0] for part, one in lasts.items()},
            centred=frozenset(part for part, one in lasts.items() if one.centred),
            split=frozenset(one.name for one in layers if len(one.nodes) == 1),
        )
        recover_(pair, self._batches(task), how, lambda share: work.tick(0.5 + 0.5 * share))

    def _rank(self, graph: Graph, study: Study, target: Target) -> Ranked:
        excluded = self._excluded(graph)
        return self._wish(target, study).ranked(graph, [one for one in study.layers if one.name not in excluded])

    def _methods(self) -> tuple[Method, ...]:
        if self.method != "auto":
            return (self.method,)
        return ("svd",) if isinstance(self.rank, int) else AUTO

    def _ranked(self) -> bool:
        """Whether the plan looks at singular values."""
        if isinstance(self.rank, int):
            return False
        return self.ratio is None or len(self._methods()) > 1 or self.method in ("tucker", "full-tucker", "tt")

    def _aware(self, task: Task) -> bool:
        has = has_data(task)
        return has if self.data_aware == "auto" else self.data_aware

    def _recovery(self, task: Task) -> Recovery:
        if self.recovery != "auto":
            return self.recovery
        return "reconstruct" if has_data(task) else "none"

    def _batches(self, task: Task) -> Iterable[Batch]:
        return task.batches(calibration_split(self.name, task), limit=self.samples)

    def _excluded(self, graph: Graph) -> frozenset[str]:
        nodes = [graph.by_name[layer.node] for layer in graph.layers]
        names = [node.layer or node.name for node in nodes]
        return select(names, self.exclude, "Factorize(exclude=...)")

    def _wish(self, target: Target, study: Study) -> Wish:
        allowed = None if self.energy is None else 1.0 - self.energy
        return Wish(
            methods=self._methods(),
            unit=self._unit(),
            multiple=Multiple(self.round_to or target.channel_multiple, self.round_to is None),
            rank=self.rank,
            ratio=self.ratio,
            loss=allowed if self.error is None else self.error**2,
            budget=self.macs_ratio or self.parameters_ratio or study.macs_ratio,
            timings=study.timings,
            tables=self._unit() == "parameters" and self.break_even != "latency",
        )

    def _unit(self) -> Unit:
        return "parameters" if "parameters" in (self.break_even, self._counts()) else "macs"

    def _counts(self) -> Unit | None:
        """What the wish itself is about; None where it is about the quality of layers."""
        if self.parameters_ratio is not None:
            return "parameters"
        return "macs" if any(w is not None for w in (self.macs_ratio, self.ratio, self.latency_ratio)) else None

    def _times(self, work: Work) -> bool:
        """Whether parts have to be faster than their layer, measured."""
        return self.break_even == "latency" or (
            self.break_even == "auto" and self._counts() != "parameters" and work.race is not None
        )


def _width(weight: Any) -> int:
    count = 1
    for size in weight.shape:
        count *= size
    return weight.bytes // count
