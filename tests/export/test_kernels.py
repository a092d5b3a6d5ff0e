"""From the runtime's read-back to the traced graph: by name, by weight, never by guess."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.export.base import Artifact, Kernel, TensorSpec
from lissom.export.catalogue import runtime_of
from lissom.export.kernels import match_kernels
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b = nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        y = F.relu(self.n(self.a(x)))
        z = F.relu6(self.b(y) + y)
        return F.relu(self.fc(F.avg_pool2d(z, 2).mean((2, 3))))


BATCH = Batch((torch.randn(2, 3, 8, 8),))


@pytest.fixture(scope="module")
def graph():
    return trace(Net().eval(), BATCH).graph


def artifact(inputs: int = 1) -> Artifact:
    specs = tuple(TensorSpec(name=f"x{i}", shape=("N",), dtype="float32") for i in range(inputs))
    return Artifact(target="t", files=(), sha256={}, size_bytes=0, inputs=specs, outputs=(), batch=None, fixed=False)


def test_nothing_told_is_unknown(graph):
    assert match_kernels(artifact(), (), graph) == {
        "conv2d": "unknown",
        "conv2d_1": "unknown",
        "add": "unknown",
        "avg_pool2d": "unknown",
        "mean": "unknown",
        "linear": "unknown",
    }


def test_a_weight_read_once_names_its_layer_and_a_node_itself(graph):
    kernels = (
        Kernel(source="a.weight", op="Conv", precision="int8"),
        Kernel(source="add", op="Add", precision="float32", node="add", kind="add"),
        Kernel(source="nowhere.weight", op="Conv", precision="int8"),
    )
    found = match_kernels(artifact(), kernels, graph)
    assert (found["conv2d"], found["add"], found["conv2d_1"]) == ("int8", "float32", "unknown")


def test_kernels_that_disagree_or_do_something_else_do_not_count(graph):
    kernels = (
        Kernel(source="b.weight", op="Conv", precision="int8", node="conv2d_1"),
        Kernel(source="b.weight", op="Conv", precision="float32", node="conv2d_1"),
        Kernel(source="linear", op="Add", precision="float32", node="linear", kind="add"),
    )
    found = match_kernels(artifact(), kernels, graph)
    assert (found["conv2d_1"], found["linear"]) == ("unknown", "unknown")


def test_the_graph_of_another_model_matches_nothing(graph):
    kernel = Kernel(source="a.weight", op="Conv", precision="int8", node="conv2d")
    assert set(match_kernels(artifact(2), (kernel,), graph).values()) == {"unknown"}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "executorch", "torch"])
def test_every_operator_of_a_fused_float_network_is_found(target, graph, tmp_path):
    runtime = runtime_of(load_target(target))
    if not runtime.availability().found:
        pytest.skip(target)
    torch.manual_seed(0)
    made = runtime.export(Net().eval(), BATCH, target, tmp_path, "m")
    found = match_kernels(made, runtime.kernels(made, tmp_path), graph)
    assert set(found.values()) == {"float32"}, found
