"""The ONNX file itself: valid, the same bytes every time, names that lead back, weights beside it when large."""

from __future__ import annotations

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.errors import ExportError
from lissom.export import onnx as exporter
from lissom.export.base import run
from lissom.export.onnx import write_onnx
from lissom.export.onnxruntime import OnnxRuntime
from lissom.task import Batch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Block(nn.Module):
    """Two normalized convolutions with a shortcut, in-place operators, a parameter called like an output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b, self.m = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)
        self.output = nn.Parameter(torch.randn(4))

    def forward(self, image):
        y = F.relu(self.n(self.a(image)), inplace=True)
        z = F.relu_(self.m(self.b(y)) + y)
        return self.fc(z.mean((2, 3)) + F.adaptive_avg_pool2d(z, 1).flatten(1)) * self.output


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    torch.manual_seed(0)
    model, folder = Block().eval(), tmp_path_factory.mktemp("block")
    batch = Batch((torch.randn(2, 3, 6, 6),))
    return model, batch, folder, write_onnx(model, batch, "onnxruntime", folder, "m")


def test_it_is_a_valid_file_of_a_recorded_opset_without_residue(block):
    _, _, folder, artifact = block
    proto = onnx.load(folder / artifact.files[0])
    onnx.checker.check_model(proto, full_check=True)
    assert {(o.domain, o.version) for o in proto.opset_import} == {("", 20)}
    assert proto.producer_name == "lissom"
    assert not proto.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert str(torch.__file__).rsplit("/", 1)[0].encode() not in (folder / artifact.files[0]).read_bytes()


def test_the_same_model_gives_the_same_bytes(block, tmp_path):
    model, batch, _, artifact = block
    again = write_onnx(model, batch, "onnxruntime", tmp_path, "m")
    assert again.sha256 == artifact.sha256


def test_inputs_outputs_and_nodes_are_named_after_the_model(block):
    _, _, folder, artifact = block
    graph = onnx.load(folder / artifact.files[0]).graph
    assert [value.name for value in graph.input] == ["image"] == [spec.name for spec in artifact.inputs]
    assert [value.name for value in graph.output] == ["output"] == [spec.name for spec in artifact.outputs]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    # Normalizations went into the convolutions before them, which keep the convolutions' names.
    assert {"conv2d/Conv", "conv2d_1/Conv", "add/Add", "mean/ReduceMean", "linear/Gemm"} <= set(names)
    assert "adaptive_avg_pool2d/GlobalAveragePool" in names


def test_the_pooled_mean_is_the_same_number(block):
    model, batch, folder, artifact = block
    (found,) = run(OnnxRuntime().load(artifact, folder, 1), artifact, batch)
    with torch.no_grad():
        torch.testing.assert_close(found, model(*batch.args))


def test_large_weights_lie_in_a_file_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "EXTERNAL_DATA_FROM", 1000)
    model, batch = nn.Linear(64, 64).eval(), Batch((torch.randn(2, 64),))
    artifact = write_onnx(model, batch, "onnxruntime", tmp_path, "m")
    assert artifact.files == ("m.onnx", "m.onnx.data")
    assert set(artifact.sha256) == set(artifact.files)
    assert {file.name for file in tmp_path.iterdir()} == set(artifact.files)
    assert (tmp_path / "m.onnx").stat().st_size < 64 * 64 * 4 <= artifact.size_bytes
    (found,) = run(OnnxRuntime().load(artifact, tmp_path, 1), artifact, batch)
    with torch.no_grad():
        torch.testing.assert_close(found, model(*batch.args))
    (kernel,) = OnnxRuntime().kernels(artifact, tmp_path)
    assert kernel.source == "weight"


def test_outputs_that_are_the_same_value_an_input_or_nothing(tmp_path):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            y = self.fc(x)
            return y, y, x, None

    model, batch = Odd().eval(), Batch((torch.randn(2, 3),))
    artifact = write_onnx(model, batch, "onnxruntime", tmp_path, "m")
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"), full_check=True)
    assert [spec.name for spec in artifact.inputs] == ["x"]
    found = run(OnnxRuntime().load(artifact, tmp_path, 1), artifact, batch)
    assert len(found) == len(artifact.outputs) == 3
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], batch.args[0])


def test_a_number_among_the_outputs_is_refused_in_words(tmp_path):
    class Number(nn.Module):
        def forward(self, x):
            return x * 2, 3

    with pytest.raises(ExportError, match="returns 3, and an ONNX output is a tensor"):
        write_onnx(Number(), Batch((torch.randn(2, 3),)), "onnxruntime", tmp_path, "m")


def test_sizes_that_grow_with_the_batch_are_written_in_its_terms(tmp_path):
    class Rows(nn.Module):
        def forward(self, x):
            return x.flatten(0, 1) * 2

    artifact = write_onnx(Rows(), Batch((torch.randn(2, 5, 3),)), "onnxruntime", tmp_path, "m")
    assert [spec.shape for spec in artifact.outputs] == [("5*N", 3)]
