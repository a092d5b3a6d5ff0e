"""Operators beyond convolutions and linear layers: the runtimes compute what was simulated, in small files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from runtime_nets import steps_apart
from torch import Tensor, nn

from lissom.export.base import Artifact, run
from lissom.export.catalogue import runtime_of
from lissom.export.kernels import match_kernels
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan
from lissom.transforms.quantization import Quantize
from lissom.transforms.quantization.actions import StoreWeight

# Exporters warn about their own future; nothing a user of Lissom could change.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore::UserWarning:executorch"),
]

FLIP = 1.0 + 1e-3
"""One step, and the float32 rounding of the two numbers that are subtracted."""


class Recurrent(nn.Module):
    def __init__(self, cell: nn.Module, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(100, 24)
        self.cell = cell
        self.fc = nn.Linear(width, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.cell(self.words(ids))[0][:, -1])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(200, 32, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        return self.words(ids).mean(1)


class Products(nn.Module):
    """Two products of activations, the second operand turned."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x).relu()
        return torch.bmm(torch.matmul(a, b.transpose(1, 2)).relu(), b)


class Attention(nn.Module):
    def __init__(self, mask: Tensor | None = None, **how: object) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 8)
        self.register_buffer("mask", mask)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, **self.how)
        return self.out(y.transpose(1, 2).flatten(2))


class Grouped(nn.Module):
    """Four query heads to two of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, 8)).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return y.transpose(1, 2).flatten(2)


class Up(nn.Module):
    """Upwards, beside a path that is never negative."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x).relu())


class Joined(nn.Module):
    """One operand of the concatenation is never negative, the other is, and far larger, unless both are not."""

    def __init__(self, relu: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(16 if relu else 19, 6, 3, padding=1)
        self.relu = relu
        nn.init.normal_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.a(x).relu(), self.b(x).relu()] if self.relu else [self.a(x).relu(), self.b(x), x]
        return self.last(torch.cat(parts, 1))


class Split(nn.Module):
    """A signed value in two parts, one of which is read in float as well: a cross-stage partial block."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.stage, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(24, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.enter(x).chunk(2, 1)
        return self.last(torch.cat([first, second, second + self.stage(second)], 1).abs())


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, 6, 32, generator=torch.Generator().manual_seed(seed))


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def ids(count: int, seed: int) -> Tensor:
    return torch.randint(0, 100, (count, 7), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], Tensor]
    """Of so many examples, from a seed."""
    mode: str
    targets: tuple[str, ...]
    integer: tuple[str, ...] = ()
    """Operators that have to run in integers."""
    proven: tuple[str, ...] = ()
    """Targets on which they have to, whatever the processor."""


CASES: dict[str, Case] = {
    "words": Case(Words, ids, "dynamic", ("onnxruntime", "openvino", "executorch", "torch")),
    "lstm": Case(
        lambda: Recurrent(nn.LSTM(24, 16, 2, batch_first=True, bidirectional=True), 32),
        ids,
        "dynamic",
        ("onnxruntime", "openvino"),
    ),
    "products": Case(
        Products,
        lambda count, seed: rows(count, seed)[..., :16],
        "static",
        ("onnxruntime", "openvino", "torch"),
        ("matmul", "bmm"),
        ("onnxruntime",),
    ),
    "attention": Case(Attention, rows, "static", ("onnxruntime", "openvino", "torch"), ("matmul",), ("onnxruntime",)),
    "masked": Case(
        lambda: Attention(torch.ones(6, 6).tril().bool(), scale=0.5),
        rows,
        "static",
        ("onnxruntime", "openvino"),
        ("matmul",),
        ("onnxruntime",),
    ),
    "grouped": Case(Grouped, rows, "static", ("onnxruntime", "openvino"), ("matmul",), ("onnxruntime",)),
    "up": Case(Up, images, "static", ("openvino", "executorch", "torch"), ("conv",), ("executorch",)),
    "up by channel": Case(lambda: Up(8), images, "static", ("openvino", "executorch", "torch")),
    "joined": Case(
        Joined,
        images,
        "static",
        ("onnxruntime", "openvino", "executorch", "torch"),
        ("conv",),
        ("onnxruntime", "openvino", "executorch"),
    ),
    "joined, never negative": Case(
        lambda: Joined(relu=True), images, "static", ("onnxruntime", "openvino"), ("conv",), ("onnxruntime", "openvino")
    ),
    "split": Case(Split, images, "static", ("onnxruntime", "openvino", "executorch"), ("conv",), ("openvino",)),
    "gru": Case(lambda: Recurrent(nn.GRU(24, 32, batch_first=True), 32), ids, "dynamic", ("onnxruntime", "openvino")),
}
ROWS = [(name, target) for name, case in CASES.items() for target in case.targets]


@dataclass(frozen=True)
class Exported:
    original: nn.Module
    model: nn.Module
    plan: Plan
    artifact: Artifact
    folder: Path
    saving: int
    """Bytes that the plan says the weights become fewer."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Callable[[str, str], Exported]:
    folder = tmp_path_factory.mktemp("operators")

    @cache
    def make(name: str, target: str) -> Exported:
        case, table = CASES[name], load_target(target)
        runtime = runtime_of(table)
        here = runtime.availability()
        if not here.found:
            pytest.skip(here.detail)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = case.build().eval()
        x = case.inputs(48, 2)
        task = Task(example_inputs=(x[:1],), calibration=[x])
        made = trace(model, task.example)
        quantize = Quantize(mode=case.mode, calibration="minmax")
        plan = quantize.plan(made.graph, quantize.study(model, made, task, table), table)
        rounded = quantize.apply(model, plan, made, task)
        artifact = runtime.export(rounded, Batch((case.inputs(2, 3),)), target, folder, f"{target}-{name}")
        return Exported(model, rounded, plan, artifact, folder, made.graph.bytes - plan.predicted.bytes)

    return make


