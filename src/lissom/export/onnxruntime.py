"""ONNX Runtime on CPU."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
from torch import nn

from lissom.export.base import Array, Artifact, Availability, Kernel, Runner, Runtime
from lissom.export.onnx import write_onnx
from lissom.task import Batch

INTEGER_OPS = {
    "QLinearConv": "conv",
    "ConvInteger": "conv",
    "QGemm": "linear",
    "QLinearMatMul": "linear",
    "MatMulIntegerToFloat": "linear",
    "MatMulInteger": "linear",
    "DynamicQuantizeMatMul": "linear",
    "QLinearAdd": "add",
    "QLinearAveragePool": "pool",
    "QLinearGlobalAveragePool": "pool",
}
FLOAT_OPS = {
    "Conv": "conv",
    "FusedConv": "conv",
    "ConvTranspose": "conv",
    "Gemm": "linear",
    "FusedGemm": "linear",
    "MatMul": "linear",
    "FusedMatMul": "linear",
    "Add": "add",
    "AveragePool": "pool",
    "GlobalAveragePool": "pool",
}


class OnnxRuntime(Runtime):
    """The runtime everyone has."""

    def availability(self) -> Availability:
        try:
            import onnxruntime  # noqa: F401  # pyright: ignore
        except ImportError as wrong:
            return Availability(found=False, detail=f'pip install "lissom" again; onnxruntime is missing ({wrong})')
        return Availability(found=True, version=importlib.metadata.version("onnxruntime"))

    def export(self, model: nn.Module, example: Batch, target: str, folder: Path, stem: str) -> Artifact:
        return write_onnx(model, example, target, folder, stem)

    def load(self, artifact: Artifact, folder: Path, threads: int) -> Runner:
        session = _session(folder / artifact.files[0], threads)
        names = [spec.name for spec in artifact.inputs]

        def call(inputs: Sequence[Array]) -> list[Array]:
            return session.run(None, dict(zip(names, inputs, strict=True)))

        return call

    def kernels(self, artifact: Artifact, folder: Path) -> tuple[Kernel, ...]:
        with tempfile.TemporaryDirectory() as scratch:
            optimized = Path(scratch) / "optimized.onnx"
            _session(folder / artifact.files[0], 1, optimized)
            graph = onnx.load(optimized).graph
        weights = {tensor.name for tensor in graph.initializer}
        found: list[Kernel] = []
        for node in graph.node:
            kind = INTEGER_OPS.get(node.op_type) or FLOAT_OPS.get(node.op_type)
            if kind is None:
                continue
            held = [name for name in node.input if name in weights]
            found.append(
                Kernel(
                    source=_source(held, node.name),
                    op=node.op_type,
                    precision="int8" if node.op_type in INTEGER_OPS else "float32",
                )
            )
        return tuple(found)


def _source(weights: list[str], node: str) -> str:
    return next((name for name in weights if "weight" in name), node)


def _session(path: Path, threads: int, optimized: Path | None = None):  # type: ignore[no-untyped-def]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
