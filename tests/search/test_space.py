"""Points stand for recipes that can be carried out, one each."""

from __future__ import annotations

import pydantic
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from lissom import Finetune, Prune
from lissom.search import Point, Space
from lissom.search.space import GENTLE, Precision

POINTS = list(synthetic.SPACE.points())


def test_every_point_is_another_recipe():
    recipes = [synthetic.SPACE.recipe(p.with_(epochs=e)).id for p in POINTS for e in synthetic.SPACE.epochs]
    assert len(set(recipes)) == len(recipes) == synthetic.SPACE.size * 3


@given(st.sampled_from(POINTS))
def test_levels_lead_back_to_the_point(point):
    assert synthetic.SPACE.at(synthetic.SPACE.levels(point)) == point


@pytest.mark.parametrize(
    ("precision", "step"),
    [
        ("float32", "Fold"),
        ("float16", "Quantize(mode=static, precision=16)"),
        ("int8", "Quantize(mode=static)"),
        ("dynamic", "Quantize(mode=dynamic)"),
        ("int4", "Quantize(mode=static, weight_bits=4)"),
    ],
)
def test_precisions(precision: Precision, step: str):
    assert Space().recipe(Point(precision=precision)).title.split(" > ")[-1] == step


@pytest.mark.parametrize(
    ("ratio", "epochs", "cuts"), [(1.4, 30, 1), (4.0, 30, 4), (4.0, 7, 2), (4.0, 2, 1), (2.0, 0, 1)]
)
def test_with_training_enough_no_cut_takes_more_than_is_gentle(ratio, epochs, cuts):
    steps = Space().recipe(Point(prune=ratio, epochs=epochs)).steps
    ratios = [s.macs_ratio for s in steps if isinstance(s, Prune)]
    assert len(ratios) == cuts
    assert sum(s.epochs for s in steps if isinstance(s, Finetune)) == epochs
    product = 1.0
    for one in ratios:
        product *= one
    assert product == pytest.approx(ratio)
    if cuts > 2:
        # Steps take equal shares of what the original has, so the last ones take more of what they find.
        assert 1.0 - 1.0 / ratios[0] <= GENTLE


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prune": (1.5, 2.0)}, "prune must begin with 1.0, which changes nothing"),
        ({"prune": (1.0, 3.0, 2.0)}, "prune must rise without repetition"),
        ({"precision": ("int8",)}, "precision must begin with 'float32'"),
        ({"epochs": ()}, "epochs must begin with 0"),
    ],
)
def test_a_space_begins_with_the_model_as_it_is(wrong, says):
    with pytest.raises(pydantic.ValidationError, match=says):
        Space(**wrong)
