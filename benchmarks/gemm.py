"""Evidence for what bounds an int8 speed-up on this processor, from OpenVINO: kernels' shares, one plain product."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.protocol import Contender
from benchmarks.results import Figure
from lissom.export.base import arrays
from lissom.measure.latency import bootstrap_median, interleave, paired_ratio
from lissom.task import Batch

PASSES = 12


def fully_connected_share(contender: Contender, example: Batch, threads: int) -> Figure:
    """Share of the summed kernel times spent in fully connected layers, by the runtime's own counters."""
    request = _compiled(contender.folder / contender.artifact.files[0], threads, counters=True).create_infer_request()
    inputs, shares = arrays(example), []
    for index in range(PASSES):
        request.infer(inputs)
        if index < 2:
            continue
        times = [(p.node_type, p.exec_type, p.real_time.total_seconds()) for p in request.get_profiling_info()]
        inside = sum(t for node, _, t in times if node.startswith("FullyConnected"))
        shares.append(inside / sum(t for _, _, t in times))
    return Figure.of(bootstrap_median(shares), "share")


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
