"""A compiled training is the same training, and happens where it pays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import After, Killed, batches, equal, net, settings, shuffled, task, weights
from torch import nn

from lissom.errors import RecipeError
from lissom.training import compiling, pace
from lissom.training import finetune as loop
from lissom.training.compiling import Compiled
from lissom.training.finetune import finetune
from lissom.training.history import Pace
from lissom.training.objective import supervised
from lissom.training.settings import Training

SHAPES = ((16, 3, 8, 8),)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """`torch.compile` keeps what it is given here, and compiles nothing."""
    given: list[Callable[..., Any]] = []

    def keep(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        given.append(function)
        return function

    monkeypatch.setattr(torch, "compile", keep)
    return given


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Let steps take these seconds, plain and compiled."""

    def say(plain: float, fast: float) -> None:
        def step(self: Any, *_: Any) -> float:
            return fast if self.pace.compiled_for else plain

        monkeypatch.setattr(pace._Runner, "step", step)

    return say


def decided(steps: int = 100, **more: Any) -> Pace:
    before = Pace(precision="float32", channels_last=False)
    return pace.compiled(before, net(), task(), settings(**more), supervised, steps=steps, seed=0)


class Counting(nn.Module):
    """A graph that breaks where a number is read from a tensor: `(b, 3)` to `(b, 3)`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.count, torch.Tensor)
        self.count.add_(1)
        return x * self.weight * int(self.count)


@needs_compiler
def test_the_compiler_keeps_its_remarks_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    model = Counting()
    made, x = Compiled(model, ((2, 3),)), torch.ones(2, 3)
    with caplog.at_level("WARNING"):
        for count in range(1, 4):
            assert torch.equal(made(x), count * x)
    assert not [record for record in caplog.records if record.name.startswith("torch")]


@needs_compiler
def test_it_ends_where_the_plain_training_ends_also_if_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    model, aim = net(dropout=0.0), task(shuffled())
    compiled, plain = (settings(compile=each, teacher="original", views=2) for each in (True, False))
    whole = finetune(model, aim, compiled, seed=3)
    assert whole.history.pace.compiled_for == SHAPES
    assert type(whole.model) is type(model)
    with pytest.raises(Killed):
        finetune(model, aim, compiled, folder=tmp_path, tick=After(4), seed=3)
    assert equal(finetune(model, aim, compiled, folder=tmp_path, seed=3).model, whole.model)
    for name, value in weights(finetune(model, aim, plain, seed=3).model).items():
        torch.testing.assert_close(weights(whole.model)[name], value, atol=1e-5, rtol=1e-4)


def test_inputs_of_another_shape_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda x: function(x) + 1)
    model = net().eval()
    made = Compiled(model, SHAPES)
    many, few = torch.ones(16, 3, 8, 8), torch.ones(9, 3, 8, 8)
    assert torch.equal(made(many), model(many) + 1)
    assert torch.equal(made(few), model(few))


def test_kernels_of_one_model_do_not_hang_on_another(compiles: list[Any]) -> None:
    models = [net(0), net(1)]
    for model in models:
        Compiled(model, SHAPES)
    assert compiles[0].__code__ is not compiles[1].__code__
    x = torch.ones(2, 3, 8, 8)
    for model, call in zip(models, compiles, strict=True):
        model.eval()
        assert torch.equal(call(x), model(x))


@pytest.mark.parametrize(("fast", "wanted"), [(6.5, SHAPES), (6.8, ())])
def test_a_long_training_is_compiled_if_that_is_faster(
    fast: float, wanted: Any, takes: Any, compiles: list[Any]
) -> None:
    takes(7.0, fast)
    made = decided()
    assert made.compiled_for == wanted
    assert made.step_ms == {"float32, not compiled": 7000.0, "float32, compiled": 1000 * fast}
    assert len(compiles) == 1


def test_a_short_one_is_not_even_tried(takes: Any, compiles: list[Any]) -> None:
    takes(5.9, 1.0)
    assert decided(steps=101) == Pace(precision="float32", channels_last=False)
    takes(70.0, 1.0)
    assert decided(steps=99) == Pace(precision="float32", channels_last=False)
    assert decided(compile=False) == Pace(precision="float32", channels_last=False)
    assert not compiles


def test_one_that_is_far_slower_is_timed_once(monkeypatch: pytest.MonkeyPatch, takes: Any, compiles: list[Any]) -> None:
    takes(7.0, 15.0)
    inner, taken = pace._Runner.step, []

    def step(self: Any, *arguments: Any) -> float:
        taken.append(bool(self.pace.compiled_for))
        return inner(self, *arguments)

    monkeypatch.setattr(pace._Runner, "step", step)
    assert not decided().compiled_for
    assert taken.count(True) == 2  # to be compiled, and to be timed


def test_told_to_it_is_compiled_whatever_it_gains(takes: Any, compiles: list[Any]) -> None:
    takes(1.0, 2.0)
    assert decided(steps=1, compile=True).compiled_for == SHAPES


def test_a_model_that_cannot_be_compiled_trains_as_it_is(takes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("No working C++ compiler found\nsearched everywhere")

    takes(7.0, 1.0)
    monkeypatch.setattr(torch, "compile", refuse)
    assert not decided().compiled_for
    with pytest.raises(RecipeError, match=r"RuntimeError: No working C\+\+ compiler found\)"):
        decided(compile=True)


def test_inner_values_and_own_objectives_are_not_compiled(takes: Any, compiles: list[Any]) -> None:
    takes(7.0, 1.0)
    assert not decided(teacher="original", losses=({"kind": "hint"},)).compiled_for
    assert not compiles
    with pytest.raises(ValueError, match="compile=True, and hint reads inner values"):
        Training(compile=True, teacher="original", losses=({"kind": "hint"},))  # pyright: ignore[reportArgumentType]

    def own(model: nn.Module, batch: Any, _: Any) -> torch.Tensor:
        return model(*batch.args).square().mean()

    with pytest.raises(RecipeError, match="looks into the model"):
        finetune(net(), task(), settings(compile=True), objective=own)


def test_a_teacher_is_compiled_if_it_is_of_the_student_s_class(takes: Any, compiles: list[Any]) -> None:
    takes(7.0, 1.0)
    given = settings(compile=True, teacher="original")
    finetune(net(), task(), given, original=net(1))
    assert len(compiles) == 3  # the trial, the student, the teacher
    finetune(net(), task(), given, original=nn.Sequential(net(1)))
    assert len(compiles) == 5


def test_left_open_it_is_not_in_a_recipe() -> None:
    assert "compile" not in Training().model_dump(mode="json")
    assert Training(compile=True).model_dump(mode="json")["compile"] is True


def test_shapes_are_of_every_tensor() -> None:
    (x, y) = batches(4)[0]
    assert compiling.shapes_of((x,), {"mask": y, "more": [x, 3]}) == ((4, 3, 8, 8), (4,), (4, 3, 8, 8))
