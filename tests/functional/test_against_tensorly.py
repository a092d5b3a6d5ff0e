"""Factors of a tensor beside those of tensorly, a peer; left out where it is not installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lissom.functional import cp, tensortrain, tucker

peer: Any = pytest.importorskip("tensorly")
decomposition: Any = pytest.importorskip("tensorly.decomposition")


@pytest.fixture(autouse=True)
def _torch():
    with peer.backend_context("pytorch"):
        yield


def kernel(seed: int, sizes: tuple[int, ...] = (12, 10, 3, 3)) -> Tensor:
    """With a falling spectrum, as trained ones have it."""
    draws = torch.Generator().manual_seed(seed)
    made = torch.randn(sizes, generator=draws, dtype=torch.float64)
    for axis in (0, 1):
        scale = 0.7 ** torch.arange(sizes[axis], dtype=torch.float64)
        basis, _ = torch.linalg.qr(torch.randn(sizes[axis], sizes[axis], generator=draws, dtype=torch.float64))
        made = torch.tensordot(basis * scale, made.movedim(axis, 0), 1).movedim(0, axis)
    return made


def error(wanted: Tensor, got: Tensor) -> float:
    return float((wanted - got).norm() / wanted.norm())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ranks", [(3, 4), (6, 5), (12, 2)])
def test_tucker_is_as_near_as_its_partial_tucker(seed: int, ranks: tuple[int, int]) -> None:
    weight = kernel(seed)
    (core, factors), _ = decomposition.partial_tucker(weight, rank=list(ranks), modes=[0, 1], tol=1e-9)
    theirs = peer.tenalg.multi_mode_dot(core, factors, modes=[0, 1])
    assert error(weight, tucker.tucker(weight, ranks).weight()) <= error(weight, theirs) * 1.001


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ranks", [(2, 3, 2), (5, 6, 3)])
def test_a_tensor_train_is_the_same_tensor(seed: int, ranks: tuple[int, ...]) -> None:
    tensor = kernel(seed)
    theirs = decomposition.tensor_train(tensor, rank=[1, *ranks, 1])
    ours = tensortrain.train(tensor, ranks)
    assert [tuple(core.shape) for core in ours] == [tuple(core.shape) for core in theirs.factors]
    # The same cuts in the same order: truncated singular vectors are unique up to their sign.
    assert error(theirs.to_tensor(), tensortrain.joined(ours)) < 1e-10


@pytest.mark.parametrize("seed", range(3))
def test_cp_is_as_near_as_its_alternating_least_squares(seed: int) -> None:
    weight = kernel(seed, (8, 7, 3, 3))
    theirs = decomposition.parafac(weight.flatten(2), rank=4, init="svd", n_iter_max=400, tol=1e-10)
    near = error(weight.flatten(2), peer.cp_to_tensor(theirs))
    assert error(weight, cp.cp(weight, 4).weight()) <= near * 1.02
