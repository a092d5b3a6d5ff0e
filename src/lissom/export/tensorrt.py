"""TensorRT: the same QDQ ONNX file, and an engine built from it where TensorRT and a GPU are present."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lissom.errors import ExportError
from lissom.export.base import (
    Array,
    Artifact,
    Availability,
    Kernel,
    Runner,
    Runtime,
    artifact_of,
    require,
    writing,
)
from lissom.export.onnx import write_onnx
from lissom.task import Batch

MAX_BATCH = 64


class TensorRt(Runtime):
    """NVIDIA's runtime."""

    writes_without_it = True

    def availability(self) -> Availability:
        if importlib.util.find_spec("tensorrt") is None:
            return Availability(
                found=False,
                detail='pip install "lissom[tensorrt]" on a machine with an NVIDIA GPU; `lissom export --target '
                "tensorrt` writes the QDQ ONNX file without it",
            )
        if not torch.cuda.is_available():
            return Availability(found=False, detail="tensorrt is installed, but torch sees no NVIDIA GPU")
        return Availability(found=True, version=importlib.metadata.version("tensorrt"))

    def export(self, model: nn.Module, example: Batch, target: str, folder: Path, stem: str) -> Artifact:
        with writing(folder) as scratch:
            artifact = write_onnx(model, example, target, scratch, stem)
            if not self.availability().found:
                return artifact
            engine = scratch / f"{stem}.engine"
            engine.write_bytes(_build(scratch / artifact.files[0], artifact, example.size))
        return artifact_of(
            target,
            folder,
            [engine.name, *artifact.files],
            artifact.inputs,
            artifact.outputs,
            batch=artifact.batch or MAX_BATCH,
            fixed=artifact.fixed,
        )

    def load(self, artifact: Artifact, folder: Path, threads: int) -> Runner:
        require(self.availability(), "TensorRT")
        import tensorrt as trt  # pyright: ignore

        engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(
            (folder / artifact.files[0]).read_bytes()
        )
        context = engine.create_execution_context()

        def call(inputs: Sequence[Array]) -> list[Array]:
            held = [torch.from_numpy(a).cuda() for a in inputs]
            for spec, tensor in zip(artifact.inputs, held, strict=True):
                context.set_input_shape(spec.name, tuple(tensor.shape))
                context.set_tensor_address(spec.name, tensor.data_ptr())
            results: list[torch.Tensor] = []
            for spec in artifact.outputs:
                shape = tuple(context.get_tensor_shape(spec.name))
                dtype = torch.from_numpy(np.zeros(0, spec.dtype)).dtype
                results.append(torch.empty(shape, dtype=dtype, device="cuda"))
                context.set_tensor_address(spec.name, results[-1].data_ptr())
            context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
            torch.cuda.synchronize()
            return [t.cpu().numpy() for t in results]

        return call

    def kernels(self, artifact: Artifact, folder: Path) -> tuple[Kernel, ...]:
        return ()


def _build(path: Path, artifact: Artifact, batch: int) -> bytes:
    import tensorrt as trt  # pyright: ignore

    builder: Any = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    if not parser.parse_from_file(str(path)):
        raise ExportError(f"TensorRT cannot read the ONNX file: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    # Lets the builder try its kernels for 2:4; it takes them only for weights that have the pattern, where they win.
    config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if not artifact.fixed:
        profile = builder.create_optimization_profile()
        for spec in artifact.inputs:
            low, best, high = (
                tuple(n if isinstance(d, str) else d for d in spec.shape) for n in (1, batch, max(batch, MAX_BATCH))
            )
            profile.set_shape(spec.name, low, best, high)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError("TensorRT could not build an engine from the ONNX file; its log says why.")
    return bytes(plan)
