"""Strokes along level lines, against distances that are known."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from lissom.functional.drawing import drawings, strokes, window


@pytest.mark.parametrize("slope", [0.2, 3.0])
@pytest.mark.parametrize("half", [0.7, 1.5])
def test_a_stroke_is_as_wide_as_was_said_whatever_the_slope_of_the_field(slope: float, half: float) -> None:
    """f = slope (x - 10.3): the distance to its zero line is |x - 10.3|."""
    x = torch.arange(21.0)
    field = (slope * (x - 10.3)).expand(1, 1, 9, 21)
    found = strokes(field, torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), half))[0, 0]
    wanted = (half - (x - 10.3).abs() + 0.5).clamp(0, 1).expand(9, 21)
    torch.testing.assert_close(found[:, 1:-1], wanted[:, 1:-1], atol=5e-3, rtol=0)
    moved = strokes(field, torch.full((1, 1, 1, 1), 2 * slope), torch.full((1, 1, 1, 1), half))[0, 0]
    torch.testing.assert_close(moved[:, 3:-1], wanted[:, 1:-3], atol=5e-3, rtol=0)


def test_a_flat_field_has_no_line() -> None:
    assert strokes(torch.ones(1, 1, 5, 5), torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).sum() == 0


def test_a_window_is_one_inside_its_ellipse_and_nothing_outside() -> None:
    centre, radius = torch.tensor([[0.2, 0.0]])[:, :, None, None], torch.tensor([[0.5, 0.8]])[:, :, None, None]
    found = window(41, 41, centre, radius)[0, 0]
    down, right = torch.meshgrid(torch.linspace(-1, 1, 41), torch.linspace(-1, 1, 41), indexing="ij")
    far = ((down - 0.2) / 0.5) ** 2 + (right / 0.8) ** 2
    assert bool((found[far >= 1] == 0).all())
    assert bool((found[far <= 1 - 1 / 8] == 1).all())


@given(st.integers(4, 40), st.integers(4, 40), st.integers(0, 2**20))
def test_drawings_of_any_size_follow_from_the_seed_and_are_ink(height: int, width: int, seed: int) -> None:
    first, again = (drawings(3, height, width, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert first.shape == (3, 1, height, width)
    assert torch.equal(first, again)
    assert 0 <= first.amin() <= first.amax() <= 1
