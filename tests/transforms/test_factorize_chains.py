"""Factorize with cores: Tensor-Train, ring and Kronecker in convolutions, linear layers and tables."""

from __future__ import annotations

import json
from math import prod

import pydantic
import pytest
import torch
from factorizing import TARGET, made, prepared
from torch import Tensor, nn

from lissom.errors import GoalError
from lissom.functional import tensortrain
from lissom.functional.contraction import cheapest
from lissom.graph.second import second_moments
from lissom.graph.trace import Trace, evaluation, trace
from lissom.task import Task
from lissom.transforms.base import Plan, Work
from lissom.transforms.lowrank import Factorize
from lissom.transforms.lowrank.chainfit import fit_cores, spectra
from lissom.transforms.lowrank.chains import axes, feasible
from lissom.transforms.lowrank.evidence import Seen
from lissom.transforms.lowrank.fitting import fit
from lissom.transforms.lowrank.modules import ChainEmbedding, ChainLinear, KroneckerConv, RingConv
from lissom.transforms.lowrank.options import Multiple, chain_ranks, choice, choices
from lissom.transforms.lowrank.parts import applies, at_rank, build, fill_, largest, shape_of

METHODS = ("tt", "ring", "kronecker")
PLAIN = {"data_aware": False, "recovery": "none"}
LAYERS = {
    "linear": (lambda: nn.Linear(12, 10), (2, 12)),
    "wide linear, 3 axes, no bias": (lambda: nn.Linear(64, 72, bias=False), (2, 3, 64)),
    "linear of prime sides": (lambda: nn.Linear(7, 5), (3, 7)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False), (2, 4, 7, 8)),
    "strided": (lambda: nn.Conv2d(4, 5, (3, 2), stride=(2, 1), padding=(0, 1)), (2, 4, 7, 8)),
    "dilated": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=(2, 3), dilation=(1, 2)), (2, 4, 9, 9)),
    "same": (lambda: nn.Conv2d(4, 6, (3, 4), padding="same", dilation=2), (2, 4, 9, 9)),
    "reflected": (lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), (2, 4, 7, 7)),
    "one row": (lambda: nn.Conv2d(4, 6, (1, 3), stride=2, padding=1), (2, 4, 7, 8)),
    "one column": (lambda: nn.Conv2d(4, 6, (3, 1), stride=2, padding=1), (2, 4, 7, 8)),
    "pointwise": (lambda: nn.Conv2d(4, 6, 1, stride=2), (2, 4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3, stride=(1, 2, 2), padding=1), (2, 4, 4, 5, 4)),
    "conv3d of a flat kernel": (lambda: nn.Conv3d(4, 6, (3, 1, 3), stride=2, padding=1), (2, 4, 5, 5, 4)),
}


def reasons(plan: Plan) -> dict[str, str]:
    return {skip.layer: skip.reason for skip in plan.skipped}


