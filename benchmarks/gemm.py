"""Evidence for what bounds an int8 speed-up on this processor, from OpenVINO: kernels' shares, one plain product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.protocol import Contender
from benchmarks.results import Figure
from lissom.export.base import arrays
from lissom.measure.latency import bootstrap_median, interleave, paired_ratio
from lissom.task import Batch

PASSES = 12


@dataclass(frozen=True)
class Inside:
    """Time inside fully connected kernels, by the runtime's own counters: milliseconds a call, share of the whole."""

    ms: float
    share: float


def fully_connected(contender: Contender, example: Batch, threads: int) -> Inside:
    """Each kernel's quickest of several calls: what the kernel takes when nobody interrupts it."""
    request = _compiled(contender.folder / contender.artifact.files[0], threads, counters=True).create_infer_request()
    inputs = arrays(example)
    quickest: dict[tuple[str, str], float] = {}
    for _ in range(PASSES):
        request.infer(inputs)
        for kernel in request.get_profiling_info():
            which = (kernel.node_type, kernel.node_name)
            spent = 1e3 * kernel.real_time.total_seconds()
            quickest[which] = min(spent, quickest.get(which, spent))
    inside = sum(ms for (kind, _), ms in quickest.items() if kind.startswith("FullyConnected"))
    return Inside(inside, inside / sum(quickest.values()))


def gemm_ratio(rows: int, inputs: int, outputs: int, *, rounds: int, threads: int) -> Figure:
    """fp32 time / int8 time of one fully connected layer `(rows, inputs) x (outputs, inputs)`."""
    calls = {name: _call(_layer(rows, inputs, outputs, integer=name == "int8"), threads) for name in ("fp32", "int8")}
    samples = interleave(calls, rounds=rounds)
    times = {name: bootstrap_median(found).median for name, found in samples.items()}
    flops = 2 * rows * inputs * outputs / 1e6
    note = ", ".join(f"{name} {ms:.3f} ms, {flops / ms:.0f} Gop/s" for name, ms in times.items())
    return Figure.of(paired_ratio(samples["fp32"], samples["int8"]), "x", note)


def _layer(rows: int, inputs: int, outputs: int, *, integer: bool) -> Any:
    import openvino
    from openvino import opset13

    ops: Any = opset13
    generator = np.random.default_rng(0)
    x = ops.parameter([rows, inputs], np.float32)
    weight = generator.integers(-127, 128, (outputs, inputs)).astype(np.int8)
    if integer:
        scale = np.full((outputs, 1), 1e-3, np.float32)
        stored = ops.multiply(ops.convert(ops.constant(weight), np.float32), ops.constant(scale))
        low, high = np.float32(-4), np.float32(4 * 127 / 128)
        rounded = ops.fake_quantize(x, low, high, low, high, 256)
        return openvino.Model([ops.matmul(rounded, stored, False, True)], [x], "int8")
    return openvino.Model([ops.matmul(x, ops.constant(weight * np.float32(1e-3)), False, True)], [x], "fp32")


def _call(model: Any, threads: int) -> Callable[[], object]:
    request = _compiled(model, threads).create_infer_request()
    x = np.random.default_rng(1).standard_normal(model.input(0).shape).astype(np.float32)
    return lambda: request.infer([x], share_inputs=True)


def _compiled(model: Any, threads: int, *, counters: bool = False) -> Any:
    import openvino

    core = openvino.Core()
    return core.compile_model(
        core.read_model(str(model)) if isinstance(model, Path) else model,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "PERF_COUNT": counters,
        },
    )
