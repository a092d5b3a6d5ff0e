"""A model as one clean ONNX file, quantizers as QuantizeLinear / DequantizeLinear pairs.

Written by `torch.onnx` from the torch.export program. What Lissom adds: translations of the two operators of dynamic
quantization, the batch axis named `N`, and no tracing residue in the file (source paths and stack traces can be a
third of a small model).
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript import opset18 as op
from torch import nn
from torch.export import ExportedProgram

from lissom.errors import ExportError
from lissom.export.base import Artifact, TensorSpec, artifact_of
from lissom.graph.trace import export_program
from lissom.task import Batch

EXTERNAL_DATA_FROM = 1_900_000_000
"""Bytes of weights from which they go to a file of their own: a protobuf holds less than 2 GiB."""


def _choose_qparams(x: Any, low: int, high: int, eps: float, dtype: int) -> Any:
    _, scale, zero_point = op.DynamicQuantizeLinear(x)
    return scale, zero_point


def _quantize(x: Any, scale: Any, zero_point: Any, low: int, high: int, dtype: int) -> Any:
    return op.QuantizeLinear(x, scale, zero_point)


def _dequantize(
    x: Any, scale: Any, zero_point: Any, low: int, high: int, dtype: int, out_dtype: int = -1
) -> Any:
    return op.DequantizeLinear(x, scale, zero_point)


def _dynamic_quantize(x: Any, group: int) -> Any:
    return op.Identity(x)


def translations() -> dict[Any, Any]:
    ops = torch.ops
    return {
        ops.quantized_decomposed.choose_qparams.tensor: _choose_qparams,
        ops.quantized_decomposed.quantize_per_tensor.tensor: _quantize,
        ops.quantized_decomposed.dequantize_per_tensor.tensor: _dequantize,
        ops.lissom.dynamic_quantize.default: _dynamic_quantize,
    }


def write_onnx(model: nn.Module, example: Batch, target: str, folder: Path, stem: str) -> Artifact:
    """Export to `folder/stem.onnx`.

    Raises:
        ExportError: torch.export or torch.onnx refuses; names the operator.
    """
    program, dynamic = export_program(model, example)
    proto = _convert(program)
    graph = proto.graph
    _reuse_dynamic_quantization_(graph)
    _transpose_int8_weights_(graph)
    RemoveUnusedNodesPass()(proto)
    _clean_(proto)
    _name_batch_(graph, program)
    path = folder / f"{stem}.onnx"
    names = _save(proto, path)
    return artifact_of(
        target,
        folder,
        names,
        [_spec(value) for value in graph.inputs],
        [_spec(value) for value in graph.outputs],
        batch=None if dynamic else example.size,
        fixed=not dynamic,
    )


def _convert(program: ExportedProgram) -> ir.Model:
    with quiet():
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                custom_translation_table=translations(),
                verbose=False,
                optimize=True,
            )
        except Exception as wrong:  # torch.onnx wraps whatever a translation raised
            reason = next((line for line in reversed(str(wrong).splitlines()) if line.strip()), "")
            raise ExportError(
                f"The model does not convert to ONNX: {reason.strip() or type(wrong).__name__}. Replace the operator "
                "named there, or use a target that does not go through ONNX (torch, executorch)."
            ) from wrong
    if exported is None:
        raise ExportError("The model does not convert to ONNX: torch.onnx returned nothing.")
    return exported.model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters talk about optional packages that nobody asked for; their level is restored afterwards."""
    names = ("torch.onnx", "torch.onnx._internal.exporter", "torch.export", "onnxscript", "onnx_ir", "executorch")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reuse_dynamic_quantization_(graph: ir.Graph) -> None:
    """DynamicQuantizeLinear already gives the integers: drop the QuantizeLinear that would compute them again."""
    for node in list(graph):
        if node.op_type != "QuantizeLinear" or len(node.inputs) < 3:
            continue
        scale = node.inputs[1]
        producer = scale.producer() if scale is not None else None
        if producer is None or producer.op_type != "DynamicQuantizeLinear":
            continue
        if producer.inputs[0] is not node.inputs[0]:
            continue
        ir.convenience.replace_all_uses_with(node.outputs[0], producer.outputs[0])
        graph.remove(node, safe=True)


