"""Weights that need no more than 4 bits leave as 4 bits.

Integer kernels multiply int8, so an INT4 constant is cast to INT8 in front of the DequantizeLinear that reads it. The
runtimes fold the cast when they load the file: half the bytes on disk, the same kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnxscript.version_converter import convert_version

OPSET = 21
"""The first with integers of 4 bits."""
READERS = {("DequantizeLinear", 0), ("MatMulInteger", 1)}
"""Operators, and the place of their input, that take an int8 weight."""


def packed_(model: ir.Model, bits: Collection[int]) -> None:
    """Store every int8 weight whose steps lie in [-8, 7] as INT4, if that is one of the sizes `bits`."""
    if 4 not in bits:
        return
    found = list(_narrow(model.graph))
    if not found:
        return
    at_least_(model, OPSET)
    for value in found:
        _pack_(model.graph, value)


def at_least_(model: ir.Model, opset: int) -> None:
    """Raise the model's operator set to `opset` if it is older."""
    if model.opset_imports.get("", opset) < opset:
        convert_version(model, opset)
        model.ir_version = max(model.ir_version, 10)


def _narrow(graph: ir.Graph) -> Iterator[ir.Value]:
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.INT8 or len(tensor.shape) < 2:
            continue
        if any((node.op_type, place) not in READERS for node, place in value.uses()):
            continue
        steps = tensor.numpy()
        if steps.size and steps.min() >= -8 and steps.max() <= 7:
            yield value


def _pack_(graph: ir.Graph, value: ir.Value) -> None:
    name, tensor = value.name, value.const_value
    assert name is not None
    assert tensor is not None
    readers = list(value.uses())
    del graph.initializers[name]
    small = f"{name.removesuffix('_int8')}_int4"
    held = ir.Value(name=small, const_value=int4(tensor.numpy(), small))
    graph.register_initializer(held)
    cast = ir.Node("", "Cast", [held], [ir.AttrInt64("to", ir.DataType.INT8)])
    # The runtimes name the folded constant after the cast: it keeps the name that leads back to the layer.
    cast.outputs[0].name = name
    first = min((node for node, _ in readers), key=list(graph).index)
    graph.insert_before(first, cast)
    for node, place in readers:
        node.replace_input_with(place, cast.outputs[0])


def int4(steps: np.ndarray, name: str, *, signed: bool = True) -> ir.TensorProtocol:
    """Whole numbers of 4 bits as a tensor of two a byte."""
    return ir.tensor(steps.astype(ml_dtypes.int4 if signed else ml_dtypes.uint4), name=name)