def low_rank_(weight: Tensor, rank: int) -> None:
    """A weight whose cores are small: of singular values that fall fast."""
    with torch.no_grad():
        u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        s = s * 0.5 ** torch.arange(len(s))
        weight.copy_(((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(weight.shape))


# The parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("aware", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_full_rank_is_the_layer(name, method, aware):
    build_layer, size = LAYERS[name]
    torch.manual_seed(0)
    layer, x = build_layer().eval(), torch.randn(size)
    shape = shape_of(layer, 1, 1, 1)
    if not applies(shape, method):
        assert (shape.window, method != "kronecker") == (1, True)
        return
    seen, bias = Seen(), layer.bias.detach() if layer.bias is not None else None
    if aware:
        _, traced, task = prepared(layer, x, data=True)
        (node,) = [n.name for n in traced.graph.nodes if n.op in ("linear", "conv1d", "conv2d", "conv3d")]
        seen = Seen(None, second_moments(traced, task.batches("calibration"), read=[node])[0][node])
    ranks = at_rank(shape, method, max(largest(shape, method)))
    fitted = fit(layer.weight.detach(), bias, shape, method, ranks, seen, centred=aware and bias is not None)
    split = build(layer, method, ranks)
    fill_(split, fitted.weights, fitted.bias)
    torch.testing.assert_close(split(x), layer(x), rtol=0, atol=2e-5)
    assert {type(part) for part in split} <= {type(layer), nn.Conv1d}


SOME = ("linear of prime sides", "wide linear, 3 axes, no bias", "strided", "reflected", "conv3d of a flat kernel")


@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in LAYERS]
)
@pytest.mark.parametrize("method", METHODS)
def test_at_a_lower_rank_the_parts_are_what_they_stand_for_at_the_cost_that_is_said(name, method):
    build_layer, size = LAYERS[name]
    torch.manual_seed(0)
    model, x = nn.Sequential(build_layer()).eval(), torch.randn(size)
    before = prepared(model, x)
    one = Factorize(rank=2, method=method, break_even="parameters", **PLAIN)
    study = one.study(*before, TARGET)
    (layer,) = study.layers
    if not applies(layer.shape, method):
        assert "svd" in reasons(one.plan(before[1].graph, study, TARGET))["0"]
        return
    ranks = at_rank(layer.shape, method, 2)
    fitted = fit(model[0].weight.detach(), None, layer.shape, method, ranks, Seen(), centred=False)
    split = build(model[0], method, ranks)
    fill_(split, fitted.weights, None if model[0].bias is None else model[0].bias.detach())
    with torch.no_grad():
        model[0].weight.copy_(fitted.whole)
    torch.testing.assert_close(split(x), model(x), rtol=1e-4, atol=1e-5)
    found, graph = choice(layer, method, ranks), trace(split, before[2].example).graph
    assert (graph.macs, graph.parameters) == (found.macs, found.parameters)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sides", [(12, 10), (64, 96)])
def test_every_order_of_contraction_gives_the_same(method, sides):
    torch.manual_seed(0)
    layer = nn.Linear(*sides)
    shape = shape_of(layer, 1, 1, 1)
    ranks = at_rank(shape, method, 40)
    fitted = fit_cores(layer.weight.detach(), shape, method, ranks, None)
    split = build(layer, method, ranks)
    fill_(split, fitted.weights, layer.bias.detach())
    assert isinstance(split, ChainLinear)
    lengths = set()
    for rows in (1, 5, 3000):
        x = torch.randn(rows, sides[0])
        lengths.add(len(cheapest(split.sizes, rows)))
        wanted = x @ fitted.whole.T.float() + layer.bias
        torch.testing.assert_close(split(x), wanted, rtol=1e-4, atol=1e-4)
    assert len(lengths) > 1 or method != "tt"
    cores = [split.core(k) for k in range(len(split))]
    torch.testing.assert_close(tensortrain.restored(cores).double(), fitted.whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", [*METHODS, "svd"])
@pytest.mark.parametrize(("entries", "width"), [(50, 6), (700, 8)])
def test_a_table_is_looked_up_digit_by_digit(method, entries, width):
    torch.manual_seed(0)
    table = nn.Embedding(entries, width)
    shape = shape_of(table, 1, 1, 1)
    full = largest(shape, method)
    ranks = full if method == "svd" else at_rank(shape, method, max(full))
    for own in (ranks, (3,) if method == "svd" else at_rank(shape, method, 3)):
        fitted = fit(table.weight.detach(), None, shape, method, own, Seen(), centred=False)
        split = build(table, method, own)
        fill_(split, fitted.weights, None)
        ids = torch.arange(entries)
        torch.testing.assert_close(split(ids).double(), fitted.whole, rtol=0, atol=2e-5)
        some = torch.tensor([[0, entries - 1, 1], [7, 7, 3]])
        assert torch.allclose(split(some), split(ids)[some], atol=2e-5)
        assert split(some).shape == (2, 3, width)
        if own == ranks:
            torch.testing.assert_close(split(ids), table(ids), rtol=0, atol=2e-5)
    if method != "svd":
        assert isinstance(split, ChainEmbedding)
        with pytest.raises(IndexError):
            split(torch.tensor([prod(size.outs for size in split.sizes)]))


def test_settings_of_the_layer_stay():
    table = nn.Embedding(9, 4, padding_idx=2)
    split = build(table, "svd", (2,))
    assert (split[0].padding_idx, split[0].num_embeddings) == (2, 9)
    conv = nn.Conv3d(4, 6, 3, stride=(1, 2, 2), padding=1, dtype=torch.float64).train()
    conv.weight.requires_grad_(False)
    before = torch.get_rng_state()
    for method, kind in (("tt", nn.Sequential), ("ring", RingConv), ("kronecker", KroneckerConv)):
        parts = build(conv, method, at_rank(shape_of(conv, 1, 1, 1), method, 2))
        assert type(parts) is kind
        assert all(p.dtype == torch.float64 and not p.requires_grad and not p.any() for p in parts.parameters())
        assert parts.training
    assert torch.equal(torch.get_rng_state(), before)


def test_one_dimensional_steps_of_a_train_have_their_own_stride_and_padding():
    conv = nn.Conv3d(4, 6, (3, 5, 2), stride=(1, 2, 3), padding=(1, 2, 0))
    parts = build(conv, "tt", (2, 3, 3, 2))
    assert [part.kernel_size for part in parts] == [(1, 1, 1), (3, 1, 1), (1, 5, 1), (1, 1, 2), (1, 1, 1)]
    assert [part.stride for part in parts] == [(1, 1, 1), (1, 1, 1), (1, 2, 1), (1, 1, 3), (1, 1, 1)]
    assert [part.padding for part in parts] == [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 0), (0, 0, 0)]


