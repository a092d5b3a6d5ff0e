"""Losses on outputs: against scipy and numpy, finite differences, and the limits that they are said to have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from torch import Tensor

from lissom.functional import distillation as d

TARGET = torch.tensor([2, 0, 4, 1])

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": lambda z, t: d.kl(z, t, 4.0),
    "decoupled": lambda z, t: d.decoupled(z, t, TARGET, 4.0, 1.0, 8.0),
    "standardized": lambda z, t: d.standardized(z, t, 2.0),
    "correlation": lambda z, t: d.correlation(z, t, 1.0, 1.0, 2.0),
    "top_k": lambda z, t: d.top_k(z, t, 3.0, 2),
    "bernoulli": lambda z, t: d.bernoulli(z, t, 2.0),
    "squared": d.squared,
}


def logits(seed: int = 0, rows: int = 4, classes: int = 5, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, t = (scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return z, t


def soft(x: Tensor, temperature: float) -> np.ndarray:
    return special.softmax(x.numpy() / temperature, axis=1)


def entropies(p: np.ndarray, q: np.ndarray) -> float:
    """Mean over the rows of KL(p, q)."""
    return float(special.rel_entr(p, q).sum(1).mean())


@pytest.mark.parametrize("name", LOSSES)
def test_zero_where_both_agree_and_not_elsewhere(name: str) -> None:
    z, t = logits()
    assert float(LOSSES[name](t, t)) == 0.0
    assert float(LOSSES[name](z, t)) > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    z, t = logits(1)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, t), (z.requires_grad_(),))


@pytest.mark.parametrize("name", LOSSES)
def test_finite_for_answers_without_spread_and_for_certain_ones(name: str) -> None:
    sure = 500.0 * F.one_hot(TARGET, 5).float()
    for z, t in ((torch.zeros(4, 5), sure), (sure, torch.zeros(4, 5)), (sure, sure.flip(1))):
        z = z.clone().requires_grad_()
        loss = LOSSES[name](z, t)
        loss.backward()
        assert loss.isfinite()
        assert z.grad is not None
        assert z.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_scipys(temperature: float) -> None:
    z, t = logits(2)
    wanted = temperature**2 * entropies(soft(t, temperature), soft(z, temperature))
    assert float(d.kl(z, t, temperature)) == pytest.approx(wanted, rel=1e-12)


def test_a_mean_over_the_classes_would_be_seen() -> None:
    """`reduction="mean"` is as many times too small as there are classes."""
    z, t = logits(2)
    wrong = 16 * F.kl_div(F.log_softmax(z / 4, 1), F.softmax(t / 4, 1), reduction="none").mean()
    right = 16 * F.kl_div(F.log_softmax(z / 4, 1), F.softmax(t / 4, 1), reduction="batchmean")
    assert float(d.kl(z, t, 4.0)) == pytest.approx(float(right), rel=1e-12)
    assert float(right / wrong) == pytest.approx(5.0)


def test_the_gradient_of_kl_is_the_derived_one_and_its_scale_does_not_depend_on_the_temperature() -> None:
    z, t = logits(3)
    z, t = z - z.mean(1, keepdim=True), t - t.mean(1, keepdim=True)

    def gradient(temperature: float) -> Tensor:
        x = z.clone().requires_grad_()
        return torch.autograd.grad(d.kl(x, t, temperature), x)[0]

    for temperature in (1.0, 5.0):
        wanted = temperature * (soft(z, temperature) - soft(t, temperature)) / 4
        np.testing.assert_allclose(gradient(temperature).numpy(), wanted, rtol=1e-9, atol=1e-12)
    for temperature in (1e3, 1e4):  # z - t over n c, whatever T
        torch.testing.assert_close(gradient(temperature), (z - t) / 20, rtol=0.02, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 20.0), st.integers(2, 40), st.floats(1e-4, 50.0))
def test_kl_is_never_negative(seed: int, temperature: float, classes: int, scale: float) -> None:
    z, t = (x.float() for x in logits(seed, classes=classes, scale=scale))
    noise = 1e-5 * temperature**2
    whole = float(d.kl(z, t, temperature))
    assert whole >= -noise
    assert float(d.kl(t + 1e-4 * (z - t), t, temperature)) >= -noise
    merged = float(d.top_k(z, t, temperature, 3))
    assert -noise <= merged <= whole + noise + 1e-5 * whole


def test_decoupled_is_the_papers_definition_and_adds_up_to_kl() -> None:
    z, t = logits(4)
    p, q = soft(t, 4.0), soft(z, 4.0)
    rows, target = np.arange(4), TARGET.numpy()
    pt, qt = p[rows, target], q[rows, target]
    tckd = special.rel_entr(pt, qt) + special.rel_entr(1 - pt, 1 - qt)
    rest = np.ones_like(p, bool)
    rest[rows, target] = False
    nckd = special.rel_entr(p[rest].reshape(4, 4) / (1 - pt)[:, None], q[rest].reshape(4, 4) / (1 - qt)[:, None]).sum(1)
    wanted = 16 * (1.0 * tckd + 8.0 * nckd).mean()
    assert float(d.decoupled(z, t, TARGET, 4.0, 1.0, 8.0)) == pytest.approx(wanted, rel=1e-10)
    assert float(d.kl(z, t, 4.0)) == pytest.approx(16 * (tckd + (1 - pt) * nckd).mean(), rel=1e-10)


def test_standardized_is_kl_of_z_scores_and_ignores_shift_and_scale() -> None:
    z, t = logits(5)
    left, right = (torch.from_numpy(stats.zscore(x.numpy(), axis=1)) for x in (z, t))
    assert float(d.standardized(z, t, 2.0)) == pytest.approx(4 * entropies(soft(right, 2), soft(left, 2)), rel=1e-6)
    assert float(d.standardized(3.0 * t + 7.0, t, 2.0)) == pytest.approx(0.0, abs=1e-12)


def test_correlation_is_pearsons_over_rows_and_columns() -> None:
    z, t = logits(6)
    q, p = soft(z, 2.0), soft(t, 2.0)
    rows = np.mean([1 - stats.pearsonr(a, b)[0] for a, b in zip(q, p, strict=True)])
    columns = np.mean([1 - stats.pearsonr(a, b)[0] for a, b in zip(q.T, p.T, strict=True)])
    wanted = 4 * (1.5 * rows + 0.5 * columns)
    assert float(d.correlation(z, t, 2.0, 1.5, 0.5)) == pytest.approx(wanted, rel=1e-5)


def test_top_k_merges_what_the_teacher_finds_unlikely() -> None:
    z, t = logits(7, classes=9)
    p, q = soft(t, 3.0), soft(z, 3.0)
    best = np.argsort(-p, 1)[:, :3]

    def merged(x: np.ndarray) -> np.ndarray:
        top = np.take_along_axis(x, best, 1)
        return np.concatenate([top, 1 - top.sum(1, keepdims=True)], 1)

    assert float(d.top_k(z, t, 3.0, 3)) == pytest.approx(9 * entropies(merged(p), merged(q)), rel=1e-10)
    for k in (8, 9, 50):
        assert float(d.top_k(z, t, 3.0, k)) == pytest.approx(float(d.kl(z, t, 3.0)), rel=1e-10)


def test_bernoulli_is_scipys_over_examples_and_labels() -> None:
    z, t = logits(8)
    p, q = special.expit(t.numpy() / 2), special.expit(z.numpy() / 2)
    wanted = 4 * (special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)).mean()
    assert float(d.bernoulli(z, t, 2.0)) == pytest.approx(wanted, rel=1e-10)


def test_squared_is_numpys() -> None:
    z, t = logits(9)
    assert float(d.squared(z, t)) == pytest.approx(np.mean((z.numpy() - t.numpy()) ** 2), rel=1e-12)


def test_several_teachers_are_the_mean_of_their_probabilities() -> None:
    several = torch.stack([*logits(10), logits(11)[0]])
    wanted = np.mean([soft(one, 1.0) for one in several], 0)
    np.testing.assert_allclose(soft(d.mean_probabilities(several), 1.0), wanted, rtol=1e-10)
    chances = special.expit(several.numpy()).mean(0)
    np.testing.assert_allclose(special.expit(d.mean_chances(several).numpy()), chances, rtol=1e-10)
    torch.testing.assert_close(d.mean_chances(several[:1]), several[0])


def test_agreement_counts_equal_answers() -> None:
    assert d.agreement(torch.eye(3), torch.eye(3)[[0, 2, 2]]).tolist() == [1.0, 0.0, 1.0]


# Boxes ------------------------------------------------------------------------------------------------------


def some_boxes(seed: int, count: int = 40) -> Tensor:
    """Corners on a grid of 12 x 12 cells."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 8, (count, 2), generator=generator)
    size = torch.randint(1, 5, (count, 2), generator=generator)
    return torch.cat([low, low + size], 1).double()


