"""Which channels stay: against plain loops, and the rules that hold whatever the scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.errors import GoalError
from lissom.functional.selection import rounded, select, select_to_budget

SCOPES = ["local", "global", "isomorphic"]


def scores_of(sizes: list[int], seed: int) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {f"g{i}": torch.rand(n, generator=made) * (i + 1) for i, n in enumerate(sizes)}


def classes_of(scores: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"class {i % 2}" for i, name in enumerate(scores)}


problems = st.tuples(
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
    st.integers(0, 1000),
    st.sampled_from(SCOPES),
    st.integers(0, 6),
    st.sampled_from([1, 2, 4, 8]),
)
ratios = st.one_of(st.floats(0.0, 0.99), st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9]))
quick = settings(max_examples=80, deadline=None)


# ---- against plain loops -------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 1000), ratios)
@quick
def test_local_keeps_the_best_of_every_group(sizes, seed, ratio):
    scores = scores_of(sizes, seed)
    for name, kept in select(scores, ratio).items():
        n = len(scores[name])
        count = max(1, n - math.ceil(ratio * n - 1e-9))
        best = sorted(range(n), key=lambda i: -float(scores[name][i]))[:count]
        assert kept == tuple(sorted(best))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 1000), ratios, st.integers(1, 4))
@quick
def test_global_cuts_the_worst_of_all_but_each_groups_best(sizes, seed, ratio, floor):
    scores = scores_of(sizes, seed)
    racing: list[tuple[float, str, int]] = []
    for name, values in scores.items():
        order = sorted(range(len(values)), key=lambda i: float(values[i]))
        racing += [(float(values[i]), name, i) for i in order[: max(0, len(order) - floor)]]
    gone = {(name, i) for _, name, i in sorted(racing)[: math.ceil(ratio * sum(sizes) - 1e-9)]}
    kept = select(scores, ratio, scope="global", floors=floor)
    for name, values in scores.items():
        assert kept[name] == tuple(i for i in range(len(values)) if (name, i) not in gone)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 1000), ratios)
@quick
def test_isomorphic_is_global_within_each_class(sizes, seed, ratio):
    scores = scores_of(sizes, seed)
    classes = classes_of(scores)
    kept = select(scores, ratio, scope="isomorphic", classes=classes)
    for wanted in set(classes.values()):
        alone = {name: values for name, values in scores.items() if classes[name] == wanted}
        assert {name: kept[name] for name in alone} == select(alone, ratio, scope="global")
    everything = dict.fromkeys(scores, "one")
    assert select(scores, ratio, scope="isomorphic", classes=everything) == select(scores, ratio, scope="global")


def test_groups_of_another_scale_are_not_wiped_out_in_the_isomorphic_scope():
    scores = {"conv1": torch.arange(1.0, 5), "conv2": torch.arange(2.0, 6), "fc": torch.arange(1.0, 9) / 1000}
    classes = {"conv1": "conv", "conv2": "conv", "fc": "linear"}
    assert select(scores, 0.5, scope="global") == {"conv1": (1, 2, 3), "conv2": (0, 1, 2, 3), "fc": (7,)}
    kept = select(scores, 0.5, scope="isomorphic", classes=classes)
    assert kept == {"conv1": (3,), "conv2": (1, 2, 3), "fc": (4, 5, 6, 7)}


# ---- rules ---------------------------------------------------------------------------------------------------------


@given(problems, ratios)
@quick
def test_floors_multiples_and_sizes_hold(problem, ratio):
    sizes, seed, scope, floor, multiple = problem
    scores = scores_of(sizes, seed)
    kept = select(scores, ratio, scope=scope, classes=classes_of(scores), floors=floor, round_to=multiple)
    assert list(kept) == list(scores)
    for name, indices in kept.items():
        n = len(scores[name])
        assert min(max(1, floor), n) <= len(indices) <= n
        assert len(indices) % multiple == 0 or len(indices) == n
        assert list(indices) == sorted(set(indices))
        assert all(0 <= i < n for i in indices)
        worst = min(float(scores[name][i]) for i in indices)
        assert all(float(scores[name][i]) <= worst for i in range(n) if i not in indices)


@given(problems, ratios)
@quick
def test_the_share_is_reached_where_the_floors_allow_it(problem, ratio):
    sizes, seed, scope, floor, multiple = problem
    scores = scores_of(sizes, seed)
    limits = {"scope": scope, "classes": classes_of(scores), "floors": floor, "round_to": multiple}
    kept, most = select(scores, ratio, **limits), select(scores, 0.999999, **limits)
    rankings = {"local": {n: n for n in scores}, "global": dict.fromkeys(scores, ""), "isomorphic": classes_of(scores)}
    for key in set(rankings[scope].values()):
        names = [name for name in scores if rankings[scope][name] == key]
        total = sum(len(scores[name]) for name in names)
        cut = total - sum(len(kept[name]) for name in names)
        assert cut >= ratio * total - 1e-6 or all(kept[name] == most[name] for name in names)


@given(problems, ratios, ratios)
@quick
def test_a_higher_ratio_keeps_a_subset(problem, one, other):
    sizes, seed, scope, floor, multiple = problem
    scores = scores_of(sizes, seed)
    limits = {"scope": scope, "classes": classes_of(scores), "floors": floor, "round_to": multiple}
    low, high = (select(scores, ratio, **limits) for ratio in sorted((one, other)))
    assert all(set(high[name]) <= set(low[name]) for name in scores)


@given(problems, ratios, st.randoms(use_true_random=False))
@quick
def test_the_order_of_the_channels_does_not_matter(problem, ratio, random):
    sizes, seed, scope, floor, multiple = problem
    scores = scores_of(sizes, seed)
    limits = {"scope": scope, "classes": classes_of(scores), "floors": floor, "round_to": multiple}
    orders = {name: random.sample(range(len(v)), len(v)) for name, v in scores.items()}
    kept = select(scores, ratio, **limits)
    moved = select({name: v[orders[name]] for name, v in scores.items()}, ratio, **limits)
    for name in scores:
        assert sorted(orders[name][i] for i in moved[name]) == list(kept[name])


@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_asked_nothing_cut(scope):
    scores = scores_of([10, 7, 1], 0)
    kept = select(scores, 0.0, scope=scope, classes=classes_of(scores), round_to=8)
    assert kept == {name: tuple(range(len(v))) for name, v in scores.items()}


@pytest.mark.parametrize(
    ("wish", "size", "floor", "multiple", "wanted"),
    [
        (10, 10, 1, 8, 10),
        (9, 10, 1, 8, 8),
        (7, 10, 1, 8, 8),
        (3, 5, 1, 8, 5),
        (9, 10, 9, 8, 10),
        (5, 20, 5, 4, 8),
        (0, 20, 1, 1, 1),
    ],
)
def test_rounding(wish, size, floor, multiple, wanted):
    assert rounded(wish, size, floor, multiple) == wanted


def test_rounding_does_not_cut_more_than_it_must():
    """Half of 32 channels: rounding one group down is enough, the other stays whole."""
    scores = {"a": torch.arange(16.0), "b": 100 + torch.arange(16.0)}
    assert {n: len(k) for n, k in select(scores, 0.1, scope="global", round_to=8).items()} == {"a": 8, "b": 16}
    assert {n: len(k) for n, k in select(scores, 0.3, scope="global", round_to=8).items()} == {"a": 8, "b": 8}


def test_ratios_floors_and_multiples_by_group():
    scores = {"a": torch.arange(8.0), "b": torch.arange(8.0)}
    kept = select(scores, {"a": 0.0, "b": 0.75}, floors={"a": 1, "b": 3}, round_to={"a": 1, "b": 2})
    assert kept == {"a": tuple(range(8)), "b": (4, 5, 6, 7)}


def test_equal_scores_go_by_group_and_index():
    scores = {"a": torch.ones(3), "b": torch.ones(3)}
    assert select(scores, 0.5, scope="global") == {"a": (2,), "b": (1, 2)}


# ---- budgets -------------------------------------------------------------------------------------------------------


def area(kept: Mapping[str, int]) -> float:
    """Like a chain of layers: each costs what it reads times what it makes."""
    counts = [3, *kept.values(), 10]
    return float(sum(a * b for a, b in itertools.pairwise(counts)))


@given(problems, st.floats(0.0, 1.0))
@quick
def test_a_budget_is_met_with_the_least_cut(problem, share):
    sizes, seed, scope, floor, multiple = problem
    scores = scores_of(sizes, seed)
    limits = {"scope": scope, "classes": classes_of(scores), "floors": floor, "round_to": multiple}
    full = area({name: len(v) for name, v in scores.items()})
    rankings = {*sizes, sum(sizes), sum(sizes[::2]), sum(sizes[1::2])} - {0}
    steps = sorted({0.0, *(k / n for n in rankings for k in range(n))})
    tried = {r: area({n: len(k) for n, k in select(scores, r, **limits).items()}) for r in (*steps, 0.9999999)}
    least = min(tried.values())
    budget = least + share * (full - least)
    calls = []
    chosen = select_to_budget(scores, lambda kept: calls.append(kept) or area(kept), budget, **limits)
    counts = {name: len(kept) for name, kept in chosen.kept.items()}
    assert chosen.cost == area(counts) <= budget
    # No ratio that cuts less is within the budget; what was given back can only have come closer to it.
    cut = select(scores, chosen.ratio, **limits)
    assert area({name: len(kept) for name, kept in cut.items()}) == max(c for c in tried.values() if c <= budget)
    assert all(set(cut[name]) <= set(chosen.kept[name]) for name in scores)
    assert multiple > 1 or cut == chosen.kept
    back = sum(-(-(counts[name] - len(kept)) // multiple) for name, kept in cut.items())
    assert len(calls) <= 3 + math.log2(sum(sizes) ** 2 + 2) + (back + len(sizes) if multiple > 1 else 0)


@given(problems, st.floats(0.0, 1.0))
@quick
def test_no_multiple_is_left_that_the_budget_allows(problem, share):
    sizes, seed, scope, floor, multiple = problem
    scores, multiple = scores_of(sizes, seed), max(2, multiple)
    limits = {"scope": scope, "classes": classes_of(scores), "floors": floor, "round_to": multiple}
    full = area({name: len(v) for name, v in scores.items()})
    least = area({name: len(k) for name, k in select(scores, 0.9999999, **limits).items()})
    budget = least + share * (full - least)
    chosen = select_to_budget(scores, area, budget, **limits)
    counts = {name: len(kept) for name, kept in chosen.kept.items()}
    for name, count in counts.items():
        assert count % multiple == 0 or count == len(scores[name])
        more = min(len(scores[name]), count // multiple * multiple + multiple)
        assert more == count or area({**counts, name: more}) > budget
    # As wide as the result: nothing more comes back, and its own cost as the budget gives it again or costs as much.
    assert select_to_budget(scores, area, budget, **limits) == chosen
    assert select_to_budget(scores, area, chosen.cost, **limits).cost <= chosen.cost


def test_a_coarse_group_does_not_take_the_others_with_it():
    """A stage's residual stream of 16 with nine blocks of 16 inside: each carries its share of the stream's cost."""
    made = torch.Generator().manual_seed(0)
    blocks = [f"block{i}" for i in range(9)]
    # One weak channel each: in eights, the first share that is cut at all takes half of every group of the ranking.
    scores = {name: torch.rand(16, generator=made) + 1 for name in ("stream", *blocks)}

    def macs(counts: Mapping[str, int]) -> float:
        return float(2 * counts["stream"] * sum(counts[name] for name in blocks))

    budget = macs(dict.fromkeys(scores, 16)) / 1.61
    bare = select(scores, select_to_budget(scores, macs, budget, scope="local", round_to=8).ratio, round_to=8)
    assert {len(kept) for kept in bare.values()} == {8}  # 4 times fewer instead of 1.61
    chosen = select_to_budget(scores, macs, budget, scope="local", round_to=8)
    # Half of the stream is 2 times fewer, all blocks whole; or the stream whole and seven of nine blocks halved.
    assert macs(dict.fromkeys(scores, 16)) / chosen.cost <= 2.0


def test_what_stands_highest_comes_back_first():
    scores = {"low": torch.arange(8.0), "mixed": torch.tensor([-1.0] + [30.0] * 7), "big": 7.5 + torch.arange(8.0)}

    def cost(counts: Mapping[str, int]) -> float:
        return float(counts["low"] + counts["mixed"] + 10 * counts["big"])

    # In fours, down from 96: first `mixed` (to 92), then `low` (88), and only `big` (48) is enough.
    for budget, wanted in ((51, (4, 4, 4)), (53, (4, 8, 4)), (65, (8, 8, 4)), (88, (4, 4, 8))):
        chosen = select_to_budget(scores, cost, budget, scope="global", round_to=4)
        assert tuple(map(len, chosen.kept.values())) == wanted
    # Alone, each group's channels stand the same in their rankings: the caller's order decides.
    local = select_to_budget(scores, cost, 53, scope="local", round_to=4)
    assert tuple(map(len, local.kept.values())) == (8, 4, 4)


def test_a_budget_that_is_already_met_cuts_nothing():
    scores = scores_of([8, 8], 0)
    chosen = select_to_budget(scores, area, 1e9, round_to=3)
    assert (chosen.ratio, {n: len(k) for n, k in chosen.kept.items()}) == (0.0, {"g0": 8, "g1": 8})


@pytest.mark.parametrize("scope", SCOPES)
def test_an_unreachable_budget_says_what_is_reachable(scope):
    scores = scores_of([8, 8], 0)
    said = r"A number of MACs of 40 is out of reach: .* it is 68, uncut 168\. Wish for at least 68, lower the floors"
    with pytest.raises(GoalError, match=said):
        select_to_budget(
            scores, area, 40, scope=scope, classes=classes_of(scores), floors=3, round_to=2, what="number of MACs"
        )
    floor = select_to_budget(scores, lambda k: area(k) + 12, 80, scope=scope, classes=classes_of(scores), floors=4)
    assert floor.cost == 80


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"ratio": 1.0}, r"share to cut, in \[0, 1\), got 1\.0"),
        ({"ratio": -0.1}, r"got -0\.1"),
        ({"ratio": math.nan}, r"got nan"),
        ({"ratio": {"a": 0.5}, "scope": "global"}, "needs scope 'local', got 'global'"),
        ({"ratio": {"b": 0.5}}, "'a' has no ratio; given for b"),
        ({"ratio": 0.5, "scope": "isomorphic"}, "needs the class of every group"),
        ({"ratio": 0.5, "scope": "isomorphic", "classes": {}}, "'a' has no class; given for none"),
        ({"ratio": 0.5, "floors": {"b": 1}}, "'a' has no floor"),
        ({"ratio": 0.5, "scores": {"a": torch.ones(0)}}, r"'a' must have the shape \(channels,\)"),
        ({"ratio": 0.5, "scores": {"a": torch.tensor([math.nan])}}, "hold no NaN"),
    ],
)
def test_wrong_input_is_explained(arguments, said):
    with pytest.raises(ValueError, match=said):
        select(**{"scores": {"a": torch.ones(4)}, **arguments})
