"""The matrix, and what it leaves of a search."""

from __future__ import annotations

import pytest

from lissom.advise import SCENARIOS, scenario_of
from lissom.advise.scenarios import searched_of
from lissom.search import Point, Space
from lissom.search.opening import restricted
from lissom.target import known_targets

SPACE = Space(
    precision=("float32", "float16", "int8", "dynamic", "int4"),
    depth=(0.0, 0.25),
    prune=(1.0, 2.0),
    rank=(1.0, 1.6),
    epochs=(0, 3),
)


def test_names_are_unique_and_targets_exist() -> None:
    assert len({one.name for one in SCENARIOS}) == len(SCENARIOS) == 7
    assert {target for one in SCENARIOS for target in one.targets} <= set(known_targets())


@pytest.mark.parametrize(
    ("name", "dimensions", "precisions"),
    [
        ("mobile", ("precision", "prune"), ("float32", "int8", "dynamic")),
        ("realtime", ("precision", "depth", "prune"), ("float32", "int8", "dynamic")),
        ("edge", ("precision", "rank"), ("float32", "int8", "dynamic")),
        ("gpu", ("precision",), ("float32", "float16", "int8")),
        ("memory", ("precision",), ("float32", "float16", "int8", "int4")),
    ],
)
def test_a_search_keeps_to_the_scenario(name: str, dimensions: tuple[str, ...], precisions: tuple[str, ...]) -> None:
    found = restricted(SPACE, *searched_of(scenario_of(name)), "not asked for")
    assert (found.open, found.precision, found.epochs) == (dimensions, precisions, (0, 3))
    shut = {one for one in ("depth", "prune", "rank") if one not in dimensions} | set(SPACE.precision) - set(precisions)
    assert found.closed == dict.fromkeys(shut, "not asked for")
    assert set(found.points()) <= set(SPACE.points())
    assert Point() in set(found.points())
