"""Losses on inner values: against numpy, finite differences, and the scale that they are said to share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from torch import Tensor

from lissom.functional import features as f

Loss = Callable[[Tensor, Tensor], Tensor]
FREE: dict[str, Loss] = {
    "attention": f.attention,
    "selectivity": f.selectivity,
    "similarity": f.similarity,
    "distances": f.distances,
    "angles": f.angles,
}
"""Any number of channels."""


def flow(s: Tensor, a: Tensor) -> Tensor:
    return f.flow((s[:, :2], s), (a[:, :2], a))


ALL: dict[str, Loss] = {**FREE, "hint": f.hint, "flow": flow, "context": f.context}


def maps(seed: int = 0, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    s = torch.randn(4, channels, 6, generator=generator, dtype=torch.float64)
    return s, torch.randn(4, 3, 6, generator=generator, dtype=torch.float64)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", ALL)
def test_zero_where_both_agree_and_not_elsewhere(name: str) -> None:
    s, a = maps()
    assert float(ALL[name](a, a)) == pytest.approx(0.0, abs=1e-12)
    assert float(ALL[name](s, a)) > 0.01


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    s, a = maps(1)
    assert torch.autograd.gradcheck(lambda x: ALL[name](x, a), (s.requires_grad_(),))


@pytest.mark.parametrize("name", ALL)
def test_one_weight_serves_all_sizes_of_maps(name: str) -> None:
    """Neither more positions nor larger values change the scale; noise costs about as much as it can."""
    found: list[float] = []
    for positions, size in ((4, 1.0), (256, 1.0), (64, 100.0)):
        generator = torch.Generator().manual_seed(positions)
        s, a = (size * torch.randn(16, 8, positions, generator=generator).relu() for _ in range(2))
        found.append(float(ALL[name](s, a)))
        assert float(ALL[name](torch.zeros_like(s), a)) <= 1.01
    assert all(0.0 < value < 3.0 for value in found)


@pytest.mark.parametrize("name", ALL)
def test_dead_maps_have_finite_gradients(name: str) -> None:
    _, a = maps(2)
    for s, wanted in ((torch.zeros_like(a), a), (a.clone(), torch.zeros_like(a))):
        s.requires_grad_()
        loss = ALL[name](s, wanted)
        loss.backward()
        assert s.grad is not None
        assert s.grad.isfinite().all()


@pytest.mark.parametrize("name", FREE)
def test_channels_may_differ_in_number(name: str) -> None:
    s, a = maps(3, channels=5)
    assert FREE[name](s, a).isfinite()


def test_hint_and_flow_are_relative_errors() -> None:
    s, a = (x.numpy() for x in maps(4))
    wanted = np.mean([np.sum((x - y) ** 2) / np.sum(y**2) for x, y in zip(s, a, strict=True)])
    assert float(f.hint(*maps(4))) == pytest.approx(wanted, rel=1e-9)
    gs, ga = (np.einsum("nap,nbp->nab", x[:, :2], x) / 6 for x in (s, a))
    wanted = np.mean([np.sum((x - y) ** 2) / np.sum(y**2) for x, y in zip(gs, ga, strict=True)])
    assert float(flow(*maps(4))) == pytest.approx(wanted, rel=1e-6)


def test_context_is_a_pyramid_of_errors() -> None:
    generator = torch.Generator().manual_seed(11)
    s, a = (torch.randn(3, 2, 8, 8, generator=generator, dtype=torch.float64).numpy() for _ in range(2))

    def pooled(x: np.ndarray, fields: int) -> np.ndarray:
        return x.reshape(3, 2, fields, 8 // fields, fields, 8 // fields).mean((3, 5))

    each = [
        w * ((pooled(s, n) - pooled(a, n)) ** 2).mean((1, 2, 3))
        for n, w in ((8, 1), (4, 1 / 2), (2, 1 / 4), (1, 1 / 8))
    ]
    wanted = np.mean(sum(each) / (1 + 1 / 2 + 1 / 4 + 1 / 8) / (a**2).mean((1, 2, 3)))
    assert float(f.context(torch.as_tensor(s), torch.as_tensor(a))) == pytest.approx(wanted, rel=1e-9)
    small = [torch.as_tensor(x[:, :, :2, :2]) for x in (s, a)]  # the map itself, and its mean
    one = ((small[0] - small[1]) ** 2).mean((1, 2, 3)) + 0.5 * ((small[0] - small[1]).mean((2, 3)) ** 2).mean(1)
    assert float(f.context(*small)) == pytest.approx(
        float((one / 1.5 / (small[1] ** 2).mean((1, 2, 3))).mean()), rel=1e-9
    )


def test_attention_is_one_minus_a_cosine() -> None:
    s, a = (unit((x.numpy() ** 2).sum(1)) for x in maps(5))
    assert float(f.attention(*maps(5))) == pytest.approx(1 - (s * a).sum(1).mean(), rel=1e-9)


def test_selectivity_is_the_sum_over_pairs_of_channels() -> None:
    def mean_kernel(left: np.ndarray, right: np.ndarray) -> float:
        return float(np.mean([(x @ y) ** 2 for x in left for y in right]))

    s, a = (unit(x.numpy()) for x in maps(6, channels=2))
    each = [
        (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)) / mean_kernel(y, y)
        for x, y in zip(s, a, strict=True)
    ]
    assert float(f.selectivity(*maps(6, channels=2))) == pytest.approx(np.mean(each), rel=1e-5)


def test_similarity_is_tungs_up_to_the_scale_that_is_documented() -> None:
    s, a = maps(7)
    gs, ga = (unit(x.numpy().reshape(4, -1) @ x.numpy().reshape(4, -1).T) for x in (s, a))
    published = np.sum((gs - ga) ** 2) / 4**2
    assert float(f.similarity(s, a)) == pytest.approx(published * 4 / 2, rel=1e-9)


def huber(x: np.ndarray) -> float:
    x = np.abs(x)
    return float(np.where(x < 1, 0.5 * x**2, x - 0.5).mean())


def test_relations_are_parks() -> None:
    s, a = (x.numpy().reshape(4, -1) for x in maps(8))
    psi = [pdist(x) / pdist(x).mean() for x in (s, a)]
    assert float(f.distances(*maps(8))) == pytest.approx(huber(psi[0] - psi[1]), rel=1e-5)

    def cosines(x: np.ndarray) -> np.ndarray:
        return np.array([unit(x[i] - x[j]) @ unit(x[k] - x[j]) for i, j, k in permutations(range(4), 3)])

    assert float(f.angles(*maps(8))) == pytest.approx(huber(cosines(s) - cosines(a)), rel=1e-9)


def test_too_few_examples_have_no_relations() -> None:
    s, a = maps(9)
    for loss in (f.distances, f.angles):
        assert [float(loss(s[:n], a[:n])) for n in (1, 2)] == pytest.approx([0.0, 0.0], abs=1e-9)
        assert float(loss(s[:3], a[:3])) > 0.0
