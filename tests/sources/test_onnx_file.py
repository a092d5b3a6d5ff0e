"""ONNX files in torch: equal to ONNX Runtime, layers under their names, everything strange refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import lissom
from lissom.errors import ProjectError, UsageError, VerificationError
from lissom.sources import onnx_file
from small_models import Mlp, Mobile, Residual

# torch's older exporter, which most files in the wild are from, announces its end.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Attention(nn.Module):
    """Patches, attention written out, GELU by erf, mean over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.place = nn.Parameter(torch.randn(1, 16, 16))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1) * (c // 2) ** -0.5).softmax(-1)
        x = x + self.out((scores @ v).transpose(1, 2).reshape(b, t, c))
        return self.fc((x + self.mlp(x)).mean(1))


CASES = {"residual": (Residual, (3, 16, 16)), "mobile": (Mobile, (3, 16, 16)), "attention": (Attention, (3, 16, 16)),
         "mlp": (Mlp, (6,))}  # fmt: skip


def write(path: Path, name: str, *, free: bool = False, opset: int = 17) -> nn.Module:
    """The model of a case, exported by torch's older exporter, which leaves all normalizations in."""
    torch.manual_seed(0)
    make, shape = CASES[name]
    model = make().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2.0)
    torch.onnx.export(
        model, (torch.randn(1, *shape),), path, dynamo=False, opset_version=opset, input_names=["x"],
        dynamic_axes={"x": {0: "batch"}} if free else None, do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )  # fmt: skip
    return model


def graph_file(
    path: Path, nodes: list, inputs: dict, outputs: dict, weights: dict | None = None, opset: int = 17
) -> Path:
    kinds = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in {**inputs, **outputs}.items()
    }
    graph = helper.make_graph(
        nodes, "g", [kinds[n] for n in inputs], [kinds[n] for n in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("free", [False, True], ids=["fixed batch", "free batch"])
def test_a_lifted_model_answers_as_the_runtime_and_as_the_original(name: str, free: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    original = write(path, name, free=free)
    model, task = lissom.source(path)
    x = torch.randn(1, *CASES[name][1])
    (wanted,) = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(model(x).numpy(), wanted, atol=1e-5)
        several = torch.randn(3, *CASES[name][1])
        torch.testing.assert_close(model(several), original(several), atol=1e-5, rtol=1e-4)
    graph = lissom.analyze(model, task)
    assert graph.dynamic_batch
    layers = {layer.name for layer in graph.layers}
    assert {n for n, m in original.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))} <= layers


def test_trainable_parameters_are_those_of_the_original(tmp_path: Path) -> None:
    original = write(tmp_path / "m.onnx", "attention")
    model, _ = lissom.source(tmp_path / "m.onnx")
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in original.parameters())