@pytest.mark.parametrize(("name", "target"), ROWS)
def test_the_runtime_is_at_most_one_step_from_the_simulation(name, target, exported):
    one = exported(name, target)
    x = CASES[name].inputs(6, 5)
    with torch.no_grad():
        simulated = one.model(x)
    (found,) = run(runtime_of(load_target(target)).load(one.artifact, one.folder, 1), one.artifact, Batch((x,)))
    assert found.shape == simulated.shape
    assert steps_apart(one.model, simulated, found) <= FLIP


@pytest.mark.parametrize(("name", "target"), [row for row in ROWS if row[1] in CASES[row[0]].proven])
def test_kernels_are_integer_where_the_table_says_so(name, target, exported):
    one = exported(name, target)
    kernels = runtime_of(load_target(target)).kernels(one.artifact, one.folder)
    ran = match_kernels(one.artifact, kernels, trace(one.model, Batch((CASES[name].inputs(2, 3),))).graph)
    for operator in CASES[name].integer:
        found = {node: precision for node, precision in ran.items() if node.startswith(operator)}
        assert found
        assert set(found.values()) == {"int8"}, found


# The archive of torch takes some 2 KB for every tensor, more than is saved here.
@pytest.mark.parametrize(
    ("name", "target"), [row for row in ROWS if row[0] in ("words", "lstm", "gru") and row[1] != "torch"]
)
def test_files_are_smaller_by_what_the_plan_says(name, target, exported, tmp_path):
    one, example = exported(name, target), Batch((CASES[name].inputs(2, 3),))
    whole = runtime_of(load_target(target)).export(one.original, example, target, tmp_path, "float").size_bytes
    # Operators that restore a weight, names and zero points: some hundred bytes each. A look-up takes four more
    # operators, of some 500 bytes each in a .pte.
    beside = (2500 if target == "executorch" else 400) * len(one.plan.of(StoreWeight))
    assert one.saving > 0.5 * whole
    assert whole - one.artifact.size_bytes >= one.saving - beside


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_rows_are_found_as_integers(target, exported):
    one = exported("words", target)
    graph = onnx.load(one.folder / one.artifact.files[0]).graph
    table = next(t for t in graph.initializer if t.name == "words.weight_int8")
    assert table.data_type == onnx.TensorProto.INT8
    assert [n.op_type for n in graph.node if table.name in n.input] == ["Gather"]


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_gates_are_sorted_in_the_file_and_not_at_every_call(name, exported):
    one = exported(name, "onnxruntime")
    graph = onnx.load(one.folder / one.artifact.files[0]).graph
    makers = {output: n for n in graph.node for output in n.output}
    cells = [n for n in graph.node if n.op_type == name.upper()]
    assert cells
    for cell in cells:
        for weight in cell.input[1:3]:
            shaped = makers[weight]
            assert (shaped.op_type, makers[shaped.input[0]].op_type) == ("Reshape", "DequantizeLinear")
