"""What choices of precision are planned, built and judged with, and what single layers cost and lose."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, map_arg
from torch.fx import Node as FxNode

from lissom.errors import DataError
from lissom.graph.graph import Graph, Node
from lissom.graph.lockstep import attribute, first
from lissom.graph.trace import Trace, trace
from lissom.target import Target
from lissom.task import Batch, Split, Task, sliced
from lissom.transforms.base import Plan, Race, Transform, Work
from lissom.transforms.quantization import placement
from lissom.transforms.quantization.corrections import first_outputs, relative_error
from lissom.transforms.quantization.precision import FLOAT, Precision
from lissom.transforms.quantization.writing import write

EXAMPLES = 64
"""On which the error of single layers is taken."""
Bits = Mapping[str, Precision]
"""Node of the traced graph to bits."""


@dataclass(frozen=True, eq=False)
class Shop:
    """`bits` are those of the recipe, `free` the nodes whose bits are to be found, `chosen` those with an integer form.

    `plan` plans for other bits, `finished` builds a plan with all that belongs to it; `plain` quantizes single layers.
    `fewer` are the bits below 8 that a search looks at.
    """

    trace: Trace
    task: Task
    target: Target
    work: Work
    bits: Bits
    free: frozenset[str]
    chosen: Sequence[Node]
    plan: Callable[[Bits], Plan]
    finished: Callable[[Plan], nn.Module]
    plain: Transform
    fewer: tuple[Precision, ...] = (4,)

    @property
    def graph(self) -> Graph:
        return self.trace.graph


@dataclass(frozen=True)
class Unit:
    """Nodes that get the same bits: one operator, or all that read a weight."""

    name: str
    nodes: tuple[str, ...]
    integer: bool
    """Whether it has an integer form."""


def units_of(graph: Graph, nodes: Iterable[Node], chosen: Sequence[Node]) -> list[Unit]:
    """The nodes in the order of the graph; those with a weight in common, or a name, together."""
    found: dict[str, list[Node]] = {}
    owner: dict[str, str] = {}
    for node in nodes:
        held = [operand.source for operand in node.operands if operand.kind == "parameter"]
        held.append(f"called {placement.label(node)}")
        first_owner = next((owner[name] for name in held if name in owner), node.name)
        found.setdefault(first_owner, []).append(node)
        owner.update(dict.fromkeys(held, first_owner))
    integers = {node.name for node in chosen}
    return [
        Unit(placement.label(own[0]), tuple(node.name for node in own), all(node.name in integers for node in own))
        for own in found.values()
    ]


def examples_of(shop: Shop) -> list[Batch]:
    """Calibration examples, or training or validation ones.

    Raises:
        DataError: the task has none.
    """
    splits: tuple[Split, ...] = ("calibration", "train", "validation")
    there: list[Split] = [split for split in splits if shop.task.has(split)]
    if not there:
        raise DataError(
            "Quantize(precision='auto') and Quantize(max_drop=...) run the model on examples, and the task has none. "
            "Give Task(calibration=...), or set the precision by hand."
        )
    return list(first(shop.task.batches(there[0], limit=EXAMPLES), EXAMPLES, shop.graph.fixed_batch))


class Errors:
    """Error of the model's first output with one unit at so many bits and all others in float.

    Weights are rounded to the nearest. Examples run one at a time where they are to be `alone` and the graph lets them:
    ranges taken at run time are then those of one example. Raises:
        DataError: the model has no floating-point output.
    """

    def __init__(self, shop: Shop, *, alone: bool = False) -> None:
        self._shop = shop
        self._pieces = examples_of(shop)
        if alone and shop.graph.dynamic_batch:
            self._pieces = [sliced(piece, at, at + 1) for piece in self._pieces for at in range(piece.size)]
        self._wanted = first_outputs(shop.trace.module, self._pieces)
        if not self._wanted:
            raise DataError(
                "The precision of layers is chosen by the error of the model's first floating-point output, and it has "
                "none. Set the precision by hand: Quantize(precision={...})."
            )
        self.examples = sum(piece.size for piece in self._pieces)

    def __call__(self, unit: Unit, bits: Precision) -> float:
        if bits == FLOAT:
            return 0.0
        plan = self._shop.plan(only(self._shop, unit, bits))
        return relative_error(self._wanted, first_outputs(write(self._shop.trace, plan), self._pieces))


def only(shop: Shop, unit: Unit, bits: Precision) -> Bits:
    """All nodes in float but those of one unit."""
    return {**dict.fromkeys(shop.bits, FLOAT), **dict.fromkeys(unit.nodes, bits)}


def raised(shop: Shop, units: Iterable[Unit], bits: Mapping[str, Precision]) -> Bits:
    """The recipe's bits with those of units, by name."""
    found = dict(shop.bits)
    for unit in units:
        if unit.name in bits:
            found.update(dict.fromkeys(unit.nodes, bits[unit.name]))
    return found


@torch.no_grad()
def milliseconds(shop: Shop, units: Iterable[Unit], race: Race) -> dict[str, tuple[float, float]]:
    """Unit to milliseconds a call in float and in integers, measured on the layer by itself, equal layers once.

    Units without an integer form, and layers with several inputs, are left out.
    """
    known: dict[str, tuple[float, float]] = {}
    found: dict[str, tuple[float, float]] = {}
    for unit in (unit for unit in units if unit.integer):
        times = [0.0, 0.0]
        for name in unit.nodes:
            node = shop.trace.nodes[name]
            if any(one.op != "get_attr" for one in node.all_input_nodes[1:]):
                break
            source = shop.graph.by_name[name].value(0)
            shape = [1 if size == "N" else int(size) for size in shop.graph.shape_of(source or "")]
            key = f"{_signature(shop.trace.module, node)} {shape}"
            if key not in known:
                known[key] = _raced(shop, node, shape, race)
            times = [spent + own for spent, own in zip(times, known[key], strict=True)]
        else:
            found[unit.name] = (times[0], times[1])
    return found


def _raced(shop: Shop, node: FxNode, shape: Sequence[int], race: Race) -> tuple[float, float]:
    layer = Alone(shop.trace.module, node).eval()
    example = Batch((torch.randn(*shape, generator=torch.Generator().manual_seed(0)),))
    task = Task(example_inputs=example.args, calibration=[example])
    made = trace(layer, task.example)
    plan = shop.plain.plan(made.graph, shop.plain.study(layer, made, task, shop.target), shop.target)
    integer = shop.plain.apply(layer, plan, made, task)
    samples = race({"float": layer, "integer": integer}, example)
    return statistics.median(samples["float"]), statistics.median(samples["integer"])


def _signature(module: GraphModule, node: FxNode) -> str:
    """Operator, shapes of its weights, and its other arguments."""

    def shape(one: FxNode) -> Any:
        return str(tuple(attribute(module, str(one.target)).shape)) if one.op == "get_attr" else "x"

    return str((str(node.target), map_arg(node.args, shape), map_arg(node.kwargs, shape)))


class Alone(nn.Module):
    """One operator of a graph, with its weights, as a model of its first input."""

    def __init__(self, module: GraphModule, node: FxNode) -> None:
        super().__init__()
        self._node = node
        for one in node.all_input_nodes[1:]:
            self.register_buffer(one.name, attribute(module, str(one.target)).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        source = self._node.all_input_nodes[0]

        def given(one: FxNode) -> Any:
            return x if one is source else getattr(self, one.name)

        args, kwargs = map_arg((self._node.args, self._node.kwargs), given)
        return cast(Callable[..., Tensor], self._node.target)(*args, **kwargs)
