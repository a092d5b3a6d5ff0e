"""torch.onnx's table of translations, built once per process.

`torch.onnx.export` makes the table anew for every model, and reading the signatures of its 1700 functions takes
longer than the conversion of a small network. Conversion does not change the table, so one is kept. This
is torch's internal interface: `pyproject.toml` holds torch to one minor version, and a test compares with the public
function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.onnx._constants import ONNX_DEFAULT_OPSET
from torch.onnx._internal.exporter import _core
from torch.onnx._internal.exporter._registration import ONNXRegistry


def convert(
    program: ExportedProgram, translations: Callable[[], Mapping[Any, Callable[..., Any]]]
) -> torch.onnx.ONNXProgram:
    """What `torch.onnx.export` makes of a program, with the `translations` that torch does not know.

    Raises:
        torch.onnx.errors.OnnxExporterError: an operator has no translation, or a translation failed.
    """
    registry = _registry(translations, torchvision=hasattr(torch.ops.torchvision, "nms"))
    return _core.export(program, registry=registry, verbose=False, optimize=True, opset_version=ONNX_DEFAULT_OPSET)


@functools.cache
def _registry(translations: Callable[[], Mapping[Any, Callable[..., Any]]], *, torchvision: bool) -> ONNXRegistry:
    """torch leaves out what is not registered when the table is made: `torchvision` says whether its operators are."""
    made = ONNXRegistry.from_torchlib(opset_version=ONNX_DEFAULT_OPSET)
    for operator, function in translations().items():
        made.register_op(operator, function, is_complex=False)
    return made
