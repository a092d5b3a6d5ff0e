"""From an ONNX graph to a `Lifted` model, by running it once on example inputs.

Operators on constants alone are computed now. Those with constant weights become modules of torch under the names
that the file gives them, the others functions. A matrix product and the bias that follows it become one `Linear`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from lissom.errors import ProjectError, first_line
from lissom.sources.layers import LAYERS, Layer, embedding, layer_of, linear, pad_before
from lissom.sources.lifted import Fixed, Held, Lifted, Source, Step
from lissom.sources.names import Places, layer_name
from lissom.sources.operators import OPERATORS
from lissom.sources.unliftable import Unliftable

Array = NDArray[Any]
KNOWN = frozenset(OPERATORS) | LAYERS | {"Constant"}
SMALL = 64
"""Whole numbers of at most so many elements are sizes and axes, written into the step."""


def lift(graph: onnx.GraphProto, example: Sequence[Tensor], *, rebatch: bool) -> Lifted:
    """A model that computes what the graph does.

    `rebatch`: a `Reshape` to a fixed shape that begins with the example's batch follows the batch instead.

    Raises:
        ProjectError: an operator, or a form of one, that is not lifted; the node is named.
    """
    work = _Lifting(graph, example, rebatch)
    for node in graph.node:
        try:
            with torch.no_grad():
                work.add(node)
        except Unliftable as wrong:
            raise ProjectError(f"{_shown(node)} cannot be lifted into torch: {wrong}. {WAY_OUT}") from wrong
        # A graph of others may hold anything; whatever torch makes of it is about this node.
        except Exception as wrong:
            raise ProjectError(
                f"{_shown(node)} cannot be lifted into torch: {type(wrong).__name__}: {first_line(wrong)}. {WAY_OUT}"
            ) from wrong
    return work.finished()


WAY_OUT = "Give the model as a project file (build() -> (model, task)) instead."


def _shown(node: onnx.NodeProto) -> str:
    return f"Node {node.name or (node.output[0] if node.output else '')!r} ({node.op_type})"


class _Lifting:
    """The model so far; example values and constants by name."""

    def __init__(self, graph: onnx.GraphProto, example: Sequence[Tensor], rebatch: bool) -> None:
        self.constants: dict[str, Array] = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        inputs = [one.name for one in graph.input if one.name not in self.constants]
        self.outputs = [one.name for one in graph.output]
        self.model = Lifted(inputs, self.outputs)
        self.values: dict[str, Any] = dict(zip(inputs, example, strict=True))
        self.batch = example[0].shape[0] if rebatch and example[0].ndim else None
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.uses.update(self.outputs)
        self.readers = {name: node for node in graph.node for name in node.input}
        self.places = Places()
        self.modules: dict[tuple[Any, ...], tuple[str, tuple[int, ...]]] = {}
        self.held: dict[str, Held] = {}
        self.joined: set[str] = set()

    def add(self, node: onnx.NodeProto) -> None:
        given = _attributes(node)
        if node.op_type == "Constant":
            self.constants[node.output[0]] = _constant(given)
        elif node.output[0] in self.joined:
            return  # the bias of the product before it
        elif all(not name or name in self.constants for name in node.input):
            self._fold(node, given)
        elif not self._layer(node, given):
            self._function(node, given)

    def finished(self) -> Lifted:
        """
        Raises:
            ProjectError: an output that no input reaches.
        """
        fixed = [name for name in self.outputs if name not in self.values]
        if fixed:
            raise ProjectError(f"The output {fixed[0]!r} is a constant or is never computed. {WAY_OUT}")
        return self.model.eval()

    def _fold(self, node: onnx.NodeProto, given: Mapping[str, Any]) -> None:
        arguments = [_small(self.constants[name], node.op_type) if name else None for name in node.input]
        arguments = [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in arguments]
        if node.op_type not in OPERATORS:
            raise Unliftable("every input is constant")
        found = OPERATORS[node.op_type](arguments, given)
        for name, value in zip(node.output, found if isinstance(found, list) else [found], strict=False):
            self.constants[name] = value.numpy() if isinstance(value, Tensor) else _array(value)

    def _layer(self, node: onnx.NodeProto, given: Mapping[str, Any]) -> bool:
        """Whether the node became a module."""
        names = list(node.input)
        if node.op_type == "Gather" and names[0] in self.constants and not given.get("axis", 0):
            table = self.constants[names[0]]
            if table.ndim != 2 or table.dtype.kind != "f":
                return False
            self._module(node, names[1], [names[0]], given, embedding(table))
            return True
        if node.op_type not in LAYERS:
            return False
        weights = [self.constants.get(name) if name else None for name in names[1:]]
        if names[0] in self.constants or any(n and w is None for n, w in zip(names[1:], weights, strict=True)):
            if node.op_type in OPERATORS:
                return False
            raise Unliftable("its weights are computed by the graph")
        bias = self._bias_after(node, weights[0]) if node.op_type == "MatMul" else None
        if bias is not None and weights[0] is not None:
            addition, name = bias
            made = linear(weights[0].T, self.constants[name])
            self._module(node, names[0], [names[1], name], given, made, result=addition.output[0])
            self.joined.add(addition.output[0])
            return True
        found = layer_of(node.op_type, self.values[names[0]], weights, given)
        if found is None:
            return False
        self._module(node, names[0], names[1:], given, found)
        return True

    def _bias_after(self, node: onnx.NodeProto, weight: Array | None) -> tuple[onnx.NodeProto, str] | None:
        """The addition of a constant row that alone reads a product with a constant matrix."""
        reader = self.readers.get(node.output[0])
        if weight is None or weight.ndim != 2 or reader is None or reader.op_type != "Add":
            return None
        other = next((name for name in reader.input if name != node.output[0]), "")
        row = self.constants.get(other)
        fits = row is not None and row.shape == (weight.shape[1],)
        return (reader, other) if fits and self.uses[node.output[0]] == 1 else None

    def _module(
        self,
        node: onnx.NodeProto,
        x: str,
        weights: Sequence[str],
        given: Mapping[str, Any],
        made: Layer,
        result: str | None = None,
    ) -> None:
        """A step that calls the module; the same weights used again call the same one."""
        key = (node.op_type, *weights, repr(sorted(given.items())), x if made[1] else "")
        if key not in self.modules:
            module, pads = made
            place = self.places.free(layer_name(node, weights))
            owner, leaf = self._owner(place)
            owner.add_module(leaf, module.eval())
            self.modules[key] = place, pads
        place, pads = self.modules[key]
        source = x
        if pads:
            source = f"{node.output[0]} padded"
            self._step(Step(pad_before, (x,), (source,), {"pads": pads}))
        self._step(Step(place, (source,), (result or node.output[0],)))

    def _function(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        if node.op_type not in OPERATORS:
            raise Unliftable("it is not among the operators that are known")
        if node.op_type == "Reshape" and self._begins_with_batch(node):
            given["rebatch"] = True
        if node.op_type == "Split" and "split" not in given and len(node.input) < 2:
            given.setdefault("num_outputs", len(node.output))
        if any(node.output[1:]) and node.op_type in ("MaxPool", "Dropout"):
            raise Unliftable("its second output is used")
        sources = tuple(self._source(name, node.op_type) for name in node.input)
        self._step(Step(OPERATORS[node.op_type], sources, tuple(node.output), given))

    def _begins_with_batch(self, node: onnx.NodeProto) -> bool:
        x, sizes = self.values.get(node.input[0]), self.constants.get(node.input[1])
        if self.batch is None or sizes is None or not isinstance(x, Tensor) or not x.ndim or not sizes.size:
            return False
        return x.shape[0] == self.batch == int(sizes.reshape(-1)[0])

    def _step(self, step: Step) -> None:
        self.model.run(step, self.values)
        self.model.steps.append(step)

    def _source(self, name: str, op: str) -> Source:
        if not name:
            return Fixed(None)
        if name not in self.constants:
            return name
        small = _small(self.constants[name], op)
        if not isinstance(small, np.ndarray):
            return Fixed(small)
        if name not in self.held:
            place = self.places.free(name)
            owner, leaf = self._owner(place)
            value = torch.from_numpy(np.array(small))
            if value.is_floating_point():
                owner.register_parameter(leaf, nn.Parameter(value))
            else:
                owner.register_buffer(leaf, value)
            self.held[name] = Held(place)
        return self.held[name]

    def _owner(self, place: str) -> tuple[nn.Module, str]:
        """The module that holds `place`, made where it is missing, and the last part of its name."""
        *path, leaf = place.split(".")
        owner: nn.Module = self.model
        for part in path:
            if part not in dict(owner.named_children()):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        return owner, leaf


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in node.attribute:
        value: Any = onnx.helper.get_attribute_value(one)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value)
        elif isinstance(value, (onnx.GraphProto, onnx.SparseTensorProto)):
            raise Unliftable(f"its attribute {one.name!r} is a graph or sparse")
        elif isinstance(value, list):
            value = tuple(cast(list[Any], value))
        found[one.name] = value
    return found


def _constant(given: Mapping[str, Any]) -> Array:
    for name, kind in (("value", None), ("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32),
                       ("value_floats", np.float32)):  # fmt: skip
        if name in given:
            return np.asarray(given[name], kind)
    raise Unliftable(f"a constant of {', '.join(given) or 'nothing'}")


def _small(array: Array, op: str) -> Any:
    """What a step writes out instead of a tensor: sizes, axes, one number."""
    if array.dtype.kind in "iu" and array.ndim <= 1 and array.size <= SMALL:
        return int(array) if array.ndim == 0 else tuple(int(one) for one in array)
    if array.dtype.kind == "b" and array.ndim == 0:
        return bool(array)
    if array.dtype.kind == "f" and op == "Resize" and array.ndim == 1:
        return tuple(float(one) for one in array)
    if array.dtype.kind == "f" and array.ndim <= 1 and array.size == 1 and op != "InstanceNormalization":
        return float(array.reshape(()))
    return array


def _array(value: Any) -> Array:
    """The constant that a value written out stands for."""
    first: Any = value[0] if isinstance(value, tuple) and value else value
    kind = np.bool_ if isinstance(first, bool) else np.float32 if isinstance(first, float) else np.int64
    return np.asarray(value, kind)
