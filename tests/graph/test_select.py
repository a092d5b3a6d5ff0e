"""Layer patterns."""

from __future__ import annotations

import pytest

from lissom.errors import RecipeError
from lissom.graph.select import select

NAMES = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer10.0.conv1", "fc"]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("conv1", {"conv1"}),
        ("layer1.*", {"layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1"}),
        ("*.conv1", {"layer1.0.conv1", "layer1.1.conv1", "layer10.0.conv1"}),
        ("layer?.[01].conv2", {"layer1.0.conv2"}),
        ("*", set(NAMES)),
    ],
)
def test_shell_patterns(pattern, wanted):
    assert select(iter(NAMES), [pattern], "x") == wanted


def test_patterns_add_up_and_none_selects_nothing():
    assert select(NAMES, ["fc", "conv1", "fc"], "x") == {"fc", "conv1"}
    assert select(NAMES, [], "x") == frozenset()


def test_a_pattern_that_matches_nothing_gives_the_nearest():
    with pytest.raises(RecipeError) as wrong:
        select(NAMES, ["conv1", "layer1.0.convv1"], "Quantize(exclude=...)")
    assert str(wrong.value).startswith("Quantize(exclude=...): the pattern 'layer1.0.convv1' matches no layer. Did you")
    assert "'layer1.0.conv1'" in str(wrong.value)


def test_patterns_are_case_sensitive_and_whole():
    for pattern in ("FC", "layer1", "onv1"):
        with pytest.raises(RecipeError, match="matches no layer"):
            select(NAMES, [pattern], "x")


def test_far_off_names_list_everything():
    with pytest.raises(RecipeError, match=r"Known: a, b\."):
        select(["a", "b"], ["something else"], "x")
