"""Factorize: parts that compute what they stand for, honest costs, every refusal with its reason."""

from __future__ import annotations

import json
from math import prod

import pydantic
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lissom.errors import DataError, GoalError, RecipeError, VerificationError
from lissom.graph.second import second_moments
from lissom.graph.trace import Trace, trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan
from lissom.transforms.lowrank import Factorize, evidence, replacing
from lissom.transforms.lowrank.evidence import Seen, find_layers
from lissom.transforms.lowrank.fitting import fit
from lissom.transforms.lowrank.parts import applies, build, fill_, largest, shape_of
from small_models import MODELS, call, traced
from small_models import build as small

TARGET = load_target("torch")
PLAIN = {"data_aware": False, "recovery": "none"}


def prepared(model: nn.Module, *inputs: Tensor, data: bool = True) -> tuple[nn.Module, Trace, Task]:
    task = Task(example_inputs=inputs, calibration=[inputs] if data else None, feed=lambda raw: Batch(raw))
    return model, trace(model, task.example), task


def made(one: Factorize, model: nn.Module, traced: Trace, task: Task) -> tuple[nn.Module, Plan]:
    plan = one.plan(traced.graph, one.study(model, traced, task, TARGET), TARGET)
    return one.apply(model, plan, traced, task), plan


def reasons(plan: Plan) -> dict[str, str]:
    return {skip.layer: skip.reason for skip in plan.skipped}


