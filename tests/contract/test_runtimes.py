"""What every runtime must do, one row per runtime: same numbers as torch, honest read-back, clean files."""

from __future__ import annotations

import copy
import hashlib
from functools import cache
from pathlib import Path

import pytest
import torch
from runtime_nets import Net, dynamic_precision, example, nets, quantized, steps_apart
from torch import nn

from lissom.errors import DataError, ExportError
from lissom.export.base import Artifact, Runner, digest, run
from lissom.export.catalogue import runtime_of
from lissom.export.kernels import match_kernels
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch

# Exporters warn about their own future; nothing a user of Lissom could change.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore::UserWarning:executorch"),
]

RUNTIMES = ("onnxruntime", "openvino", "executorch", "torch")
STATIC = ("conv", "conv-relu", "depthwise", "conv1d", "linear", "mlp", "gelu", "residual", "pool", "classifier")
FLOAT = ("conv-relu", "mlp", "residual")
NETS = nets()
FLIP = 1.0 + 1e-3
"""One step, and the float32 rounding of the two numbers that are subtracted."""


@pytest.fixture(params=RUNTIMES)
def target(request) -> str:
    runtime = runtime_of(load_target(request.param))
    here = runtime.availability()
    if not here.found:
        pytest.skip(here.detail)
    return request.param


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Models exported once for all tests: (target, net, mode) to everything about it."""
    folder = tmp_path_factory.mktemp("runtimes")

    @cache
    def exported(target: str, name: str, mode: str) -> tuple[nn.Module, Artifact, Path, Runner]:
        net, runtime = NETS[name], runtime_of(load_target(target))
        model = net.model if mode == "float" else quantized(net, target, mode)
        artifact = runtime.export(model, example(net), target, folder, f"{target}-{name}-{mode}")
        return model, artifact, folder, runtime.load(artifact, folder, 2)

    return exported


def precisions(target: str, model: nn.Module, net: Net, artifact: Artifact, folder: Path) -> dict[str, str]:
    kernels = runtime_of(load_target(target)).kernels(artifact, folder)
    return match_kernels(artifact, kernels, trace(model, example(net)).graph)


@pytest.mark.parametrize("name", FLOAT)
def test_float_model_computes_what_torch_does(target, name, shared):
    model, artifact, folder, runner = shared(target, name, "float")
    x = NETS[name].inputs(6)
    with torch.no_grad():
        expected = model(x)
    (found,) = run(runner, artifact, Batch((x,)))
    assert float((found - expected).abs().max()) <= NETS[name].rounding(x)
    ran = precisions(target, model, NETS[name], artifact, folder)
    assert set(ran.values()) == {"float32"}


@pytest.mark.parametrize("name", STATIC)
def test_static_integers_are_at_most_one_step_from_the_simulation(target, name, shared):
    model, artifact, folder, runner = shared(target, name, "static")
    x = NETS[name].inputs(40)
    with torch.no_grad():
        simulated = model(x)
    (found,) = run(runner, artifact, Batch((x,)))
    assert found.shape == simulated.shape
    assert steps_apart(model, simulated, found) <= FLIP
    ran = precisions(target, model, NETS[name], artifact, folder)
    products = {node: ran[node] for node in ran if node.startswith(("conv", "linear"))}
    assert products
    assert set(products.values()) == ({"float32"} if target == "torch" else {"int8"})


@pytest.mark.parametrize("target", ["onnxruntime", "executorch"], indirect=True)
def test_residual_addition_runs_in_integers_where_the_table_says_so(target, shared):
    model, artifact, folder, _ = shared(target, "residual", "static")
    assert precisions(target, model, NETS["residual"], artifact, folder)["add"] == "int8"


def test_global_average_runs_in_integers_on_onnxruntime(shared):
    model, artifact, folder, _ = shared("onnxruntime", "classifier", "static")
    ran = precisions("onnxruntime", model, NETS["classifier"], artifact, folder)
    assert ran["adaptive_avg_pool2d"] == "int8"


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_dynamic_integers_are_at_most_one_step_from_the_simulation(target, name, shared):
    model, artifact, folder, runner = shared(target, name, "dynamic")
    rows = NETS[name].inputs(16)
    # One range per tensor depends on who else is in the batch, so it must be the same batch on both sides.
    batches = [rows] if load_target(target).dynamic.granularity != "tensor" or target != "executorch" else rows.split(1)
    for x in batches:
        with torch.no_grad():
            simulated = model(x)
        (found,) = run(runner, artifact, Batch((x,)))
        if target == "torch" or dynamic_precision(target) == "int8 dynamic":
            assert steps_apart(model, simulated, found) <= FLIP
    ran = precisions(target, model, NETS[name], artifact, folder)
    assert set(ran.values()) == {dynamic_precision(target)}


def test_a_wrong_scale_is_noticed(shared):
    """The parity check itself: two steps, or a scale one percent off, are found."""
    model, artifact, _, runner = shared("onnxruntime", "conv", "static")
    x = NETS["conv"].inputs(40)
    with torch.no_grad():
        simulated = model(x)
    (found,) = run(runner, artifact, Batch((x,)))
    quantizer = next(n for n in model.graph.nodes if n.op == "output").all_input_nodes[0]
    step = quantizer.args[1]
    nudged = found.clone()
    nudged.view(-1)[7] += 2.1 * step
    assert steps_apart(model, simulated, nudged) > FLIP
    assert steps_apart(model, simulated, found * 1.02) > FLIP


@pytest.mark.parametrize("size", [1, 3, 40])
def test_any_batch_size(target, size, shared):
    model, artifact, _, runner = shared(target, "conv-relu", "float")
    assert not artifact.fixed
    x = NETS["conv-relu"].inputs(size)
    with torch.no_grad():
        expected = model(x)
    (found,) = run(runner, artifact, Batch((x,)))
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= NETS["conv-relu"].rounding(x)


class OnlyFour(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        if x.shape[0] != 4:
            raise ValueError("four at a time")
        return self.fc(x), x.mean()


def test_fixed_batch_is_filled_and_cut(target, tmp_path):
    model = OnlyFour().eval()
    runtime = runtime_of(load_target(target))
    artifact = runtime.export(model, Batch((torch.randn(4, 5),)), target, tmp_path, "m")
    assert (artifact.batch, artifact.fixed) == (4, True)
    runner = runtime.load(artifact, tmp_path, 1)
    for size in (1, 4, 10):
        x = torch.randn(size, 5)
        found = run(runner, artifact, Batch((x,)))
        with torch.no_grad():
            torch.testing.assert_close(found[0], model.fc(x))
        assert found[1].ndim == 0


class TwoIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 16)
        self.fc = nn.Linear(16, 8)
        self.side = nn.Linear(6, 8)

    def forward(self, tokens, features):
        hidden = self.fc(self.table(tokens)).mean(1)
        return {"logits": hidden + self.side(features), "hidden": hidden, "features": features}


def test_integer_inputs_two_inputs_and_named_outputs(target, tmp_path):
    model, runtime = TwoIn().eval(), runtime_of(load_target(target))

    def batch(count: int) -> Batch:
        return Batch((), {"tokens": torch.randint(0, 11, (count, 7)), "features": torch.randn(count, 6)})

    artifact = runtime.export(model, batch(2), target, tmp_path, "m")
    assert [(i.name, i.shape, i.dtype) for i in artifact.inputs] == [
        ("tokens", ("N", 7), "int64"),
        ("features", ("N", 6), "float32"),
    ]
    # An output that is also an input keeps a name of its own.
    assert [o.name for o in artifact.outputs] == ["logits", "hidden", "features_out"]
    runner = runtime.load(artifact, tmp_path, 1)
    for count in (1, 3, 40):
        given = batch(count)
        turned = Batch((), dict(reversed(list(given.kwargs.items()))))
        with torch.no_grad():
            expected = list(model(**given.kwargs).values())
        for shuffled in (given, turned):
            for one, other in zip(run(runner, artifact, shuffled), expected, strict=True):
                torch.testing.assert_close(one, other)


def test_wrong_number_of_inputs_is_explained(target, shared):
    _, artifact, _, runner = shared(target, "conv-relu", "float")
    x = NETS["conv-relu"].inputs(2)
    with pytest.raises(DataError, match=r"takes 1 input tensors .* the batch holds 2"):
        run(runner, artifact, Batch((x, x)))


def state_digest(model: nn.Module) -> str:
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        hasher.update(name.encode() + tensor.numpy().tobytes())
    return hasher.hexdigest()


def test_export_leaves_the_model_as_it_was(target, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU()).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    before = state_digest(model)
    runtime_of(load_target(target)).export(model, Batch((torch.randn(2, 3, 8, 8),)), target, tmp_path, "m")
    assert state_digest(model) == before
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_files_are_digested_and_counted(target, shared):
    _, artifact, folder, _ = shared(target, "conv-relu", "static")
    assert artifact.target == target
    assert set(artifact.sha256) == set(artifact.files)
    assert all(digest(folder / name) == artifact.sha256[name] for name in artifact.files)
    assert artifact.size_bytes == sum((folder / name).stat().st_size for name in artifact.files)
    assert Artifact.model_validate_json(artifact.model_dump_json()) == artifact
    assert not [file.name for file in folder.iterdir() if file.name.startswith(".")]


@torch.library.custom_op("lissom_test::triple", mutates_args=())
def triple(x: torch.Tensor) -> torch.Tensor:
    return x * 3


@triple.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = Tripled()

    def forward(self, x):
        return self.head(x)


class Tripled(nn.Module):
    def forward(self, x):
        return triple(x)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "executorch"], indirect=True)
def test_a_failure_names_the_operator_and_its_layer_and_leaves_no_file(target, tmp_path):
    with pytest.raises(ExportError, match=r"operator lissom_test.triple \(in head\)"):
        runtime_of(load_target(target)).export(Foreign(), Batch((torch.randn(2, 4),)), target, tmp_path, "m")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_failure_leaves_no_file(target, tmp_path, monkeypatch):
    def full(self, other):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        runtime_of(load_target(target)).export(nn.Linear(3, 2), Batch((torch.randn(2, 3),)), target, tmp_path, "m")
    assert list(tmp_path.iterdir()) == []


def test_loading_twice_gives_independent_runners(target, shared):
    _, artifact, folder, first = shared(target, "mlp", "float")
    second = runtime_of(load_target(target)).load(artifact, folder, 1)
    x = Batch((NETS["mlp"].inputs(3),))
    one = run(first, artifact, x)[0].clone()
    two = run(second, artifact, x)[0]
    torch.testing.assert_close(one, two)
    run(second, artifact, Batch((NETS["mlp"].inputs(3, seed=9),)))
    torch.testing.assert_close(run(first, artifact, x)[0], one)


def test_shared_weights_are_told_apart_by_their_reader(target, tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(40, 6, bias=False)
            self.b = copy.deepcopy(self.a)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.a(x), self.b(x * 2)

    model, runtime = Tied().eval(), runtime_of(load_target(target))
    batch = Batch((torch.randn(2, 40),))
    artifact = runtime.export(model, batch, target, tmp_path, "m")
    ran = match_kernels(artifact, runtime.kernels(artifact, tmp_path), trace(model, batch).graph)
    assert ran == {"linear": "float32", "linear_1": "float32"}
