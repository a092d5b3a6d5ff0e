"""An ONNX file loaded by ONNX Runtime, without torch: what a deployment imports, and what peak memory is taken of."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, np.dtype[Any]]


def runner(path: Path, names: Sequence[str], threads: int) -> Callable[[Sequence[Array]], list[Array]]:
    """Input arrays in the order of `names` to output arrays."""
    loaded = session(path, threads)

    def call(inputs: Sequence[Array]) -> list[Array]:
        return [np.asarray(a) for a in loaded.run(None, dict(zip(names, inputs, strict=True)))]

    return call


WARMING, CALLS = 3, 20
"""Of a profile: calls that are not looked at, and those that are."""
QUIET = 25
"""Percentile of a kernel's times: what else the machine does makes some of them longer, and none shorter."""
KERNEL = "_kernel_time"


def profile(path: Path, names: Sequence[str], threads: int, inputs: Sequence[Array]) -> list[tuple[str, str, float]]:
    """(node, operator, milliseconds) of every kernel of a call, in the order in which they run."""
    with tempfile.TemporaryDirectory() as scratch:
        loaded = session(path, threads, profile=Path(scratch) / "profile")
        given = dict(zip(names, inputs, strict=True))
        for _ in range(WARMING + CALLS):
            loaded.run(None, given)
        events = json.loads(Path(loaded.end_profiling()).read_text(encoding="utf-8"))
    found: dict[str, tuple[str, list[float]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            node = event["name"].removesuffix(KERNEL)
            found.setdefault(node, (event["args"]["op_name"], []))[1].append(event["dur"] / 1000)
    return [(node, op, float(np.percentile(taken[WARMING:], QUIET))) for node, (op, taken) in found.items()]


def session(
    path: Path, threads: int, optimized: Path | None = None, profile: Path | None = None
) -> onnxruntime.InferenceSession:
    """The file ready to run; with `optimized`, its optimized graph is written there; with `profile`, every call is
    taken apart, and the times go to a file of that prefix."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