# Ranks ----------------------------------------------------------------------------------------------------------


def layer_of(module: nn.Module, x: Tensor, method: str):
    model, traced, task = prepared(nn.Sequential(module), x)
    one = Factorize(parameters_ratio=1.5, method=method, **PLAIN)
    (layer,) = one.study(model, traced, task, TARGET).layers
    return layer


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("module", "x"), [(nn.Conv2d(6, 8, 3), torch.randn(1, 6, 8, 8)), (nn.Linear(16, 12), torch.randn(1, 16))]
)
def test_the_loss_of_a_choice_bounds_what_is_lost(method, module, x):
    layer = layer_of(module, x, method)
    weight = module.weight.detach().double()
    for values, mine in zip(spectra(weight, layer.shape, method), layer.values[method], strict=True):
        assert torch.allclose(values, torch.tensor(mine, dtype=torch.float64), rtol=1e-5)
    for one in choices(layer, method, "parameters", Multiple(1, True)):
        whole = fit_cores(weight, layer.shape, method, one.ranks, None).whole
        lost = float((weight - whole).square().sum() / weight.square().sum())
        if method == "tt":
            assert lost <= one.loss + 1e-9
        elif method == "kronecker":
            assert lost == pytest.approx(one.loss, abs=1e-6)
        else:
            assert lost >= one.loss - 2e-3


def test_ranks_are_no_more_than_their_neighbours_leave():
    assert feasible((4, 3, 3, 5), (9, 99, 2)) == (4, 6, 2)
    shape = shape_of(nn.Conv2d(4, 5, 3), 1, 1, 1)
    assert axes(shape, "tt") == (4, 3, 3, 5)
    weight = torch.randn(5, 4, 3, 3)
    for ranks in chain_ranks(shape, "tt", Multiple(1, True), [[1.0, 0.0]] * 3):
        cores = tensortrain.train(tensortrain.kernel_axes(weight), ranks)
        assert tuple(core.shape[2] for core in cores[:-1]) == ranks


