"""Weights in integers while activations are float, in the form that a runtime's kernels read.

`com.microsoft.MatMulNBits` and `GatherBlockQuantized` (ONNX Runtime) take unsigned integers, several a byte with the
first in the lowest bits, in blocks of a power of two, the last one filled up; zero is 2^(bits-1) unless zero points are
given. `DequantizeLinear` in blocks (opset 21) is what OpenVINO keeps compressed. Convolutions are restored by a cast
and a product of constants, which the runtimes fold when they load the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.defs import OpSchema
from onnxscript.values import Op, Opset

from lissom.export.onnx_packing import OPSET, at_least_, int4
from lissom.target import Target

DOMAIN, RESTORE, MICROSOFT = "lissom", "DequantizeGroups", "com.microsoft"
SMALLEST_BLOCK = 16
FLOAT32 = 1
"""`accuracy_level` of MatMulNBits that computes in float32; higher ones round activations."""
Steps = NDArray[np.signedinteger | np.unsignedinteger]


def _schema() -> OpSchema:
    given, kept = OpSchema.FormalParameter, OpSchema.FormalParameterOption.Optional
    number = OpSchema.AttrType.INT
    return OpSchema(
        RESTORE,
        DOMAIN,
        1,
        inputs=[given("steps", "Q"), given("scale", "T"), given("zero", "Q", param_option=kept)],
        outputs=[given("restored", "T")],
        type_constraints=[("Q", ["tensor(int8)", "tensor(uint8)"], ""), ("T", ["tensor(float)"], "")],
        attributes=[OpSchema.Attribute(name, number, required=True) for name in ("group", "bits")],
    )


restore = Op(Opset(DOMAIN, 1), RESTORE, _schema())
"""Stands for the restored weight until `weights_` knows who reads it."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A weight (rows, ...) of whole steps, and a scale (rows, runs), maybe a zero point, for `group` columns each."""

    name: str
    steps: Steps
    scale: NDArray[np.float32]
    zero: Steps | None
    group: int
    bits: int

    @property
    def width(self) -> int:
        return int(np.prod(self.steps.shape[1:]))


def weights_(model: ir.Model, target: Target) -> bool:
    """Write every restored weight as its readers and the target's kernels want it; whether there was one."""
    nodes = [node for node in model.graph if node.domain == DOMAIN and node.op_type == RESTORE]
    if not nodes:
        return False
    at_least_(model, OPSET)
    del model.opset_imports[DOMAIN]
    microsoft = target.weights.operators == "microsoft"
    for node in nodes:
        held = _held(node)
        read = _read_stored(model.graph, node, held) if microsoft else False
        if node.outputs[0].uses():
            _restore(model.graph, node, held)
        if read:
            model.opset_imports[MICROSOFT] = 1
        for value in node.inputs:
            if value is not None and len(value.uses()) == 1:
                model.graph.initializers.pop(value.name or "", None)
        model.graph.remove(node, safe=True)
    return True


def _held(node: ir.Node) -> Stored:
    steps, scale, *zero = [value.const_value for value in node.inputs if value is not None]
    assert steps is not None
    assert scale is not None
    name = str(node.inputs[0].name).removesuffix("_steps") if node.inputs[0] is not None else ""
    shift = zero[0].numpy() if zero and zero[0] is not None else None
    group, bits = node.attributes["group"].as_int(), node.attributes["bits"].as_int()
    return Stored(name, steps.numpy(), scale.numpy(), shift, group, bits)


def _read_stored(graph: ir.Graph, restored: ir.Node, held: Stored) -> bool:
    """Let products and look-ups read the integers themselves; whether any does."""
    lookups = [node for node, place in restored.outputs[0].uses() if node.op_type == "Gather" and place == 0]
    products = _products(restored)
    if held.steps.ndim != 2 or not (lookups or products):
        return False
    made = _blocks(graph, held, shared=bool(lookups))
    for node in lookups:
        constants = [made.flat, node.inputs[1], made.scale, *([made.zero] if made.zero else [])]
        numbers = {"gather_axis": 0, "quantize_axis": 1, "block_size": made.size, "bits": held.bits}
        _put(graph, node, "GatherBlockQuantized", constants, numbers)
    for node in products:
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        constants = [node.inputs[0], made.blocks, made.scale, made.zero, *([None, bias] if bias is not None else [])]
        numbers = {
            "K": held.width,
            "N": len(held.steps),
            "bits": held.bits,
            "block_size": made.size,
            "accuracy_level": FLOAT32,
        }
        _put(graph, node, "MatMulNBits", constants, numbers)
    for node in [user for user, _ in restored.outputs[0].uses() if not user.outputs[0].uses()]:
        if node.op_type == "Transpose":
            graph.remove(node, safe=True)
    return True


def _products(restored: ir.Node) -> list[ir.Node]:
    """Linear layers by the weight, once in a Gemm or by way of a transposition."""
    found: list[ir.Node] = []
    for node, place in restored.outputs[0].uses():
        plain = node.attributes.get_float("alpha", 1.0) == node.attributes.get_float("beta", 1.0) == 1.0
        turned = node.attributes.get_int("transA", 0) == 0 and node.attributes.get_int("transB", 0) == 1
        if node.op_type == "Gemm" and place == 1 and plain and turned:
            found.append(node)
        elif node.op_type == "Transpose":
            found += [user for user, at in node.outputs[0].uses() if user.op_type == "MatMul" and at == 1]
    return found


