"""`Supernet` as a step: plans, refusals, search, resumption, and what may follow it in a recipe."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.transforms.elastic_nets import images, net, task
from torch import nn

import lissom
from lissom.errors import GoalError, RecipeError
from lissom.functional.reward import reward
from lissom.graph.agreement import apart
from lissom.graph.trace import trace
from lissom.pipeline.recording import done_text, step_records
from lissom.pipeline.transforming import dry_run, transform
from lissom.target import load_target
from lissom.training.settings import Training
from lissom.transforms.architecture import Choose, Supernet
from lissom.transforms.architecture.axes import Axis
from lissom.transforms.architecture.candidates import Aim, Candidate, Searcher, front, searched
from lissom.transforms.architecture.space import Space, Subnet
from lissom.transforms.base import Work
from lissom.transforms.pruning import Cut

TORCH = load_target("torch")
ONCE = Training(epochs=1, learning_rate=0.05, precision="float32")


def small(**given: object) -> Supernet:
    settings = {"macs_ratio": 2.0, "training": ONCE, "candidates": 6, "depth": 0.7, "samples": 32}
    return Supernet.model_validate({**settings, **given})


# Reward ---------------------------------------------------------------------------------------------------------


def test_the_reward_is_that_of_the_paper() -> None:
    # Twice the latency is worth five percent of the accuracy: 2 ** -0.07 = 0.9526.
    assert reward(0.76, 160.0, 80.0) == pytest.approx(0.76 * 0.95264, rel=1e-4)
    assert reward(0.5, 80.0, 80.0) == 0.5
    assert reward(0.5, 40.0, 80.0, soft=False, exponent=-1.0) == 0.5
    assert reward(0.5, 160.0, 80.0, soft=False, exponent=-1.0) == 0.25
    assert reward(0.5, 40.0, 80.0) == pytest.approx(0.5 * math.exp(0.07 * math.log(2)))


@pytest.mark.parametrize(("cost", "goal", "exponent"), [(0.0, 1.0, -1.0), (1.0, -1.0, -1.0), (1.0, 1.0, 0.1)])
def test_a_reward_of_nonsense_is_refused(cost: float, goal: float, exponent: float) -> None:
    with pytest.raises(ValueError, match="got"):
        reward(0.5, cost, goal, exponent=exponent)


# Search ---------------------------------------------------------------------------------------------------------


NOTHING: Any = None
TOY = Space(NOTHING, NOTHING, NOTHING, (), tuple(Axis("kernel", (f"w{i}",), (9, 7, 5, 3), (9,)) for i in range(5)), {})
LOST, SAVED = (0.02, 0.09, 0.27, 0.18, 0.36), (0.3, 0.25, 0.1, 0.15, 0.1)


def known(subnet: Subnet) -> Candidate:
    """Metric and cost fall along every axis at rates of their own."""
    shares = [choice / 3 for choice in subnet]
    metric = 1 - sum(a * b for a, b in zip(LOST, shares, strict=True))
    return Candidate(
        subnet=subnet, metric=metric, cost=1 - sum(a * b for a, b in zip(SAVED, shares, strict=True)), macs=1,
        parameters=1,
    )  # fmt: skip


def aimed(searcher: Searcher, seed: int = 0) -> Aim:
    return Aim(searcher, 0.6, -0.07, True, seed)


def test_the_search_by_reward_finds_the_known_optimum() -> None:
    every = [known(subnet) for subnet in itertools.product(range(4), repeat=5)]
    for seed in range(3):
        aim = aimed("reward", seed)
        found = searched(TOY, aim, 100, known)
        assert len({one.subnet for one in found}) == 100
        assert max(map(aim.reward, found)) == max(map(aim.reward, every))


def test_nsga2_finds_better_subnets_within_the_goal_than_chance() -> None:
    def mean(searcher: Searcher) -> float:
        found = [aimed(searcher, seed).best(searched(TOY, aimed(searcher, seed), 100, known)) for seed in range(8)]
        return sum(one.metric for one in found if one is not None) / 8

    assert mean("nsga2") > mean("random") + 0.02


def test_a_space_that_is_used_up_ends_the_search() -> None:
    tiny = Space(NOTHING, NOTHING, NOTHING, (), TOY.axes[:2], {})
    found = searched(tiny, aimed("reward"), 100, lambda subnet: known((*subnet, 0, 0, 0)).model_copy(
        update={"subnet": subnet}))  # fmt: skip
    assert {one.subnet for one in found} == set(itertools.product(range(4), repeat=2))


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    aim = aimed("nsga2", 3)
    whole = searched(TOY, aim, 24, known)
    calls = 0

    def dying(subnet: Subnet) -> Candidate:
        nonlocal calls
        calls += 1
        if calls > 19:
            raise KeyboardInterrupt
        return known(subnet)

    with pytest.raises(KeyboardInterrupt):
        searched(TOY, aim, 24, dying, folder=tmp_path, of="a")
    calls = 0
    again = searched(TOY, aim, 24, dying, folder=tmp_path, of="a")
    assert again == whole
    assert calls == 5
    calls = 0
    with pytest.raises(KeyboardInterrupt):
        searched(TOY, aim, 24, dying, folder=tmp_path, of="another")


def test_the_front_is_what_nothing_beats() -> None:
    def one(metric: float, cost: float) -> Candidate:
        return Candidate(subnet=(), metric=metric, cost=cost, macs=1, parameters=1)

    assert front([one(0.9, 1.0), one(0.8, 0.5), one(0.7, 0.6), one(0.8, 0.7), one(0.5, 0.2)]) == (4, 1, 0)


# Plans and refusals ---------------------------------------------------------------------------------------------


def test_a_dry_run_holds_a_uniform_subnet_within_the_wish_and_later_steps_follow_it() -> None:
    recipe = lissom.Recipe([small(), lissom.Quantize(mode="dynamic")])
    first, second = dry_run(net("residual"), task(), recipe, load_target("onnxruntime"))
    assert first.plan.predicted.macs * 2 <= first.trace.graph.macs
    assert second.trace.graph.macs == first.plan.predicted.macs
    assert first.plan.of(Choose)
    assert first.plan.of(Cut)


def test_a_wish_that_no_subnet_meets_is_refused_with_the_nearest() -> None:
    with pytest.raises(GoalError, match=r"macs_ratio=1000\) is out of reach: the smallest subnet comes to \d"):
        list(dry_run(net("residual"), task(), lissom.Recipe([small(macs_ratio=1000.0)]), TORCH))


def test_a_latency_that_no_candidate_meets_is_refused_with_the_nearest() -> None:
    wish = small(macs_ratio=None, latency_ratio=4.0, candidates=2)
    with pytest.raises(GoalError, match=r"the nearest of 2 candidates comes to 1\.5.*bits=\[8, 4\]"):
        transform(net("residual"), task(), lissom.Recipe([wish]), TORCH, work=Work(faster=lambda model: 1.5))


def test_the_model_itself_is_no_faster_than_itself_whatever_was_timed() -> None:
    wish = small(macs_ratio=None, latency_ratio=1.2, candidates=2)
    noisy = Work(faster=lambda model: 1.5)
    (step,) = transform(net("residual"), task(), lissom.Recipe([wish]), TORCH, work=noisy)
    note = step.notes["architecture"]
    assert isinstance(note, dict)
    assert [one["cost"] for one in note["candidates"]] == [1.0, 1 / 1.5]  # type: ignore[index, union-attr]
    assert note["chosen"] == 1
    assert done_text(step.plan).startswith("4 groups of channels cut")
    assert "of 8 parts of the architecture smaller" in done_text(step.plan)


def test_a_model_with_nothing_to_leave_out_is_refused() -> None:
    with pytest.raises(RecipeError, match="nothing to leave out"):
        list(dry_run(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(128, 4)), task(),
                     lissom.Recipe([small()]), TORCH))  # fmt: skip


def test_a_teacher_in_the_training_is_refused() -> None:
    with pytest.raises(RecipeError, match="sandwich"):
        lissom.Recipe.from_data([{"Supernet": {"macs_ratio": 2, "training": {"teacher": "original"}}}])


# The whole step -------------------------------------------------------------------------------------------------


def test_a_step_ends_within_the_wish_and_is_replayed_from_its_plan() -> None:
    model, given = net("residual"), task()
    (step,) = transform(model, given, lissom.Recipe([small()]), TORCH)
    graph = trace(step.model, given.example).graph
    assert graph.macs == step.plan.predicted.macs
    assert graph.macs * 2 <= trace(model, given.example).graph.macs
    assert type(step.model) is type(model)
    note = step.notes["architecture"]
    assert isinstance(note, dict)
    assert len(note["candidates"]) == 6  # type: ignore[arg-type]
    (recorded,) = step_records([step])
    record = recorded.architecture
    assert record is not None
    assert (record.wish, record.metric, record.goal) == ("macs_ratio", "accuracy", 0.5)
    assert [one.by for one in record.trials] == ["uniform"] * 5 + ["chance"]
    (chosen,) = (one for one in record.trials if one.chosen)
    assert [axis.choices[at] for axis, at in zip(record.axes, chosen.subnet, strict=True)] == [
        axis.chosen for axis in record.axes
    ]
    drawn = {layer.layer: (layer.after, layer.kernel_after) for layer in record.layers}
    made = {name: own for name, own in step.model.named_modules() if isinstance(own, (nn.Conv2d, nn.Linear))}
    assert {name for name, (after, _) in drawn.items() if after} == set(made)
    for name, own in made.items():
        assert drawn[name] == (own.weight.shape[0], own.weight.shape[2] if own.weight.ndim == 4 else None)
    settings = small()
    plan = settings.read_plan(step.plan.model_dump(mode="json"))
    again = settings.restructure(model, plan, trace(model, given.example), given)
    again.load_state_dict(step.model.state_dict())
    x = images(4, 7)
    assert apart(step.model(x).detach(), again.eval()(x).detach()) == 0.0


def test_killed_and_resumed_gives_the_same_weights(tmp_path: Path) -> None:
    model, given, settings = net("residual"), task(), small()
    traced = trace(model, given.example)
    plan = settings.plan(traced.graph, settings.study(model, traced, given, TORCH), TORCH)
    whole = settings.apply(model, plan, traced, given, Work(folder=tmp_path / "a", seed=1))
    ticks = 0

    def dying(share: float) -> None:
        nonlocal ticks
        ticks += 1
        if ticks in (7, 10):  # in the training's end, then in the search
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            settings.apply(model, plan, traced, given, Work(folder=tmp_path / "b", seed=1, tick=dying))
    again = settings.apply(model, plan, traced, given, Work(folder=tmp_path / "b", seed=1, tick=dying))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
