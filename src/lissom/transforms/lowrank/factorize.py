"""`Factorize`: convolutions and linear layers replaced by thinner ones, one after the other.

Every split layer becomes an `nn.Sequential` of plain `nn.Conv*d` or `nn.Linear` in the user's own class, so that
pruning, quantization and every runtime take the result as they take any model. Formulas: `lissom.functional.svd`,
`spatial`, `tucker`, `cp`; ranks from one budget: `lissom.functional.allocation`. A layer whose parts would not cost
less stays as it is, and the plan says with which numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

import pydantic
from torch import nn

from lissom.errors import GoalError
from lissom.functional.allocation import Option, allocate
from lissom.graph.graph import Graph
from lissom.graph.select import select
from lissom.graph.trace import Trace, trace
from lissom.target import Target
from lissom.task import Batch, Task
from lissom.task import Split as DataSplit
from lissom.transforms.base import ALONE, Action, Cost, Plan, Skip, Stage, Transform, Work, calibration_split, clone
from lissom.transforms.lowrank.actions import Split
from lissom.transforms.lowrank.evidence import Layer, Seen, Study, find_layers, look, weight_of, with_values
from lissom.transforms.lowrank.options import (
    Choice,
    Multiple,
    Unit,
    best_of,
    choice,
    choices,
    ranks_above_noise,
    whole_cost,
)
from lissom.transforms.lowrank.parts import Method, applies, build, largest, macs_of, parameters_of, stages
from lissom.transforms.lowrank.recovery import Pair, Recovery, recover_
from lissom.transforms.lowrank.replacing import replace_, verify

Share = Annotated[float, pydantic.Field(gt=0.0, lt=1.0)]
Times = Annotated[float, pydantic.Field(ge=1.0)]
BUDGETS = ("macs_ratio", "parameters_ratio")
WISHES = ("rank", "ratio", "energy", "error", *BUDGETS)
AUTO: tuple[Method, ...] = ("svd", "spatial", "tucker")


class Factorize(Transform):
    """Low-rank factorization.

    How much is given by one of: `rank`, for every layer, or "vbmf" for what stands above the noise by variational
    Bayes; `ratio`, the share of every layer's multiplications to save; `energy`, the share of the squared singular
    values that every layer keeps; `error`, the relative error that every layer may have; `macs_ratio` or
    `parameters_ratio`, how many times smaller the model gets (before / after), shared between the layers by what their
    singular values are worth.

    `method` is "svd", "spatial", "tucker", "cp", or "auto": for every layer the one of the first three that is best
    for the wish, and "svd" for a fixed rank. `exclude` holds patterns of layers that stay whole. Ranks are multiples of
    `round_to`, by default of what the target computes at once.

    `data_aware` weighs what is lost by the calibration data (or training data), unlabelled; `recovery` fits the last
    part of every layer to what the whole layer made. Both are done by "auto" where the task has data. `samples`
    examples are used.
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
    exclude: tuple[str, ...] = ()
    round_to: Annotated[int, pydantic.Field(ge=1)] | None = None
    data_aware: bool | Literal["auto"] = "auto"
    recovery: Literal["auto"] | Recovery = "auto"
    samples: Annotated[int, pydantic.Field(ge=1)] = 512

    @pydantic.model_validator(mode="after")
    def _one_wish(self) -> Factorize:
        named = [name for name in WISHES if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                f"Factorize needs exactly one of {', '.join(WISHES)}, got {' and '.join(named) or 'none'}. Write "
                "Factorize(macs_ratio=2) for half the multiplications, or Factorize(rank=64)."
            )
        if self.method == "cp" and (self.rank == "vbmf" or named[0] in ("energy", "error")):
            what = "rank='vbmf'" if self.rank == "vbmf" else named[0]
            raise ValueError(
                f"Factorize(method='cp') has no {what}: what a "
                "rank loses is known only after its least squares. Give rank, ratio or a budget, or another method."
            )
        return self

    @property
    def expected_seconds(self) -> float:
        return 5.0

    def needs(self) -> frozenset[DataSplit]:
        data = self.data_aware is True or self.recovery in ("reconstruct", "bias")
        return frozenset({"calibration"}) if data else frozenset()

    def study(self, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work = ALONE) -> Study:
        """
        Raises:
            DataError: data are asked for that the task lacks or that do not fit; a weight is not finite.
            RecipeError: an `exclude` pattern matches nothing.
        """
        found = find_layers(model, trace.graph)
        if self.needs():
            calibration_split(self.name, task)
        chosen = {layer.name for layer in found.layers} - self._excluded(trace.graph)
        for name in sorted(chosen):
            if not next(model.get_submodule(name).parameters()).is_meta:
                weight_of(model, name)
        if not self._ranked():
            return found
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

    def plan(self, graph: Graph, study: Study, target: Target) -> Plan:
        """
        Raises:
            RecipeError: an `exclude` pattern matches nothing.
            GoalError: the budget is below what is left when every layer is at its least rank.
        """
        excluded = self._excluded(graph)
        free = [layer for layer in study.layers if layer.name not in excluded]
        skipped = [
            Skip(layer=one.name, reason="excluded by the recipe" if one.name in excluded else one.reason)
            for one in study.refused
        ]
        skipped += [Skip(layer=n.name, reason="excluded by the recipe") for n in study.layers if n.name in excluded]
        multiple = Multiple(self.round_to or target.channel_multiple, self.round_to is None)
        if self.macs_ratio is not None or self.parameters_ratio is not None:
            chosen, reasons = self._budgeted(graph, free, multiple)
        else:
            chosen, reasons = self._each(free, multiple)
        skipped += [Skip(layer=name, reason=reason) for name, reason in reasons.items()]
        actions = [_action(layer, chosen[layer.name]) for layer in free if layer.name in chosen]
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
        for action, layer in zip(actions, own, strict=True):
            replace_(split, whole, action, layer.centred and how != "none", seen.get(layer.name, Seen()))
        verify(whole, split, task.example, actions)
        if how != "none":
            self._recover_(split, actions, own, trace, task, how, work)
        work.tick(1.0)
        return split

    def restructure(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        split = clone(model)
        for action in plan.of(Split):
            split.set_submodule(action.layer, build(split.get_submodule(action.layer), action.method, action.ranks))
        return split

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
            if len(one.nodes) == 1  # what is called again gets inputs that its own first call has moved
        }
        pair = Pair(
            before=before,
            after=trace(split, task.example),
            model=split,
            layers={part: one.nodes[0] for part, one in lasts.items()},
            centred=frozenset(part for part, one in lasts.items() if one.centred),
        )
        recover_(pair, self._batches(task), how, lambda share: work.tick(0.5 + 0.5 * share))

    def _methods(self) -> tuple[Method, ...]:
        if self.method != "auto":
            return (self.method,)
        return ("svd",) if isinstance(self.rank, int) else AUTO

    def _ranked(self) -> bool:
        """Whether the plan looks at singular values."""
        if isinstance(self.rank, int):
            return False
        return self.ratio is None or len(self._methods()) > 1 or self.method == "tucker"

    def _aware(self, task: Task) -> bool:
        has = task.has("calibration") or task.has("train")
        return has if self.data_aware == "auto" else self.data_aware

    def _recovery(self, task: Task) -> Recovery:
        if self.recovery != "auto":
            return self.recovery
        return "reconstruct" if task.has("calibration") or task.has("train") else "none"

    def _batches(self, task: Task) -> Iterable[Batch]:
        return task.batches(calibration_split(self.name, task), limit=self.samples)

    def _excluded(self, graph: Graph) -> frozenset[str]:
        nodes = [graph.by_name[layer.node] for layer in graph.layers]
        names = [node.layer or node.name for node in nodes]
        return select(names, self.exclude, "Factorize(exclude=...)")

    def _unit(self) -> Unit:
        return "parameters" if self.parameters_ratio is not None else "macs"

    def _budgeted(
        self, graph: Graph, layers: Sequence[Layer], multiple: Multiple
    ) -> tuple[dict[str, Choice], dict[str, str]]:
        """The choices of all layers from one budget, and why the others stay whole."""
        unit = self._unit()
        total = graph.macs if unit == "macs" else graph.parameters
        budget = total / (self.macs_ratio or self.parameters_ratio or 1.0)
        reasons: dict[str, str] = {}
        racing: dict[str, list[Choice]] = {}
        for layer in layers:
            methods, reason = self._usable(layer)
            own = best_of([c for m in methods for c in choices(layer, m, unit, multiple)], unit)
            if own:
                racing[layer.name] = own
            else:
                reasons[layer.name] = reason or _too_dear(layer, methods, unit, multiple)
        shapes = {layer.name: layer.shape for layer in layers}
        fixed = total - sum(whole_cost(shapes[name], unit) for name in racing)
        options = {
            name: [*(Option(c.cost(unit), c.loss or 0.0) for c in own), Option(whole_cost(shapes[name], unit), 0.0)]
            for name, own in racing.items()
        }
        found = allocate(options, budget - fixed)
        what = "MACs" if unit == "macs" else "parameters"
        if found is None:
            least = fixed + sum(min(o.cost for o in own) for own in options.values())
            raise GoalError(
                f"Factorize cannot reach {budget:,.0f} {what}: with every layer at its least rank the model still has "
                f"{least:,.0f} of {total:,}. Wish for at most {total / least:.4g} times fewer, lower round_to, exclude "
                "less, or cut channels with Prune as well."
            )
        chosen: dict[str, Choice] = {}
        for name, index in found.items():
            if index < len(racing[name]):
                chosen[name] = racing[name][index]
            else:
                reasons[name] = f"whole, its {whole_cost(shapes[name], unit):,} {what} are within the budget"
        return chosen, reasons

    def _each(self, layers: Sequence[Layer], multiple: Multiple) -> tuple[dict[str, Choice], dict[str, str]]:
        """The choice of every layer by itself, and why the others stay whole."""
        chosen: dict[str, Choice] = {}
        reasons: dict[str, str] = {}
        for layer in layers:
            methods, reason = self._usable(layer)
            if reason:
                reasons[layer.name] = reason
                continue
            found = self._choose(layer, methods, multiple)
            if isinstance(found, str):
                reasons[layer.name] = found
            else:
                chosen[layer.name] = found
        return chosen, reasons

    def _usable(self, layer: Layer) -> tuple[list[Method], str]:
        methods: list[Method] = [method for method in self._methods() if applies(layer.shape, method)]
        kernel = " x ".join(map(str, layer.shape.kernel)) or "linear layer's"
        return methods, "" if methods else f"{self.method} has nothing to split in a {kernel} kernel; svd has"

    def _choose(self, layer: Layer, methods: Sequence[Method], multiple: Multiple) -> Choice | str:
        unit, shape = self._unit(), layer.shape
        dense = whole_cost(shape, unit)
        if isinstance(self.rank, int):
            (method,) = methods
            most = largest(shape, method)
            if self.rank > max(most):
                return f"rank {self.rank} is above its largest, {max(most)}"
            found = choice(layer, method, tuple(min(self.rank, one) for one in most))
            return found if found.cost(unit) < dense else _dearer(found, layer)
        if self.rank == "vbmf":
            every = [choice(layer, method, ranks_above_noise(layer, method)) for method in methods]
            found = min(every, key=lambda c: c.cost(unit))
            return found if found.cost(unit) < dense else _dearer(found, layer)
        cheaper = [c for method in methods for c in choices(layer, method, unit, multiple)]
        if not cheaper:
            return _too_dear(layer, methods, unit, multiple)
        if self.ratio is not None:
            within = [c for c in cheaper if c.cost(unit) <= (1.0 - self.ratio) * dense]
            if not within:
                least = min(cheaper, key=lambda c: c.cost(unit))
                saved = 1 - least.cost(unit) / dense
                return f"at its least rank, {least.ranks}, it saves {saved:.1%} of its {dense:,} MACs"
            return min(within, key=lambda c: (c.loss or 0.0, -c.cost(unit)))
        allowed = 1.0 - self.energy if self.energy is not None else cast(float, self.error) ** 2
        good = [c for c in cheaper if c.loss is not None and c.loss <= allowed]
        if not good:
            return f"every rank that loses at most {allowed:.4g} of its energy costs at least its {dense:,} MACs"
        return min(good, key=lambda c: c.cost(unit))


