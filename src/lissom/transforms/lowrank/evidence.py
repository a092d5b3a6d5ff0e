"""What a plan has to know of the layers: which can be split, where they are computed, and their singular values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

import pydantic
import torch
from torch import Tensor, nn

from lissom.errors import DataError
from lissom.functional import hooi, spatial, svd, tucker
from lissom.functional.perturbed import noisy_inputs, noisy_outputs
from lissom.graph.graph import Graph, Node
from lissom.graph.moments import PRODUCTS, READABLE, WIDEST
from lissom.graph.second import Second, second_moments
from lissom.graph.trace import Trace
from lissom.settings import Setting
from lissom.task import Batch
from lissom.transforms.lowrank import multilinear
from lissom.transforms.lowrank.chainfit import spectra
from lissom.transforms.lowrank.parts import PLAIN, Method, Shape, applies, has_bias, shape_of

NOISE = 0.2
"""Energy of the errors in a layer's inputs, in its outputs, over that of the data. On ResNet-20 with 1.5 times fewer
multiplications and without recovery, 0.1 and 0.3 keep a point more than none and a point more than 1."""
LOOK_UP = "embedding"
"""The operator of a table."""
Values = tuple[float, ...]


class Layer(Setting):
    """A layer that can be split. `values` holds singular values by method; two lists for `tucker`, three for `cp`,
    one for each cut of a chain."""

    name: str
    nodes: tuple[str, ...]
    """Its calls."""
    shape: Shape
    centred: bool
    """Whether what follows makes up for a shift of its outputs: a bias of its own, or a batch normalization."""
    calls: tuple[tuple[int, ...], ...]
    """Shape of what each call reads, for one example."""
    signature: str
    """The same for layers that take the same time."""
    values: dict[str, tuple[Values, ...]] = pydantic.Field(default_factory=dict[str, tuple[Values, ...]])


class Refused(Setting):
    """A layer that cannot be split, and why."""

    name: str
    reason: str


class Timing(Setting):
    """A layer and its parts on one example (or what the race repeats it to), over all calls of the layer."""

    signature: str
    method: Method
    ranks: tuple[int, ...]
    whole_ms: float
    parts_ms: float
    low: float
    """95 % interval of how many times faster the parts are."""
    high: float

    @property
    def faster(self) -> bool:
        return self.low > 1.0


class Study(Setting):
    layers: tuple[Layer, ...]
    refused: tuple[Refused, ...]
    graph: Graph | None = None
    """Of the model with its chains merged, where that was asked for."""
    timings: tuple[Timing, ...] = ()
    macs_ratio: float | None = None
    """At which the wished latency was measured."""
    aware: bool = False
    """Whether factors are weighed by data."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a layer meets on the calibration data, summed over its calls; `outputs` are without the bias."""

    outputs: Second | None = None
    inputs: Second | None = None

    def inputs_of(self, weight: Tensor, *, centred: bool) -> Tensor | None:
        """Of what the kernel multiplies (n, n), as the split network will meet it."""
        return None if self.inputs is None else noisy_inputs(weight.flatten(1), self.inputs.around(centred), NOISE)

    def outputs_of(self, weight: Tensor, shape: Shape, *, centred: bool) -> Tensor | None:
        """Of its products (m, m). What is looked up in a table is looked up without errors."""
        if self.outputs is None:
            return None
        return noisy_outputs(rows_of(weight, shape), self.outputs.around(centred), 0.0 if shape.table else NOISE)


def find_layers(model: nn.Module, graph: Graph) -> Study:
    """Every layer of the graph: what can be split, and why the others cannot."""
    by_layer: dict[str, list[Node]] = {}
    for layer in graph.layers:
        node = graph.by_name[layer.node]
        by_layer.setdefault(node.layer or node.name, []).append(node)
    found: list[Layer] = []
    refused: list[Refused] = []
    modules = dict(model.named_modules())
    for name, nodes in by_layer.items():
        module = modules.get(name)
        reasons = [reason for node in nodes if (reason := _refuse(graph, node, module, modules))]
        if reasons or module is None:
            refused.append(Refused(name=name, reason=(*reasons, "it is no module of the model")[0]))
            continue
        dtype = next(module.parameters()).dtype
        calls = tuple(_reads(module, graph, node) for node in nodes)
        found.append(
            Layer(
                name=name,
                nodes=tuple(node.name for node in nodes),
                calls=calls,
                signature=f"{module}, {dtype}, on {' and '.join(map(str, calls))}",
                shape=_shape(module, graph, nodes),
                centred=has_bias(module) or all(_normalized(graph, node) for node in nodes),
            )
        )
    return Study(layers=tuple(found), refused=tuple(refused))


