"""OpenVINO on CPU. Float layers compute in float32, so that speed is compared at equal precision."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lissom.export.base import Array, Artifact, Availability, Kernel, Runner, Runtime
from lissom.export.onnx import write_onnx
from lissom.task import Batch

DYNAMIC_GROUP = 32
LAYERS = {"Convolution": "conv", "FullyConnected": "linear", "MatMul": "linear", "Eltwise": "add", "Pooling": "pool"}
INTEGER_TYPES = ("i8", "u8")


class OpenVino(Runtime):
    """Intel's runtime: the fastest here on most CPUs with VNNI."""

    def availability(self) -> Availability:
        try:
            import openvino  # noqa: F401  # pyright: ignore
        except ImportError:
            return Availability(found=False, detail='pip install "lissom[openvino]"')
        return Availability(found=True, version=importlib.metadata.version("openvino"))

    def export(self, model: nn.Module, example: Batch, target: str, folder: Path, stem: str) -> Artifact:
        return write_onnx(model, example, target, folder, stem)

    def load(self, artifact: Artifact, folder: Path, threads: int) -> Runner:
        compiled = _compile(folder / artifact.files[0], threads)
        request = compiled.create_infer_request()
        outputs = list(compiled.outputs)

        def call(inputs: Sequence[Array]) -> list[Array]:
            found = request.infer(list(inputs), share_inputs=True, share_outputs=False)
            return [found[port] for port in outputs]

        return call

    def kernels(self, artifact: Artifact, folder: Path) -> tuple[Kernel, ...]:
        runtime = _compile(folder / artifact.files[0], 1).get_runtime_model()
        found: list[Kernel] = []
        for operation in runtime.get_ordered_ops():
            info = operation.get_rt_info()
            kind = _text(info, "layerType")
            if not any(kind.startswith(known) for known in LAYERS):
                continue
            primitive = _text(info, "primitiveType").lower()
            integer = primitive.endswith(INTEGER_TYPES)
            found.append(
                Kernel(
                    source=_text(info, "originalLayersNames"),
                    op=kind,
                    precision="int8" if integer else "float32",
                )
            )
        return tuple(found)


def _text(info: Any, key: str) -> str:
    return str(info[key].value) if key in info else ""


def _compile(path: Path, threads: int) -> Any:
    import openvino

    core = openvino.Core()
    return core.compile_model(
        core.read_model(str(path)),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": DYNAMIC_GROUP,
        },
    )
