"""Actions of a plan of `Quantize`, and what the model takes after them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from lissom.errors import TargetError
from lissom.functional.affine import ActivationBits, affine
from lissom.functional.overflow import saturates_here
from lissom.functional.weightgrid import Bits
from lissom.graph.graph import Graph, Node
from lissom.graph.statistics import Statistics
from lissom.target import OpKind, Target, known_targets, load_target
from lissom.transforms.base import Action, Cost, Plan
from lissom.transforms.quantization import calibrating, placement
from lissom.transforms.quantization.actions import (
    Fit,
    HalveWeight,
    MultiplyActivations,
    RoundActivation,
    RoundBias,
    RoundDynamically,
    ShiftBias,
    StoreGroups,
    StoreWeight,
)
from lissom.transforms.quantization.calibrating import Calibration
from lissom.transforms.quantization.corrections import Findings
from lissom.transforms.quantization.operators import ACTIVATIONS, KINDS, PRODUCTS, RESTORED, axis_of, label, weights_of
from lissom.transforms.quantization.placement import Point
from lissom.transforms.quantization.precision import stored_as


def width(graph: Graph, node: Node) -> int:
    """Length of the reduced axis of a linear layer."""
    return graph.tensor_by_name[node.parameter(1) or ""].shape[1]


OverflowFix = Literal["auto", "on", "off"]


def spares(wish: OverflowFix, target: Target) -> bool:
    """Whether weights of 8 bits are kept from overflow: by itself where the target and this machine need it."""
    return wish == "on" or (wish == "auto" and target.integers.saturates and saturates_here())


def weights(
    graph: Graph,
    nodes: Sequence[Node],
    steps: Mapping[str, Bits],
    fit: Callable[[Bits], Fit],
    target: Target,
    wish: OverflowFix = "off",
) -> list[StoreWeight]:
    """What is stored, weight by weight; a fitted rounding could leave the certified steps, so a spared one is near."""
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        if KINDS[node.op] in PRODUCTS and (parameter := node.parameter(1)) is not None:
            readers.setdefault(parameter, []).append(node)
    spared = spares(wish, target)

    def fitted(nodes: Sequence[Node], bits: Bits) -> Fit:
        plain = len(nodes) == 1 and KINDS[nodes[0].op] in ("conv", "linear")
        return fit(bits) if plain and not (spared and bits == 8) else "nearest"

    return [
        StoreWeight(
            layer=placement.label(nodes[0]),
            parameter=parameter,
            axis=axis_of(graph, nodes[0]),
            nodes=tuple(node.name for node in nodes),
            bits=(bits := max(steps[node.name] for node in nodes)),
            fit=fitted(nodes, bits),
            stored=target.weights.stored(bits),
            pairs_fit=spared and bits == 8,
        )
        for parameter, nodes in readers.items()
    ]


def restored(graph: Graph, nodes: Sequence[Node], steps: Mapping[str, Bits], target: Target) -> list[StoreWeight]:
    """Weights that are kept as integers and computed with in float: one scale for each row."""
    found: dict[str, StoreWeight] = {}
    for node in nodes:
        for parameter in weights_of(graph, node) if KINDS[node.op] in RESTORED else ():
            before = found.get(parameter)
            bits: Bits = max(steps[node.name], before.bits if before else 2)
            found[parameter] = StoreWeight(
                layer=before.layer if before else label(node),
                parameter=parameter,
                axis=0,
                nodes=tuple(dict.fromkeys((*(before.nodes if before else ()), node.name))),
                bits=bits,
                # No format finds rows in packed integers.
                stored=8 if KINDS[node.op] == "embedding" else target.weights.stored(bits),
                restored=True,
            )
    return list(found.values())


def multiplied(nodes: Sequence[Node], target: Target) -> list[MultiplyActivations]:
    """Products of activations; attention weights have the 256 steps of [0, 1]."""
    steps = affine(0.0, 1.0, target.integers.nonnegative, symmetric=target.integers.symmetric)
    kinds = [(node, KINDS[node.op]) for node in nodes]
    return [
        MultiplyActivations(layer=label(node), node=node.name, weights=steps if kind == "attention" else None)
        for node, kind in kinds
        if kind in ACTIVATIONS
    ]


def biases(graph: Graph, chosen: Sequence[Node], rounded: Sequence[RoundActivation]) -> list[RoundBias]:
    scales = {reader: action.numbers.scale for action in rounded for reader in action.readers}
    found: list[RoundBias] = []
    for node in chosen:
        weight, bias, scale = node.parameter(1), node.parameter(2), scales.get((node.name, 0))
        if weight is None or bias is None or scale is None or KINDS[node.op] not in PRODUCTS:
            continue
        if graph.tensor_by_name[weight].shape[axis_of(graph, node)] != graph.tensor_by_name[bias].shape[0]:
            continue  # one scale for an output of each group
        if graph.tensor_by_name[bias].used_by == (node.name,):
            found.append(RoundBias(layer=placement.label(node), parameter=bias, weight=weight, scale=scale))
    return found


def at_run_time(nodes: Sequence[Node], target: Target, reasons: Mapping[str, str], *, samples: bool) -> list[Action]:
    """Inputs that get ranges at run time, as the target has it, or one for each of the `samples`."""
    table = target.dynamic
    return [
        RoundDynamically(
            layer=placement.label(node),
            node=node.name,
            granularity="sample" if samples else table.granularity,
            group=0 if samples else table.group,
            dtype="uint8" if samples else table.dtype,
            reason=reasons.get(node.name, ""),
        )
        for node in nodes
    ]


def sampled(target: Target) -> tuple[OpKind, ...]:
    """Kinds of operator that get a range for each example.

    Raises:
        TargetError: the target's files cannot hold the arithmetic.
    """
    if not target.dynamic.samples:
        able = [name for name in known_targets() if load_target(name).dynamic.samples]
        raise TargetError(
            f"Quantize(mode='per_sample') writes out the arithmetic of a range for each example, which files for "
            f"{target.title} cannot hold. Use the target {', '.join(able)}, or mode='dynamic' or 'static'."
        )
    return ("conv", "linear")


def unable(graph: Graph, node: Node, target: Target) -> str | None:
    """Why the input of a linear layer cannot get its ranges at run time."""
    own = width(graph, node)
    if own < target.dynamic.group:
        return (
            f"its input has {own} values, fewer than the {target.dynamic.group} of a group: {target.title} would keep "
            "it in float"
        )
    return None


def able(graph: Graph, chosen: Sequence[Node], target: Target) -> frozenset[str]:
    """Those of the nodes whose inputs the target can give ranges at run time."""
    dynamic = [node for node in chosen if placement.KINDS[node.op] in target.dynamic.ops]
    return frozenset(node.name for node in dynamic if unable(graph, node, target) is None)


def without_examples(graph: Graph, node: Node, _: Target) -> str | None:
    """Why the input of a product cannot get a range for each example."""
    first = graph.shape_of(node.value(0) or "")[:1]
    if "N" in str(first) or first == (graph.fixed_batch,):
        return None
    return "the first axis of its input does not count the examples, so that they cannot have ranges of their own"


def shifts(graph: Graph, chosen: Sequence[Node], study: Findings) -> list[ShiftBias]:
    """Those of layers that are rounded: a shift makes up for the rounding of its own layer too."""
    own = {node.parameter(2) for node in chosen}
    return [shift for shift in study.corrected.shifts if shift.parameter in own]


def predicted(graph: Graph, actions: Sequence[Action]) -> Cost:
    """Integer weights at the bits that they take in the file, plus a float32 scale per output channel; halved at 16."""
    size = graph.bytes
    for action in actions:
        if isinstance(action, (StoreWeight, HalveWeight)):
            tensor = graph.tensor_by_name[action.parameter]
            bits, scales = (
                (action.stored, 4 * tensor.shape[action.axis]) if isinstance(action, StoreWeight) else (16, 0)
            )
            size += math.ceil(tensor.bytes * bits / 32) + scales - tensor.bytes
        elif isinstance(action, StoreGroups):
            size += _grouped_bytes(graph, action) - graph.tensor_by_name[action.parameter].bytes
    return Cost(macs=graph.macs, parameters=graph.parameters, bytes=size)


def _grouped_bytes(graph: Graph, action: StoreGroups) -> int:
    rows, *rest = graph.tensor_by_name[action.parameter].shape
    width = math.prod(rest)
    runs = rows * math.ceil(width / (action.group or max(width, 1)))
    return math.ceil((rows * width + (0 if action.symmetric else runs)) * action.bits / 8) + 4 * runs


def planned_precision(plan: Plan) -> dict[str, str]:
    """Products of the traced graph to the precision the plan gives them: `int8`, `int8 dynamic`, or `int4 weights`
    where a kernel restores them as it multiplies."""
    static = {node: "int8" for action in plan.of(StoreWeight) if not action.restored for node in action.nodes}
    multiplied = {action.node: "int8" for action in plan.of(MultiplyActivations)}
    kept = {node: f"int{a.bits} weights" for a in plan.of(StoreGroups) if a.kept for node in a.nodes}
    return {**static, **multiplied, **kept, **{action.node: "int8 dynamic" for action in plan.of(RoundDynamically)}}


def activation(
    graph: Graph,
    point: Point,
    study: Statistics,
    target: Target,
    how: tuple[Calibration, float],
    bits: ActivationBits = 8,
) -> RoundActivation:
    """The rounding of a value; `how` is the calibration and the percentile of the one of this name.

    Raises:
        DataError: the data gave no values there, or not what the calibration needs.
    """
    table, seen = target.integers, calibrating.range_at(study, point.root)
    method = calibrating.best(study.trials, point.root) if how[0] == "auto" else how[0]
    node = graph.by_name.get(point.value)
    joined = node is not None and KINDS.get(node.op) == "concat"
    return RoundActivation(
        layer=placement.label(node) if node else point.value,
        value=point.value,
        readers=tuple((reader.node, reader.position) for reader in point.readers),
        numbers=calibrating.numbers_by(
            study, point.root, method, table, how[1], bits, shifts=calibrating.shifts(graph, point, table)
        ),
        range=seen,
        method=method,
        clip=joined and seen.low < 0 and table.joins == "nonnegative",
    )


def every_sum(target: Target) -> Target:
    """The target as if no product's kernel added: then both operands of a sum are rounded, as they have to be wherever
    the product is put back in float."""
    table = target.integers.model_copy(update={"absorbs_add": False})
    return target.model_copy(update={"integers": table})


def layer_bits(plan: Plan) -> list[tuple[str, str, str]]:
    """Every layer whose weight is stored otherwise than before: its name, how, and what it computes in."""
    stored, computed = stored_as(plan), planned_precision(plan)
    found = {
        node: (action.layer, stored[node], computed.get(node, "float32"))
        for action in (*plan.of(StoreWeight), *plan.of(StoreGroups), *plan.of(HalveWeight))
        for node in action.nodes[:1]
    }
    return list(dict.fromkeys(found.values()))
