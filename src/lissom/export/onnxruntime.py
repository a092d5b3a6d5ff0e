"""ONNX Runtime on CPU."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from torch import nn

from lissom.errors import UsageError
from lissom.export.base import (
    Array,
    Artifact,
    Availability,
    Kernel,
    Kind,
    Ran,
    Runner,
    Runtime,
    TensorSpec,
    artifact_of,
)
from lissom.export.onnx import write_onnx
from lissom.export.onnx_names import Names
from lissom.export.onnxruntime_session import profile, runner, session
from lissom.task import Batch

INTEGER_OPS: dict[str, Kind] = {
    "QLinearConv": "product",
    "ConvInteger": "product",
    "QGemm": "product",
    "QLinearMatMul": "product",
    "MatMulIntegerToFloat": "product",
    "MatMulInteger": "product",
    "DynamicQuantizeMatMul": "product",
    "QLinearAdd": "add",
    "QLinearAveragePool": "pool",
    "QLinearGlobalAveragePool": "pool",
}
STORED = "MatMulNBits"
"""A product of float activations and integer weights."""
FLOAT_OPS: dict[str, Kind] = {
    STORED: "product",
    "Conv": "product",
    "FusedConv": "product",
    "ConvTranspose": "product",
    "Gemm": "product",
    "FusedGemm": "product",
    "MatMul": "product",
    "FusedMatMul": "product",
    "LSTM": "product",
    "GRU": "product",
    "Add": "add",
    "AveragePool": "pool",
    "GlobalAveragePool": "pool",
    "ReduceMean": "pool",
}


class OnnxRuntime(Runtime):
    """The runtime everyone has."""

    loads_bare = True

    def availability(self) -> Availability:
        try:
            import onnxruntime  # noqa: F401  # pyright: ignore
        except ImportError as wrong:
            return Availability(found=False, detail=f'pip install "lissom" again: {wrong}')
        return Availability(found=True, version=importlib.metadata.version("onnxruntime"))

    def export(self, model: nn.Module, example: Batch, target: str, folder: Path, stem: str) -> Artifact:
        return write_onnx(model, example, target, folder, stem)

    def load(self, artifact: Artifact, folder: Path, threads: int) -> Runner:
        return runner(folder / artifact.files[0], [spec.name for spec in artifact.inputs], threads)

    def kernels(self, artifact: Artifact, folder: Path) -> tuple[Kernel, ...]:
        """Read back from the graph that ONNX Runtime optimized.

        Its last stage is left out: it only reorders the weights of float convolutions in memory, and renames them.
        """
        with tempfile.TemporaryDirectory() as scratch:
            optimized = Path(scratch) / "optimized.onnx"
            session(folder / artifact.files[0], 1, optimized)
            graph = onnx.load(optimized, load_external_data=False).graph
        exported = onnx.load(folder / artifact.files[0], load_external_data=False).graph
        return tuple(_kernels(graph, Names(exported)))

    def profile(self, artifact: Artifact, folder: Path, threads: int, inputs: Sequence[Array]) -> tuple[Ran, ...]:
        path = folder / artifact.files[0]
        names = Names(onnx.load(path, load_external_data=False).graph)
        timed = profile(path, [spec.name for spec in artifact.inputs], threads, inputs)
        return tuple(_ran(node, op, ms, names) for node, op, ms in timed)


def _ran(node: str, op: str, ms: float, names: Names) -> Ran:
    product = (INTEGER_OPS.get(op) or FLOAT_OPS.get(op)) == "product"
    return Ran(op=op, ms=ms, product=product, node=names.product(node) if product else "")


def described(path: Path) -> Artifact:
    """An ONNX file of any origin.

    Raises:
        UsageError: there is no such file, or it is no ONNX.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (OSError, DecodeError) as wrong:
        raise UsageError(f"{path} is not an ONNX file that can be read: {wrong}.") from wrong
    if not graph.output:
        raise UsageError(f"{path} is not an ONNX file that can be read: it has no outputs.")
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_spec(value) for value in graph.input if value.name not in weights]
    first = inputs[0].shape[0] if inputs and inputs[0].shape else "N"
    batch = first if isinstance(first, int) else None
    outputs = [_spec(value) for value in graph.output]
    return artifact_of(
        "onnxruntime", path.parent, [path.name], inputs, outputs, batch=batch, fixed=batch is not None
    )  # fmt: skip


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    of = value.type.tensor_type
    shape = tuple(one.dim_value if one.HasField("dim_value") else one.dim_param or "?" for one in of.shape.dim)
    return TensorSpec(
        name=value.name, shape=shape, dtype=np.dtype(onnx.helper.tensor_dtype_to_np_dtype(of.elem_type)).name
    )


def _kernels(graph: onnx.GraphProto, names: Names) -> Iterator[Kernel]:
    weights = {tensor.name for tensor in graph.initializer}
    # Ranges of single examples are taken by plain arithmetic, which ends in a Cast (`onnx_samples`).
    later = ("DynamicQuantizeLinear", "Cast")
    dynamic = {output for node in graph.node if node.op_type in later for output in node.output}
    for node in graph.node:
        kind = INTEGER_OPS.get(node.op_type) or FLOAT_OPS.get(node.op_type)
        if kind is None:
            continue
        precision = "int8" if node.op_type in INTEGER_OPS else "float32"
        if precision == "int8" and (node.op_type.startswith("DynamicQuantize") or dynamic & set(node.input)):
            precision = "int8 dynamic"
        if node.op_type == STORED:
            precision = f"int{next(one.i for one in node.attribute if one.name == 'bits')} weights"
        weight = next((name for name in node.input if name in weights and "weight" in name), "")
        traced = names.traced(node.name, kind)
        source = weight or traced or node.name
        yield Kernel(source=source, op=node.op_type, precision=precision, node=traced, kind=kind)
        if node.op_type == "FusedConv" and len(node.input) > 3:
            for addition in names.absorbed(node.output[0], node.input):
                yield Kernel(source=addition, op=node.op_type, precision=precision, node=addition, kind="add")
