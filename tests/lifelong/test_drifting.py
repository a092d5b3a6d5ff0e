"""Methods that let weights drift: against sequential training, a closed form, and what they are to prevent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import worlds
from torch import Tensor, nn

from lissom.errors import UsageError
from lissom.lifelong import EWC, Lifelong, LwF, Method, ProgressAndCompress
from lissom.lifelong.anatomy import Anatomy
from lissom.lifelong.drifting import fisher_of
from lissom.lifelong.ground import Ground
from lissom.lifelong.proving import answers
from lissom.task import Batch

NEW = Batch((worlds.clouds(1)[0],))


def two(folder: Path, method: Method) -> Lifelong:
    lifelong = Lifelong.create(worlds.net(), folder, worlds.task(0))
    for at in range(2):
        lifelong.add(f"t{at}", worlds.task(at), method)
    return lifelong


def moved(lifelong: Lifelong, stored: Tensor) -> float:
    """How far the first task's answers to the second task's inputs are from `stored`."""
    found = answers(lifelong.model("t0"), NEW)[0]
    return float((found.softmax(1) - stored.softmax(1)).abs().mean())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Lifelong:
    return two(tmp_path_factory.mktemp("plain") / "x", EWC(strength=0.0, training=worlds.quick(6)))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """Answers of the first task before there was a second."""
    lifelong = Lifelong.create(worlds.net(), tmp_path_factory.mktemp("first") / "x", worlds.task(0))
    lifelong.add("t0", worlds.task(0), EWC(strength=0.0, training=worlds.quick(6)))
    return answers(lifelong.model("t0"), NEW)[0]


def test_all_tasks_have_the_newest_weights_and_their_own_heads(plain: Lifelong) -> None:
    first, second = plain.model("t0"), plain.model("t1")
    for name in ("a.weight", "a.bias", "norm.weight", "b.weight", "b.bias"):
        assert torch.equal(first.get_parameter(name), second.get_parameter(name))
    for name in ("fc.weight", "norm.running_mean"):
        assert not torch.equal(first.state_dict()[name], second.state_dict()[name])
    held = [task.held for task in plain.prove().tasks]
    assert held == [False, True]
    assert sorted(path.parent.name for path in plain.folder.rglob("shared.safetensors")) == ["0002-t1"]


def test_lwf_keeps_the_old_answers(plain: Lifelong, first: Tensor, tmp_path: Path) -> None:
    kept = two(tmp_path / "x", LwF(strength=10.0, training=worlds.quick(6)))
    assert moved(kept, first) < 0.5 * moved(plain, first)
    without = two(tmp_path / "y", LwF(strength=0.0, training=worlds.quick(6)))
    assert moved(without, first) == pytest.approx(moved(plain, first), rel=1e-5)


def test_ewc_holds_the_weights_and_remembers_in_constant_room(plain: Lifelong, tmp_path: Path) -> None:
    held = two(tmp_path / "x", EWC(strength=1e5, training=worlds.quick(6), samples=64))
    start = Lifelong.create(worlds.net(), tmp_path / "y", worlds.task(0))
    start.add("t0", worlds.task(0), EWC(strength=0.0, training=worlds.quick(6)))
    begin = start.model("t0").get_parameter("b.weight")

    def distance(lifelong: Lifelong) -> float:
        return float((lifelong.model("t0").get_parameter("b.weight") - begin).detach().norm())

    assert distance(held) < 0.5 * distance(plain)
    (memory,) = held.folder.rglob("memory.safetensors")
    assert memory.stat().st_size < 2 * 4 * (10 * 24 + 24 + 48 + 24 * 16 + 16) + 2000


def test_progress_and_compress_learns_the_new_and_keeps_the_old(tmp_path: Path, first: Tensor, plain: Lifelong) -> None:
    method = ProgressAndCompress(strength=1e4, training=worlds.quick(6), compressing=worlds.quick(6), samples=64)
    found = two(tmp_path / "x", method)
    assert all(task.metric is not None and task.metric.value > 0.45 for task in found.tasks)
    begin = first
    assert moved(found, answers(found.model("t0"), NEW)[0]) == 0.0
    assert moved(found, begin) < moved(plain, begin) + 0.2


def test_fisher_information_in_closed_form(tmp_path: Path) -> None:
    # log p(y | x) of a linear softmax model has the gradient (1[y = c] - p_c) x_i, so F_ci = E[(p_c - p_c^2) x_i^2]
    # once the answers are averaged over p: with many samples the draws come to that.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 3), nn.Identity())
    x = torch.randn(3000, 10)
    task = worlds.task(0).__class__(example_inputs=(x[:1],), train=[(x, torch.zeros(3000).long())])
    ground = Ground(Anatomy(model, "1", {}, 0), "t", task, 3, 1, tmp_path, 0, lambda _share, _what: None)
    found = fisher_of(ground, model, {"0.weight": 0}, 3000)["0.weight"]
    p = model(x).softmax(1)
    wanted = ((p - p.square()).T.double() @ x.square().double()) / 3000
    assert torch.allclose(found.double(), wanted, rtol=0.15, atol=0.01)


def test_drifting_weights_cannot_be_int8_and_follow_no_masks(tmp_path: Path) -> None:
    lifelong = Lifelong.create(worlds.net(), tmp_path / "x", worlds.task(0), bits=8)
    with pytest.raises(UsageError, match="LwF moves all weights"):
        lifelong.add("a", worlds.task(0), LwF())
