"""What a traced model is made of: operators, layers, shapes, costs. No tensors, no modules; JSON."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import pydantic

from lissom.settings import Setting

Shape = tuple[int | str, ...]
"""Sizes in order; `"N"` is an axis that follows the batch."""


LOOKS = frozenset({"sym_size", "sym_stride", "sym_numel", "_assert_tensor_metadata"})
"""Operators that read a size or a type, no values."""

COPIES = frozenset({"alias", "clone", "copy", "detach", "lift_fresh_copy", "_to_copy", "to"})
"""Operators that hand on a constant or parameter: no layer of their own."""


class Operand(Setting):
    """One tensor argument of an operator: a value computed before, or a parameter or buffer of the model."""

    position: int
    source: str
    """Name of a node, or of a parameter as in `model.state_dict()`."""
    kind: Literal["value", "parameter"]


class Node(Setting):
    """One operator of the traced graph, in execution order."""

    name: str
    op: str
    """Short name: `conv2d`, `linear`, `add`."""
    target: str
    """Full name: `aten.conv2d.default`."""
    layer: str
    """The module it came from (`layer1.0.conv1`), empty for the root."""
    operands: tuple[Operand, ...]
    shape: Shape
    dtype: str
    macs: int
    """Multiply-accumulates for one example; 0 for operators without products."""
    constants: dict[str, float] = pydantic.Field(default_factory=dict[str, float])
    """Finite numbers of the call that differ from the operator's defaults: `{"alpha": 2.0}`."""
    module: str = ""
    """Class of the module it came from: `torch.nn.modules.conv.Conv2d`."""

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(o.source for o in self.operands if o.kind == "value")

    def parameter(self, position: int) -> str | None:
        """The parameter given at a position, if it is one."""
        for operand in self.operands:
            if operand.position == position and operand.kind == "parameter":
                return operand.source
        return None

    def value(self, position: int) -> str | None:
        for operand in self.operands:
            if operand.position == position and operand.kind == "value":
                return operand.source
        return None


class Tensor(Setting):
    """A parameter, buffer or constant: its shape, and the operators that read it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    trainable: bool
    used_by: tuple[str, ...]


class Layer(Setting):
    """An operator that holds parameters or multiplies: what a user calls a layer."""

    name: str
    """The module's name where it has one, else the operator's."""
    node: str
    op: str
    input_shape: Shape
    output_shape: Shape
    weight_shape: tuple[int, ...] | None
    macs: int
    parameters: int
    bytes: int


class ChannelMember(Setting):
    """An axis of a parameter that holds the channels of a group."""

    parameter: str
    axis: int


class ChannelGroup(Setting):
    """Channels that can only be cut together. `reason` says why they cannot be cut at all; None where they can."""

    name: str
    """The first parameter that makes them."""
    size: int
    """Channels."""
    members: tuple[ChannelMember, ...]
    layers: tuple[str, ...]
    """The coupled layers, as `Layer.name`: those that make the channels, read them, or scale them."""
    macs: int
    """Multiply-accumulates of one example that depend on them: what would go if every one of them went."""
    reason: str | None


class Graph(Setting):
    """A model as data: operators in order, layers with costs. Made by `lissom.analyze`."""

    nodes: tuple[Node, ...]
    tensors: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    input_dtypes: tuple[str, ...] = ()
    outputs: tuple[str, ...]
    dynamic_batch: bool
    """Whether the traced program accepts other batch sizes than the example's."""
    uncounted: dict[str, int]
    """Operators whose cost is not known, and how often they occur."""
    groups: tuple[ChannelGroup, ...] = ()
    """Channels that must be cut together; filled by `lissom.analyze`."""

    @cached_property
    def by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def tensor_by_name(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    @cached_property
    def consumers(self) -> dict[str, tuple[str, ...]]:
        """Node name to the names of the nodes that read its values (not just its size), in order."""
        found: dict[str, list[str]] = {name: [] for name in (*self.inputs, *self.by_name)}
        for node in self.nodes:
            if node.op in LOOKS:
                continue
            for source in dict.fromkeys(node.values):
                found[source].append(node.name)
        return {name: tuple(readers) for name, readers in found.items()}

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the traced program accepts; None when it accepts any."""
        if self.dynamic_batch or not self.input_shapes or not self.input_shapes[0]:
            return None
        size = self.input_shapes[0][0]
        return size if isinstance(size, int) else None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one example."""
        return sum(node.macs for node in self.nodes)

    @property
    def parameters(self) -> int:
        return sum(_count(t.shape) for t in self.tensors if t.trainable)

    @property
    def bytes(self) -> int:
        """Of all parameters, buffers and constants."""
        return sum(t.bytes for t in self.tensors)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(self._layer(node) for node in self.nodes if node.macs or self._holds_parameters(node))

    def _holds_parameters(self, node: Node) -> bool:
        return node.op not in COPIES and any(o.kind == "parameter" for o in node.operands)

    def _layer(self, node: Node) -> Layer:
        held = [self.tensor_by_name[o.source] for o in node.operands if o.kind == "parameter"]
        source = node.values[0] if node.values else None
        weight = next((t for t in held if len(t.shape) > 1), None)
        return Layer(
            name=node.layer or node.name,
            node=node.name,
            op=node.op,
            input_shape=self.shape_of(source) if source else (),
            output_shape=node.shape,
            weight_shape=weight.shape if weight else None,
            macs=node.macs,
            parameters=sum(_count(t.shape) for t in held if t.trainable),
            bytes=sum(t.bytes for t in held),
        )

    def shape_of(self, value: str) -> Shape:
        """The shape of a node's value or of an input; empty for several values at once."""
        if value in self.by_name:
            return self.by_name[value].shape
        return self.input_shapes[self.inputs.index(value)]

    def dtype_of(self, value: str) -> str:
        """The element type of a node's value or of an input: `float32`; empty for several values at once."""
        if value in self.by_name:
            return self.by_name[value].dtype
        return self.input_dtypes[self.inputs.index(value)]


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