def with_values(
    study: Study, model: nn.Module, seen: Mapping[str, Seen], methods: Sequence[Method], chosen: Collection[str]
) -> Study:
    """The singular values of the chosen layers by method, whitened where data were seen.

    Raises:
        DataError: a weight holds NaN or infinite values.
    """
    layers: list[Layer] = []
    for layer in study.layers:
        if layer.name in chosen:
            weight = weight_of(model, layer.name)
            own = {
                method: tuple(tuple(v.tolist()) for v in _values(weight, method, layer, seen.get(layer.name, Seen())))
                for method in methods
                if applies(layer.shape, method)
            }
            layer = layer.model_copy(update={"values": own})
        layers.append(layer)
    return study.model_copy(update={"layers": tuple(layers)})


def look(
    trace: Trace,
    layers: Iterable[Layer],
    wanted: Mapping[str, Sequence[Method]],
    batches: Iterable[Batch],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Seen]:
    """One pass over the data for what the methods need to know of each layer.

    Raises:
        DataError: the data do not fit the model, or make it infinite.
    """
    layers = list(layers)
    made = {n: layer.name for layer in layers for n in layer.nodes if "svd" in wanted[layer.name]}
    reading = [
        layer for layer in layers if any(method != "svd" for method in wanted[layer.name]) and reads_known(layer.shape)
    ]
    read = {n: layer.name for layer in reading for n in layer.nodes}
    inputs, outputs = second_moments(trace, batches, read=read, made=made, progress=progress)
    found = {layer.name: Seen() for layer in layers}
    named = dict(trace.module.named_parameters(remove_duplicate=False))
    biases = {layer.name: named[f"{layer.name}.bias"].detach().cpu() for layer in layers if layer.shape.bias}
    for names, moments, field in ((made, outputs, "outputs"), (read, inputs, "inputs")):
        for node, own in moments.items():
            before: Second | None = getattr(found[names[node]], field)
            bias = biases.get(names[node]) if field == "outputs" else None
            own = own if bias is None else own.shifted(bias)
            total = own if before is None else before.plus(own)
            found[names[node]] = Seen(**{**vars(found[names[node]]), field: total})
    return found


def reads_known(shape: Shape) -> bool:
    """Whether the second moment of what the layer reads is taken where there are data.

    Without it all methods but `svd`, which needs that of the outputs only, are plain.
    """
    return not shape.table and shape.ins * shape.window <= WIDEST


def weight_of(model: nn.Module, name: str) -> Tensor:
    """A layer's weight on the CPU, float32 or wider.

    Raises:
        DataError: it holds NaN or infinite values.
    """
    weight = cast(Tensor, model.get_submodule(name).weight).detach().cpu()
    weight = weight if weight.dtype == torch.float64 else weight.float()
    if not torch.isfinite(weight).all():
        bad = int((~torch.isfinite(weight)).sum())
        raise DataError(
            f"The weight of {name!r} holds {bad} NaN or infinite values, which no factors can stand for. Repair the "
            f"model, or leave the layer out with Factorize(exclude=[{name!r}])."
        )
    return weight


def rows_of(weight: Tensor, shape: Shape) -> Tensor:
    """(m, n): a look-up is a product with the table's transpose, whose rows are the inputs' side."""
    return weight.T if shape.table else weight.flatten(1)


def _values(weight: Tensor, method: Method, layer: Layer, seen: Seen) -> tuple[Tensor, ...]:
    inputs = seen.inputs_of(weight, centred=layer.centred)
    match method:
        case "svd":
            rows, outputs = rows_of(weight, layer.shape), seen.outputs_of(weight, layer.shape, centred=layer.centred)
            return (svd.singular_values(rows) if outputs is None else svd.principal(rows, outputs)[1],)
        case "spatial":
            return (spatial.singular_values(weight, inputs),)
        case "tucker":
            return tucker.spectra(weight, inputs)
        case "full-tucker":
            return multilinear.spectra(weight, layer.shape, inputs)
        case "cp":
            return hooi.spectra(weight.flatten(2))
        case "tt" | "ring" | "kronecker":
            return spectra(weight, layer.shape, method)


