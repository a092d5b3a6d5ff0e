"""Folding: exact, the user's own class, nothing else touched, every refusal with its reason."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from lissom.errors import VerificationError
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan
from lissom.transforms.folding import Fold, FoldNorm
from small_models import build, call, fingerprint, same, settled

TARGET = load_target("torch")


class Chain(nn.Module):
    """A layer, its normalization, and whatever `wire` does with them."""

    def __init__(self, layer: nn.Module, norm: nn.Module, wire=None) -> None:
        super().__init__()
        self.layer, self.norm, self.wire = layer, norm, wire

    def forward(self, x: Tensor):
        return self.wire(self, x) if self.wire else self.norm(self.layer(x))


def planned(model: nn.Module, example: Batch) -> tuple[Plan, object]:
    made = trace(model, example)
    return Fold().plan(made.graph, None, TARGET), made


def folded(model: nn.Module, example: Batch) -> tuple[nn.Module, Plan]:
    plan, made = planned(model, example)
    task = Task(example_inputs=example.args, example_kwargs=example.kwargs)
    return Fold().apply(model, plan, made, task), plan


def image(channels: int = 4) -> Batch:
    return Batch((torch.randn(3, channels, 6, 6),))


LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, bias=False), lambda: nn.BatchNorm1d(6), (3, 4, 8)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3), lambda: nn.BatchNorm2d(6), (3, 4, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 6, 2), lambda: nn.BatchNorm3d(6), (3, 2, 4, 4, 4)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False), lambda: nn.BatchNorm2d(8), (3, 4, 6, 6)),
    "linear": (lambda: nn.Linear(4, 6, bias=False), lambda: nn.BatchNorm1d(6), (3, 4)),
    "no affine": (lambda: nn.Conv2d(4, 6, 3), lambda: nn.BatchNorm2d(6, affine=False), (3, 4, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), lambda: nn.BatchNorm2d(6), (3, 4, 6, 6)),
    "grouped transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False),
        lambda: nn.BatchNorm2d(6),
        (3, 4, 6, 6),
    ),
    "synchronized": (lambda: nn.Conv2d(4, 6, 3), lambda: nn.SyncBatchNorm(6), (3, 4, 6, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_equal_and_the_cost_is_as_predicted(name):
    torch.manual_seed(0)
    layer, norm, shape = LAYERS[name]
    model, example = settled(Chain(layer(), norm())), Batch((torch.randn(shape),))
    after, plan = folded(model, example)
    assert [(a.layer, a.norm, a.keep) for a in plan.of(FoldNorm)] == [("layer", "norm", False)]
    assert type(after) is Chain
    assert type(after.norm) is nn.Identity
    # Two float32 evaluations of sums of at most 36 terms, scaled by at most 1.5 / sqrt(0.5).
    wide = call(model.double(), Batch((example.args[0].double(),)))[0]
    model.float()
    allowed = 64 * torch.finfo(torch.float32).eps * (wide.abs().max() + 10)
    for got in (call(model, example)[0], call(after, example)[0]):
        assert float((got - wide).abs().max()) <= allowed
    graph = trace(after, example).graph
    assert (graph.parameters, graph.bytes, graph.macs) == (
        plan.predicted.parameters,
        plan.predicted.bytes,
        plan.predicted.macs,
    )
    assert "batch_norm" not in [node.op for node in graph.nodes]


@pytest.mark.parametrize("name", ["residual", "mobile", "mlp"])
def test_whole_models_keep_their_class_and_the_original(name):
    model, example = build(name)
    model.train()
    next(iter(model.children())).eval()
    before = fingerprint(model)
    after, plan = folded(model, example)
    assert same(before, fingerprint(model))
    assert type(after) is type(model)
    assert plan.skipped == ()
    modes = dict(model.named_modules())
    assert all(m.training == modes[n].training for n, m in after.named_modules() if type(m) is not nn.Identity)
    torch.testing.assert_close(call(after.eval(), example)[0], call(model.eval(), example)[0], rtol=1e-4, atol=1e-5)
    graph = trace(after, example).graph
    assert (graph.parameters, graph.bytes) == (plan.predicted.parameters, plan.predicted.bytes)
    assert not {id(p) for p in after.parameters()} & {id(p) for p in model.parameters()}


class NormAct(nn.BatchNorm2d):
    """Normalizes and activates, as timm's does."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_a_subclass_that_does_more_stays_neutral(affine, eps):
    torch.manual_seed(0)
    norm = NormAct(4, affine=affine, eps=eps)
    model = settled(Chain(nn.Conv2d(4, 4, 3), norm))
    after, plan = folded(model, image())
    assert [a.keep for a in plan.of(FoldNorm)] == [True]
    assert type(after.norm) is NormAct
    x = torch.randn(50, 4, 3, 3)
    # 1 - eps and (1 - eps) + eps are rounded once each: the kept norm multiplies by 1 within 2 ulp.
    kept = call(after.norm, Batch((x,)))[0]
    assert float((kept - x.relu()).abs().max()) <= 4 * torch.finfo(torch.float32).eps * float(x.abs().max())
    example = image()
    torch.testing.assert_close(call(after, example)[0], call(model, example)[0], rtol=1e-5, atol=1e-5)
    graph = trace(after, example).graph
    assert (graph.parameters, graph.bytes) == (plan.predicted.parameters, plan.predicted.bytes)


