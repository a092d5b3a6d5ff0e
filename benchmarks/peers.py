"""The field's strongest post-training quantizers, used as their documentation advises.

NNCF + OpenVINO: `nncf.quantize`, 300 samples (its default), default and mixed preset; `model_type` for transformers.
ONNX Runtime: `quant_pre_process`, then `quantize_static` with QDQ, per channel, uint8 activations and int8 weights
(what its documentation recommends on x86 with VNNI), or `quantize_dynamic` for transformers.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.protocol import Contender, foreign
from lissom.export.base import arrays
from lissom.task import Batch, Task, sliced

SAMPLES = 300
Feeds = Sequence[dict[str, np.ndarray]]


def feeds(task: Task, names: Sequence[str], count: int = SAMPLES) -> Feeds:
    """Calibration examples one by one, by input name."""
    batches = task.batches("calibration", limit=count)
    singles = (sliced(batch, i, i + 1) for batch in batches for i in range(batch.size))
    return [dict(zip(names, arrays(one), strict=True)) for one in singles]


def names_of(contender: Contender) -> list[str]:
    return [spec.name for spec in contender.artifact.inputs]


def nncf_static(base: Contender, task: Task, *, preset: str | None = None, transformer: bool = False) -> Contender:
    """`nncf.quantize` on the OpenVINO model converted from the float ONNX."""
    with quiet():
        import nncf
        import openvino

        nncf.set_log_level(logging.ERROR)
        samples = feeds(task, names_of(base))
        started = time.perf_counter()
        options: dict[str, Any] = {"subset_size": SAMPLES}
        if preset:
            options["preset"] = nncf.QuantizationPreset(preset)
        if transformer:
            options["model_type"] = nncf.ModelType.TRANSFORMER
        model = openvino.convert_model(str(base.folder / base.artifact.files[0]))
        made = nncf.quantize(model, nncf.Dataset(samples), **options)
        name = f"nncf-{preset}" if preset else "nncf"
        path = base.folder / f"{name}.xml"
        openvino.save_model(made, str(path), compress_to_fp16=False)
        seconds = time.perf_counter() - started
    return foreign(name, "openvino", [path, path.with_suffix(".bin")], base.artifact, base.seconds + seconds)


def ort_static(base: Contender, task: Task) -> Contender:
    """`quantize_static` as documented for x86 with VNNI."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, samples: Feeds) -> None:
            self._rest = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            return next(self._rest, None)

    samples = feeds(task, names_of(base))
    started = time.perf_counter()
    source, prepared = base.folder / base.artifact.files[0], base.folder / "ort-prepared.onnx"
    path = base.folder / "ort-static.onnx"
    with quiet():
        quant_pre_process(str(source), str(prepared))
        quantize_static(
            str(prepared),
            str(path),
            Reader(samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    seconds = time.perf_counter() - started
    return foreign("ort-static", "onnxruntime", [path], base.artifact, base.seconds + seconds)


def ort_dynamic(base: Contender) -> Contender:
    """`quantize_dynamic`, int8 weights per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    started = time.perf_counter()
    path = base.folder / "ort-dynamic.onnx"
    with quiet():
        quantize_dynamic(
            str(base.folder / base.artifact.files[0]), str(path), weight_type=QuantType.QInt8, per_channel=True
        )
    seconds = time.perf_counter() - started
    return foreign("ort-dynamic", "onnxruntime", [path], base.artifact, base.seconds + seconds)


def random_batches(shape: tuple[int, ...], count: int, seed: int, *, vocabulary: int | None = None) -> list[Batch]:
    """Batches of one example: normal noise, or token ids below `vocabulary`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    if vocabulary:
        return [Batch((torch.randint(0, vocabulary, (1, *shape), generator=generator),)) for _ in range(count)]
    return [Batch((torch.randn(1, *shape, generator=generator),)) for _ in range(count)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Progress bars and advice of the tools, which print to both streams and the root logger."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.root.setLevel(level)