class Net(nn.Module):
    """Correlated inputs meet convolutions with and without bias, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.body = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.fc(torch.relu(self.body(x)).mean((2, 3)))


def images(count: int = 12, size: int = 8) -> Tensor:
    made = torch.Generator().manual_seed(5)
    return (
        F.interpolate(torch.randn(count, 3, size // 2, size // 2, generator=made), scale_factor=2, mode="bilinear")
        + 0.5
    )


def net(*, data: bool = True) -> tuple[nn.Module, Trace, Task]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return prepared(Net().eval(), images(), data=data)


# The parts ----------------------------------------------------------------------------------------------------

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (2, 6)),
    "linear, 3 axes, no bias": (lambda: nn.Linear(6, 5, bias=False), (2, 3, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 5, 3, stride=2, padding=1), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 5, 3, padding=1, bias=False), (2, 4, 7, 8)),
    "strided": (lambda: nn.Conv2d(4, 5, (3, 2), stride=(2, 1), padding=(0, 1)), (2, 4, 7, 8)),
    "dilated": (lambda: nn.Conv2d(4, 5, 3, stride=2, padding=(2, 3), dilation=(1, 2)), (2, 4, 9, 9)),
    "same": (lambda: nn.Conv2d(4, 5, (3, 4), padding="same", dilation=2), (2, 4, 9, 9)),
    "valid": (lambda: nn.Conv2d(4, 5, 3, padding="valid"), (2, 4, 7, 7)),
    "reflected": (lambda: nn.Conv2d(4, 5, 3, padding=(1, 2), padding_mode="reflect"), (2, 4, 7, 7)),
    "circular": (lambda: nn.Conv2d(4, 5, 3, stride=2, padding=1, padding_mode="circular"), (2, 4, 8, 8)),
    "replicated": (lambda: nn.Conv1d(4, 5, 3, padding=2, padding_mode="replicate"), (2, 4, 8)),
    "pointwise": (lambda: nn.Conv2d(4, 5, 1, stride=2), (2, 4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(3, 4, 3, padding=1), (2, 3, 4, 5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", ["svd", "spatial", "tucker"])
@pytest.mark.parametrize("aware", [False, True])
def test_full_rank_is_the_layer(name, method, aware):
    build_layer, size = LAYERS[name]
    torch.manual_seed(0)
    layer, x = build_layer().eval(), torch.randn(size)
    shape = shape_of(layer, 1, 1, 1)
    if not applies(shape, method):
        assert method != "svd"
        assert shape.window == 1 or len(shape.kernel) != 2
        return
    seen = Seen()
    if aware:
        _, traced, task = prepared(layer, x)
        (node,) = [n.name for n in traced.graph.nodes if n.op in ("linear", "conv1d", "conv2d", "conv3d")]
        inputs, outputs = second_moments(traced, task.batches("calibration"), read=[node], made=[node])
        seen = Seen(outputs[node] if layer.bias is None else outputs[node].shifted(layer.bias.detach()), inputs[node])
    ranks = largest(shape, method)
    bias = layer.bias.detach() if layer.bias is not None else None
    fitted = fit(layer.weight.detach(), bias, shape, method, ranks, seen, centred=aware and bias is not None)
    split = build(layer, method, ranks)
    fill_(split, fitted.weights, fitted.bias)
    torch.testing.assert_close(split(x), layer(x), rtol=0, atol=1e-5)
    assert [type(part) for part in split] == [type(layer)] * len(split)
    assert [part.bias is not None for part in split] == [False] * (len(split) - 1) + [bias is not None]


def test_cp_of_a_kernel_that_has_its_rank_is_the_layer():
    torch.manual_seed(0)
    layer, x = nn.Conv2d(6, 8, 3, stride=2, padding=1), torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        layer.weight.copy_(torch.einsum("or,ir,yr,xr->oiyx", *(torch.randn(n, 2) for n in (8, 6, 3, 3))))
    split, plan = made(Factorize(method="cp", rank=2, **PLAIN), *prepared(nn.Sequential(layer), x))
    assert [part.groups for part in split[0]] == [1, 2, 1]
    wanted, got = layer(x).detach(), split(x).detach()
    assert float((got - wanted).abs().max()) < 2e-2 * float(wanted.abs().max())
    assert plan.predicted.parameters == 6 * 2 + 9 * 2 + 2 * 8 + 8


def test_no_random_number_is_drawn_and_the_layers_own_settings_stay():
    layer = nn.Conv2d(4, 6, 3, dtype=torch.float64).train()
    layer.weight.requires_grad_(False)
    before = torch.get_rng_state()
    split = build(layer, "tucker", (2, 3))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.dtype == torch.float64 and not p.requires_grad and not p.any() for p in split.parameters())
    assert all(part.training for part in split.modules())


# Costs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["residual", "shared", "signal"])
@pytest.mark.parametrize(
    "settings", [{"rank": 1}, {"ratio": 0.3}, {"rank": 1, "method": "cp"}, {"rank": "vbmf", "method": "tucker"}]
)
def test_predicted_costs_are_those_of_the_result(name, settings):
    model, example = small(name)
    traced, task = trace(model, example), Task(example_inputs=example.args, example_kwargs=example.kwargs)
    after, plan = made(Factorize(**settings), model, traced, task)
    graph = trace(after, example).graph
    assert (graph.macs, graph.parameters, graph.bytes) == tuple(plan.predicted.model_dump().values())
    assert graph.macs == traced.graph.macs - sum(a.macs - a.macs_after for a in plan.actions)
    assert all(a.macs_after < a.macs for a in plan.actions)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
def test_positions_are_counted_before_padding(mode):
    model = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=(1, 2), padding_mode=mode))
    for method in ("spatial", "tucker", "svd"):
        before = prepared(model, torch.randn(2, 8, 9, 11), data=False)
        after, plan = made(Factorize(rank=2, method=method), *before)
        assert trace(after, before[2].example).graph.macs == plan.predicted.macs


def vgg16() -> nn.Module:
    """Simonyan and Zisserman 2015, configuration D."""
    layers: list[nn.Module] = []
    before = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
        before = width or before
    fc6, fc7, fc8 = nn.Linear(512 * 49, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 1000)
    head = nn.Sequential(fc6, nn.ReLU(), nn.Dropout(), fc7, nn.ReLU(), nn.Dropout(), fc8)
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), head).eval()


def test_vgg16_at_rank_64_is_six_times_smaller_and_no_faster():
    with torch.device("meta"):
        model, x = vgg16(), torch.empty(1, 3, 224, 224)
    traced, task = trace(model, Batch((x,))), Task(example_inputs=(torch.zeros(1),))
    one = Factorize(rank=64, exclude=("0.*", "2.6"))
    plan = one.plan(traced.graph, one.study(model, traced, task, TARGET), TARGET)
    assert [action.layer for action in plan.actions] == ["2.0", "2.3"]
    assert (traced.graph.parameters, plan.predicted.parameters) == (138_357_544, 21_211_944)
    assert sum(p.numel() for p in one.restructure(model, plan, traced, task).parameters()) == 21_211_944
    assert 1 - plan.predicted.macs / traced.graph.macs == pytest.approx(0.0076, abs=5e-5)


# Numbers ------------------------------------------------------------------------------------------------------


def low_rank(model: nn.Module, rank: int) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            with torch.no_grad():
                u, s, v = torch.linalg.svd(module.weight.flatten(1), full_matrices=False)
                module.weight.copy_(((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(module.weight.shape))


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("name", ["residual", "branches", "shared"])
def test_a_network_of_low_rank_computes_the_same(name, data):
    """Several calls, biases, normalizations: nothing is lost where there is nothing to lose."""
    model, example = small(name)
    low_rank(model, 1)
    task = Task(example_inputs=example.args, calibration=[example] if data else None)
    recovery = "none" if name == "residual" else "auto"  # a normalization takes new statistics
    after, plan = made(Factorize(rank=1, recovery=recovery), model, trace(model, example), task)
    assert plan.actions
    for a, b in zip(call(model, example), call(after, example), strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=2e-3 * float(a.abs().max()))


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker"])
def test_an_error_bound_holds_for_every_layer(method):
    model, traced, task = net()
    one = Factorize(error=0.5, method=method, exclude=("fc",), **PLAIN)
    plan = one.plan(traced.graph, one.study(model, traced, task, TARGET), TARGET)
    assert plan.actions
    for action in plan.actions:
        weight = model.get_submodule(action.layer).weight.detach()
        shape = shape_of(model.get_submodule(action.layer), 1, 1, 1)
        whole = fit(weight, None, shape, method, action.ranks, Seen(), centred=False).whole
        assert float((weight - whole).norm() / weight.norm()) <= 0.5 + 1e-6
        assert action.loss is not None
        assert action.loss <= 0.25
    kept = Factorize(energy=0.75, method=method, exclude=("fc",), **PLAIN)
    twin = kept.plan(traced.graph, kept.study(model, traced, task, TARGET), TARGET)
    assert [a.ranks for a in twin.actions] == [a.ranks for a in plan.actions]


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker"])
def test_what_the_data_say_and_recovery_make_the_outputs_better(method):
    model, traced, task = net()
    x = images()
    exclude = () if method == "svd" else ("fc",)
    wanted = model(x)

    def gap(**settings: object) -> float:
        one = Factorize(rank=3, method=method, exclude=exclude, **settings)
        return float((made(one, model, traced, task)[0](x) - wanted).detach().square().mean())

    plain, aware = gap(**PLAIN), gap(data_aware=True, recovery="none")
    assert aware < plain
    assert gap(data_aware=False, recovery="reconstruct") < plain
    assert gap() < aware
    assert gap(data_aware=False, recovery="bias") < plain


def test_aware_svd_of_one_layer_is_the_optimum_of_its_outputs(monkeypatch):
    """The outputs around their mean are projected on their first principal components, where nothing else is split."""
    monkeypatch.setattr(evidence, "NOISE", 0.0)
    torch.manual_seed(0)
    layer, x = nn.Linear(9, 7), torch.randn(50, 9) * torch.logspace(0, -2, 9) + 1.0
    split, _ = made(Factorize(rank=2, recovery="none", data_aware=True), *prepared(nn.Sequential(layer), x))
    y = layer(x).detach().double()
    values = torch.linalg.svdvals(y - y.mean(0))
    # The mean is not moved without recovery, so it takes part.
    uncentred = torch.linalg.svdvals(y - layer.bias.detach().double())
    error = float((split(x).detach() - y).square().sum())
    assert error == pytest.approx(float(uncentred[2:].square().sum()), rel=1e-3)
    split, _ = made(Factorize(rank=2, recovery="bias", data_aware=True), *prepared(nn.Sequential(layer), x))
    error = float((split(x).detach() - y).square().sum())
    assert error == pytest.approx(float(values[2:].square().sum()), rel=1e-3)


def test_aware_svd_weighs_what_noise_in_its_inputs_would_do():
    torch.manual_seed(0)
    layer, x = nn.Linear(9, 7), torch.randn(50, 9) * torch.logspace(0, -2, 9) + 1.0
    split, _ = made(Factorize(rank=2, recovery="bias", data_aware=True), *prepared(nn.Sequential(layer), x))
    with torch.no_grad():
        weight = layer.weight.double()
        first, second = (one.weight.double() for one in split.modules() if isinstance(one, nn.Linear))
        centred = x.double() - x.double().mean(0)
        outputs = weight @ centred.T @ centred @ weight.T
        variance = evidence.NOISE * outputs.trace() / weight.square().sum()
        change = second @ first - weight
        cost = (change @ centred.T).square().sum() + variance * change.square().sum()
    left_out = torch.linalg.eigvalsh(outputs + variance * weight @ weight.T)[:-2].sum()
    assert evidence.NOISE > 0
    assert float(cost) == pytest.approx(float(left_out), rel=1e-3)


def test_a_normalization_takes_its_statistics_from_what_it_gets():
    model, traced, task = net()
    after, _ = made(Factorize(rank=2, exclude=("body", "fc")), model, traced, task)
    with torch.no_grad():
        before = after.stem(images())
    torch.testing.assert_close(after.norm.running_mean, before.mean((0, 2, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(after.norm.running_var, before.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-6)


# Wishes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"macs_ratio": 1.5}, {"parameters_ratio": 1.5}, {"macs_ratio": 2.0, "round_to": 2}]
)
@pytest.mark.parametrize("method", ["auto", "svd", "tucker", "cp"])
def test_a_budget_is_kept_and_used(settings, method):
    model, traced, task = net()
    after, plan = made(Factorize(**settings, method=method, **PLAIN), model, traced, task)
    unit = "macs" if "macs_ratio" in settings else "parameters"
    whole, left = getattr(traced.graph, unit), getattr(trace(after, task.example).graph, unit)
    assert left == getattr(plan.predicted, unit)
    assert 0.75 * whole / settings[f"{unit}_ratio"] <= left <= whole / settings[f"{unit}_ratio"]
    assert all(rank % settings.get("round_to", 1) == 0 for action in plan.actions for rank in action.ranks)


def test_the_budget_goes_where_singular_values_are_worth_most():
    model, _, task = net()
    with torch.no_grad():
        low_rank(model.body, 2)
    _, plan = made(Factorize(macs_ratio=1.8, method="svd", **PLAIN), model, trace(model, task.example), task)
    ranks = {action.layer: action.ranks[0] for action in plan.actions}
    assert ranks["body"] == 2
    assert "stem" not in ranks or ranks["stem"] > 2


def test_a_budget_out_of_reach_says_what_is_in_reach():
    model, traced, task = net()
    with pytest.raises(
        GoalError, match=r"at its least rank the model still has [\d,]+ of [\d,]+\. Wish for at most"
    ) as found:
        made(Factorize(macs_ratio=1000.0, **PLAIN), model, traced, task)
    most = float(str(found.value).split("at most ")[1].split(" ")[0])
    _, plan = made(Factorize(macs_ratio=0.999 * most, **PLAIN), model, traced, task)
    assert all(set(action.ranks) == {1} for action in plan.actions)


def test_ranks_are_multiples_of_what_the_target_computes_at_once():
    model, traced, task = prepared(nn.Sequential(nn.Linear(96, 80), nn.Linear(80, 20)), torch.randn(4, 96), data=False)
    runtime = load_target("onnxruntime")
    assert runtime.channel_multiple == 8

    def ranks(one: Factorize) -> list[int]:
        found = one.plan(traced.graph, one.study(model, traced, task, runtime), runtime).actions
        return [action.ranks[0] for action in found]

    # 60 % of 96 x 80 and of 80 x 20 are at most ranks 26 and 9; the narrow layer halves 8 to 4, so that it has steps.
    assert ranks(Factorize(ratio=0.4)) == [24, 8]
    assert ranks(Factorize(ratio=0.5)) == [16, 8]
    assert ranks(Factorize(ratio=0.6)) == [16, 4]
    assert ranks(Factorize(ratio=0.4, round_to=1)) == [26, 9]
    assert ranks(Factorize(ratio=0.4, round_to=6)) == [24, 6]
    assert ranks(Factorize(rank=7)) == [7, 7]


@pytest.mark.parametrize("method", ["auto", "svd", "spatial", "tucker", "cp"])
def test_a_ratio_is_saved_by_every_layer(method):
    model, traced, task = net()
    _, plan = made(Factorize(ratio=0.4, method=method, exclude=("fc",), **PLAIN), model, traced, task)
    assert [action.layer for action in plan.actions] == ["stem", "body"]
    assert all(0.2 * a.macs < a.macs_after <= 0.6 * a.macs for a in plan.actions)


def test_variational_bayes_does_not_collapse_a_layer():
    model, traced, task = net()
    one = Factorize(rank="vbmf", method="svd", **PLAIN)
    plan = one.plan(traced.graph, one.study(model, traced, task, TARGET), TARGET)
    # Random weights are noise, of which nothing stands out: half of the energy stays all the same.
    for action in plan.actions:
        values = torch.linalg.svdvals(model.get_submodule(action.layer).weight.detach().flatten(1)).square()
        assert float(values[: action.ranks[0]].sum() / values.sum()) >= 0.5
    assert {a.layer for a in plan.actions} | set(reasons(plan)) == {"stem", "norm", "body", "fc"}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "exactly one of rank, ratio, energy, error, macs_ratio, parameters_ratio, latency_ratio, got"),
        ({"rank": 4, "ratio": 0.5}, "got rank and ratio"),
        ({"rank": 0}, "greater than or equal to 1"),
        ({"rank": -3}, "greater than or equal to 1"),
        ({"ratio": 1.0}, "less than 1"),
        ({"macs_ratio": 0.5}, "greater than or equal to 1"),
        ({"energy": 0.9, "method": "cp"}, "has no energy"),
        ({"rank": "vbmf", "method": "cp"}, "has no rank='vbmf'"),
        ({"rank": 4, "method": "svd2"}, "method"),
    ],
)
def test_wrong_settings_are_explained(settings, text):
    with pytest.raises(pydantic.ValidationError, match=text):
        Factorize(**settings)


def test_a_pattern_that_matches_nothing_is_explained():
    model, traced, task = net()
    with pytest.raises(RecipeError, match=r"matches no layer. Did you mean 'body'"):
        made(Factorize(rank=2, exclude=("bodi",)), model, traced, task)


def test_data_that_are_asked_for_and_missing():
    model, traced, task = net(data=False)
    for settings in ({"data_aware": True}, {"recovery": "bias"}):
        one = Factorize(rank=2, **settings)
        assert one.needs() == {"calibration"}
        with pytest.raises(DataError, match="Factorize needs calibration data"):
            one.study(model, traced, task, TARGET)
    made(Factorize(rank=2), model, traced, task)


def test_weights_that_are_not_finite_are_named():
    model, traced, task = net(data=False)
    with torch.no_grad():
        model.body.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="weight of 'body' holds 1 NaN"):
        made(Factorize(rank=2), model, traced, task)
    made(Factorize(rank=2, exclude=("body",)), model, traced, task)


# What stays whole -----------------------------------------------------------------------------------------------


class Own(nn.Linear):
    pass


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 8, 3, padding=1)
        self.point = nn.Conv2d(8, 8, 1)
        self.wide = nn.Conv2d(8, 8, 3, padding=1)
        self.own = Own(8, 8)
        self.computed = parametrizations.weight_norm(nn.Linear(8, 8))
        self.left = nn.Linear(8, 8, bias=False)
        self.right = nn.Linear(8, 8, bias=False)
        self.right.weight = self.left.weight
        self.functional = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(self.point(self.up(self.grouped(x)))).mean((2, 3))
        x = self.right(self.left(self.computed(self.own(x))))
        x = F.linear(x, self.functional.weight)
        x = x[:, None]
        return self.attention(x, x, x, need_weights=False)[0]


def test_every_refusal_has_its_reason():
    model, traced, task = prepared(Odd().eval(), torch.randn(2, 8, 4, 4))
    _, plan = made(Factorize(rank=2, method="tucker", exclude=("wide",)), model, traced, task)
    found = reasons(plan)
    assert plan.actions == ()
    for layer, text in {
        "grouped": "grouped convolution (2 groups)",
        "up": "transposed convolution",
        "point": "tucker has nothing to split in a 1 x 1 kernel; svd has",
        "wide": "excluded by the recipe",
        "own": "its class Own is not torch's own",
        "computed": "its weight is computed",
        "left": "its weight is",
        "right": "its weight is",
    }.items():
        assert text in found[layer], (layer, found[layer])
    linear = [reason for name, reason in found.items() if name.startswith(("linear", "functional"))]
    assert "its weight is used by no layer of its own" in linear
    assert {layer.name for layer in find_layers(model, traced.graph).layers} == {"point", "wide"}
    _, plan = made(Factorize(rank=2), model, traced, task)
    assert {a.layer for a in plan.actions} == {"point", "wide"}


def test_a_layer_whose_parts_are_no_cheaper_stays_and_says_the_numbers():
    model, traced, task = prepared(nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 64)), torch.randn(4, 8))
    _, plan = made(Factorize(rank=4), model, traced, task)
    assert [action.layer for action in plan.actions] == ["1"]
    assert reasons(plan)["0"] == ("svd at rank 4 has 64 MACs and 64 parameters, the layer itself 64 and 64")
    _, plan = made(Factorize(rank=9), model, traced, task)
    assert reasons(plan) == {"0": "rank 9 is above its largest, 8", "1": "rank 9 is above its largest, 8"}


class Peeking(nn.Module):
    """Reads an attribute of a layer that no operator shows."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.to(self.fc.weight.dtype))


