"""Second moments as norms: against numpy, and where fewer rows were seen than there are inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lissom.functional.svd import decompose
from lissom.functional.whitening import axis_root, damped_inputs, whitened_basis


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_root_is_that_of_the_moment_of_one_axis(axis):
    rows = normal(50, 24)
    c = rows.T @ rows
    cut = c.numpy().reshape(4, 2, 3, 4, 2, 3)
    wanted = np.einsum(("iyxjyx->ij", "iyxizx->yz", "iyxiyz->xz")[axis], cut)
    root = axis_root(c, (4, 2, 3), axis).numpy()
    np.testing.assert_allclose(root @ root.T, wanted)


@pytest.mark.parametrize("centred", [False, True])
def test_few_rows_in_float32_can_be_whitened(centred):
    """Their second moment has eigenvalues below zero where nothing was seen, the more if a mean is taken out."""
    rows = (normal(40, 600) + 5.0).float()
    c = (rows.T @ rows).double()
    if centred:
        mean = rows.double().mean(0)
        c = c - len(rows) * torch.outer(mean, mean)
    assert float(torch.linalg.eigvalsh(c).min()) < 0
    damped = damped_inputs(c)
    assert centred or float(torch.linalg.eigvalsh(damped).min()) > 0
    assert float((damped - c).norm() / c.norm()) < 1e-4
    for sizes in ((100, 6), (600, 1)):
        root = axis_root(damped, sizes, 0)
        wanted = torch.einsum("anbn->ab", c.reshape(*sizes, *sizes))
        assert float((root @ root.T - wanted).norm() / wanted.norm()) < 1e-4


def test_the_basis_keeps_most_of_the_whitened_rows():
    rows, c = normal(6, 20), damped_inputs(normal(9, 6).T @ normal(9, 6))
    root = torch.linalg.cholesky(c)
    basis = whitened_basis(rows, root, 3)
    torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64))
    # The projection along the basis, orthogonal in the norm of C, leaves out what the SVD of S' W leaves out.
    inner = torch.linalg.solve(basis.T @ c @ basis, basis.T @ c @ rows)
    left = root.T @ (rows - basis @ inner)
    values = decompose(root.T @ rows)[1]
    assert float(left.square().sum()) >= float(values[3:].square().sum()) - 1e-9
