"""`Quantize`: post-training int8.

Static: every activation that an integer kernel reads has one scale and zero point, set from its range on calibration
data; weights are symmetric int8 with one scale per output channel. Dynamic: the range of an input is taken at every
call, no data needed. Formulas: `lissom.functional.affine`; where quantizers go: `placement` and the target's table.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal

import pydantic
from torch import nn

from lissom.errors import DataError
from lissom.functional.affine import Affine, IntType, affine
from lissom.functional.ranges import Range
from lissom.graph.graph import Graph, Node
from lissom.graph.select import select
from lissom.graph.statistics import Statistics, observe
from lissom.graph.trace import Trace
from lissom.target import Granularity, Target
from lissom.task import Split, Task
from lissom.transforms.base import ALONE, Action, Cost, Plan, Skip, Stage, Transform, Work, calibration_split, clone
from lissom.transforms.quantization import placement, rewrite
from lissom.transforms.quantization.placement import KINDS, Point, Reader


class RoundActivation(Action):
    """Round `value` (a node of the traced graph) for its readers; `layer` computed it."""

    kind: Literal["round-activation"] = "round-activation"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    value: str
    readers: tuple[tuple[str, int], ...]
    numbers: Affine
    range: Range


class RoundDynamically(Action):
    """Give the input of `node` its own ranges at every call: one a tensor, a row, or a run of `group` values."""

    kind: Literal["round-dynamically"] = "round-dynamically"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    node: str
    granularity: Granularity
    group: int
    dtype: IntType


class StoreWeight(Action):
    """Keep `parameter` as symmetric int8 with one scale per slice of `axis`; `nodes` multiply by it."""

    kind: Literal["store-weight"] = "store-weight"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    parameter: str
    axis: int
    nodes: tuple[str, ...]


class RoundBias(Action):
    """Put the bias `parameter` on the accumulator's grid: `scale` of the input times the scales of `weight`."""

    kind: Literal["round-bias"] = "round-bias"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    parameter: str
    weight: str
    scale: float


class Quantize(Transform):
    """Post-training int8.

    `mode="static"` needs calibration data (`Task.calibration`, else `Task.train`), of which `samples` examples are
    used; `mode="dynamic"` needs none and quantizes linear layers only. `exclude` holds patterns of layers that stay
    in float (`"conv1"`, `"layer3.*"`).
    """

    stage: ClassVar[Stage] = "quantize"
    actions: ClassVar[dict[str, type[Action]]] = {
        "round-activation": RoundActivation,
        "round-dynamically": RoundDynamically,
        "round-bias": RoundBias,
        "store-weight": StoreWeight,
    }

    mode: Literal["static", "dynamic"] = "static"
    calibration: Literal["minmax"] = "minmax"
    samples: Annotated[int, pydantic.Field(ge=1)] = 512
    exclude: tuple[str, ...] = ()

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
        batches = task.batches(calibration_split(self.name, task), limit=self.samples)
        seen = observe(trace, batches, self.watch(trace.graph, target), progress=lambda n: work.tick(n / self.samples))
        work.tick(1.0)
        return seen

    def plan(self, graph: Graph, study: Statistics | None, target: Target) -> Plan:
        """
        Raises:
            RecipeError: an `exclude` pattern matches nothing.
            DataError: static mode without statistics.
        """
        chosen, skipped = self._chosen(graph, target)
        actions: list[Action] = []
        if self.mode == "static":
            if study is None:
                raise DataError(
                    "Quantize(mode='static') needs calibration data: give Task(calibration=...) or "
                    "Task(train=...), or use Quantize(mode='dynamic'), which needs none."
                )
            found = placement.points(graph, chosen, target)
            rounded = [_activation(graph, point, study, target) for point in found]
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
        actions += _weights(products)
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=tuple(actions),
            skipped=tuple(skipped),
            predicted=_predicted(graph, {a.parameter for a in actions if isinstance(a, StoreWeight)}),
        )

    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task, work: Work = ALONE) -> nn.Module:
        module = clone(trace.module)
        for rounded in plan.of(RoundActivation):
            readers = tuple(Reader(node, position) for node, position in rounded.readers)
            rewrite.round_value_(module, rounded.value, readers, rounded.numbers)
        for dynamic in plan.of(RoundDynamically):
            rewrite.round_dynamically_(module, dynamic.node, dynamic.granularity, dynamic.group, dynamic.dtype)
        for bias in plan.of(RoundBias):
            rewrite.round_bias_(module, bias.parameter, bias.weight, bias.scale)
        for weight in plan.of(StoreWeight):
            rewrite.store_weight_(module, weight.parameter, weight.axis)
        rewrite.finish_(module)
        return module

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


def _activation(graph: Graph, point: Point, statistics: Statistics, target: Target) -> RoundActivation:
    table = target.integers
    seen = statistics.ranges.get(point.root)
    if seen is None:
        raise DataError(
            f"The calibration data gave no values at {point.root!r}: no batch, or only empty tensors there. Give "
            "more calibration data, or leave the layer out with Quantize(exclude=...)."
        )
    dtype = table.nonnegative if seen.low >= 0 else table.signed
    node = graph.by_name.get(point.value)
    return RoundActivation(
        layer=placement.label(node) if node else point.value,
        value=point.value,
        readers=tuple((reader.node, reader.position) for reader in point.readers),
        numbers=affine(seen.low, seen.high, dtype, symmetric=table.symmetric),
        range=seen,
    )


def _weights(products: list[Node]) -> list[StoreWeight]:
    readers: dict[str, list[Node]] = {}
    for node in products:
        if (parameter := node.parameter(1)) is not None:
            readers.setdefault(parameter, []).append(node)
    return [
        StoreWeight(
            layer=placement.label(nodes[0]), parameter=parameter, axis=0, nodes=tuple(node.name for node in nodes)
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


def _predicted(graph: Graph, stored: set[str]) -> Cost:
    """Weights at one byte each, plus a float32 scale per output channel."""
    size = graph.bytes
    for name in stored:
        tensor = graph.tensor_by_name[name]
        count = tensor.bytes // 4
        size += count + 4 * tensor.shape[0] - tensor.bytes
    return Cost(macs=graph.macs, parameters=graph.parameters, bytes=size)


def planned_precision(plan: Plan) -> dict[str, str]:
    """Products of the traced graph to the precision the plan gives them: `int8` or `int8 dynamic`."""
    static = {node: "int8" for action in plan.of(StoreWeight) for node in action.nodes}
    return {**static, **{action.node: "int8 dynamic" for action in plan.of(RoundDynamically)}}
