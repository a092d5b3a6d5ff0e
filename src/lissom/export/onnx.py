"""A model as one clean ONNX file, quantizers as QuantizeLinear / DequantizeLinear pairs.

Written by `torch.onnx` from the torch.export program. What Lissom adds: translations of the operators of dynamic
quantization, names that lead back to the traced graph (`conv2d_3/Conv`), the batch axis called `N`, and no tracing
residue in the file (source paths and stack traces can be a third of a small model).
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch import nn
from torch.export import ExportedProgram

from lissom.errors import ExportError
from lissom.export.attention import plain_attention_
from lissom.export.base import Artifact, artifact_of, input_specs, output_specs, writing
from lissom.export.onnx_graph import rewrite_
from lissom.export.onnx_registry import convert
from lissom.export.onnx_weights import restore
from lissom.export.origin import explain, mark_
from lissom.functional.affine import SMALLEST_SCALE
from lissom.functional.samples import STEPS
from lissom.graph.trace import export_program
from lissom.target import load_target
from lissom.task import Batch
from lissom.transforms.quantization.grouped import RESTORE
from lissom.transforms.quantization.rewrite import OPS

EXTERNAL_DATA_FROM = 1_900_000_000
"""Bytes of weights from which they go to a file of their own: a protobuf holds less than 2 GiB."""


def _choose_qparams(x: Any, low: int, high: int, eps: float, dtype: int) -> Any:
    made: Any = op.DynamicQuantizeLinear(x)
    _, scale, zero_point = made
    return scale, zero_point


def _quantize(x: Any, scale: Any, zero_point: Any, low: int, high: int, dtype: int) -> Any:
    return op.QuantizeLinear(x, scale, zero_point)


def _dequantize(x: Any, scale: Any, zero_point: Any, low: int, high: int, dtype: int, out_dtype: int = -1) -> Any:
    return op.DequantizeLinear(x, scale, zero_point)


def _dynamic_quantize(x: Any, group: int) -> Any:
    return op.Identity(x)


def _dequantize_groups(steps: Any, scale: Any, zero: Any, group: int, bits: int) -> Any:
    return restore(steps, scale, *([] if zero is None else [zero]), group=group, bits=bits)


def _sample_quantize(x: Any, axes: int) -> Any:
    """`functional.samples` written out: DynamicQuantizeLinear knows one range for the whole tensor only."""
    ops: Any = op
    zero, steps = ops.Constant(value_float=0.0), ops.Constant(value_float=float(STEPS))
    low = high = x
    if axes > 1:
        around = ops.Constant(value_ints=list(range(1, axes)))
        low, high = ops.ReduceMin(x, around, keepdims=1), ops.ReduceMax(x, around, keepdims=1)
    low, high = ops.Min(low, zero), ops.Max(high, zero)
    scale = ops.Max(ops.Div(ops.Sub(high, low), steps), ops.Constant(value_float=SMALLEST_SCALE))
    middle = ops.Round(ops.Div(ops.Neg(low), scale))
    rounded = ops.Clip(ops.Add(ops.Round(ops.Div(x, scale)), middle), zero, steps)
    return ops.Mul(ops.Sub(rounded, middle), scale)


def translations() -> dict[Any, Any]:
    """ONNX for the operators of dynamic quantization and of stored weights, which torch.onnx does not know."""
    return {
        OPS.choose_qparams.tensor: _choose_qparams,
        OPS.quantize_per_tensor.tensor: _quantize,
        OPS.dequantize_per_tensor.tensor: _dequantize,
        torch.ops.lissom.dynamic_quantize.default: _dynamic_quantize,
        RESTORE: _dequantize_groups,
        torch.ops.lissom.sample_quantize.default: _sample_quantize,
    }


def write_onnx(model: nn.Module, example: Batch, target: str, folder: Path, stem: str) -> Artifact:
    """Export to `folder/stem.onnx`.

    Raises:
        ExportError: torch.export or torch.onnx refuses; names the operator.
    """
    program, dynamic = export_program(model, example)
    values = {node.name for node in program.graph.nodes}
    plain = [v for v in program.graph_signature.user_outputs if v is not None and v not in values]
    if plain:
        raise ExportError(
            f"The model does not convert to ONNX: it returns {plain[0]!r}, and an ONNX output is a tensor. Return "
            "torch.tensor(...) there, or leave it out."
        )
    plain_attention_(program)
    mark_(program)
    inputs, outputs = input_specs(program), output_specs(program)
    exported = _convert(program)
    translated = exported.exported_program
    rewrite_(exported.model, translated if translated is not None else program, inputs, outputs, load_target(target))
    with writing(folder) as scratch:
        _save(exported.model, scratch / f"{stem}.onnx")
        names = sorted((file.name for file in scratch.iterdir()), key=len)
    return artifact_of(
        target,
        folder,
        names,
        inputs,
        outputs,
        batch=None if dynamic else example.size,
        fixed=not dynamic,
    )


def _convert(program: ExportedProgram) -> torch.onnx.ONNXProgram:
    with quiet():
        try:
            return convert(program, translations)
        except Exception as wrong:  # torch.onnx wraps whatever a translation raised
            raise ExportError(
                f"The model does not convert to ONNX: {explain(wrong, program)} Replace that operator, or use a "
                "target that does not go through ONNX (torch, executorch)."
            ) from wrong


def _save(model: ir.Model, path: Path) -> None:
    weights = (v.const_value for v in model.graph.initializers.values())
    size = sum(weight.nbytes for weight in weights if weight is not None)
    ir.save(model, path, external_data=None if size < EXTERNAL_DATA_FROM else f"{path.name}.data")


@contextlib.contextmanager
def quiet() -> Generator[None]:
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
