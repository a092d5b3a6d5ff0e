"""Scores of channels: each against a loop over numpy numbers, and what holds for all of them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.functional import importance as imp

SINGLE = {
    "l1": lambda w: imp.magnitude(w, 1),
    "l2": lambda w: imp.magnitude(w, 2),
    "gradient": imp.gradient_magnitude,
    "median distance": imp.median_distance,
    "lamp": imp.lamp,
    "dissimilarity": imp.dissimilarity,
}
PAIRED = {
    "taylor": imp.taylor,
    "fisher": lambda w, g: imp.fisher(w, g.square()),
}
DEGREE = {"l1": 1, "l2": 1, "gradient": 1, "median distance": 1, "lamp": 0, "dissimilarity": 0}
"""Power of k that the scores grow with when the member is multiplied by k."""

drawn = st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(0, 10_000))


def member(channels: int, rest: int, seed: int) -> Tensor:
    return torch.randn(channels, rest, generator=torch.Generator().manual_seed(seed))


def close(got: Tensor, wanted: object, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(got.numpy(), np.asarray(wanted, dtype=np.float64), rtol=rtol, atol=1e-12)


# ---- formulas, one channel at a time -------------------------------------------------------------------------------


@given(drawn)
@settings(max_examples=40, deadline=None)
def test_scores_are_what_the_formulas_say(shape):
    w, g = member(*shape), member(*shape[:2], shape[2] + 1)
    a, b = w.double().numpy(), g.double().numpy()
    rows = range(len(a))
    close(imp.magnitude(w, 1), [sum(abs(x) for x in a[c]) for c in rows])
    close(imp.magnitude(w, 2), [math.sqrt(sum(x * x for x in a[c])) for c in rows])
    close(imp.gradient_magnitude(g), [sum(abs(x) for x in b[c]) for c in rows])
    close(imp.contribution(w, g), [sum(x * y for x, y in zip(a[c], b[c], strict=True)) for c in rows])
    close(imp.taylor(w, g), [sum(x * y for x, y in zip(a[c], b[c], strict=True)) ** 2 for c in rows])
    close(imp.fisher(w, g**2), [sum((a[c][i] * b[c][i]) ** 2 / 2 for i in range(a.shape[1])) for c in rows], 1e-6)
    close(imp.scale_magnitude(w[:, 0]), abs(a[:, 0]))
    close(imp.median_distance(w), [sum(np.linalg.norm(a[c] - a[j]) for j in rows) for c in rows], 1e-6)
    energy = (a * a).sum(1)
    close(imp.lamp(w), [energy[c] / sum(e for e in energy if e >= energy[c]) for c in rows])
    close(imp.dissimilarity(w), one_by_one(a))


def one_by_one(a: np.ndarray) -> list[float]:
    """The most similar pair first, its smaller channel goes; what is left is looked at anew."""
    norm, left, scores = np.linalg.norm(a, axis=1), list(range(len(a))), [2.0] * len(a)
    while len(left) > 1:
        cosine, i, j = max((a[i] @ a[j] / norm[i] / norm[j], i, j) for i in left for j in left if i != j)
        gone = i if norm[i] < norm[j] else j
        scores[gone] = 1 - cosine
        left.remove(gone)
    return scores


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("p", [1, 2])
def test_the_norms_of_all_slices_are_those_of_the_slices(axis: int, p: Literal[1, 2]):
    weight = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    slices = weight.double().movedim(axis, 0).flatten(1)
    close(imp.slice_norms(weight, axis, p), imp.magnitude(slices, p).tolist(), 1e-6)
    close(imp.slice_norms(weight[0, 0], 0, p), weight[0, 0].abs().double().tolist(), 1e-6)


def test_norms_that_float32_cannot_hold_are_taken_in_float64():
    weight = torch.full((2, 3), 1e30)
    close(imp.slice_norms(weight, 0, 2), [math.sqrt(3) * 1e30] * 2, 1e-6)
    with pytest.raises(ValueError, match="finite"):
        imp.slice_norms(torch.tensor([[1.0, math.nan]]), 0, 2)


def test_taylor_is_the_change_of_a_loss_that_is_linear_in_the_weights():
    """First order is exact there: the score is the square of what zeroing the channel does to the loss."""
    w, slope = member(5, 4, 0).double(), member(5, 4, 1).double()
    w.requires_grad_()
    loss = (w * slope).sum()
    (g,) = torch.autograd.grad(loss, w)
    for c in range(5):
        cut = w.detach().clone()
        cut[c] = 0
        assert float(imp.taylor(w, g)[c]) == pytest.approx(float((cut * slope).sum() - loss.detach()) ** 2)


def test_fisher_is_the_change_of_a_quadratic_loss_with_diagonal_hessian():
    w, h = member(5, 4, 0).double(), member(5, 4, 1).double().square()
    for c in range(5):
        cut = w.clone()
        cut[c] = 0
        # A loss at its minimum w: 1/2 sum h (v - w)^2.
        assert float(imp.fisher(w, h)[c]) == pytest.approx(float((h * (cut - w) ** 2).sum() / 2))


def test_weights_behind_a_training_normalization_contribute_nothing():
    """The pitfall the docstring names."""
    w = member(4, 6, 0).double().requires_grad_()
    x = member(32, 6, 1).double()
    out = torch.nn.functional.batch_norm(x @ w.T, None, None, training=True, eps=1e-12)
    (g,) = torch.autograd.grad((out * member(32, 4, 2)).sum(), w)
    assert float(imp.gradient_magnitude(g).min()) > 0.1
    assert float(imp.contribution(w, g).abs().max()) < 1e-9


def test_the_middle_channel_goes_first_by_median_distance():
    w = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert int(imp.median_distance(w).argmin()) == 0
    assert int(imp.magnitude(w + 10).argmin()) == 2, "magnitude does not see it"


def test_equal_channels_have_no_distance_and_no_novelty():
    w = member(1, 500, 0).repeat(3, 1) * 1000
    assert imp.median_distance(w).tolist() == [0, 0, 0]
    close(imp.dissimilarity(torch.cat([w, 2 * w[:1], -w[:1], 0 * w[:1]])), [0, 0, 0, 2, 2, 0])
    assert float(imp.dissimilarity(w[:1])) == 2


def test_of_two_channels_alike_the_larger_stays():
    """Both would go at once if each were judged by the other, and what they say would be lost."""
    w = member(4, 50, 0)
    alike = torch.cat([w, 0.5 * w[:2] + 1e-3])
    scores = imp.dissimilarity(alike)
    assert scores.argsort()[:2].sort().values.tolist() == [4, 5]
    assert float(scores[:2].min()) > 0.5


def test_random_scores_depend_on_the_seed_alone():
    one = imp.random_scores(50, 3)
    torch.rand(7)
    assert torch.equal(one, imp.random_scores(50, 3))
    assert not torch.equal(one, imp.random_scores(50, 4))
    assert 0 <= float(one.min()) < 0.2 < 0.8 < float(one.max()) < 1


# ---- what holds for all --------------------------------------------------------------------------------------------


@given(drawn, st.permutations(range(7)))
@settings(max_examples=40, deadline=None)
def test_scores_are_not_negative_and_follow_a_permutation(shape, order):
    w, g = member(*shape), member(*shape[:2], shape[2] + 1)
    order = [i for i in order if i < len(w)]
    found = {name: (f(w), f(w[order])) for name, f in SINGLE.items()}
    found |= {name: (f(w, g), f(w[order], g[order])) for name, f in PAIRED.items()}
    for name, (before, after) in found.items():
        assert before.shape == (len(w),), name
        assert before.dtype == torch.float64, name
        assert bool((before >= 0).all()), name
        close(after, before[order], 1e-6)


@given(drawn, st.floats(0.01, 100.0))
@settings(max_examples=40, deadline=None)
def test_scale_laws(shape, k):
    w, g = member(*shape).double(), member(*shape[:2], shape[2] + 1).double()
    for name, f in SINGLE.items():
        close(f(k * w), (k ** DEGREE[name] * f(w)), 1e-6)
    # Gradients with respect to k w are g / k: scores that estimate a loss do not depend on the unit of the weight.
    for f in PAIRED.values():
        close(f(k * w, g / k), f(w, g))


@given(drawn)
@settings(max_examples=20, deadline=None)
def test_lamp_keeps_the_order_of_magnitude(shape):
    w = member(*shape)
    order = imp.magnitude(w, 2).argsort()
    assert bool((imp.lamp(w)[order].diff() >= 0).all())
    assert float(imp.lamp(w).max()) == pytest.approx(1.0)


# ---- activations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_activity_sums_what_batches_hold(axis):
    values = torch.relu(torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)))
    whole = imp.activity(values, axis)
    rows = np.moveaxis(values.numpy(), axis, 0).reshape(values.shape[axis], -1)
    close(imp.mean_activation(whole), np.abs(rows).mean(1), 1e-6)
    close(imp.active_share(whole), (rows > 0).mean(1))
    close(whole.square / whole.values, (rows.astype(np.float64) ** 2).mean(1))
    parts = values.split(2, (axis + 1) % 3)
    merged = imp.activity(parts[0], axis)
    for part in parts[1:]:
        merged = merged.merge(imp.activity(part, axis))
    for a, b in zip(merged[:3], whole[:3], strict=True):
        close(a, b)
    assert merged.values == whole.values


def test_reconstruction_is_the_error_of_cutting_one_uncorrelated_channel():
    x = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 2.0, 0.0], [1.0, -2.0, 3.0], [-1.0, -2.0, 3.0]])
    first, second = member(5, 3, 0), member(2, 3, 1)
    got = imp.reconstruction(imp.activity(x, 1), [first.T, second.T])
    for c in range(3):
        cut = x.clone()
        cut[:, c] = 0
        error = sum(float(((x - cut) @ w.T).square().sum()) for w in (first, second)) / len(x)
        assert float(got[c]) == pytest.approx(error, rel=1e-5)


# ---- groups --------------------------------------------------------------------------------------------------------


def test_members_are_reduced():
    scores = [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.5, 4.0])]
    wanted = {"sum": [4, 2.5, 4], "mean": [2, 1.25, 2], "max": [3, 2, 4], "product": [3, 1, 0], "first": [1, 2, 0]}
    for how, expected in wanted.items():
        close(imp.reduce_members(scores, how), expected)
        close(imp.reduce_members(scores[:1], how), scores[0])


def test_groups_are_normalized():
    s = torch.tensor([1.0, 4.0, 3.0, 0.0])
    close(imp.normalize(s, "none"), s)
    close(imp.normalize(s, "mean"), s / 2)
    close(imp.normalize(s, "max"), s / 4)
    close(imp.normalize(s, "gaussian"), (s.numpy() - 2) / s.numpy().std(), 1e-6)
    close(imp.normalize(s, "lamp"), [1 / 8, 1, 3 / 7, 0])
    close(imp.normalize(torch.tensor([2.0, 2.0, 1.0]), "lamp"), [0.5, 0.5, 0.2])


@given(drawn, st.sampled_from(["none", "mean", "max", "gaussian", "lamp"]), st.floats(0.01, 100.0))
@settings(max_examples=60, deadline=None)
def test_normalizing_keeps_the_order_and_forgets_the_scale(shape, how, k):
    s = imp.magnitude(member(*shape))
    done = imp.normalize(s, how)
    assert torch.equal(done.argsort(), s.argsort())
    if how != "none":
        close(imp.normalize(k * s, how), done, 1e-6)


@pytest.mark.parametrize("how", ["none", "mean", "max", "gaussian", "lamp"])
def test_dead_and_lone_groups_stay_finite(how):
    assert imp.normalize(torch.zeros(4), how).tolist() == [0, 0, 0, 0]
    assert bool(imp.normalize(torch.tensor([3.0]), how).isfinite().all())


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: imp.magnitude(torch.ones(3)), r"shape \(channels, rest\).*got \(3,\)"),
        (lambda: imp.magnitude(torch.ones(0, 3)), r"neither zero; got \(0, 3\)"),
        (lambda: imp.magnitude(torch.tensor([[math.nan]])), "got NaN or infinite"),
        (lambda: imp.taylor(torch.ones(2, 3), torch.ones(3, 2)), r"weight \(2, 3\) and gradient \(3, 2\)"),
        (lambda: imp.reduce_members([], "sum"), "at least one member"),
        (lambda: imp.reduce_members([torch.ones(2), torch.ones(3)], "sum"), r"got \[\(2,\), \(3,\)\]"),
        (lambda: imp.reconstruction(imp.activity(torch.ones(2, 3), 1), []), "at least one layer"),
        (lambda: imp.reconstruction(imp.activity(torch.ones(2, 3), 1), [torch.ones(4, 2)]), "4 channels, .* 3"),
        (lambda: imp.mean_activation(imp.activity(torch.ones(0, 3), 1)), "no activation has been seen"),
    ],
)
def test_wrong_input_is_explained(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()
