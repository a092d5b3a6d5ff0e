"""One `Prune` as several: the product is what was wished for, whatever the schedule and the number of steps."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import lissom
from lissom import Factorize, Finetune, Fold, Prune, Quantize, Recipe, progressive
from lissom.errors import RecipeError
from lissom.pipeline import transforming
from lissom.progression import GENTLE, remaining
from lissom.target import load_target
from lissom.task import Task
from small_models import build

BUDGETS = ("macs_ratio", "parameters_ratio", "size_ratio")
schedules = st.sampled_from(["linear", "cubic", "cosine"])
wishes = st.one_of(
    st.floats(0.0, 0.93).map(lambda ratio: {"ratio": ratio}),
    st.tuples(st.sampled_from(BUDGETS), st.floats(1.0, 15.0)).map(lambda one: {one[0]: one[1]}),
)
between, final = Finetune(epochs=2), Finetune(epochs=9)


def left_of(prune: Prune) -> float:
    (value,) = (v for name in ("ratio", *BUDGETS) if (v := getattr(prune, name)) is not None)
    return 1.0 - value if prune.ratio is not None else 1.0 / value


def prunes(steps: Any) -> list[Prune]:
    return [step for step in steps if isinstance(step, Prune)]


@given(wishes, schedules, st.none() | st.integers(1, 12), st.floats(0.0, 0.99))
@example({"ratio": 1e-8}, "linear", 2, 0.5)
def test_the_product_is_the_wish(wish, schedule, steps, most):
    whole = Prune(**wish, max_ratio=most, exclude=("head",), round_to=4)
    found = prunes(progressive(whole, between, steps=steps, schedule=schedule))
    assert math.prod(map(left_of, found)) == pytest.approx(left_of(whole), rel=1e-9)
    assert math.prod(1 - one.max_ratio for one in found) == pytest.approx(1 - most, rel=1e-9)
    assert all(0 < left_of(one) <= 1 for one in found)
    names = dict.fromkeys(("ratio", *BUDGETS)) | {"max_ratio": 0.0}
    assert {one.model_copy(update=names) for one in found} == {whole.model_copy(update=names)}
    assert [Prune.model_validate(one.model_dump()) for one in found] == found
    if steps is not None:
        assert len(found) == steps


@given(wishes, schedules)
def test_left_to_itself_it_takes_the_fewest_gentle_steps(wish, schedule):
    whole = Prune(**wish)
    count = len(prunes(progressive(whole, between, schedule=schedule)))
    for steps, gentle in ((count, True), (count - 1, False)):
        if steps:
            found = prunes(progressive(whole, between, steps=steps, schedule=schedule))
            assert all(1 - left_of(one) <= GENTLE + 1e-8 for one in found) is gentle


@given(st.floats(0.01, 1.0), st.integers(1, 30), schedules)
def test_what_is_left_never_grows(left, steps, schedule):
    found = remaining(left, steps, schedule)
    assert found[0] == 1.0
    assert found[-1] == left
    assert len(found) == steps + 1
    assert all(b <= a for a, b in pairwise(found))


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [("linear", [0.25, 0.5, 0.75, 1]), ("cubic", [37 / 64, 56 / 64, 63 / 64, 1]), ("cosine", None)],
)
def test_the_schedules_are_what_the_formulas_say(schedule, wanted):
    wanted = wanted or [(1 - math.cos(math.pi * k / 4)) / 2 for k in range(1, 5)]
    gone = [(1 - x) / 0.8 for x in remaining(0.2, 4, schedule)][1:]
    assert gone == pytest.approx(wanted)


def test_training_stands_after_every_step_and_the_final_one_after_the_last():
    steps = progressive(Prune(ratio=0.5), between, steps=3, final=final)
    assert [type(step) for step in steps] == [Prune, Finetune] * 3
    assert [step for step in steps if isinstance(step, Finetune)] == [between, between, final]
    assert progressive(Prune(ratio=0.5), between, steps=2)[-1] == between
    assert progressive(Prune(ratio=0.2), between, final=final) == (Prune(ratio=0.2), final)
    assert lissom.progressive is progressive


def test_a_recipe_file_is_expanded_when_it_is_read(tmp_path: Path):
    data = [
        {"Fold": {}},
        {
            "Progressive": {
                "prune": {"macs_ratio": 2.5},
                "between": {"epochs": 2},
                "steps": 3,
                "schedule": "cubic",
                "final": {"epochs": 9},
            }
        },
        {"Quantize": {}},
    ]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    read = Recipe.read(tmp_path / "r.yaml")
    steps = progressive(Prune(macs_ratio=2.5), between, steps=3, schedule="cubic", final=final)
    assert read == Recipe([Fold(), *steps, Quantize()])
    assert [step.name for step in read.steps] == ["Fold", *["Prune", "Finetune"] * 3, "Quantize"]
    again = Recipe.from_data(read.to_data())
    assert again == read
    assert again.id == read.id


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"between": {}}, "step 1, Progressive: Progressive needs exactly one of prune, factorize, got none"),
        ({"prune": {"ratio": 0.5}}, "the field 'between' is missing"),
        ({"prune": {"ratio": 0.5}, "between": {}, "shedule": "cubic"}, "Did you mean 'schedule'"),
        ({"prune": {"ratio": 0.5}, "between": {}, "schedule": "agp"}, "'linear', 'cubic' or 'cosine', got 'agp'"),
        ({"prune": {"ratio": 0.5}, "between": {}, "steps": 0}, "steps: .*got 0"),
        ({"prune": {}, "between": {}}, "exactly one of ratio"),
        ({"prune": {"ratio": 0.5, "criterium": "l1"}, "between": {}}, "prune.criterium"),
        (
            {"prune": {"ratio": 0.999}, "between": {}},
            "ratio=0.999 leaves 0.10%: with schedule='linear', .* more than 100",
        ),
        (None, "the field 'between' is missing"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(settings, said):
    with pytest.raises(RecipeError, match=said):
        Recipe.from_data([{"Progressive": settings}])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cut": Fold()}, r"progressive\(cut=\.\.\.\) is Fold\(\), not a Prune or Factorize"),
        ({"cut": Factorize(rank=4)}, "progressive divides an amount, and this Factorize"),
        ({"cut": Prune(latency_ratio=2)}, "has none that can be counted"),
        ({"between": Quantize()}, "between=.*not a Finetune"),
        ({"final": 3}, r"progressive\(final=\.\.\.\) is 3, not a Finetune"),
        ({"steps": -1}, "steps: .*got -1"),
        ({"schedule": "exponential"}, "schedule: .*got 'exponential'"),
    ],
)
def test_what_is_wrong_in_a_call_is_named(given, said):
    arguments: dict[str, Any] = {"cut": Prune(ratio=0.5), "between": between, **given}
    cut, train = arguments.pop("cut"), arguments.pop("between")
    with pytest.raises(RecipeError, match=said):
        progressive(cut, train, **arguments)


def test_an_unknown_step_may_be_a_misspelt_progressive():
    with pytest.raises(RecipeError, match="Did you mean 'Progressive'"):
        Recipe.from_data([{"Progresive": {}}])


def test_carried_out_it_cuts_what_was_wished_for():
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(12, 3, 8, 8, generator=generator), torch.arange(12) % 5) for _ in range(2)]
    model, example = build("residual")
    task = Task(example_inputs=example.args, train=data, loss=nn.functional.cross_entropy)
    train = Finetune(epochs=1, learning_rate=0.01, precision="float32", channels_last=False)
    recipe = Recipe(progressive(Prune(macs_ratio=2.0, max_ratio=0.75), train, schedule="linear"))
    carried = transforming.transform(model, task, recipe, load_target("torch"))
    costs = [step.plan.predicted.macs for step in carried if step.plan.transform == "Prune"]
    assert len(costs) == 3
    assert costs == sorted(costs, reverse=True)
    assert lissom.analyze(model, task).macs / costs[-1] >= 2.0
    assert lissom.analyze(carried[-1].model, task).macs == costs[-1]


def test_ranks_fall_to_what_one_step_would_have_chosen():
    """Every step splits the merged layers anew: chains do not grow, and each budget is kept."""
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(12, 3, 8, 8, generator=generator), torch.arange(12) % 5) for _ in range(2)]
    model, example = build("residual")
    task = Task(example_inputs=example.args, train=data, loss=nn.functional.cross_entropy)
    train = Finetune(epochs=1, learning_rate=0.01, precision="float32", channels_last=False)
    whole = Factorize(macs_ratio=1.6, round_to=1, recovery="none", data_aware=False)
    steps = progressive(whole, train, steps=2)
    assert [(one.macs_ratio, one.merge) for one in steps if isinstance(one, Factorize)] == [
        (pytest.approx(1 / (1 - 0.5 * (1 - 1 / 1.6))), False),
        (pytest.approx(1.6), True),
    ]
    carried = transforming.transform(model, task, Recipe(steps), load_target("torch"))
    dense = lissom.analyze(model, task).macs
    for step in carried[::2]:
        assert step.plan.predicted.macs <= dense / step.transform.macs_ratio
        assert step.plan.predicted.macs == lissom.analyze(step.model, task).macs
    first, last = ({a.layer: a for a in step.plan.actions} for step in carried[::2])
    assert set(first) <= set(last)
    assert sum(a.macs_after for a in last.values()) < sum(a.macs_after for a in first.values())
    built = steps[2].restructure(carried[1].model, carried[2].plan, carried[2].trace, task)
    built.load_state_dict(carried[2].model.state_dict())


def test_a_file_may_factorize_in_steps():
    read = Recipe.from_data([{"Progressive": {"factorize": {"ratio": 0.5}, "between": {"epochs": 2}, "steps": 2}}])
    assert [one.ratio for one in read.steps if isinstance(one, Factorize)] == [0.25, 0.5]
    with pytest.raises(RecipeError, match="got prune and factorize"):
        Recipe.from_data([{"Progressive": {"prune": {"ratio": 0.5}, "factorize": {"ratio": 0.5}, "between": {}}}])