def _refuse(graph: Graph, node: Node, module: nn.Module | None, modules: Mapping[str, nn.Module]) -> str | None:
    if node.op in PRODUCTS - READABLE:
        return "it is a transposed convolution"
    if node.op not in READABLE | {LOOK_UP}:
        return f"{node.op} is no convolution, linear layer or table"
    if node.parameter(_weight_at(node)) is None:
        return "its weight is computed, not stored"
    if module is None:
        return "its weight is used by no layer of its own"
    if type(module) not in PLAIN:
        return f"its class {type(module).__name__} is not torch's own, and may do more than multiply"
    groups = int(node.constants.get("groups", 1))
    if groups > 1:
        return f"it is a grouped convolution ({groups} groups), whose parts are small already"
    return _shared(graph, node) or _twin(module, modules)


def _weight_at(node: Node) -> int:
    """Which argument the weight is."""
    return 0 if node.op == LOOK_UP else 1


def _shared(graph: Graph, node: Node) -> str | None:
    names = {_weight_at(node): "weight", 2: "bias"}
    for operand in node.operands:
        name = names.get(operand.position)
        if name is None:
            continue
        if operand.kind != "parameter" or operand.source != f"{node.layer}.{name}":
            return f"its {name} is shared, or not a parameter of its own"
        others = [r for r in graph.tensor_by_name[operand.source].used_by if graph.by_name[r].layer != node.layer]
        if others:
            return f"its {name} is also read by {others[0]!r}"
    return None


def _twin(module: nn.Module, modules: Mapping[str, nn.Module]) -> str | None:
    for other, own in modules.items():
        if own is not module and _weight(own) is _weight(module):
            return f"its weight is that of {other!r} as well"
    return None


def _weight(module: nn.Module) -> object:
    """The parameter itself: two modules may hold the same one. Modules without one are equal to nothing."""
    return dict(module.named_parameters(recurse=False)).get("weight", module)


def _normalized(graph: Graph, node: Node) -> bool:
    readers = [graph.by_name[reader] for reader in graph.consumers[node.name]]
    return node.name not in graph.outputs and bool(readers) and all(r.op == "batch_norm" for r in readers)


def _reads(module: nn.Module, graph: Graph, node: Node) -> tuple[int, ...]:
    """The input's shape for one example: its first axis is however many there are of the others."""
    if node.op == LOOK_UP:
        return (_lookups(graph, node),)
    weight = cast(Tensor, module.weight)
    rows = node.macs // weight.numel()
    if weight.ndim == 2:
        inner = [size if isinstance(size, int) else 1 for size in node.shape[1:-1]]
        return max(1, rows // prod(inner)), *inner, weight.shape[1]
    made, given = _places(module, graph, node)
    return max(1, rows // prod(made)), weight.shape[1], *given


def _shape(module: nn.Module, graph: Graph, nodes: Sequence[Node]) -> Shape:
    weight = cast(Tensor, module.weight)
    outputs = inputs = between = 0
    steps = [0] * (weight.ndim - 1 if weight.ndim > 2 else 0)
    for node in nodes:
        here = _lookups(graph, node) if node.op == LOOK_UP else node.macs // weight.numel()
        outputs += here
        if weight.ndim == 2:
            continue
        made, given = _places(module, graph, node)
        inputs += here * prod(given) // prod(made)
        between += here * given[-1] // made[-1]
        for done in range(len(steps)):
            steps[done] += here * prod(made[:done] + given[done:]) // prod(made)
    return shape_of(module, outputs, inputs, between, steps)


def _lookups(graph: Graph, node: Node) -> int:
    """Of one example; of all where they do not follow the batch."""
    places = node.shape[:-1]
    follows = bool(places) and places[0] in ("N", graph.fixed_batch)
    return prod(size for size in places[follows:] if isinstance(size, int))


def _places(module: nn.Module, graph: Graph, node: Node) -> tuple[list[int], list[int]]:
    """Sizes of the kernel's axes in what a convolution makes and in what it reads, before padding."""
    conv = cast(nn.Conv2d, module)
    dims = conv.weight.ndim - 2
    made = [int(size) for size in node.shape[-dims:]]
    given = [int(size) for size in graph.shape_of(node.value(0) or "")[-dims:]]
    if conv.padding_mode != "zeros":
        # The operator's input is padded already; a part in front of the kernel sees it before.
        given = [size - _padded(conv, axis) for axis, size in enumerate(given)]
    return made, given


def _padded(conv: nn.Conv2d, axis: int) -> int:
    """What a convolution of any number of axes adds to one of them, both sides together."""
    if isinstance(conv.padding, str):
        return conv.dilation[axis] * (conv.kernel_size[axis] - 1) if conv.padding == "same" else 0
    return 2 * conv.padding[axis]