@pytest.mark.parametrize("method", ["tt", "kronecker"])
def test_an_error_bound_is_kept(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(64, 64, bias=False))
    for layer in (model[0], model[3]):
        if method == "tt":
            low_rank_(layer.weight, 4)
        else:
            shape = shape_of(layer, 1, 1, 1)
            with torch.no_grad():
                layer.weight.copy_(fit_cores(layer.weight, shape, "kronecker", (2,), None).whole)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    one = Factorize(error=0.3, method=method, break_even="parameters", **PLAIN)
    _, plan = made(one, *prepared(model, torch.randn(2, 8, 4, 4)))
    assert {action.layer for action in plan.actions} == {"0", "3"}
    for action in plan.actions:
        weight = before[f"{action.layer}.weight"]
        shape = shape_of(model.get_submodule(action.layer), 1, 1, 1)
        whole = fit_cores(weight, shape, method, action.ranks, None).whole
        assert float((weight - whole).norm() / weight.norm()) <= 0.3
        assert action.parameters_after < action.parameters


def test_what_a_ring_loses_is_not_known_before():
    for wish in ({"energy": 0.9}, {"error": 0.1}, {"rank": "vbmf"}):
        with pytest.raises(pydantic.ValidationError, match=r"method='ring'\) has no "):
            Factorize(method="ring", **wish)


def test_noise_is_told_from_signal_at_every_cut():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 24, 3, bias=False))
    small = tensortrain.joined(tensortrain.train(torch.randn(16, 3, 3, 24), 3))
    with torch.no_grad():
        model[0].weight.copy_(tensortrain.kernel_of(small) + 0.05 * torch.randn(24, 16, 3, 3))
    _, plan = made(Factorize(rank="vbmf", method="tt", **PLAIN), *prepared(model, torch.randn(1, 16, 6, 6)))
    assert plan.actions[0].ranks == (3, 3, 3)


# Whole models ---------------------------------------------------------------------------------------------------


class Rater(nn.Module):
    """Ratings of pairs: two tables, an inner layer."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(600, 16)
        self.item = nn.Embedding(90, 16)
        self.bias = nn.Embedding(90, 1)
        self.inner = nn.Linear(32, 16)
        self.out = nn.Linear(16, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        both = torch.cat([self.user(user), self.item(item)], -1)
        return (self.out(torch.relu(self.inner(both))) + self.bias(item)).squeeze(-1)


def rater(*, data: bool = False) -> tuple[nn.Module, Trace, Task]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Rater().eval()
        for table in (model.user, model.item):
            low_rank_(table.weight, 6)
        ids = torch.randint(0, 90, (2, 64))
    return prepared(model, ids[0], ids[1], data=data)


@pytest.mark.parametrize(
    "method", ["auto", "kronecker", *(pytest.param(m, marks=pytest.mark.slow) for m in ("tt", "ring"))]
)
def test_tables_share_the_budget_of_parameters(method):
    before = rater(data=True)
    after, plan = made(Factorize(parameters_ratio=2, method=method), *before)
    assert {"user", "item"} <= {a.layer for a in plan.actions} | set(reasons(plan))
    assert plan.of(type(plan.actions[0]))
    graph = trace(after, before[2].example).graph
    assert (graph.macs, graph.parameters, graph.bytes) == tuple(plan.predicted.model_dump().values())
    assert graph.parameters <= before[1].graph.parameters / 2
    if method == "auto":
        assert [type(part) for part in after.user] == [nn.Embedding, nn.Linear]
        with torch.no_grad():
            ids = before[2].example.args
            gap = (after(*ids) - before[0](*ids)).norm() / before[0](*ids).norm()
        assert float(gap) < 0.2


def test_frequent_rows_count_more_than_rare_ones():
    """The data look up the first rows only; these come out better than without the data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(40, 8)).eval()
    ids = torch.randint(0, 4, (64,))
    before = prepared(model, ids, data=True)
    with torch.no_grad():
        wanted = model(ids)
        for aware, low, high in ((True, 0.0, 1e-3), (False, 0.1, 1.0)):
            one = Factorize(rank=4, break_even="parameters", data_aware=aware, recovery="none")
            error = float((made(one, *before)[0](ids) - wanted).norm() / wanted.norm())
            assert low <= error <= high