@dataclass(frozen=True, eq=False)
class _Blocks:
    size: int
    flat: ir.Value | None
    blocks: ir.Value
    scale: ir.Value
    zero: ir.Value | None


def block_size(width: int, group: int, bits: int) -> int:
    """A power of two: the group, or what holds a whole row in the fewest bytes, its scale repeated."""
    if group < width:
        return group
    sizes = [SMALLEST_BLOCK * 2**i for i in range(max(1, (width - 1).bit_length()))]
    return min(sizes, key=lambda size: -(-width // size) * (size * bits / 8 + 4))


def packed(steps: Steps, bits: int) -> NDArray[np.uint8]:
    """Whole numbers from 0 to 2^bits - 1, (..., n), as bytes (..., ceil(n bits / 8)); the first in the lowest bits."""
    many = 8 // bits
    filled = np.zeros((*steps.shape[:-1], -(-steps.shape[-1] // many) * many), np.uint8)
    filled[..., : steps.shape[-1]] = steps
    parts = filled.reshape(*steps.shape[:-1], -1, many) << (bits * np.arange(many, dtype=np.uint8))
    return np.bitwise_or.reduce(parts, axis=-1).astype(np.uint8)


def _blocks(graph: ir.Graph, held: Stored, *, shared: bool) -> _Blocks:
    """The weight's constants; with `shared`, one that look-ups read too, without what fills the last block up."""
    rows, width = held.steps.shape
    size = block_size(width, held.group, held.bits)
    runs = -(-width // size)
    again = runs // held.scale.shape[1]
    middle = 2 ** (held.bits - 1)
    unsigned = held.steps.astype(np.int16) + middle if held.zero is None else held.steps
    filled = np.zeros((rows, runs * size), np.int16)
    filled[:, :width] = unsigned
    zero = None if held.zero is None else packed(np.repeat(held.zero, again, 1), held.bits)
    scale = _constant(graph, f"{held.name}_scales", np.repeat(held.scale, again, 1))
    shift = None if zero is None else _constant(graph, f"{held.name}_zeros", zero)
    name, blob = f"{held.name}_int{held.bits}", size * held.bits // 8
    whole = packed(filled, held.bits).reshape(rows, runs, blob)
    if not shared:
        return _Blocks(size, None, _constant(graph, name, whole), scale, shift)
    flat = _constant(graph, name, packed(unsigned, held.bits))
    if width % size:
        return _Blocks(size, flat, _constant(graph, f"{name}_blocks", whole), scale, shift)
    shape = _constant(graph, f"{name}_shape", np.array(whole.shape, np.int64))
    # One copy in the file serves both; the runtime folds the view when it loads it.
    view = ir.Node("", "Reshape", [flat, shape])
    graph.insert_before(graph[0], view)
    return _Blocks(size, flat, view.outputs[0], scale, shift)


def _restore(graph: ir.Graph, node: ir.Node, held: Stored) -> None:
    """The weight in float for whoever still reads it, by operators of the standard."""
    per_row = held.group >= held.width
    whole = _integers(graph, f"{held.name}_int{held.bits}", held.steps, held)
    if held.steps.ndim == 2:
        scale = held.scale[:, 0] if per_row else held.scale
        constants = [whole, _constant(graph, f"{held.name}_scales", scale)]
        if held.zero is not None:
            zero = held.zero[:, 0] if per_row else held.zero
            constants.append(_integers(graph, f"{held.name}_zeros", zero, held))
        numbers = {"axis": 0} if per_row else {"axis": 1, "block_size": held.group}
        _put(graph, node, "DequantizeLinear", constants, numbers, domain="")
        return
    shape = (-1, *[1] * (held.steps.ndim - 1))
    made = [ir.Node("", "Cast", [whole], [ir.AttrInt64("to", ir.DataType.FLOAT)])]
    if held.zero is not None:
        shift = _constant(graph, f"{held.name}_zeros", held.zero.astype(np.float32).reshape(shape))
        made.append(ir.Node("", "Sub", [made[-1].outputs[0], shift]))
    graph.insert_before(node, made)
    scale = _constant(graph, f"{held.name}_scales", held.scale.reshape(shape))
    _put(graph, node, "Mul", [made[-1].outputs[0], scale], {}, domain="")


def _put(
    graph: ir.Graph,
    old: ir.Node,
    op: str,
    inputs: Sequence[ir.Value | None],
    numbers: dict[str, int],
    domain: str = MICROSOFT,
) -> None:
    """`op` in the place of the readers' `old`, which stays behind unread."""
    made = ir.Node(domain, op, inputs, [ir.AttrInt64(name, number) for name, number in numbers.items()])
    made.metadata_props.update(old.metadata_props)
    stays = old.op_type == RESTORE
    ir.convenience.replace_nodes_and_values(graph, old, [] if stays else [old], [made], old.outputs, made.outputs)
    if stays:
        old.outputs[0].name = None


def _integers(graph: ir.Graph, name: str, steps: Steps, held: Stored) -> ir.Value:
    signed = held.zero is None
    tensor = int4(steps, name, signed=signed) if held.bits == 4 else ir.tensor(steps, name=name)
    value = ir.Value(name=name, const_value=tensor)
    graph.register_initializer(value)
    return value


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    if name in graph.initializers:
        graph.initializers.pop(name)
    value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
    graph.register_initializer(value)
    return value
