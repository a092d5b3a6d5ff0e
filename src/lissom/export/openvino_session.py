"""An ONNX file loaded by OpenVINO, without torch: what a deployment imports, and what peak memory is taken of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

ACTIVATIONS = ("lissom.activations", "float32")
"""Written into a file whose integer weights are multiplied by activations that nothing rounds."""
DYNAMIC_GROUP = 32


def runner(path: Path, names: Sequence[str], threads: int) -> Callable[[Sequence[Array]], list[Array]]:
    """Input arrays in the file's order, which is that of `names`, to output arrays."""
    model = read(path)
    compiled = compile_model(model, threads, rounds=not is_float(model))
    request = compiled.create_infer_request()
    outputs = list(compiled.outputs)

    def call(inputs: Sequence[Array]) -> list[Array]:
        found = request.infer(list(inputs), share_inputs=True, share_outputs=False)
        return [found[port] for port in outputs]

    return call


def read(path: Path) -> Any:
    import openvino

    return openvino.Core().read_model(str(path))


def is_float(model: Any) -> bool:
    """Whether the file says that activations are not to be rounded."""
    key, value = ACTIVATIONS
    place = ["framework", key]
    return bool(model.has_rt_info(place)) and str(model.get_rt_info(place).value) == value


def compile_model(model: Any, threads: int, *, rounds: bool = True) -> Any:
    """`rounds`: inputs of layers whose weights are integers are rounded at run time, where the processor gains."""
    import openvino

    return openvino.Core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": DYNAMIC_GROUP if rounds else 0,
        },
    )
