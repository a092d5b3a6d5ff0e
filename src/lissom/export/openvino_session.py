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


WARMING, CALLS = 3, 20
"""Of a profile: calls that are not looked at, and those that are."""
QUIET = 25
"""Percentile of a kernel's times: what else the machine does makes some of them longer, and none shorter."""


def profile(path: Path, threads: int, inputs: Sequence[Array]) -> list[tuple[str, str, str, float]]:
    """(name, original names, type, milliseconds) of every layer of a call that ran, in order."""
    model = read(path)
    compiled = compile_model(model, threads, rounds=not is_float(model), counts=True)
    origins = {
        str(one.get_friendly_name()): str(info["originalLayersNames"].value)
        for one in compiled.get_runtime_model().get_ordered_ops()
        if "originalLayersNames" in (info := one.get_rt_info())
    }
    request = compiled.create_infer_request()
    types: dict[str, str] = {}
    taken: dict[str, list[float]] = {}
    for call in range(WARMING + CALLS):
        request.infer(list(inputs), share_inputs=True, share_outputs=False)
        for one in request.get_profiling_info() if call >= WARMING else ():
            if one.status.name == "EXECUTED":
                types[one.node_name] = one.node_type
                taken.setdefault(one.node_name, []).append(1e3 * one.real_time.total_seconds())
    return [(name, origins.get(name, ""), types[name], float(np.percentile(ms, QUIET))) for name, ms in taken.items()]


def read(path: Path) -> Any:
    import openvino

    return openvino.Core().read_model(str(path))


def is_float(model: Any) -> bool:
    """Whether the file says that activations are not to be rounded."""
    key, value = ACTIVATIONS
    place = ["framework", key]
    return bool(model.has_rt_info(place)) and str(model.get_rt_info(place).value) == value


def compile_model(model: Any, threads: int, *, rounds: bool = True, counts: bool = False) -> Any:
    """`rounds`: inputs of layers whose weights are integers are rounded at run time, where the processor gains.
    `counts`: every call is timed layer by layer."""
    import openvino

    return openvino.Core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "PERF_COUNT": counts,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": DYNAMIC_GROUP if rounds else 0,
        },
    )
