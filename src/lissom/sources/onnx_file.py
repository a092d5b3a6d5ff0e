"""ONNX files: read as data, lifted into torch, compared with ONNX Runtime before anything else happens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import torch
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data
from torch import Tensor, nn

from lissom.errors import ProjectError, VerificationError, first_line
from lissom.export.base import Runner
from lissom.export.onnxruntime import OnnxRuntime, described
from lissom.sources.files import existing
from lissom.sources.lift import KNOWN, WAY_OUT, lift
from lissom.sources.shapes import made_up, read_shapes

OLDEST, MODERN = 13, 17
"""Operators are those of opset 13 and later; older files are converted to `MODERN` by ONNX's own converter."""
TOLERANCE = 1e-4
"""Largest difference between lifted model and ONNX Runtime, as a share of the largest output."""


def open_onnx(path: Path, shape: str | None) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The lifted model and example inputs (seeded) of its shapes; `shape` fills in free sizes.

    A batch axis that the file fixes is freed where the model then still answers as ONNX Runtime does.

    Raises:
        ProjectError: no such file, no ONNX, missing or escaping external data, an opset or operator that is not known.
        VerificationError: the lifted model answers otherwise than ONNX Runtime.
    """
    model = _read(path)
    example = _examples(path, model.graph, shape)
    runner = _runner(path)
    fixed = all(_batch_is_fixed(value) for value in _inputs(model.graph))
    try:
        if fixed:
            lifted = lift(model.graph, example, rebatch=True)
            if _follows_the_batch(lifted, runner, example):
                return lifted, example
        lifted = lift(model.graph, example, rebatch=False)
    except ProjectError as wrong:
        raise ProjectError(f"{path}: {wrong}") from wrong
    off = _difference(lifted, example, runner([one.numpy() for one in example]))
    if off > TOLERANCE:
        raise VerificationError(
            f"{path}: lifted into torch, the model differs from ONNX Runtime by {off:.2g} of its largest output "
            f"(at most {TOLERANCE:g} is accepted), so it is not used. {WAY_OUT}"
        )
    return lifted, example


def _read(path: Path) -> onnx.ModelProto:
    existing(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as wrong:
        raise ProjectError(f"{path} is not an ONNX file that can be read: {first_line(wrong)}.") from wrong
    if not model.graph.node or not model.graph.output:
        raise ProjectError(f"{path} is not an ONNX file that can be read: it has no nodes or outputs.")
    _load_external(path, model)
    model = _modern(path, model)
    unknown = sorted({_full_name(node) for node in model.graph.node} - KNOWN)
    if unknown:
        raise ProjectError(
            f"{path} has operators that are not lifted into torch: {', '.join(map(repr, unknown))}. {WAY_OUT}"
        )
    halves = {one.name for one in model.graph.initializer if one.data_type in (10, 16)}
    if halves:
        raise ProjectError(f"{path} holds half precision weights ({min(halves)!r}). Export it in float32.")
    return model


def _full_name(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _load_external(path: Path, model: onnx.ModelProto) -> None:
    """Weights in files beside the model, and nowhere else."""
    folder = path.resolve().parent
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        name = next((one.value for one in tensor.external_data if one.key == "location"), "")
        place = (folder / name).resolve()
        if not place.is_relative_to(folder) or place == folder:
            raise ProjectError(f"{path} wants weights from {name!r}, outside its own folder. That is not read.")
        if not place.is_file():
            raise ProjectError(f"{path} keeps its weights in {name!r}, which is not beside it. Copy it into {folder}.")
    try:
        load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as wrong:
        raise ProjectError(f"{path}: its external weights cannot be read: {first_line(wrong)}.") from wrong


def _modern(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Without local functions, of an opset whose operators are known."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    version = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise ProjectError(
            f"{path} is of opset {version}, newer than {newest}, the newest that the installed onnx knows. "
            f"Export it with opset {newest} or lower, or upgrade onnx."
        )
    if version >= OLDEST:
        return model
    try:
        return onnx.version_converter.convert_version(model, MODERN)
    except Exception as wrong:  # the converter raises RuntimeError, its own error, and what its C++ throws
        raise ProjectError(
            f"{path} is of opset {version}, and cannot be brought to {MODERN}: {first_line(wrong)}. "
            f"Export it with opset {OLDEST} or higher."
        ) from wrong


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    weights = {one.name for one in graph.initializer}
    return [one for one in graph.input if one.name not in weights]


def _batch_is_fixed(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return bool(dims) and dims[0].HasField("dim_value")


def _examples(path: Path, graph: onnx.GraphProto, shape: str | None) -> tuple[Tensor, ...]:
    wanted = read_shapes(shape, [value.name for value in _inputs(graph)])
    found: list[Tensor] = []
    for number, value in enumerate(_inputs(graph)):
        of = value.type.tensor_type
        sizes = [one.dim_value if one.HasField("dim_value") else None for one in of.shape.dim]
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(of.elem_type)) if of.elem_type else np.dtype(np.float32)
        found.append(made_up(f"{path}: input {value.name!r}", sizes, wanted.get(value.name), kind, number))
    if not found:
        raise ProjectError(f"{path} has no inputs. {WAY_OUT}")
    return tuple(found)


def _runner(path: Path) -> Runner:
    try:
        return OnnxRuntime().load(described(path), path.parent, 1)
    except Exception as wrong:  # ONNX Runtime's errors share no base class
        raise ProjectError(f"ONNX Runtime cannot load {path}: {first_line(wrong)}. Export it again.") from wrong


def _follows_the_batch(model: nn.Module, runner: Runner, example: Sequence[Tensor]) -> bool:
    """Whether two different examples at a time are answered as ONNX Runtime answers each."""
    others = [one.flip(-1) for one in example]
    both = [torch.cat([one, other]) for one, other in zip(example, others, strict=True)]
    try:
        answers = [runner([one.numpy() for one in inputs]) for inputs in (example, others)]
        joined = [np.concatenate(pair) for pair in zip(*answers, strict=True)]
        return _difference(model, both, joined) <= TOLERANCE
    except (RuntimeError, ValueError, IndexError):  # a shape that holds for one batch only
        return False


def _difference(model: nn.Module, inputs: Sequence[Tensor], answers: Sequence[Any]) -> float:
    """The largest difference of any output, as a share of that output's largest value; infinite for other shapes."""
    with torch.no_grad():
        found = model(*inputs)
    outputs: tuple[Tensor, ...] = found if isinstance(found, tuple) else (found,)
    worst = 0.0
    for one, answer in zip(outputs, answers, strict=True):
        value, wanted = one.double().numpy(), np.asarray(answer, np.float64)
        if value.shape != wanted.shape or not np.array_equal(np.isfinite(value), np.isfinite(wanted)):
            return float("inf")
        scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-6))
        gap = np.abs(np.where(np.isfinite(wanted), value - wanted, 0.0))
        worst = max(worst, float(gap.max(initial=0.0)) / scale)
    return worst
