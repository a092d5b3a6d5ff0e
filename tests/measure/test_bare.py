from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import save_file

from lissom.errors import FailureError
from lissom.export.base import TensorSpec, artifact_of
from lissom.inputs import save_example
from lissom.measure.artifacts import peak_memory
from lissom.measure.footprint import peak_of
from lissom.task import Batch

MIB = 2**20


def product(path: Path, width: int, batch: int | str = "N") -> None:
    """`y = x @ w`, of `width * width` float weights."""
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch, width]) for name in "xy")
    weight = onnx.numpy_helper.from_array(np.ones((width, width), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "one", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def peak(folder: Path, width: int, *, target: str = "onnxruntime", examples: int = 1, limit: int | None = None) -> int:
    product(folder / "one.onnx", width, limit or "N")
    save_example(folder / "example.safetensors", Batch((torch.ones(1, width),)))
    specs = [TensorSpec(name=name, shape=(limit or "N", width), dtype="float32") for name in "xy"]
    artifact = artifact_of(
        target, folder, ["one.onnx"], specs[:1], specs[1:], batch=limit, fixed=limit is not None
    )  # fmt: skip
    return peak_memory(folder, artifact, 1, examples)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_weights_count_and_their_square(tmp_path, target):
    if target == "openvino":
        pytest.importorskip("openvino")
    small, large = peak(tmp_path, 512, target=target), peak(tmp_path, 3072, target=target)
    weights = 4 * (3072**2 - 512**2)
    assert 0.9 * weights <= large - small <= 4 * weights


def test_a_large_batch_counts_also_where_it_goes_through_in_pieces(tmp_path):
    # Each call's 4 MiB of outputs are kept until the last: an application would do so too.
    small, large = (peak(tmp_path, 512, examples=n, limit=2048) for n in (2048, 8 * 2048))
    assert 20 * MIB <= large - small <= 60 * MIB


def test_the_process_imports_the_runtime_and_no_torch(tmp_path):
    product(tmp_path / "one.onnx", 4)
    save_file({"0/0": np.ones((2, 4), np.float32)}, tmp_path / "inputs.safetensors")
    places = [str(tmp_path / name) for name in ("one.onnx", "inputs.safetensors")]
    program = (
        "import sys; from pathlib import Path; from lissom.measure.bare import report;"
        "report('onnxruntime', Path(sys.argv[1]), 1, Path(sys.argv[2]), ['x']);"
        "print({'torch', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, *places], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "{'onnxruntime'}"


def test_a_file_that_the_runtime_refuses_is_told(tmp_path):
    (tmp_path / "one.onnx").write_bytes(b"no ONNX")
    save_file({"0/0": np.ones((2, 4), np.float32)}, tmp_path / "inputs.safetensors")
    file, inputs = str(tmp_path / "one.onnx"), str(tmp_path / "inputs.safetensors")
    with pytest.raises(FailureError, match="Peak memory could not be measured"):
        peak_of(["-m", "lissom.measure.bare", "onnxruntime", file, "1", inputs, "x"])
