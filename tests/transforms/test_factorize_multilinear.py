"""Factorize(method="full-tucker"): all four (or five) axes of a convolution, as plain layers."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from factorizing import TARGET, made, prepared
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lissom.functional.hooi import aware_hooi, aware_spectra, hooi
from lissom.functional.svd import output_error
from lissom.functional.whitening import damped_inputs
from lissom.graph.second import second_moments
from lissom.graph.trace import trace
from lissom.transforms.lowrank import Factorize
from lissom.transforms.lowrank.evidence import Seen
from lissom.transforms.lowrank.fitting import fit
from lissom.transforms.lowrank.multilinear import cut_axes
from lissom.transforms.lowrank.options import Multiple, choice, choices, least_ranks
from lissom.transforms.lowrank.parts import applies, at_rank, build, fill_, inapplicable, largest, shape_of, stages

FULL = "full-tucker"
PLAIN = {"data_aware": False, "recovery": "none"}
LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 5, 3, stride=2, padding=1), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 5, 3, padding=1, bias=False), (2, 4, 7, 8)),
    "strided": (lambda: nn.Conv2d(4, 5, (3, 2), stride=(2, 1), padding=(0, 1)), (2, 4, 7, 8)),
    "dilated": (lambda: nn.Conv2d(4, 5, 3, stride=2, padding=(2, 3), dilation=(1, 2)), (2, 4, 9, 9)),
    "same": (lambda: nn.Conv2d(4, 5, (3, 4), padding="same", dilation=2), (2, 4, 9, 9)),
    "reflected": (lambda: nn.Conv2d(4, 5, 3, padding=(1, 2), padding_mode="reflect"), (2, 4, 7, 7)),
    "one row": (lambda: nn.Conv2d(4, 6, (1, 3), stride=2, padding=1), (2, 4, 7, 8)),
    "one column": (lambda: nn.Conv2d(4, 6, (3, 1), stride=2, padding=1), (2, 4, 7, 8)),
    "large": (lambda: nn.Conv2d(4, 5, 5, stride=2, padding=2), (2, 4, 9, 9)),
    "conv3d": (lambda: nn.Conv3d(3, 4, 3, stride=(1, 2, 2), padding=1), (2, 3, 4, 5, 4)),
    "conv3d of a flat kernel": (lambda: nn.Conv3d(4, 6, (3, 1, 3), stride=2, padding=1), (2, 4, 5, 5, 4)),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(size: int, seed: int = 0) -> Tensor:
    """Of inputs whose axes are of very different sizes."""
    rows = normal(3 * size, size, seed=seed + 1) @ normal(size, size, seed=seed + 2)
    rows = rows * torch.logspace(0, -2, size, dtype=torch.float64)
    return rows.T @ rows


def smooth(layer: nn.Module, rank: int) -> None:
    """Kernels that are sums of `rank` separable shapes, with a little noise."""
    with torch.no_grad():
        outs, ins, *kernel = layer.weight.shape
        small = normal(outs, ins, *(rank for _ in kernel))
        for axis, size in enumerate(kernel):
            small = (small.movedim(2 + axis, -1) @ normal(rank, size, seed=axis)).movedim(-1, 2 + axis)
        layer.weight.copy_(small / small.std() * 0.1 + 0.002 * normal(*layer.weight.shape, seed=9))


# The maths --------------------------------------------------------------------------------------------------------


@given(st.tuples(*[st.integers(1, 4)] * 4), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=30)
def test_with_data_the_outputs_are_never_further_than_without(sizes, rank, seed):
    w, c = normal(*sizes, seed=seed), moment(prod(sizes[1:]), seed)
    ranks = [min(rank, size) for size in sizes]
    errors = [
        output_error((w - one.whole()).flatten(1), damped_inputs(c))
        for one in (aware_hooi(w, c, ranks), hooi(w, ranks))
    ]
    assert errors[0] <= errors[1] + 1e-9 * output_error(w.flatten(1), c)


def test_with_data_the_outputs_are_nearer():
    w, c = normal(6, 5, 3, 3), moment(45)
    aware, plain = aware_hooi(w, c, (3, 3, 2, 2)), hooi(w, (3, 3, 2, 2))
    errors = [output_error((w - one.whole()).flatten(1), c) for one in (aware, plain)]
    assert errors[0] < 0.7 * errors[1]


def test_no_neighbour_of_core_and_outputs_is_nearer():
    """Given the factors of the input side, the closed form is the optimum over U and G."""
    w, c = normal(5, 4, 2, 3), damped_inputs(moment(24))
    found = aware_hooi(w, c, (2, 2, 1, 2))
    best = output_error((w - found.whole()).flatten(1), c)
    for seed in range(20):
        outputs = found.factors[0] + 1e-3 * normal(*found.factors[0].shape, seed=seed)
        core = found.core + 1e-3 * normal(*found.core.shape, seed=seed + 99)
        near = found._replace(core=core, factors=(outputs, *found.factors[1:]))
        assert output_error((w - near.whole()).flatten(1), c) >= best


def test_whitened_values_are_those_of_numpy():
    w, c = normal(5, 4, 2, 3), moment(24)
    damped = damped_inputs(c).numpy()
    rows = w.numpy().reshape(5, -1)
    found = aware_spectra(w, c)
    root = np.linalg.cholesky(damped)
    np.testing.assert_allclose(found[0].numpy(), np.linalg.svd(rows @ root, compute_uv=False)[:5], rtol=1e-6)
    cut = damped.reshape(4, 2, 3, 4, 2, 3)
    for axis, own in enumerate((np.einsum("iyxjyx->ij", cut), np.einsum("iyxizx->yz", cut))):
        unfolded = np.moveaxis(w.numpy(), 1 + axis, 0).reshape(len(own), -1)
        wanted = np.linalg.svd(np.linalg.cholesky(own).T @ unfolded, compute_uv=False)
        np.testing.assert_allclose(found[1 + axis].numpy(), wanted, rtol=1e-6)


# The parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("aware", [False, True])
def test_with_all_of_the_kernel_it_is_tucker_and_at_full_rank_the_layer(name, aware):
    build_layer, size = LAYERS[name]
    torch.manual_seed(0)
    layer, x = build_layer().eval(), torch.randn(size)
    shape = shape_of(layer, 1, 1, 1)
    seen = Seen()
    if aware:
        _, traced, task = prepared(layer, x, data=True)
        (node,) = [n.name for n in traced.graph.nodes if n.op in ("conv1d", "conv2d", "conv3d")]
        seen = Seen(None, second_moments(traced, task.batches("calibration"), read=[node])[0][node])
    bias = layer.bias.detach() if layer.bias is not None else None
    ranks = largest(shape, FULL)
    fitted = fit(layer.weight.detach(), bias, shape, FULL, ranks, seen, centred=aware and bias is not None)
    split = build(layer, FULL, ranks)
    fill_(split, fitted.weights, fitted.bias)
    torch.testing.assert_close(split(x), layer(x), rtol=0, atol=1e-5)
    assert repr(split) == repr(build(layer, "tucker", ranks[:2]))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("level", [1, 2])
def test_at_lower_ranks_the_parts_are_what_they_stand_for_at_the_cost_that_is_said(name, level):
    build_layer, size = LAYERS[name]
    torch.manual_seed(0)
    model, x = nn.Sequential(build_layer()).eval(), torch.randn(size)
    before = prepared(model, x)
    (layer,) = Factorize(rank=2, method=FULL, **PLAIN).study(*before, TARGET).layers
    ranks = (3, 2, *(min(level, most) for most in largest(layer.shape, FULL)[2:]))
    bias = None if model[0].bias is None else model[0].bias.detach()
    fitted = fit(model[0].weight.detach(), bias, layer.shape, FULL, ranks, Seen(), centred=False)
    split = build(model[0], FULL, ranks)
    fill_(split, fitted.weights, fitted.bias)
    assert {type(part) for part in split} == {type(model[0])}
    assert [part.bias is not None for part in split] == [False] * (len(split) - 1) + [bias is not None]
    with torch.no_grad():
        model[0].weight.copy_(fitted.whole)
    torch.testing.assert_close(split(x), model(x), rtol=1e-4, atol=1e-5)
    found, graph = choice(layer, FULL, ranks), trace(split, before[2].example).graph
    assert (graph.macs, graph.parameters) == (found.macs, found.parameters)


def test_axes_behind_the_last_that_is_cut_stay_in_the_core():
    conv = nn.Conv3d(4, 6, (3, 5, 2), stride=(1, 2, 3), padding=(1, 2, 0))
    shape = shape_of(conv, 1, 1, 1)
    assert [cut_axes(shape, (4, 3, *own)) for own in ((3, 5, 2), (2, 5, 2), (3, 4, 2), (3, 5, 1))] == [0, 1, 2, 3]
    parts = build(conv, FULL, (4, 3, 3, 2, 2))
    assert [part.kernel_size for part in parts] == [(1, 1, 1), (3, 1, 1), (1, 5, 1), (1, 1, 2), (1, 1, 1)]
    assert [part.groups for part in parts] == [1, 3, 9, 1, 1]
    assert [part.out_channels for part in parts] == [3, 9, 18, 4, 6]
    assert [part.stride for part in parts] == [(1, 1, 1), (1, 1, 1), (1, 2, 1), (1, 1, 3), (1, 1, 1)]
    assert [part.padding for part in parts] == [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 0), (0, 0, 0)]


def test_only_kernels_have_it():
    for layer in (nn.Linear(6, 5), nn.Conv2d(4, 4, 1), nn.Embedding(9, 4)):
        shape = shape_of(layer, 1, 1, 1)
        assert not applies(shape, FULL)
        assert "svd has" in inapplicable(shape, FULL)


# Ranks ------------------------------------------------------------------------------------------------------------


def layer_of(module: nn.Module, x: Tensor, method: str):
    (layer,) = (
        Factorize(macs_ratio=1.5, method=method, **PLAIN).study(*prepared(nn.Sequential(module), x), TARGET).layers
    )
    return layer


def test_the_loss_of_a_choice_bounds_what_is_lost():
    conv = nn.Conv2d(6, 8, (3, 4))
    layer = layer_of(conv, torch.randn(1, 6, 8, 8), FULL)
    weight = conv.weight.detach().double()
    every = choices(layer, FULL, "macs", Multiple(1, True))
    assert len({one.ranks[2:] for one in every}) > 1
    for one in every:
        whole = fit(weight, None, layer.shape, FULL, one.ranks, Seen(), centred=False).whole
        assert float((weight - whole).square().sum() / weight.square().sum()) <= one.loss + 1e-9
    assert least_ranks(layer.shape, FULL, Multiple(2, False)) == (2, 2, 1, 1)


@pytest.mark.parametrize(("kernel", "dims", "core"), [(3, 2, 4 / 9), (5, 2, 4 / 25), (7, 2, 4 / 49), (3, 3, 8 / 27)])
def test_what_rank_two_saves_of_the_core_by_kernel(kernel, dims, core):
    """Beside Tucker-2 at the same channels: the core shrinks to (2/k)^d; the axes cost k r (2 + .. + 2^d) more."""
    conv = (nn.Conv2d, nn.Conv3d)[dims - 2](256, 256, kernel)
    shape = shape_of(conv, 1, 1, 1, [1] * (dims + 1))
    both = [stages(shape, "tucker", (64, 64)), stages(shape, FULL, (64, 64, *([2] * dims)))]
    inner = [sum(stage.macs(shape) for stage in one[1:-1]) for one in both]
    along = kernel * 64 * sum(2**axis for axis in range(1, dims + 1))
    assert inner[1] == round(core * inner[0]) + along
    assert [len(one) for one in both] == [3, 3 + dims]


@pytest.mark.parametrize(
    ("module", "size"),
    [(nn.Conv2d(16, 16, 5, padding=2), (1, 16, 12, 12)), (nn.Conv3d(12, 12, 3, padding=1), (1, 12, 6, 6, 6))],
)
def test_where_kernels_are_smooth_it_is_nearer_than_tucker_at_the_same_cost(module, size):
    smooth(module, 2)
    weight = module.weight.detach().double()
    left = []
    for method in ("tucker", FULL):
        layer = layer_of(module, torch.randn(size), method)
        budget = 0.4 * layer.shape.macs
        one = [c for c in choices(layer, method, "macs", Multiple(1, True)) if c.macs <= budget][-1]
        whole = fit(weight, None, layer.shape, method, one.ranks, Seen(), centred=False).whole
        left.append(float((weight - whole).norm() / weight.norm()))
    assert left[1] < 0.5 * left[0]


@pytest.mark.parametrize("wish", [{"macs_ratio": 2.5}, {"ratio": 0.6}, {"error": 0.4}, {"rank": "vbmf"}, {"rank": 2}])
def test_a_model_is_split_for_every_wish(wish):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 5)).eval()
    for layer in (model[0], model[3]):
        smooth(layer, 2)
    before = prepared(model, torch.randn(16, 3, 12, 12), data=True)
    after, plan = made(Factorize(method=FULL, **wish), *before)
    graph = trace(after, before[2].example).graph
    assert plan.actions
    assert (graph.macs, graph.parameters) == (plan.predicted.macs, plan.predicted.parameters)
    one = Factorize(method=FULL, **wish)
    structure = one.restructure(model, one.read_plan(plan.model_dump(mode="json")), before[1], before[2])
    assert [tuple(p.shape) for p in structure.parameters()] == [tuple(p.shape) for p in after.parameters()]


def test_at_a_fixed_rank_what_the_data_say_and_recovery_make_the_outputs_better():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 5)).eval()
    x = torch.nn.functional.interpolate(torch.randn(16, 4, 5, 5), scale_factor=2, mode="bilinear")
    before = prepared(model, x, data=True)

    def gap(**own: object) -> float:
        after = made(Factorize(rank=2, method=FULL, **own), *before)[0]
        return float((after(x) - model(x)).detach().square().mean())

    plain, aware = gap(**PLAIN), gap(recovery="none")
    assert aware < plain
    assert gap() < aware
    assert at_rank(shape_of(model[2], 1, 1, 1), FULL, 2) == (2, 2, 2, 2)


def test_chains_of_it_are_not_merged():
    with pytest.raises(ValueError, match="chains of full-tucker are not merged"):
        Factorize(method=FULL, macs_ratio=2, merge=True)