def test_from_torch_to_onnx_to_torch_pruned_and_back(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx", "residual")
    data = [(torch.randn(8, 3, 16, 16), torch.randint(5, (8,))) for _ in range(2)]
    model, task = lissom.source(tmp_path / "m.onnx", data={"train": data, "validation": data})
    result = lissom.compress(
        model, task, target="onnxruntime", recipe=lissom.Recipe([lissom.Fold(), lissom.Prune(ratio=0.5)]),
        out=tmp_path / "run",
    )  # fmt: skip
    assert result.ratios.macs > 1.5
    again, _ = lissom.source(tmp_path / "run" / "model.onnx")
    with torch.no_grad():
        torch.testing.assert_close(again(data[0][0]), result.model(data[0][0]), atol=1e-4, rtol=1e-3)


def test_a_lifted_model_is_quantized(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx", "mobile")
    data = [torch.randn(8, 3, 16, 16) for _ in range(2)]
    model, task = lissom.source(tmp_path / "m.onnx", data={"calibration": data})
    plans = lissom.plan(model, task, lissom.Recipe([lissom.Fold(), lissom.Quantize()]), target="onnxruntime")
    assert sum(action.kind == "store-weight" for action in plans[1].actions) >= 3


OPS = {
    "asymmetric padding": ([helper.make_node("Conv", ["x", "w"], ["y"], pads=[0, 1, 1, 0], kernel_shape=[2, 2])],
                           {"w": np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)}),
    "auto padding": ([helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_LOWER", strides=[2, 2])],
                     {"w": np.random.default_rng(0).normal(size=(4, 3, 4, 4)).astype(np.float32)}),
    "transposed": ([helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_padding=[1, 1])],
                   {"w": np.random.default_rng(0).normal(size=(3, 4, 3, 3)).astype(np.float32)}),
    "maximum": ([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], pads=[0, 0, 1, 1], strides=[2, 2])],
                {}),
    "mean": ([helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {}),
    "nearest": ([helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest", nearest_mode="floor",
                                  coordinate_transformation_mode="asymmetric")],
                {"s": np.array([1, 1, 2, 2], np.float32)}),
    "linear": ([helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear")],
               {"s": np.array([1, 1, 2, 2], np.float32)}),
    "hard": ([helper.make_node("HardSwish", ["x"], ["a"]), helper.make_node("HardSigmoid", ["a"], ["b"], alpha=0.3),
              helper.make_node("PRelu", ["b", "w"], ["y"])], {"w": np.full((3, 1, 1), 0.1, np.float32)}),
    "cut": ([helper.make_node("Slice", ["x", "a", "b", "c"], ["p"]),
             helper.make_node("Split", ["p"], ["q", "r"], axis=2),
             helper.make_node("Concat", ["r", "q"], ["s"], axis=3),
             helper.make_node("Pad", ["s", "d"], ["y"], mode="reflect")],
            {"a": np.array([1]), "b": np.array([2**62]), "c": np.array([1]), "d": np.array([0, 0, 1, 1, 0, 0, 2, 0])}),
    "depth": ([helper.make_node("SpaceToDepth", ["x"], ["a"], blocksize=2),
               helper.make_node("DepthToSpace", ["a"], ["b"], blocksize=2, mode="DCR"),
               helper.make_node("Transpose", ["b"], ["y"], perm=[0, 2, 1, 3])], {}),
    "shapes": ([helper.make_node("Shape", ["x"], ["a"]), helper.make_node("Gather", ["a", "i"], ["b"]),
                helper.make_node("Unsqueeze", ["b", "z"], ["c"]), helper.make_node("Concat", ["c", "m"], ["d"], axis=0),
                helper.make_node("Reshape", ["x", "d"], ["e"]), helper.make_node("ReduceMean", ["e"], ["y"], axes=[1])],
               {"i": np.array(0), "z": np.array([0]), "m": np.array([-1, 8])}),
    "powers": ([helper.make_node("Pow", ["x", "two"], ["a"]), helper.make_node("Sqrt", ["a"], ["b"]),
                helper.make_node("Erf", ["b"], ["c"]), helper.make_node("Sub", ["c", "x"], ["d"]),
                helper.make_node("Clip", ["d", "low"], ["e"]), helper.make_node("Max", ["e", "x"], ["y"])],
               {"two": np.array(2, np.float32), "low": np.array(-0.5, np.float32)}),
}  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_operators_answer_as_onnx_runtime(name: str, tmp_path: Path) -> None:
    nodes, weights = OPS[name]
    path = graph_file(tmp_path / "m.onnx", nodes, {"x": [1, 3, 8, 8]}, {"y": None}, weights)
    model, task = lissom.source(path)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        (wanted,) = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})
        np.testing.assert_allclose(model(x).numpy(), wanted, atol=1e-5)
    lissom.analyze(model, task)  # and torch.export follows it


def test_a_model_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "m.onnx", "mobile")
    monkeypatch.setattr(onnx_file, "TOLERANCE", -1.0)
    with pytest.raises(VerificationError, match="differs from ONNX Runtime"):
        lissom.source(tmp_path / "m.onnx")


