"""`Supernet` as a step: plans, refusals, search, resumption, and what may follow it in a recipe."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.transforms.elastic_nets import images, net, space, task

import lissom
from lissom.errors import GoalError, RecipeError
from lissom.functional.reward import reward
from lissom.graph.agreement import apart
from lissom.graph.trace import trace
from lissom.pipeline.transforming import dry_run, transform
from lissom.target import load_target
from lissom.training.settings import Training
from lissom.transforms.architecture import Choose, Supernet
from lissom.transforms.architecture.candidates import Aim, Candidate, front, searched
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


@pytest.fixture(scope="module")
def toy() -> Space:
    return space(net("residual"))


def known(toy: Space, subnet: Subnet) -> Candidate:
    """A metric with a known optimum within the goal: every axis pays but the first, which costs nothing."""
    last = [len(axis.choices) - 1 for axis in toy.axes]
    share = [choice / most for choice, most in zip(subnet, last, strict=True)]
    lost, saved = 0.02 * share[0] + 0.1 * share[1] + 0.3 * sum(share[2:]), 0.5 * share[0] + 0.1 * sum(share[1:])
    return Candidate(subnet=subnet, metric=1 - lost, cost=1 - saved, macs=1, parameters=1)


@pytest.mark.parametrize("searcher", ["nsga2", "reward"])
def test_the_search_finds_the_known_optimum(toy: Space, searcher: str) -> None:
    aim = Aim(searcher, 0.5, -0.07, True, 0)  # type: ignore[arg-type]
    found = searched(toy, aim, 40, lambda subnet: known(toy, subnet))
    assert len({one.subnet for one in found}) == 40
    best = aim.best(found)
    assert best is not None
    wanted = known(toy, (len(toy.axes[0].choices) - 1, *[0] * (len(toy.axes) - 1)))
    assert wanted.cost == 0.5
    assert best.metric >= wanted.metric - 0.05
    control = Aim("random", 0.5, -0.07, True, 0).best(
        searched(toy, Aim("random", 0.5, -0.07, True, 0), 40, lambda subnet: known(toy, subnet))
    )
    assert control is None or best.metric >= control.metric


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(toy: Space, tmp_path: Path) -> None:
    aim = Aim("nsga2", 0.5, -0.07, True, 3)
    whole = searched(toy, aim, 24, lambda subnet: known(toy, subnet))
    calls = 0

    def dying(subnet: Subnet) -> Candidate:
        nonlocal calls
        calls += 1
        if calls > 19:
            raise KeyboardInterrupt
        return known(toy, subnet)

    with pytest.raises(KeyboardInterrupt):
        searched(toy, aim, 24, dying, folder=tmp_path, of="a")
    calls = 0
    again = searched(toy, aim, 24, dying, folder=tmp_path, of="a")
    assert again == whole
    assert calls == 5
    calls = 0
    with pytest.raises(KeyboardInterrupt):
        searched(toy, aim, 24, dying, folder=tmp_path, of="another")


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
    with pytest.raises(GoalError, match=r"the nearest of 2 candidates comes to 1\.5"):
        transform(net("residual"), task(), lissom.Recipe([wish]), TORCH, work=Work(faster=lambda model: 1.5))


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


def test_a_subnet_is_made_sparse_and_quantized_in_one_recipe() -> None:
    recipe = lissom.Recipe([
        small(round_to=4),
        lissom.Sparsify(pattern="2:4"),
        lissom.Finetune(epochs=1, precision="float32"),
        lissom.Quantize(),
    ])  # fmt: skip
    model, given = net("residual"), task()
    steps = transform(model, given, recipe, load_target("onnxruntime"))
    wanted = steps[0].plan.predicted.macs
    assert [trace(step.model, given.example).graph.macs for step in steps[:3]] == [wanted] * 3
    sparse = {a.layer for a in steps[1].plan.actions}
    assert sparse
    for name in sparse:
        weight = dict(steps[2].model.named_modules())[name].weight
        rows = weight.detach().permute(0, *range(2, weight.ndim), 1).reshape(-1, 4)
        assert int((rows != 0).sum(1).max()) <= 2, name
    x = images(4, 7)
    assert apart(steps[2].model.eval()(x).detach(), steps[3].model(x).detach()) < 0.2
