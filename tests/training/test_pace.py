"""What is measured is taken where it is faster, and only there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import batches, net, settings, task

from lissom.training import pace
from lissom.training.history import Pace
from lissom.training.objective import supervised
from lissom.training.pace import pace_of
from lissom.training.settings import Training
from small_models import traced


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[tuple[str, bool], float]], None]:
    """Let steps take these seconds."""

    def say(seconds: dict[tuple[str, bool], float]) -> None:
        def step(self: Any, *_: Any) -> float:
            return seconds[self.pace.precision, self.pace.channels_last]

        monkeypatch.setattr(pace._Runner, "step", step)

    return say


@pytest.fixture(autouse=True)
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried on every processor."""
    monkeypatch.setattr(pace, "has_bfloat16", lambda _: True)


def chosen(folder: Path | None = None, **more: Any) -> Pace:
    return pace_of(net(), task(batches(8, 8, 8)), Training(**more), supervised, folder=folder, seed=0)


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ((1.0, 0.5, 0.9, 0.4), ("bfloat16", True)),
        ((1.0, 0.5, 0.9, 0.6), ("bfloat16", False)),
        ((1.0, 3.0, 0.8, 2.5), ("float32", True)),
        ((1.0, 1.1, 1.2, 1.3), ("float32", False)),
        ((1.0, 0.96, 0.97, 1.0), ("float32", False)),
    ],
)
def test_the_fastest_is_taken_if_it_gains(takes: Any, seconds: tuple[float, ...], wanted: tuple[str, bool]) -> None:
    keys = [("float32", False), ("bfloat16", False), ("float32", True), ("bfloat16", True)]
    takes(dict(zip(keys, seconds, strict=True)))
    made = chosen()
    assert (made.precision, made.channels_last) == wanted
    assert made.step_ms["float32"] == 1000.0
    assert ("bfloat16" in made.step_ms) == (seconds[1] <= pace.HOPELESS)


def test_what_is_said_is_not_measured() -> None:
    assert chosen(precision="bfloat16", channels_last=True) == Pace(precision="bfloat16", channels_last=True)
    assert set(chosen(precision="float32").step_ms) == {"float32", "float32, channels last"}
    assert set(chosen(channels_last=False).step_ms) <= {"float32", "bfloat16"}


def test_what_would_be_emulated_is_not_tried(takes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "has_bfloat16", lambda _: False)
    takes({("float32", False): 1.0, ("float32", True): 0.5})
    made = chosen()
    assert (made.precision, made.channels_last) == ("float32", True)
    assert set(made.step_ms) == {"float32", "float32, channels last"}


def test_without_images_there_is_no_memory_order() -> None:
    model, example, _ = traced("transformer")
    from lissom.task import Task

    aim = Task(example_inputs=example.args, train=[example], loss=lambda o, _: o.square().mean())
    made = pace_of(model, aim, Training(), supervised, folder=None, seed=0)
    assert not made.channels_last
    assert "float32" in made.step_ms


def test_a_choice_is_kept_and_read_back(tmp_path: Path, takes: Any) -> None:
    takes({("float32", False): 1.0, ("float32", True): 0.5, ("bfloat16", False): 0.6, ("bfloat16", True): 0.7})
    first = chosen(tmp_path / "new")
    takes({("float32", False): 0.1, ("float32", True): 0.5, ("bfloat16", False): 0.6, ("bfloat16", True): 0.7})
    assert chosen(tmp_path / "new") == first
    assert chosen(tmp_path / "new", channels_last=False).precision == "float32"
    (tmp_path / "new/pace.json").write_text("{")
    assert not chosen(tmp_path / "new").channels_last


def test_an_operator_without_a_kernel_for_bfloat16_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    step = pace._Runner.step

    def refuses(self: Any, *arguments: Any) -> float:
        if self.pace.precision == "bfloat16":
            raise RuntimeError("not implemented for 'BFloat16'")
        return step(self, *arguments)

    monkeypatch.setattr(pace._Runner, "step", refuses)
    assert set(chosen(channels_last=False).step_ms) == {"float32"}


def test_an_error_of_the_model_is_its_own() -> None:
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 5"):
        pace_of(net(), task([(torch.zeros(3, 5, 8, 8), torch.zeros(3).long())]), settings(precision="auto"),
                supervised, folder=None, seed=0)  # fmt: skip


def test_measuring_changes_nothing() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    pace_of(model, task(), Training(), supervised, folder=None, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