def _transpose_int8_weights_(graph: ir.Graph) -> None:
    """`x @ dequantize(W).T + b` with W stored as its transpose: a plain MatMul.

    ONNX Runtime has an integer kernel with float output for MatMul, but runs Gemm in float unless its output is
    rounded too. It also fuses MatMul and Add into Gemm before it looks for integers, hence `- (-b)`, which is exact.
    """
    for node in list(graph):
        gemm = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
        if gemm and node.inputs[1] is not None:
            restored = node.inputs[1].producer()
        elif node.op_type == "MatMul" and node.inputs[1] is not None:
            turned = node.inputs[1].producer()
            if turned is None or turned.op_type != "Transpose" or turned.inputs[0] is None:
                continue
            restored = turned.inputs[0].producer()
        else:
            continue
        if restored is None or restored.op_type != "DequantizeLinear" or restored.inputs[0] is None:
            continue
        weight = restored.inputs[0].const_value
        if weight is None or len(weight.shape) != 2 or len(restored.inputs[0].uses()) != 1:
            continue
        bias = node.inputs[2] if gemm and len(node.inputs) > 2 else None
        if bias is not None and bias.const_value is None:
            continue
        stored = graph.initializers.pop(restored.inputs[0].name)
        held = ir.Value(name=stored.name, const_value=ir.tensor(weight.numpy().T.copy(), name=stored.name))
        graph.register_initializer(held)
        source = ir.Node("", "DequantizeLinear", [held, *restored.inputs[1:]], [ir.AttrInt64("axis", 1)])
        product = ir.Node("", "MatMul", [node.inputs[0], source.outputs[0]], name=node.name)
        fresh = [source, product]
        if bias is not None and bias.const_value is not None:
            name = f"{bias.name}_negated"
            negated = ir.Value(name=name, const_value=ir.tensor(-bias.const_value.numpy(), name=name))
            graph.register_initializer(negated)
            fresh.append(ir.Node("", "Sub", [product.outputs[0], negated], name=f"{node.name}_bias"))
        graph.insert_before(node, fresh)
        result = fresh[-1].outputs[0]
        result.name, result.shape, result.type = node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type
        ir.convenience.replace_all_uses_with(node.outputs[0], result, replace_graph_outputs=True)
        node.outputs[0].name = None
        graph.remove(node, safe=True)

def _clean_(model: ir.Model) -> None:
    model.metadata_props.clear()
    model.doc_string = None
    model.producer_name, model.producer_version = "lissom", ""
    graph = model.graph
    graph.metadata_props.clear()
    graph.doc_string = None
    graph.name = "model"
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        values.extend(node.outputs)
    outputs = set(graph.outputs)
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None
        if value.producer() is not None and value not in outputs:
            # Shapes of intermediate values are inferred by every runtime; in the file they are ballast.
            value.shape = None
            value.type = None


def _name_batch_(graph: ir.Graph, program: ExportedProgram) -> None:
    """Whatever symbol torch.export chose for the batch axis is called `N` in the file."""
    first = next((v for v in graph.inputs if v.shape is not None and len(v.shape) > 0), None)
    if first is None or first.shape is None:
        return
    symbol = first.shape[0]
    if isinstance(symbol, int):
        return
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([ir.SymbolicDim("N") if d == symbol else d for d in value.shape])


def _save(model: ir.Model, path: Path) -> list[str]:
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    part = path.with_name(f".{path.stem}.part.onnx")
    if size < EXTERNAL_DATA_FROM:
        ir.save(model, part)
        os.replace(part, path)
        return [path.name]
    weights = f"{path.stem}.onnx.data"
    ir.save(model, part, external_data=weights)
    os.replace(part, path)
    return [path.name, weights]


def _spec(value: ir.Value) -> TensorSpec:
    shape = tuple(d if isinstance(d, int) else "N" for d in value.shape) if value.shape is not None else ()
    dtype = value.dtype.numpy().name if value.dtype is not None else "float32"
    return TensorSpec(name=value.name or "", shape=shape, dtype=dtype)


