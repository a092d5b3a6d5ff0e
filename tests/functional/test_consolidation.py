"""One quadratic for many tasks: the same as their sum, up to a constant."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.functional.consolidation import faded, penalty, summed


def drawn(seed: int, tasks: int) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 4), "b": (2,)}

    def some() -> dict[str, Tensor]:
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    return [({name: value.square() for name, value in some().items()}, some()) for _ in range(tasks)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(1, 4))
def test_the_sum_of_quadratics(seed: int, tasks: int) -> None:
    held = drawn(seed, tasks)
    fisher: dict[str, Tensor] = {}
    pull: dict[str, Tensor] = {}
    for found, centre in held:
        fisher, pull = summed(fisher, pull, found, centre)

    def plain(weights: dict[str, Tensor]) -> Tensor:
        return sum((f[n] * (weights[n] - c[n]).square()).sum() for f, c in held for n in weights) / 2  # type: ignore[return-value]

    here, there = (drawn(seed + k, 1)[0][1] for k in (1000, 2000))
    difference = penalty(here, fisher, pull) - penalty(there, fisher, pull)
    assert float(difference) == pytest.approx(float(plain(here) - plain(there)), rel=1e-3, abs=1e-3)


def test_the_online_form_is_centred_on_the_last_and_fades() -> None:
    (first, a), (second, b) = drawn(0, 2)
    fisher, pull = faded({}, first, a, 0.5)
    assert float(penalty(a, fisher, pull)) == pytest.approx(0.0, abs=1e-10)
    fisher, pull = faded(fisher, second, b, 0.5)
    assert float(penalty(b, fisher, pull)) == pytest.approx(0.0, abs=1e-10)
    assert torch.allclose(fisher["a"], 0.5 * first["a"] + second["a"])


def test_weights_that_nothing_needs_are_free() -> None:
    nothing = {"a": torch.zeros(3)}
    weights = torch.full((3,), 7.0, requires_grad=True)
    value = penalty({"a": weights}, nothing, nothing)
    value.backward()
    assert value.item() == 0.0
    assert weights.grad is not None
    assert weights.grad.abs().sum() == 0