def test_a_model_that_reads_a_layer_in_another_way_is_refused():
    model, traced, task = prepared(Peeking(), torch.randn(2, 8))
    with pytest.raises(VerificationError, match=r"does not run with fc split: .*weight.*exclude"):
        made(Factorize(rank=2), model, traced, task)


def test_parts_that_compute_something_else_are_noticed(monkeypatch):
    model, traced, task = net()

    def wrong(split: nn.Sequential, weights: list[Tensor], bias: Tensor | None) -> None:
        fill_(split, [weight * 1.1 for weight in weights], bias)

    monkeypatch.setattr(replacing, "fill_", wrong)
    with pytest.raises(VerificationError, match="differ by"):
        made(Factorize(rank=2), model, traced, task)


# The result -----------------------------------------------------------------------------------------------------


def test_the_class_is_the_users_and_a_plan_replays_without_data():
    model, traced, task = net()
    one = Factorize(macs_ratio=1.5)
    after, plan = made(one, model, traced, task)
    assert type(after) is Net
    assert one.read_plan(json.loads(plan.model_dump_json())) == plan
    fresh, again, empty = net(data=False)
    built = one.restructure(fresh, plan, again, empty)
    built.load_state_dict(after.state_dict())
    assert torch.equal(built(images()), after(images()))
    assert prod(model.stem.weight.shape) == 12 * 27  # the original has its own


@pytest.mark.parametrize("name", MODELS)
def test_no_layer_is_forgotten(name):
    model, example, traced_once = traced(name)
    task = Task(example_inputs=example.args, example_kwargs=example.kwargs)
    one = Factorize(ratio=0.2)
    plan = one.plan(traced_once.graph, one.study(model, traced_once, task, TARGET), TARGET)
    named = [action.layer for action in plan.actions] + [skip.layer for skip in plan.skipped]
    assert sorted(named) == sorted({layer.name for layer in traced_once.graph.layers})