class Bare(nn.Module):
    """A convolution written by hand, with no place for a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, self.weight)


def conv(bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1, bias=bias)


def tied_norms() -> nn.Module:
    model = Chain(conv(), nn.BatchNorm2d(4), lambda m, x: m.norm(m.layer(x)) + m.other(x))
    model.other = nn.BatchNorm2d(4)
    model.other.weight = model.norm.weight
    return model


REFUSALS = {
    "shared layer": (
        lambda: Chain(conv(), nn.BatchNorm2d(4), lambda m, x: m.norm(m.layer(m.layer(x)))),
        "it or the layer before it is called more than once",
    ),
    "shared norm": (
        lambda: Chain(conv(), nn.BatchNorm2d(4), lambda m, x: m.norm(m.layer(m.norm(x)))),
        "it or the layer before it is called more than once",
    ),
    "two readers": (
        lambda: Chain(conv(), nn.BatchNorm2d(4), lambda m, x: (lambda y: m.norm(y) * y)(m.layer(x))),
        "'layer' feeds other operators besides this normalization",
    ),
    "also an output": (
        lambda: Chain(conv(), nn.BatchNorm2d(4), lambda m, x: (lambda y: (m.norm(y), y))(m.layer(x))),
        "the output of 'layer' is also an output of the model",
    ),
    "no statistics": (
        lambda: Chain(conv(), nn.BatchNorm2d(4, track_running_stats=False)),
        "it has no running statistics (track_running_stats=False)",
    ),
    "after a relu": (
        lambda: Chain(conv(), nn.BatchNorm2d(4), lambda m, x: m.norm(torch.relu(m.layer(x)))),
        "it does not follow a convolution or linear layer (its input is relu)",
    ),
    "at the input": (
        lambda: Chain(conv(), nn.BatchNorm2d(4), lambda m, x: m.layer(m.norm(x))),
        "it does not follow a convolution or linear layer (its input is an input)",
    ),
    "sequence": (
        lambda: Chain(nn.Linear(6, 6), nn.BatchNorm1d(4), lambda m, x: m.norm(m.layer(x.mean(2)))),
        "it normalizes axis 1, and the channels of 'layer' are on the last axis",
    ),
    "computed weight": (
        lambda: Chain(nn.utils.parametrizations.weight_norm(conv()), nn.BatchNorm2d(4)),
        "weight or bias of 'layer' are shared, or not parameters of its own",
    ),
    "tied norms": (tied_norms, "its parameters or statistics are shared, or not its own"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_the_reason_and_change_nothing(name):
    torch.manual_seed(0)
    make, reason = REFUSALS[name]
    model, example = settled(make()), image()
    after, plan = folded(model, example)
    skipped = {skip.layer: skip.reason for skip in plan.skipped}
    assert skipped["norm"] == reason
    assert plan.actions == ()
    assert all(torch.equal(a, b) for a, b in zip(call(after, example), call(model, example), strict=True))


def test_a_layer_without_a_place_for_the_bias_is_explained():
    torch.manual_seed(0)
    with pytest.raises(
        VerificationError, match=r"'layer' \(Bare\) has no attribute `bias` for what 'norm' adds\. Give it"
    ):
        folded(settled(Chain(Bare(), nn.BatchNorm2d(4))), image())


def test_a_model_that_reads_a_folded_module_is_withheld():
    torch.manual_seed(0)

    def wire(m, x):
        return m.norm(m.layer(x)) if torch.compiler.is_exporting() else m.norm(m.layer(x)) + m.layer.weight.sum()

    with pytest.raises(
        VerificationError, match=r"Folding 1 batch normalizations changed the output by .* of its range"
    ):
        folded(settled(Chain(conv(), nn.BatchNorm2d(4), wire)), image())


def test_inputs_and_buffers_survive_a_model_that_writes_into_them():
    torch.manual_seed(0)

    def wire(m, x):
        x.mul_(2.0)
        m.calls += 1
        return m.norm(m.layer(x)) * m.calls

    model = Chain(conv(), nn.BatchNorm2d(4), wire)
    model.register_buffer("calls", torch.zeros(()))
    settled(model)
    example = image()
    kept = example.args[0].clone()
    folded(model, example)
    assert torch.equal(example.args[0], kept)
    assert float(model.calls) == 0.0


def test_half_precision_is_folded_within_its_own_rounding():
    torch.manual_seed(0)
    model = settled(Chain(conv(), nn.BatchNorm2d(4))).to(torch.bfloat16)
    after, plan = folded(model, Batch((torch.randn(3, 4, 6, 6).to(torch.bfloat16),)))
    assert len(plan.actions) == 1
    assert after.layer.weight.dtype == torch.bfloat16
    graph = trace(after, Batch((torch.randn(3, 4, 6, 6).to(torch.bfloat16),))).graph
    assert graph.bytes == plan.predicted.bytes


def test_frozen_layers_stay_frozen():
    torch.manual_seed(0)
    model = settled(Chain(conv(), nn.BatchNorm2d(4)))
    model.layer.weight.requires_grad_(False)
    after, _ = folded(model, image())
    assert not after.layer.weight.requires_grad
    assert not after.layer.bias.requires_grad


def test_plan_is_json_and_is_read_back():
    model, example = build("residual")
    plan, _ = planned(model, example)
    data = json.loads(plan.model_dump_json())
    assert Fold().read_plan(data) == plan
    assert len(data["actions"]) == 2
    assert data["actions"][0] == {
        "kind": "fold-norm",
        "layer": "stem.0",
        "norm": "stem.1",
        "axis": 0,
        "keep": False,
    }