def cells(x1: int, y1: int, x2: int, y2: int) -> set[tuple[int, int]]:
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def counted_giou(left: list[int], right: list[int]) -> float:
    a, b = cells(*left), cells(*right)
    around = cells(*(min(left[i], right[i]) for i in (0, 1)), *(max(left[i], right[i]) for i in (2, 3)))
    return len(a & b) / len(a | b) - (len(around) - len(a | b)) / len(around)


def test_generalized_iou_is_that_of_counted_cells() -> None:
    left, right = some_boxes(0), some_boxes(1)
    wanted = [counted_giou(a, b) for a, b in zip(left.int().tolist(), right.int().tolist(), strict=True)]
    assert min(wanted) < 0 < max(wanted)
    assert d.generalized_iou(left, right).tolist() == pytest.approx(wanted)
    assert torch.equal(d.generalized_iou(left, left), torch.ones(40, dtype=torch.float64))


def test_boxes_are_weighed_by_certainty_and_have_no_unit() -> None:
    left, right, sure = (
        some_boxes(2),
        some_boxes(3),
        torch.rand(40, generator=torch.Generator().manual_seed(4)).double(),
    )
    giou = d.generalized_iou(left, right)
    wanted = np.average(1 - giou.numpy(), weights=sure.numpy())
    assert float(d.boxes(left, right, sure)) == pytest.approx(wanted)
    assert float(d.boxes(100 * left, 100 * right, 0.01 * sure)) == pytest.approx(wanted)
    assert float(d.boxes(left, right, 0 * sure)) == 0.0
    left = left + 0.25  # away from ties, where the maximum has no derivative
    assert torch.autograd.gradcheck(lambda x: d.boxes(x, right, sure), (left.requires_grad_(),))


def test_a_box_without_area_still_learns_where_to_go() -> None:
    student = torch.tensor([[3.0, 3.0, 3.0, 3.0]], requires_grad=True)
    d.boxes(student, torch.tensor([[3.0, 3.0, 3.0, 3.0]]), torch.ones(1)).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    student = torch.tensor([[0.0, 0.0, 1.0, 1.0]], requires_grad=True)
    d.boxes(student, torch.tensor([[5.0, 5.0, 6.0, 6.0]]), torch.ones(1)).backward()
    assert student.grad is not None
    assert (student.grad[0, 2:] < 0).all(), "it grows towards the teacher's"


def test_centres_and_certainty() -> None:
    assert d.corners(torch.tensor([[2.0, 3.0, 2.0, 4.0]])).tolist() == [[1.0, 1.0, 3.0, 5.0]]
    scores = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(d.certainty(scores, None), 1 / (1 + (-scores.max(-1).values).exp()))
    torch.testing.assert_close(d.certainty(scores, -1), scores.softmax(-1)[..., :2].sum(-1))
