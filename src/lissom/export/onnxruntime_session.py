"""An ONNX file loaded by ONNX Runtime, without torch: what a deployment imports, and what peak memory is taken of."""

from __future__ import annotations

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


def session(path: Path, threads: int, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """The file ready to run; with `optimized`, its optimized graph is written there."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
