"""`Quantize`: post-training int8, weights of fewer bits, corrections of the rounding error.

Static: every activation that an integer kernel reads has one scale and zero point, set on calibration data by a method
of `lissom.functional.calibration`, or by the one whose rounding its readers feel least (`lissom.graph.trials`); weights
are symmetric int8 with one scale per output channel. Dynamic: the range of an input is taken at every call, no data
needed. Formulas: `lissom.functional.affine`; where quantizers go: `placement` and the target's table.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Annotated, ClassVar, Literal, Self

import pydantic
from torch import nn

from lissom.errors import DataError
from lissom.functional.calibration import PERCENTILE
from lissom.functional.weightgrid import Bits
from lissom.graph.graph import Graph, Node
from lissom.graph.sample import Sample
from lissom.graph.select import select
from lissom.graph.statistics import Statistics, observe
from lissom.graph.trace import Trace
from lissom.graph.trials import trial_errors
from lissom.target import Target
from lissom.task import Split, Task
from lissom.transforms.base import ALONE, Action, Cost, Plan, Skip, Stage, Transform, Work, calibration_split
from lissom.transforms.quantization import calibrating, placement
from lissom.transforms.quantization.actions import (
    Equalize,
    Fit,
    RoundActivation,
    RoundBias,
    RoundDynamically,
    ShiftBias,
    StoreWeight,
)
from lissom.transforms.quantization.calibrating import Calibration
from lissom.transforms.quantization.corrections import (
    CORRECTIONS,
    ENOUGH,
    EXAMPLES,
    FITTED,
    RESCALINGS,
    ROUNDINGS,
    Bench,
    Correction,
    Findings,
    Halves,
    Trial,
    compared,
    corrected,
    glance,
    halved,
)
from lissom.transforms.quantization.equalizing import find_pairs
from lissom.transforms.quantization.placement import KINDS, Point
from lissom.transforms.quantization.writing import fitted_shifts, write, write_fitted

TRIED = 16
"""Examples on which calibration methods are compared."""


class Quantize(Transform):
    """Post-training int8.

    `mode="static"` needs calibration data (`Task.calibration`, else `Task.train`), of which `samples` examples are
    used; `mode="dynamic"` needs none and quantizes linear layers only. `calibration` sets the ranges of static mode
    (`lissom.functional.calibration`); "auto" takes for each value the method whose rounding changes the outputs of its
    readers least, on a few of the examples. `percentile` is that of the method of this name. `exclude` holds patterns
    of layers that stay in float (`"conv1"`, `"layer3.*"`).

    `weight_bits` is how many bits the steps of a weight have; the plan says how many they take in the target's file
    (`StoreWeight.stored`). `corrections` are tried one
    after the other and kept where they lower the error on held-out examples: `"auto"` tries equalization, smoothing
    and bias correction for 8 bits, equalization, smoothing and GPTQ for fewer.
    """

    stage: ClassVar[Stage] = "quantize"
    actions: ClassVar[dict[str, type[Action]]] = {
        "equalize": Equalize,
        "shift-bias": ShiftBias,
        "round-activation": RoundActivation,
        "round-dynamically": RoundDynamically,
        "round-bias": RoundBias,
        "store-weight": StoreWeight,
    }

    mode: Literal["static", "dynamic"] = "static"
    calibration: Calibration = "auto"
    percentile: Annotated[float, pydantic.Field(gt=0, le=100)] = PERCENTILE
    samples: Annotated[int, pydantic.Field(ge=1)] = 512
    exclude: tuple[str, ...] = ()
    weight_bits: Bits = 8
    corrections: Literal["auto"] | tuple[Correction, ...] = "auto"

    @pydantic.model_validator(mode="after")
    def _corrections_fit(self) -> Self:
        if self.corrections == "auto":
            return self
        if self.mode == "dynamic" and self.corrections:
            raise ValueError(f"corrections={list(self.corrections)} need calibration data; use mode='static'")
        if all(name in self.corrections for name in ROUNDINGS):
            raise ValueError("'gptq' and 'adaround' both choose the rounding; give one of them in corrections")
        return self

    def needs(self) -> frozenset[Split]:
        return frozenset({"calibration"}) if self.mode == "static" else frozenset()

    def watch(self, graph: Graph, target: Target) -> Collection[str]:
        if self.mode == "dynamic":
            return ()
        chosen, _ = self._chosen(graph, target)
        return {point.root for point in placement.points(graph, chosen, target)}

    def study(
        self, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work = ALONE
    ) -> Statistics | None:
        if self.mode == "dynamic":
            return None
        return self._corrected(trace, task, target, self._seen(trace, task, target, work), work)

    def _seen(self, trace: Trace, task: Task, target: Target, work: Work) -> Statistics:
        batches = task.batches(calibration_split(self.name, task), limit=self.samples)
        auto = self.calibration == "auto"
        sample, watch = Sample(TRIED), self.watch(trace.graph, target)
        seen = observe(
            trace,
            batches,
            watch,
            histograms=self.calibration != "minmax",
            sample=sample if auto else None,
            progress=lambda n: work.tick(n / self.samples),
        )
        work.tick(1.0)
        return seen.model_copy(update={"trials": self._trials(trace, seen, sample, target)}) if auto else seen

    def _trials(self, trace: Trace, seen: Statistics, sample: Sample, target: Target) -> dict[str, dict[str, float]]:
        chosen, _ = self._chosen(trace.graph, target)
        points = [p for p in placement.points(trace.graph, chosen, target) if p.root in seen.ranges]
        ways = calibrating.ways(seen, points, target.integers, self.percentile)
        tried = trial_errors(trace, sample, calibrating.probes(trace.graph, points), ways)
        return calibrating.estimates(seen, tried, ways)

    def _corrected(self, trace: Trace, task: Task, target: Target, seen: Statistics, work: Work) -> Statistics:
        """What was seen, after the corrections that help and that a plan can hold."""
        # A bias makes up for the rounding that was chosen, so it comes after a rounding that is fitted.
        later = ROUNDINGS if self._fit == "nearest" else (*ROUNDINGS, "bias")
        names: list[Correction] = [name for name in self._names if name not in later]
        halves = self._halves(trace, task, EXAMPLES) if names else None
        if halves is None:
            return seen
        graph, watch = trace.graph, self.watch(trace.graph, target)
        products = {node.name for node in self._chosen(graph, target)[0] if KINDS[node.op] in ("conv", "linear")}
        plain = self.model_copy(update={"corrections": ()})
        coarse = plain.model_copy(update={"calibration": "minmax"})

        def rounded(found: Findings, glanced: bool) -> nn.Module:
            return write(trace, (coarse if glanced else plain).plan(graph, found, target))

        found, trials = corrected(
            Bench(
                trace=trace,
                halves=halves,
                pairs=find_pairs(graph, products),
                observe=lambda scaled: plain._seen(scaled, task, target, work),
                glance=lambda scaled: glance(scaled, halves.fit, watch),
                rounded=rounded,
                shifted=lambda found: fitted_shifts(trace, plain.plan(graph, found, target), halves),
            ),
            seen,
            names,
        )
        work.note("corrections", [trial.note() for trial in trials])
        return found

    @property
    def _names(self) -> tuple[Correction, ...]:
        """Corrections to try, in order."""
        if self.corrections != "auto":
            return tuple(name for name in CORRECTIONS if name in self.corrections)
        if self.mode == "dynamic":
            return ()
        return (*RESCALINGS, "bias" if self.weight_bits == 8 else "gptq")

    @property
    def _fit(self) -> Fit:
        names = self._names
        return "gptq" if "gptq" in names else "adaround" if "adaround" in names else "nearest"

    def _halves(self, trace: Trace, task: Task, examples: int) -> Halves | None:
        """Examples to fit and to judge on; None where there are too few."""
        examples = min(self.samples, examples)
        batches = task.batches(calibration_split(self.name, task), limit=examples)
        found = halved(trace.module, trace.graph, batches, examples)
        few = found.examples < ENOUGH if self.corrections == "auto" else not (found.fit and found.judge)
        return None if few else found

    def plan(self, graph: Graph, study: Statistics | None, target: Target) -> Plan:
        """
        Raises:
            RecipeError: an `exclude` pattern matches nothing.
            DataError: static mode without statistics.
        """
        chosen, skipped = self._chosen(graph, target)
        actions: list[Action] = []
        if isinstance(study, Findings):
            actions += [*study.corrected.equalizations, *study.corrected.shifts]
        if self.mode == "static":
            if study is None:
                raise DataError(
                    "Quantize(mode='static') needs calibration data: give Task(calibration=...) or "
                    "Task(train=...), or use Quantize(mode='dynamic'), which needs none."
                )
            found = placement.points(graph, chosen, target)
            rounded = [self._activation(graph, point, study, target) for point in found]
            actions += rounded
            if target.integers.integer_bias:
                actions += _biases(graph, chosen, rounded)
        else:
            table = target.dynamic
            actions += [
                RoundDynamically(
                    layer=placement.label(node),
                    node=node.name,
                    granularity=table.granularity,
                    group=table.group,
                    dtype=table.dtype,
                )
                for node in chosen
            ]
        products = [node for node in chosen if KINDS[node.op] in ("conv", "linear")]
        actions += _weights(products, self.weight_bits, self._fit, target)
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=tuple(actions),
            skipped=tuple(skipped),
            predicted=_predicted(graph, [a for a in actions if isinstance(a, StoreWeight)]),
        )

    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task, work: Work = ALONE) -> nn.Module:
        nearest = write(trace, plan)
        fits: set[Fit] = {action.fit for action in plan.of(StoreWeight)} - {"nearest"}
        halves = self._halves(trace, task, FITTED) if fits else None
        if halves is None:
            return nearest
        best, trials = nearest, list[Trial]()
        names: list[Correction] = [name for name in self._names if name in fits or name == "bias"]
        for name in names:
            candidate = write_fitted(trace, plan, halves, biases=name == "bias")
            trial = compared(trace, halves, name, len(plan.of(StoreWeight)), best, candidate)
            trials.append(trial)
            best = candidate if trial.accepted else best
        work.note("rounding", [trial.note() for trial in trials])
        return best

    def restructure(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        return write(trace, plan)

    def _activation(self, graph: Graph, point: Point, statistics: Statistics, target: Target) -> RoundActivation:
        table, seen = target.integers, calibrating.range_at(statistics, point.root)
        method = calibrating.best(statistics.trials, point.root) if self.calibration == "auto" else self.calibration
        numbers = calibrating.numbers_by(statistics, point.root, method, table, self.percentile)
        node = graph.by_name.get(point.value)
        return RoundActivation(
            layer=placement.label(node) if node else point.value,
            value=point.value,
            readers=tuple((reader.node, reader.position) for reader in point.readers),
            numbers=numbers,
            range=seen,
            method=method,
        )

    def _chosen(self, graph: Graph, target: Target) -> tuple[list[Node], list[Skip]]:
        names = [name for node in placement.candidates(graph) for name in placement.names_of(node)]
        excluded = select(names, self.exclude, "Quantize(exclude=...)")
        ops = target.integers.ops if self.mode == "static" else target.dynamic.ops
        chosen, skipped = placement.partition(graph, ops, target, excluded)
        if self.mode == "static":
            return chosen, skipped
        narrow = {node.name: width for node in chosen if (width := _width(graph, node)) < target.dynamic.group}
        skipped += [
            Skip(
                layer=placement.label(node),
                reason=f"its input has {narrow[node.name]} values, fewer than the {target.dynamic.group} of a group: "
                f"{target.title} would keep it in float",
            )
            for node in chosen
            if node.name in narrow
        ]
        return [node for node in chosen if node.name not in narrow], skipped


def _width(graph: Graph, node: Node) -> int:
    """Length of the reduced axis of a linear layer."""
    return graph.tensor_by_name[node.parameter(1) or ""].shape[1]


def _weights(products: list[Node], bits: Bits, fit: Fit, target: Target) -> list[StoreWeight]:
    readers: dict[str, list[Node]] = {}
    for node in products:
        if (parameter := node.parameter(1)) is not None:
            readers.setdefault(parameter, []).append(node)
    return [
        StoreWeight(
            layer=placement.label(nodes[0]),
            parameter=parameter,
            axis=0,
            nodes=tuple(node.name for node in nodes),
            bits=bits,
            fit=fit if len(nodes) == 1 else "nearest",
            stored=target.weights.stored(bits),
        )
        for parameter, nodes in readers.items()
    ]


def _biases(graph: Graph, chosen: list[Node], rounded: list[RoundActivation]) -> list[RoundBias]:
    scales = {reader: action.numbers.scale for action in rounded for reader in action.readers}
    found: list[RoundBias] = []
    for node in chosen:
        weight, bias, scale = node.parameter(1), node.parameter(2), scales.get((node.name, 0))
        if weight is None or bias is None or scale is None:
            continue
        if graph.tensor_by_name[bias].used_by == (node.name,):
            found.append(RoundBias(layer=placement.label(node), parameter=bias, weight=weight, scale=scale))
    return found


def _predicted(graph: Graph, stored: Iterable[StoreWeight]) -> Cost:
    """Weights at the bits that they take in the file, plus a float32 scale per output channel."""
    size = graph.bytes
    for action in stored:
        tensor = graph.tensor_by_name[action.parameter]
        size += math.ceil(tensor.bytes * action.stored / 32) + 4 * tensor.shape[0] - tensor.bytes
    return Cost(macs=graph.macs, parameters=graph.parameters, bytes=size)


def planned_precision(plan: Plan) -> dict[str, str]:
    """Products of the traced graph to the precision the plan gives them: `int8` or `int8 dynamic`."""
    static = {node: "int8" for action in plan.of(StoreWeight) for node in action.nodes}
    return {**static, **{action.node: "int8 dynamic" for action in plan.of(RoundDynamically)}}
