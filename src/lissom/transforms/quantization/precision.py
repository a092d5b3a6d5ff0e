"""Bits of each layer: rules of the recipe, and what of them is stored in half precision.

32: float. 16: weights stored as float16, computed in float32. 8: integers. 4, 3, 2: integers, weights of so few bits.
"auto": whatever of these a search finds (`searching`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import pydantic

from lissom.graph.graph import Graph, Node, Tensor
from lissom.graph.select import select
from lissom.target import Target
from lissom.transforms.base import Plan, Skip
from lissom.transforms.quantization import placement
from lissom.transforms.quantization.actions import HalveWeight, StoreGroups, StoreWeight
from lissom.transforms.quantization.operators import WORTH

Precision = Literal[32, 16, 8, 4, 3, 2]
Auto = Literal["auto"]
FLOAT, HALF, INTEGER = 32, 16, 8


def _pairs(value: Any) -> Any:
    return tuple(cast("Mapping[str, Any]", value).items()) if isinstance(value, Mapping) else value


def _mapping(rules: tuple[tuple[str, Precision | Auto], ...]) -> dict[str, Precision | Auto]:
    return dict(rules)


Rules = Annotated[
    tuple[tuple[str, Precision | Auto], ...],
    pydantic.BeforeValidator(_pairs),
    pydantic.AfterValidator(lambda rules: tuple(dict(rules).items())),
    pydantic.PlainSerializer(_mapping),
]
"""Pattern to bits; later rules win. Given and written as a mapping, held as pairs: a setting is frozen."""

FEWER: frozenset[Precision] = frozenset({4, 3, 2})
"""Precisions of weights with fewer steps than int8 has."""
SURE = 0.95


def _is(default: object) -> Any:
    """Left out of JSON where it is not set: recipes without it keep their ids."""
    return pydantic.Field(exclude_if=lambda value: value == default)


BitsWish = Annotated[Literal["auto", 16, 8, 4, 3, 2] | Rules, _is(INTEGER)]
DropBound = Annotated[Annotated[float, pydantic.Field(ge=0)] | None, _is(None)]
RatioBound = Annotated[Annotated[float, pydantic.Field(gt=1)] | None, _is(None)]
Confidence = Annotated[float, pydantic.Field(ge=0.5, lt=1), _is(SURE)]


def precisions(given: Precision | Auto | Rules) -> frozenset[Precision | Auto]:
    """The bits that the recipe speaks of."""
    return frozenset(bits for _, bits in given) if isinstance(given, tuple) else frozenset({given})


def wanted(
    graph: Graph, precision: Precision | Auto | Rules, exclude: Sequence[str]
) -> tuple[dict[str, Precision], frozenset[str]]:
    """Bits of every candidate by node name, and the nodes whose bits a search is to find: integers until then.

    Raises:
        RecipeError: a pattern matches nothing.
    """
    nodes = placement.candidates(graph)
    names = [name for node in nodes for name in placement.names_of(node)]
    whole: Precision | Auto = INTEGER if isinstance(precision, tuple) else precision
    found: dict[str, Precision | Auto] = {node.name: whole for node in nodes}

    def put(patterns: Sequence[str], bits: Precision | Auto, field: str) -> None:
        chosen = select(names, patterns, field)
        found.update({node.name: bits for node in nodes if not chosen.isdisjoint(placement.names_of(node))})

    for pattern, bits in precision if isinstance(precision, tuple) else ():
        put((pattern,), bits, "Quantize(precision=...)")
    put(exclude, FLOAT, "Quantize(exclude=...)")
    known: dict[str, Precision] = {name: INTEGER if bits == "auto" else bits for name, bits in found.items()}
    return known, frozenset(name for name, bits in found.items() if bits == "auto")


def inherited(graph: Graph, found: Mapping[str, Precision]) -> dict[str, Precision]:
    """Rules from the bits that an earlier step set for layers, as they are called in that step's model.

    A layer that was split since stands for its parts; one that is gone has no rule.
    """
    names = {name for node in placement.candidates(graph) for name in placement.names_of(node)}
    rules: dict[str, Precision] = {}
    for layer, bits in found.items():
        if layer == "*" or layer in names:
            rules[layer] = bits
        elif any(name.startswith(f"{layer}.") for name in names):
            rules[f"{layer}.*"] = bits
    return rules


def explained(
    graph: Graph, bits: Mapping[str, Precision], skipped: Sequence[Skip], reasons: Mapping[str, str]
) -> list[Skip]:
    """What is skipped, with the reason that a layer is in float; layers of 16 bits are told apart by `halves`."""
    found: dict[str, Node] = {placement.label(node): node for node in placement.candidates(graph)}
    made: list[Skip] = []
    for skip in skipped:
        node = found[skip.layer]
        if skip.reason == placement.EXCLUDED and bits[node.name] == HALF:
            continue
        made.append(skip.model_copy(update={"reason": reasons[node.name]}) if node.name in reasons else skip)
    return made


def floats(bits: Mapping[str, Precision]) -> frozenset[str]:
    """Nodes that compute in float."""
    return frozenset(name for name, own in bits.items() if own >= HALF)


def halves(
    graph: Graph, bits: Mapping[str, Precision], stored: Collection[str], target: Target
) -> tuple[list[HalveWeight], list[Skip]]:
    """Weights to store as float16, and why others of the layers that should be are not.

    `stored` are the parameters that are kept as integers. A weight is read by every layer as it is stored, so none that
    a layer of 32 bits reads is halved.
    """
    actions: list[HalveWeight] = []
    reasons: dict[str, str] = {}
    for tensor in graph.tensors:
        readers = [graph.by_name[name] for name in tensor.used_by if bits.get(name) == HALF]
        if not readers or tensor.name in stored:
            continue
        reason = _refuse(graph, tensor, bits, target)
        if reason is None:
            label = placement.label(readers[0])
            actions.append(HalveWeight(layer=label, parameter=tensor.name, nodes=tensor.used_by))
        else:
            reasons.update({node.name: reason for node in readers})
    done = {name for action in actions for name in action.nodes}
    skipped = [
        Skip(layer=placement.label(node), reason=reasons.get(node.name, "16 bits: it holds no weight to store"))
        for node in placement.candidates(graph)
        if bits[node.name] == HALF and node.name not in done and _is_layer(graph, node)
    ]
    return actions, list(dict.fromkeys(skipped))


def _refuse(graph: Graph, tensor: Tensor, bits: Mapping[str, Precision], target: Target) -> str | None:
    if target.halves == "none":
        return f"16 bits: {target.title} would convert the weight at every call, in float32 and slower"
    if tensor.dtype != "float32":
        return f"16 bits: its weight is {tensor.dtype}, not float32"
    count = math.prod(tensor.shape)
    if count < WORTH:
        return f"16 bits: its weights hold fewer than {WORTH} values, and the conversion takes the room that it saves"
    others = [name for name in tensor.used_by if bits.get(name) == FLOAT]
    return f"16 bits: its weight is shared with {placement.label(graph.by_name[others[0]])}" if others else None


def _is_layer(graph: Graph, node: Node) -> bool:
    return any(operand.kind == "parameter" for operand in node.operands) or bool(node.macs)


def stored_as(plan: Plan) -> dict[str, str]:
    """Nodes of the traced graph to how the plan stores their weight: `int8`, `int4`, `float16`."""
    found = {node: "float16" for action in plan.of(HalveWeight) for node in action.nodes}
    for action in plan.of(StoreWeight):
        finer = "" if action.bits == action.stored else f", {action.bits}-bit steps"
        name = f"int{action.stored}{finer}"
        found.update(dict.fromkeys(action.nodes, name))
    for action in plan.of(StoreGroups):
        runs = f", groups of {action.group}" if action.group else ""
        kind = "int" if action.symmetric else "uint"
        found.update(dict.fromkeys(action.nodes, f"{kind}{action.bits}{runs}"))
    return found
