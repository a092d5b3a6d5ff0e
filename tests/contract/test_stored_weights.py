"""Weights in integers, activations in float: files and runtimes compute what torch simulated."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lissom.export.base import run
from lissom.export.catalogue import runtime_of
from lissom.export.kernels import match_kernels
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Work
from lissom.transforms.quantization import Quantize, planned_precision
from lissom.transforms.quantization.actions import StoreGroups

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]
WORDS, LENGTH, WIDTH = 120, 12, 128


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.enter, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        heads = [part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.enter(self.before(x)).chunk(3, -1)]
        x = x + self.out(F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.after(x))))


class Language(nn.Module):
    """Token ids (batch, length) to logits; `tied` reads the table of embeddings twice."""

    def __init__(self, width: int = WIDTH, blocks: int = 1, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, WORDS, bias=not tied)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.embed(tokens))))


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.second = nn.Conv2d(16, 16, 3, groups=2)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(F.relu(self.second(F.relu(self.first(x)))).mean((2, 3)))


def built(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if kind == "images":
        return Images().eval(), torch.randn(5, 3, 8, 8)
    width = 100 if kind == "uneven" else WIDTH
    return Language(width, tied=kind == "tied").eval(), torch.randint(0, WORDS, (5, LENGTH))


def made_for(name: str, model: nn.Module, quantize: Quantize, x: torch.Tensor, data: torch.Tensor | None = None):
    target = load_target(name)
    task = Task(example_inputs=(x[:1],), calibration=None if data is None else [data])
    found = trace(model, task.example)
    notes: dict = {}
    work = Work(note=notes.__setitem__)
    plan = quantize.plan(found.graph, quantize.study(model, found, task, target, work), target)
    return quantize.apply(model, plan, found, task, work), plan, found, notes


def on_runtime(name: str, model: nn.Module, x: torch.Tensor, folder, stem: str = "model"):
    runtime = runtime_of(load_target(name))
    if not runtime.availability().found:
        pytest.skip(runtime.availability().detail)
    artifact = runtime.export(model, Batch((x[:1],)), name, folder, stem)
    (found,) = run(runtime.load(artifact, folder, 1), artifact, Batch((x,)))
    return found, artifact, runtime.kernels(artifact, folder)


FORMS = [
    ("onnxruntime", "language", 4, 32, False),
    pytest.param("onnxruntime", "language", 2, 64, True, marks=pytest.mark.slow),
    ("onnxruntime", "language", 2, 128, False),
    pytest.param("onnxruntime", "language", 8, None, True, marks=pytest.mark.slow),
    ("onnxruntime", "uneven", 4, 64, False),
    pytest.param("onnxruntime", "uneven", 4, None, True, marks=pytest.mark.slow),
    ("onnxruntime", "tied", 4, 64, False),
    ("onnxruntime", "images", 4, 64, True),
    ("openvino", "language", 4, 32, False),
    pytest.param("openvino", "language", 8, None, False, marks=pytest.mark.slow),
    pytest.param("openvino", "tied", 4, 64, True, marks=pytest.mark.slow),
    ("openvino", "images", 4, 64, False),
    pytest.param("torch", "language", 8, 64, False, marks=pytest.mark.slow),
    ("torch", "uneven", 8, 64, True),
]


@pytest.mark.parametrize(("name", "kind", "bits", "group", "symmetric"), FORMS)
def test_the_runtime_computes_what_torch_does(name, kind, bits, group, symmetric, tmp_path):
    model, x = built(kind)
    quantize = Quantize(mode="weights", precision={"*": bits}, group=group, symmetric=symmetric)
    made, plan, _, _ = made_for(name, model, quantize, x)
    found, artifact, kernels = on_runtime(name, made, x, tmp_path)
    with torch.no_grad():
        simulated, original = made(x), model(x)
    torch.testing.assert_close(found, simulated, rtol=1e-4, atol=2e-5)
    assert float((simulated - original).abs().max()) > 1e-3
    assert {action.bits for action in plan.of(StoreGroups)} == {bits}
    after = trace(made, Batch((x[:1],)))
    ran = match_kernels(artifact, kernels, after.graph)
    planned = planned_precision(plan)
    products = [node for action in plan.of(StoreGroups) for node in action.nodes if "embedding" not in node]
    assert products
    assert {node: ran[node] for node in products} == {node: planned.get(node, "float32") for node in products}
    if name == "torch":
        program = torch.export.load(tmp_path / artifact.files[0])
        assert not any("lissom" in str(node.target) for node in program.graph.nodes)
    in_kernel = 0 if name == "torch" else 1 if kind == "images" else 4 if (name, kind) == ("openvino", "tied") else 5
    assert sum(ran[node] == f"int{bits} weights" for node in products) == in_kernel


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_four_bits_in_groups_make_linear_layers_seven_times_smaller(name, tmp_path):
    model, x = built("language")
    target = load_target(name)
    sizes, predicted = {}, {}
    for kind, quantize in (
        ("float", Quantize(mode="weights", exclude=("*",))),
        ("linear", Quantize(mode="weights", weight_bits=4, exclude=("embed",))),
        ("all", Quantize(mode="weights", precision={"*": 4})),
        ("zeros", Quantize(mode="weights", precision={"*": 4}, symmetric=False)),
    ):
        made, plan, _, _ = made_for(name, model, quantize, x)
        path = runtime_of(target).export(made, Batch((x[:1],)), name, tmp_path, kind)
        sizes[kind] = path.size_bytes
        predicted[kind] = plan.predicted.bytes
    linear = sum(4 * p.weight.numel() for p in model.modules() if isinstance(p, nn.Linear))
    table = 4 * WORDS * WIDTH
    assert linear / (linear - (sizes["float"] - sizes["linear"])) > 6
    assert table / (table - (sizes["linear"] - sizes["all"])) > 6
    for fewer, more, names in (("linear", "float", 4000), ("all", "float", 4000), ("all", "zeros", 1000)):
        assert abs(sizes[more] - sizes[fewer] - (predicted[more] - predicted[fewer])) < names
