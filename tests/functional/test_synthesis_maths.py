"""Losses of a synthesizer and signs of collapse, against closed forms and numpy."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.autograd import gradcheck

from lissom.functional import synthesis as maths

Z = torch.tensor([[2.0, 0.0, -1.0], [0.5, 3.0, 1.0]], dtype=torch.float64)


def softmax(logits: Tensor) -> np.ndarray:
    raised = np.exp(logits.numpy())
    return raised / raised.sum(1, keepdims=True)


def test_confidence_is_the_surprise_of_the_likeliest_or_the_wanted_class() -> None:
    p = softmax(Z)
    assert maths.confidence(Z).item() == pytest.approx(-np.log(p.max(1)).mean())
    assert maths.confidence(Z, torch.tensor([2, 0])).item() == pytest.approx(-(np.log(p[0, 2]) + np.log(p[1, 0])) / 2)
    assert maths.confidence(torch.zeros(5, 4)).item() == pytest.approx(math.log(4))
    assert maths.confidence(100 * torch.eye(3)).item() == pytest.approx(0, abs=1e-6)


def test_imbalance_is_that_of_the_mean_not_the_mean_of_each() -> None:
    mean = softmax(Z).mean(0)
    assert maths.imbalance(Z).item() == pytest.approx((mean * np.log(mean)).sum())
    sure_of_each = 100 * torch.eye(4)
    assert maths.imbalance(sure_of_each).item() == pytest.approx(-math.log(4))
    assert maths.imbalance(sure_of_each[:1].repeat(4, 1)).item() == pytest.approx(0, abs=1e-6)


def test_statistics_are_zero_for_the_moments_remembered_and_one_for_the_scale_of_each_layer() -> None:
    value = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
    numbers = value.numpy()
    mean, var = torch.tensor(numbers.mean((0, 2, 3))), torch.tensor(numbers.var((0, 2, 3)))
    assert maths.statistics([value], [mean], [var]).item() == pytest.approx(0, abs=1e-12)
    far = np.linalg.norm(numbers.mean((0, 2, 3)) - 2) + np.linalg.norm(numbers.var((0, 2, 3)) - 3)
    two, three = torch.full((3,), 2.0, dtype=torch.float64), torch.full((3,), 3.0, dtype=torch.float64)
    assert maths.statistics([value], [two], [three], scaled=False).item() == pytest.approx(far)
    each = maths.statistics([value], [two], [three]).item()
    shrunk = maths.statistics([value / 7], [two / 7], [three / 49]).item()
    assert shrunk == pytest.approx(each)
    assert maths.statistics([value, value], [two, mean], [three, var]).item() == pytest.approx(each / 2)


def test_roughness_is_the_mean_step_between_neighbours() -> None:
    ramp = torch.arange(5.0)[None, None, None].expand(2, 1, 3, 5)
    assert maths.roughness(ramp).item() == pytest.approx((0 + 1) / 2)
    assert maths.roughness(torch.ones(2, 3, 4)).item() == 0
    assert maths.roughness(torch.randn(2, 3)).item() == 0


def test_activation_size_and_disagreement_are_means() -> None:
    other = Z.flip(1)
    assert maths.activation(Z).item() == pytest.approx(-np.abs(Z.numpy()).mean())
    assert maths.size(Z).item() == pytest.approx(np.square(Z.numpy()).mean())
    assert maths.disagreement(Z, other).item() == pytest.approx(np.abs((Z - other).numpy()).mean())


@pytest.mark.parametrize(
    "loss", [maths.confidence, maths.imbalance, maths.activation, maths.size, lambda z: maths.roughness(z[None])]
)
def test_gradients_are_those_of_finite_differences(loss: object) -> None:
    assert gradcheck(loss, (Z.clone().requires_grad_(),))


def test_warping_moves_what_the_map_says_and_repeats_edges() -> None:
    images = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(maths.warped(images, torch.zeros(2, 2, 3)), images, atol=1e-6)
    left = torch.zeros(2, 2, 3)
    left[1, 0, 2] = 2 / 8
    found = maths.warped(images, left)
    assert torch.allclose(found[0], images[0], atol=1e-6)
    assert torch.allclose(found[1, :, :, :-1], images[1, :, :, 1:], atol=1e-5)
    assert torch.allclose(found[1, :, :, -1], images[1, :, :, -1], atol=1e-5)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_balance_is_one_where_classes_are_even_and_lies_between(classes: list[int]) -> None:
    found = maths.balance(torch.tensor(classes), 5)
    counts = np.bincount(classes, minlength=5) / len(classes)
    entropy = -(counts[counts > 0] * np.log(counts[counts > 0])).sum()
    most = np.log(min(len(classes), 5))
    assert found == pytest.approx(entropy / most if most else 1.0)
    assert -1e-12 <= found <= 1 + 1e-12
    assert maths.balance(torch.arange(10) % 5, 5) == pytest.approx(1)


def test_spread_is_zero_for_one_example_repeated_and_the_root_of_two_for_independent_ones() -> None:
    drawn = torch.randn(200, 3, 20, generator=torch.Generator().manual_seed(1))
    assert maths.spread(drawn) == pytest.approx(math.sqrt(2), rel=0.01)
    assert maths.spread(drawn[:1].repeat(9, 1, 1)) == pytest.approx(0)
    assert maths.spread(torch.zeros(4, 3)) == 0
    assert maths.spread(5 * drawn) == pytest.approx(maths.spread(drawn))


def test_turns_take_one_of_every_class_first() -> None:
    classes = torch.tensor([2, 2, 2, 0, 1, 0, 2])
    assert classes[maths.in_turns(classes)].tolist() == [2, 0, 1, 2, 0, 2, 2]
    assert sorted(maths.in_turns(classes).tolist()) == list(range(7))