def test_without_a_wish_for_size_tables_stay():
    before = rater()
    for wish in ({"rank": 2}, {"macs_ratio": 1.2}, {"energy": 0.5}, {"ratio": 0.2}):
        plan = made(Factorize(**wish), *before)[1]
        assert "a look-up multiplies nothing" in reasons(plan)["user"]
    plan = made(Factorize(rank=2, break_even="parameters"), *before)[1]
    assert "user" in {action.layer for action in plan.actions}
    assert "has 2 MACs" in reasons(plan)["bias"] or "above its largest" in reasons(plan)["bias"]


def test_refused_tables_say_why():
    model = nn.Sequential(nn.Embedding(90, 16, padding_idx=0)).eval()
    plan = made(Factorize(rank=2, method="tt", break_even="parameters"), *prepared(model, torch.arange(4)))[1]
    assert reasons(plan)["0"] == "it has a padding row, which tt cores cannot leave alone; svd can"
    after, plan = made(Factorize(rank=2, break_even="parameters"), *prepared(model, torch.arange(4)))
    assert float(after(torch.tensor([0])).detach().abs().max()) < 1e-6


def test_a_budget_out_of_reach_says_the_least():
    with pytest.raises(GoalError, match="at its least rank"):
        made(Factorize(parameters_ratio=500, method="tt"), *rater())


@pytest.mark.parametrize("method", ["tt", pytest.param("ring", marks=pytest.mark.slow)])
def test_a_plan_builds_the_structure_without_data(method):
    before = rater(data=True)
    one = Factorize(parameters_ratio=2, method=method)
    after, plan = made(one, *before)
    again = one.restructure(rater()[0], one.read_plan(json.loads(plan.model_dump_json())), before[1], before[2])
    again.load_state_dict(after.state_dict())
    ids = before[2].example.args
    with torch.no_grad(), evaluation(again):
        assert torch.equal(again(*ids), after(*ids))


def test_a_normalization_behind_cores_takes_its_statistics_again():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 12, 3, bias=False), nn.BatchNorm2d(12)).eval()
    x = torch.randn(64, 8, 6, 6)
    before = prepared(model, x, data=True)
    after, _ = made(Factorize(rank=1, method="kronecker"), *before)
    with torch.no_grad():
        values = after[0](x)
    torch.testing.assert_close(after[1].running_mean, values.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert not torch.equal(after[1].running_mean, model[1].running_mean)


@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in LAYERS]
)
@pytest.mark.parametrize("method", METHODS)
def test_with_data_the_outputs_are_nearer_and_the_plan_says_how_near(name, method):
    """What the plan says is what the layers do on the data."""
    build_layer, size = LAYERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(build_layer()).eval()
    last = model[0].weight.ndim == 2
    channels = torch.logspace(0, -1.5, model[0].weight.shape[1])
    x = torch.randn(24 if last else 8, *size[1:]) * (channels if last else channels.reshape(-1, *(1 for _ in size[2:])))
    before = prepared(model, x, data=True)
    if not applies(shape_of(model[0], 1, 1, 1), method):
        return
    settled: list[Plan] = []
    found = {}
    for aware in (False, True):
        one = Factorize(rank=2, method=method, break_even="parameters", data_aware=aware, recovery="none")
        plan = one.plan(before[1].graph, one.study(*before, TARGET), TARGET)
        assert [action.data_aware for action in plan.actions] == [aware]
        after = one.apply(model, plan, before[1], before[2], Work(settle=settled.append))
        with torch.no_grad():
            gap = (after(x) - model(x)).double().square().sum()
            whole = (
                model(x)
                if model[0].bias is None
                else model(x) - model[0].bias.reshape(-1, *(1 for _ in model[0].weight.shape[2:]))
            )
            found[aware] = float(gap / whole.double().square().sum())
    (plain,), (aware,) = (plan.actions for plan in settled)
    assert (plain.output_loss, plain.output_loss_plain) == (None, None)
    assert aware.output_loss_plain == pytest.approx(found[False], rel=2e-3, abs=1e-6)
    assert aware.output_loss == pytest.approx(found[True], rel=2e-3, abs=1e-6)
    assert found[True] <= found[False] * (1 + 1e-4)