def test_one_that_fixes_its_batch_in_the_middle_keeps_it(tmp_path: Path) -> None:
    """The first axis of this reshape is no batch: freed, it would mix examples."""
    nodes = [helper.make_node("Transpose", ["x"], ["a"], perm=[1, 0]), helper.make_node("Reshape", ["a", "s"], ["b"]),
             helper.make_node("Softmax", ["b"], ["y"], axis=0)]  # fmt: skip
    path = graph_file(tmp_path / "m.onnx", nodes, {"x": [1, 4]}, {"y": [4, 1]}, {"s": np.array([4, 1])})
    model, task = lissom.source(path)
    assert not lissom.analyze(model, task).dynamic_batch


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    with pytest.raises(ProjectError, match="no file"):
        lissom.source(tmp_path / "absent.onnx")
    with pytest.raises(ProjectError, match=r"no source of a model. Known: PROJECT\.py"):
        lissom.source("model.h5")
    (tmp_path / "text.onnx").write_text("import os")
    with pytest.raises(ProjectError, match="not an ONNX file"):
        lissom.source(tmp_path / "text.onnx")
    path = graph_file(tmp_path / "new.onnx", relu, {"x": [1, 2]}, {"y": [1, 2]}, opset=99)
    with pytest.raises(ProjectError, match="opset 99, newer than"):
        lissom.source(path)
    path = graph_file(tmp_path / "free.onnx", relu, {"x": ["n", 3, "h", "w"]}, {"y": None})
    with pytest.raises(UsageError, match=r"free sizes \(\?x3x\?x\?\)"):
        lissom.source(path)
    with pytest.raises(UsageError, match="does not fit"):
        lissom.source(path, shape="1x4x8x8")
    with pytest.raises(UsageError, match="no input 'z'"):
        lissom.source(path, shape="z:1x3x8x8")
    model, task = lissom.source(path, shape="1x3x8x8")
    assert task.example_inputs[0].shape == (1, 3, 8, 8)
    assert torch.equal(model(-torch.ones(1, 3, 8, 8)), torch.zeros(1, 3, 8, 8))
    with pytest.raises(UsageError, match=r"unknown field 'datas'. Did you mean 'data'"):
        lissom.source(path, datas="x")


def test_unknown_operators_are_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], ["a"]), helper.make_node("Strange", ["a"], ["y"], domain="com.acme")]
    path = graph_file(tmp_path / "m.onnx", nodes, {"x": [1, 2, 2]}, {"y": None})
    with pytest.raises(ProjectError, match=r"not lifted into torch: 'Det', 'com\.acme\.Strange'"):
        lissom.source(path)
    nodes = [helper.make_node("Expand", ["x", "s"], ["y"], name="bomb")]
    path = graph_file(tmp_path / "b.onnx", nodes, {"x": [1]}, {"y": None}, {"s": np.array([1 << 40])})
    with pytest.raises(ProjectError, match=r"'bomb' \(Expand\)|cannot load"):
        lissom.source(path)


def test_external_weights_are_read_beside_the_file_only(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "m.onnx"
    original = write(path, "residual")
    held = onnx.load(path)
    onnx.save(held, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model, task = lissom.source(path)
    with torch.no_grad():
        torch.testing.assert_close(model(*task.example_inputs), original(*task.example_inputs), atol=1e-5, rtol=1e-4)
    secret = tmp_path / "secret.bin"
    secret.write_bytes((tmp_path / "model" / "weights.bin").read_bytes())
    (tmp_path / "model" / "weights.bin").unlink()
    with pytest.raises(ProjectError, match="not beside it"):
        lissom.source(path)
    (tmp_path / "model" / "weights.bin").symlink_to(secret)
    with pytest.raises(ProjectError, match="outside its own folder"):
        lissom.source(path)
