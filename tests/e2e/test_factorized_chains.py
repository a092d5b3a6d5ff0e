"""Cores on real runtimes: the same numbers as torch, integers where there are any, run folders that load."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom.export.base import run
from lissom.export.catalogue import runtime_of
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.lowrank import Factorize
from lissom.transforms.quantization import Quantize

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]
RUNTIMES = ("onnxruntime", "openvino")
METHODS = ("tt", pytest.param("ring", marks=pytest.mark.slow), pytest.param("kronecker", marks=pytest.mark.slow))


class Clips(nn.Module):
    """A table of titles, a two- and a three-dimensional convolution, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.title = nn.Embedding(600, 16)
        self.space = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.time = nn.Conv3d(12, 16, 3, padding=1)
        self.head = nn.Linear(80, 64)

    def forward(self, clip: Tensor, title: Tensor) -> Tensor:
        x = torch.relu(self.space(clip.flatten(0, 1))).unflatten(0, (-1, 3)).transpose(1, 2)
        x = torch.relu(self.time(x)).amax((3, 4)).flatten(1)
        return self.head(torch.cat([x, self.title(title), x[:, :16]], -1))


@functools.cache
def clips() -> tuple[nn.Module, Task]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = Clips().eval()
        inputs = torch.randn(16, 3, 8, 6, 6), torch.randint(600, (16,))
    return model, Task(example_inputs=inputs, calibration=[inputs], feed=lambda raw: Batch(raw))


@functools.cache
def split(method: str) -> nn.Module:
    model, task = clips()
    traced, target = trace(model, task.example), load_target("torch")
    one = Factorize(rank=3, method=method, break_even="parameters")
    plan = one.plan(traced.graph, one.study(model, traced, task, target), target)
    assert {action.layer for action in plan.actions} == {"title", "space", "time", "head"}
    return one.apply(model, plan, traced, task)


@pytest.mark.parametrize("target", RUNTIMES)
@pytest.mark.parametrize("method", METHODS)
def test_runtimes_compute_what_torch_does_for_every_batch(target, method, tmp_path):
    model, task = split(method), clips()[1]
    runtime = runtime_of(load_target(target))
    here = runtime.availability()
    if not here.found:
        pytest.skip(here.detail)
    artifact = runtime.export(model, task.example, target, tmp_path, "clips")
    runner = runtime.load(artifact, tmp_path, 1)
    for count in (1, 5):
        some = tuple(value[:count] for value in task.example.args)
        with torch.no_grad():
            wanted = model(*some)
        (found,) = run(runner, artifact, Batch(some))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert artifact.size_bytes < 4 * sum(p.numel() for p in model.parameters()) + 60_000


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_cores_become_integers_like_other_layers(method, tmp_path):
    model, task = split(method), clips()[1]
    table = load_target("onnxruntime")
    traced = trace(model, task.example)
    one = Quantize(corrections=())
    plan = one.plan(traced.graph, one.study(model, traced, task, table), table)
    rounded = {action.layer for action in plan.actions if action.kind == "store-weight"}
    products = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    assert rounded == {name for name, part in model.named_modules() if isinstance(part, products)}
    reasons = {skip.layer.partition("/")[0]: skip.reason for skip in plan.skipped}
    tables = [name for name, part in model.named_modules() if isinstance(part, nn.Embedding)]
    assert all("an embedding is a look-up" in reasons[name] for name in tables)
    simulated = one.apply(model, plan, traced, task)
    with torch.no_grad():
        wanted, found = model(*task.example.args), simulated(*task.example.args)
    assert float((found - wanted).norm() / wanted.norm()) < 0.1
    runtime = runtime_of(table)
    artifact = runtime.export(simulated, task.example, "onnxruntime", tmp_path, "integers")
    (got,) = run(runtime.load(artifact, tmp_path, 1), artifact, task.example)
    assert float((got - found).norm() / found.norm()) < 0.02


@pytest.mark.slow
def test_a_run_folder_loads_again(tmp_path, monkeypatch):
    monkeypatch.setattr("lissom.pipeline.measuring.ROUNDS", 3)
    model, task = clips()
    recipe = lissom.Recipe([lissom.Factorize(parameters_ratio=2, method="tt"), lissom.Quantize(corrections=())])
    result = lissom.compress(model, task, target="onnxruntime", recipe=recipe, out=tmp_path / "run", threads=1)
    assert {action.layer for action in result.plans[0].actions} >= {"title", "head"}
    loaded = lissom.load(tmp_path / "run", copy.deepcopy(model))
    with torch.no_grad():
        assert torch.equal(loaded(*task.example.args), result.model(*task.example.args))
