"""How far the outputs of two modules that should compute the same are apart."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.utils import _pytree as pytree

from lissom.graph.trace import evaluation
from lissom.task import Batch

ALLOWED_GAP = 1e-4
"""Of the largest output: what float32 sums in another order may differ by, through a deep network."""


def outputs(module: nn.Module, batch: Batch) -> list[torch.Tensor]:
    """What a module makes in evaluation mode, flat; the inputs are not written into."""
    args, kwargs = pytree.tree_map(
        lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, (batch.args, dict(batch.kwargs))
    )
    with evaluation(module):
        return tensors_in(module(*args, **kwargs))


def apart(wanted: torch.Tensor, got: torch.Tensor) -> float:
    """Largest gap as a share of the largest value; infinite for other shapes or types, and other numbers that are not
    floats."""
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return math.inf
    if wanted.numel() and wanted.is_floating_point():
        return _gap(wanted.double(), got.double())
    return 0.0 if torch.equal(wanted, got) else math.inf


def _gap(wanted: torch.Tensor, got: torch.Tensor) -> float:
    """As a share of the largest finite value; infinite where one is NaN or infinite and the other is not the same."""
    finite = wanted.isfinite() & got.isfinite()
    same = (wanted == got) | (wanted.isnan() & got.isnan())
    if not bool((finite | same).all()):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    scale = float(wanted[finite].abs().max().clamp_min(1e-30))
    return float((wanted[finite] - got[finite]).abs().max()) / scale


def tensors_in(made: object) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, torch.Tensor)]
