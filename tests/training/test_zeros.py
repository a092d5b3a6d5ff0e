"""Sparsity survives training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import lissom
from lissom.training.finetune import finetune
from lissom.training.settings import Training


def sparse() -> tuple[nn.Module, lissom.Task]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 3))
    with torch.no_grad():
        model[0].weight[:, ::2] = 0  # partly zero: pruned
        model[2].bias[0] = 0  # a vector: no mask
        model[4].weight.zero_()  # all zero: a start, not a mask
    data = [(torch.randn(16, 6), torch.randint(3, (16,))) for _ in range(4)]
    return model, lissom.Task(example_inputs=(data[0][0],), train=data, loss=F.cross_entropy)


def trained(*, keep_zeros: bool = True) -> nn.Module:
    model, task = sparse()
    return finetune(
        model, task, Training(epochs=2, learning_rate=0.1, precision="float32", keep_zeros=keep_zeros)
    ).model


def test_zeros_of_a_pruned_matrix_stay() -> None:
    after = trained()
    assert torch.equal(after.get_parameter("0.weight") == 0, sparse()[0].get_parameter("0.weight") == 0)
    assert (after.get_parameter("2.bias") != 0).all()
    assert (after.get_parameter("4.weight") != 0).any()


def test_they_may_be_let_go() -> None:
    assert (trained(keep_zeros=False).get_parameter("0.weight") != 0).all()