def _action(layer: Layer, made: Choice) -> Split:
    return Split(
        layer=layer.name,
        method=made.method,
        ranks=made.ranks,
        macs=layer.shape.macs,
        macs_after=made.macs,
        parameters=layer.shape.parameters,
        parameters_after=made.parameters,
        loss=made.loss,
    )


def _dearer(found: Choice, layer: Layer) -> str:
    return (
        f"{found.method} at rank {'x'.join(map(str, found.ranks))} has {found.macs:,} MACs and {found.parameters:,} "
        f"parameters, the layer itself {layer.shape.macs:,} and {layer.shape.parameters:,}"
    )


def _too_dear(layer: Layer, methods: Sequence[Method], unit: Unit, multiple: Multiple) -> str:
    """The cheapest that there is, which is no cheaper than the layer."""
    shape = layer.shape
    least: list[tuple[Method, tuple[int, ...]]] = [
        (m, tuple(multiple.of(most) for most in largest(shape, m))) for m in methods
    ]
    every = [Choice(m, r, macs_of(shape, m, r), parameters_of(shape, m, r), None) for m, r in least]
    return _dearer(min(every, key=lambda c: c.cost(unit)), layer)


def _width(weight: Any) -> int:
    count = 1
    for size in weight.shape:
        count *= size
    return weight.bytes // count