def test_a_chain_follows_the_data():
    torch.manual_seed(0)
    for layer, size in ((nn.Conv2d(16, 24, 3), (24, 16, 6, 6)), (nn.Linear(64, 72), (400, 64))):
        x = torch.randn(size) * torch.logspace(0, -2, size[1]).reshape(-1, *(1 for _ in size[2:]))
        if layer.weight.ndim == 2:
            x = x @ torch.linalg.qr(torch.randn(64, 64)).Q
        for method in METHODS:
            _, traced, task = prepared(nn.Sequential(layer).eval(), x, data=True)
            (node,) = [n.name for n in traced.graph.nodes if n.op in ("linear", "conv2d")]
            inputs = second_moments(traced, task.batches("calibration"), read=[node])[0][node].products
            shape = shape_of(layer, 1, 1, 1)
            ranks = at_rank(shape, method, 8)
            losses = fit_cores(layer.weight.detach(), shape, method, ranks, inputs).losses
            assert losses is not None
            assert losses.fitted < 0.7 * losses.plain


def test_a_kernel_too_wide_for_its_second_moment_stays_plain():
    model = nn.Sequential(nn.Conv2d(520, 4, 3)).eval()
    before = prepared(model, torch.randn(1, 520, 4, 4), data=True)
    _, plan = made(Factorize(rank=2, method="tt", recovery="none"), *before)
    assert [action.data_aware for action in plan.actions] == [False]


def test_the_last_part_of_a_train_is_the_least_squares_on_the_data():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(6, 8, 3, padding=1)).eval()
    x = torch.nn.functional.interpolate(torch.randn(8, 6, 3, 3, 3), scale_factor=2, mode="trilinear")
    before = prepared(model, x, data=True)
    plain, aware, recovered = (
        made(Factorize(rank=3, method="tt", **own), *before)[0][0] for own in (PLAIN, {"recovery": "none"}, {})
    )

    def gap(one: nn.Module) -> float:
        return float((one(x) - model(x)).detach().norm())

    def least(one: nn.Sequential) -> float:
        """With the best last part for those before it, by torch."""
        wanted = (model(x) - model[0].bias.reshape(-1, 1, 1, 1)).detach().movedim(1, -1).flatten(0, -2)
        inner = one[:-1](x).detach().movedim(1, -1).flatten(0, -2)
        return float((inner @ torch.linalg.lstsq(inner, wanted).solution - wanted).norm())

    assert gap(plain) > 1.01 * least(plain)
    assert gap(aware) == pytest.approx(least(aware), rel=1e-3)
    assert gap(aware) < 0.99 * least(plain)
    assert gap(recovered) < gap(aware) * (1 + 1e-3)


def test_a_ring_spends_its_budget():
    """Though of its loss only a lower bound is known, which must not rise with the ranks."""
    left = [
        made(Factorize(parameters_ratio=ratio, method="ring", exclude=("inner", "out", "bias", "item")), *rater())[1]
        for ratio in (1.2, 2)
    ]
    sizes = [plan.actions[0].parameters_after for plan in left]
    assert sizes == sorted(set(sizes), reverse=True)
    for ratio, plan in zip((1.2, 2), left, strict=True):
        assert plan.predicted.parameters > 0.8 * rater()[1].graph.parameters / ratio
