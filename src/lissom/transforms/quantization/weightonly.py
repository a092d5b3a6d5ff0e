"""Weights in integers, activations in float: what is stored, and the scaling that makes its rounding harmless.

Every linear layer, convolution and table of embeddings whose weight the target's file can hold in the bits of the layer
keeps it so (`functional.weightgrid`), one scale for each run of `group` weights of a row, or for each row; convolutions
always have one for each output. Without data the weights are rounded to the nearest. With it, inputs are scaled by AWQ
(`functional.awq`) where the layer before takes the inverse exactly, and rounding is fitted by GPTQ; either stays only
if the outputs on held-out examples are nearer to the original's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode

from lissom.functional.awq import awq_scales
from lissom.functional.weightgrid import Bits, Grid, low_bit_grid
from lissom.graph.graph import Graph, Node
from lissom.graph.lockstep import attribute
from lissom.graph.statistics import Statistics, run_over
from lissom.graph.trace import Trace
from lissom.target import StoredKind, Target
from lissom.task import Batch
from lissom.transforms.base import Action, Plan, Skip, clone
from lissom.transforms.quantization import placement
from lissom.transforms.quantization.actions import Equalize, Fit, StoreGroups
from lissom.transforms.quantization.corrections import Corrected, Findings, Halves, Trial, first_outputs, relative_error
from lissom.transforms.quantization.equalizing import KIND, Pair, equalizations, find_pairs
from lissom.transforms.quantization.precision import Precision, explained, halves
from lissom.transforms.quantization.refit import WIDEST
from lissom.transforms.quantization.writing import write

KINDS: dict[str, StoredKind] = {
    "conv1d": "conv",
    "conv2d": "conv",
    "conv3d": "conv",
    "linear": "linear",
    "embedding": "embedding",
}
Group = Literal[32, 64, 128]


@dataclass(frozen=True)
class Form:
    """How weights are to be stored; `bits` of the nodes that read them, without those that stay in float."""

    bits: Mapping[str, Bits]
    group: Group | None
    symmetric: bool


def weight_of(node: Node) -> str | None:
    """The stored weight of a layer, if it is one."""
    return node.parameter(0 if node.op == "embedding" else 1)


def bits_of(graph: Graph, precisions: Mapping[str, Precision]) -> dict[str, Bits]:
    """Bits of the stored weight of every node that is not in float: a weight that several read has the most of them."""
    found: dict[str, Bits] = {name: bits for name, bits in precisions.items() if bits not in (32, 16)}
    for tensor in graph.tensors:
        readers = [name for name in tensor.used_by if name in found and weight_of(graph.by_name[name]) == tensor.name]
        if readers:
            most: Bits = max(found[name] for name in readers)
            found.update(dict.fromkeys(readers, most))
    return found


def group_of(graph: Graph, node: Node, form: Form) -> int | None:
    """Length of the runs of its weight; None where a row is one run."""
    width = graph.tensor_by_name[weight_of(node) or ""].shape[1]
    return form.group if form.group and KINDS[node.op] != "conv" and width > form.group else None


def partition(graph: Graph, target: Target, form: Form) -> tuple[list[Node], list[Skip]]:
    """Layers whose weight is stored, and the others with the reason."""
    layers = {layer.node for layer in graph.layers}
    found = [node for node in graph.nodes if node.name in layers]
    reasons = {node.name: _refuse(graph, node, target, form) for node in found}
    for node in found:  # before a weight that is shared is refused for one of its readers only
        if reasons[node.name] is None and (shared := _refuse_shared(graph, node, reasons)):
            reasons[node.name] = shared
    chosen = [node for node in found if reasons[node.name] is None]
    skipped = [Skip(layer=placement.label(node), reason=reason) for node in found if (reason := reasons[node.name])]
    return chosen, list(dict.fromkeys(skipped))


def _refuse(graph: Graph, node: Node, target: Target, form: Form) -> str | None:
    bits = form.bits.get(node.name)
    if bits is None:
        return placement.EXCLUDED
    kind = KINDS.get(node.op)
    if kind is None:
        return "weights of linear layers, convolutions and embeddings are stored in integers; this one stays in float"
    if not target.weights.holds(kind):
        return f"{target.title} restores no weights of {node.op} while activations stay in float"
    held = target.weights.holds(kind)
    if bits not in held:
        sizes = " or ".join(map(str, held))
        return f"{target.title} holds weights of {node.op} in {sizes} bits, not {bits}"
    weight = weight_of(node)
    if weight is None:
        return "its weight is computed, not stored"
    tensor = graph.tensor_by_name[weight]
    if tensor.dtype != "float32":
        return f"its weight is {tensor.dtype}, not float32"
    width, group = tensor.shape[1], group_of(graph, node, form)
    if group and width % group and not target.weights.short_groups:
        return f"its rows of {width} weights are no whole groups of {group}, and {target.title} takes no shorter ones"
    if kind == "embedding" and width % (8 // bits):
        return f"its rows of {width} weights in {bits} bits are no whole bytes"
    return None


def _refuse_shared(graph: Graph, node: Node, reasons: dict[str, str | None]) -> str | None:
    """A weight is stored for all its readers, so all of them must be able to read it."""
    weight = weight_of(node)
    for reader in graph.tensor_by_name[weight or ""].used_by:
        other = graph.by_name[reader]
        if reasons.get(reader, "") is not None or weight_of(other) != weight:
            return f"its weight is shared with {placement.label(other)}, which stays in float"
    return None


def actions(
    graph: Graph, chosen: Iterable[Node], target: Target, form: Form, fit: Callable[[Bits], Fit]
) -> list[StoreGroups]:
    """What is stored, weight by weight; one with several readers, and a table, is rounded to the nearest."""
    readers: dict[str, list[Node]] = {}
    for node in chosen:
        readers.setdefault(weight_of(node) or "", []).append(node)
    return [
        StoreGroups(
            layer=placement.label(nodes[0]),
            parameter=parameter,
            nodes=tuple(node.name for node in nodes),
            bits=form.bits[nodes[0].name],
            group=group_of(graph, nodes[0], form),
            symmetric=form.symmetric,
            kept=all(KINDS[node.op] in target.weights.kept for node in nodes),
            fit=fit(form.bits[nodes[0].name]) if len(nodes) == 1 and KINDS[nodes[0].op] != "embedding" else "nearest",
        )
        for parameter, nodes in readers.items()
    ]


def stored(
    graph: Graph,
    target: Target,
    form: Form,
    bits: Mapping[str, Precision],
    found: Findings,
    fit: Callable[[Bits], Fit],
) -> tuple[list[Action], list[Skip]]:
    """Scalings that were found, weights in integers or float16, what is left; without examples nothing is fitted."""
    chosen, skipped = partition(graph, target, form)
    kept = actions(graph, chosen, target, form, fit if found.examples else lambda _: "nearest")
    halved, left = halves(graph, bits, {action.parameter for action in kept}, target)
    skipped = explained(graph, bits, skipped, found.reasons)
    return [*found.corrected.equalizations, *kept, *halved], [*skipped, *left]


def narrowed(
    graph: Graph, target: Target, bits: Mapping[str, Precision], free: Collection[str]
) -> dict[str, Precision]:
    """`bits`, with 4 for those of the `free` nodes whose weight can have so few."""
    few: dict[str, Precision] = {**bits, **dict.fromkeys(free, 4)}
    able = {node.name for node in partition(graph, target, Form(bits_of(graph, few), None, True))[0]}
    return {name: few[name] if name in able else own for name, own in bits.items()}


def rescaled(
    trace: Trace, halved: Halves, target: Target, form: Form, plan: Callable[[Findings], Plan]
) -> tuple[Findings, list[Trial]]:
    """Inputs scaled by AWQ, if that brings the rounded model nearer to the original on the examples held out."""
    none = Findings.of(Statistics(ranges={}, examples=halved.examples), Corrected())
    wanted = first_outputs(trace.module, halved.judge)
    products = {node.name for node in partition(trace.graph, target, form)[0] if KINDS[node.op] == "linear"}
    pairs = [pair for pair in find_pairs(trace.graph, products) if _fits(trace, pair)]
    if not wanted or not pairs:
        return none, []
    found = tuple(scalings(trace, pairs, halved.fit, form))
    if not found:
        return none, []
    scaled = none.model_copy(update={"corrected": Corrected(equalizations=found)})
    before, after = (
        relative_error(wanted, first_outputs(write(trace, plan(one)), halved.judge)) for one in (none, scaled)
    )
    trial = Trial("awq", len(found), before, after, after < before)
    return scaled if trial.accepted else none, [trial]


def _fits(trace: Trace, pair: Pair) -> bool:
    widths = [trace.graph.tensor_by_name[name].shape[1] for name, _ in pair.inputs]
    return KIND[pair.source.op] == "linear" and max(widths) <= WIDEST


def scalings(trace: Trace, pairs: Iterable[Pair], batches: Iterable[Batch], form: Form) -> list[Equalize]:
    """AWQ's scales for every pair where some strength is better than none, on `batches`."""
    pairs = list(pairs)
    watcher = _Inputs(trace.module, {pair.readers[0][1] for pair in pairs})
    run_over(watcher, trace.graph, batches)

    def scale(module: GraphModule, pair: Pair) -> Tensor | None:
        count, total, moments = watcher.found[pair.readers[0][1]]
        weight = torch.cat([attribute(module, name).detach() for name, _ in pair.inputs])
        # One scaling for all readers: the one of the fewest bits loses most without it.
        bits: Bits = min(form.bits[node.name] for node, _ in pair.readers)

        def make(weight: Tensor) -> Grid:
            group = form.group if form.group and weight.shape[1] > form.group else None
            return low_bit_grid(weight, bits, group=group, symmetric=form.symmetric)

        found = awq_scales(weight, total / count, moments, make)
        return found.scales if found.strength else None

    return equalizations(clone(trace.module), pairs, scale)


class _Inputs(Interpreter):
    """Number of rows, sum of |x| and X'X of what linear layers read."""

    def __init__(self, module: GraphModule, values: Collection[str]) -> None:
        super().__init__(module)
        self._values = values
        self.found: dict[str, tuple[int, Tensor, Tensor]] = {}

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        if n.name in self._values:
            rows = value.flatten(0, -2).double()
            count, total, moments = self.found.get(n.name, (0, torch.zeros(()), torch.zeros(())))
            self.found[n.name] = (count + len(rows), total + rows.abs().sum(0), moments + rows.T @ rows)
        return value
