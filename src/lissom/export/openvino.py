"""OpenVINO on CPU. Float layers compute in float32, so that speed is compared at equal precision."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from lissom.export.base import Array, Artifact, Availability, Kernel, Kind, Ran, Runner, Runtime
from lissom.export.onnx import write_onnx
from lissom.export.onnx_names import Names
from lissom.export.openvino_session import DYNAMIC_GROUP, compile_model, is_float, profile, read, runner
from lissom.task import Batch

LAYERS: dict[str, Kind] = {
    "Convolution": "product",
    "Deconvolution": "product",
    "FullyConnected": "product",
    "MatMul": "product",
    "RNNSeq": "product",
    "RNNCell": "product",
    "Eltwise": "add",
    "Pooling": "pool",
    "Reduce": "pool",
}
INTEGERS = frozenset({"i8", "u8"})
STORED = {"i4": "int4", "u4": "int4", "i8": "int8", "u8": "int8"}
PASSED = frozenset({"Transpose", "Reorder", "Reshape", "Convert", "Subgraph"})
"""Between a weight and the layer that reads it."""


class OpenVino(Runtime):
    """Intel's runtime: the fastest here on most CPUs with VNNI."""

    loads_bare = True

    def availability(self) -> Availability:
        try:
            import openvino  # noqa: F401  # pyright: ignore
        except ImportError:
            return Availability(found=False, detail='pip install "lissom[openvino]"')
        return Availability(found=True, version=importlib.metadata.version("openvino"))

    def export(self, model: nn.Module, example: Batch, target: str, folder: Path, stem: str) -> Artifact:
        return write_onnx(model, example, target, folder, stem)

    def load(self, artifact: Artifact, folder: Path, threads: int) -> Runner:
        return runner(folder / artifact.files[0], [spec.name for spec in artifact.inputs], threads)

    def kernels(self, artifact: Artifact, folder: Path) -> tuple[Kernel, ...]:
        path = folder / artifact.files[0]
        names = Names(onnx.load(path, load_external_data=False).graph)
        model = read(path)
        floats = is_float(model)
        compiled = compile_model(model, 1, rounds=not floats).get_runtime_model()
        return tuple(k for operation in compiled.get_ordered_ops() for k in _kernels(operation, names, floats))

    def profile(self, artifact: Artifact, folder: Path, threads: int, inputs: Sequence[Array]) -> tuple[Ran, ...]:
        path = folder / artifact.files[0]
        names = Names(onnx.load(path, load_external_data=False).graph)
        return tuple(_ran(*one, names) for one in profile(path, threads, inputs))


def _ran(name: str, origins: str, op: str, ms: float, names: Names) -> Ran:
    product = LAYERS.get(op) == "product" or op.startswith("FullyConnected")  # ...QuantizedLegacy, on integers
    found = (names.product(one) for one in (name, *origins.split(",")))
    return Ran(op=op, ms=ms, product=product, node=next(filter(None, found), "") if product else "")


def _kernels(operation: Any, names: Names, floats: bool) -> Iterator[Kernel]:
    kind = LAYERS.get(_text(operation, "layerType"))
    if kind is None:
        return
    parsed = [p for n in _text(operation, "originalLayersNames").split(",") if (p := names.parse(n)) is not None]
    weight = _weight(operation) if kind == "product" else None
    inputs = [_type(port) for port in operation.inputs() if _constant(port) is None]
    own = next((traced for traced, found in parsed if found == kind), "")
    if kind == "product":
        yield Kernel(
            source=names.parameter(_name(weight)) or own or operation.get_friendly_name(),
            op=_text(operation, "layerType"),
            precision=_product_precision(operation, weight, floats),
            # A linear layer may only be known by its bias, and a shared weight only by its reader.
            node=own or (parsed[0][0] if parsed else ""),
        )
    precision = "int8" if all(one in INTEGERS for one in inputs) else "float32"
    absorbs: tuple[Kind, ...] = ("pool",) if kind == "pool" else ("add",)
    for traced, found in parsed:
        if found in absorbs:
            op = _text(operation, "layerType")
            yield Kernel(source=traced, op=op, precision=precision, node=traced, kind=absorbs[0])


def _product_precision(operation: Any, weight: Any, floats: bool) -> str:
    """`floats`: nothing rounds activations at run time."""
    ports = operation.inputs()
    left = _type(ports[0])
    right = _text(weight, "outputPrecisions") if weight is not None else _type(ports[1])
    if left in INTEGERS and right in INTEGERS:
        return "int8"
    if floats and left == "f32" and right in STORED:
        return f"{STORED[right]} weights"
    if left == "f32" and right in INTEGERS and _text(operation, "layerType") == "FullyConnected":
        width = int(ports[1].get_partial_shape()[-1].get_length())
        return "int8 dynamic" if rounds_its_input(width) else "float32"
    if _text(operation, "layerType") == "Deconvolution" and left == "f32" and right in INTEGERS:
        return "float32"  # its weights are unpacked first
    return "float32" if left == "f32" and right == "f32" else "unknown"


@functools.cache
def rounds_its_input(width: int) -> bool:
    """Whether a fully connected layer of that width with int8 weights computes on integers on this processor.

    The runtime's own description does not tell, so it is tried: beside a 127, the step of a group is 1 and a 0.4 in
    it is rounded away; a layer that only unpacks its weights still adds it.
    """
    import openvino
    from openvino import opset13

    ops: Any = opset13
    x = ops.parameter([1, width], np.float32)
    stored = ops.convert(ops.constant(np.ones((16, width), np.int8)), np.float32)
    scaled = ops.multiply(stored, ops.constant(np.ones((16, 1), np.float32)))
    product = ops.matmul(x, scaled, False, True)
    made: Any = openvino.Model
    compiled = compile_model(made([product], [x], "probe"), 1)
    row = np.zeros((1, width), np.float32)
    row[0, : min(width, DYNAMIC_GROUP)] = 0.4
    row[0, 0] = 127
    found = float(compiled([row])[0][0, 0])
    return abs(found - 127) < 0.2


def _weight(operation: Any) -> Any:
    """The constant that a product's second input comes from, through what only moves it."""
    ports = operation.inputs()
    return _constant(ports[1]) if len(ports) > 1 else None


def _constant(port: Any) -> Any:
    node = port.get_source_output().get_node()
    while _text(node, "layerType") in PASSED and node.get_input_size():
        node = node.input(0).get_source_output().get_node()
    return node if _text(node, "layerType") == "Const" else None


def _name(weight: Any) -> str:
    return str(weight.get_friendly_name()) if weight is not None else ""


def _type(port: Any) -> str:
    return str(port.get_element_type().get_type_name())


def _text(operation: Any, key: str) -> str:
    info = operation.get_rt_info()
    return str(info[key].value) if key in info else ""
