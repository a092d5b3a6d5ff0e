"""N1 on two small networks: how it is judged, what it counts, that it goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.context import Context
from benchmarks.experiments import n1
from tests.transforms.elastic_nets import images, task
from torch import nn

from benchmarks import results
from lissom.training.settings import Training
from lissom.transforms.architecture.candidates import Candidate

ONCE = Training(epochs=1, learning_rate=0.05, precision="float32")
TINY = n1.Sizes(
    images=96, whole=ONCE, shared=ONCE, alike=ONCE, random=1, candidates=7, samples=16, judged=32, ranked=3, alone=ONCE,
)  # fmt: skip


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


class Scales:
    """In place of a watch: a network is as slow as it is large."""

    def __init__(self, model: nn.Module, *_: Any) -> None:
        self.whole = size(model)

    def __call__(self, other: nn.Module) -> float:
        return self.whole / size(other)


def test_it_is_judged_by_speed_accuracy_rank_and_cost() -> None:
    def found(tau: int, speed: float) -> results.Outcome:
        ranks = [{"predicted": at / 10, "alone": tau * at / 10} for at in range(5)]
        one = Candidate(subnet=(0,), metric=0.5, cost=0.5, macs=1, parameters=1)
        right = {"by hand": [1, 0, 0, 1], "chosen": [1, 1, 0, 1], "chosen, fresh weights": [1, 0, 0, 0]}
        samples = {"onnxruntime/by hand": (speed,) * 4, "onnxruntime/chosen": (1.0,) * 4}
        return n1.outcome(n1.Sizes(), [one] * 60, right, ranks, samples, 9)

    good = found(1, 1.7)
    assert good.value["Kendall's tau"].value == 1.0
    assert good.value["accuracy over the network by hand"].value == 25.0
    # 8 epochs of 12,500 images, 6 through four subnets, 60 candidates of 4,512 examples; 16 epochs for each of 60
    wanted = ((8 + 6 * 4) * 12_500 + 60 * 4512) / (60 * 16 * 12_500)
    assert good.value["search over training one by one"].value == round(wanted, 4)
    assert [one.value for one in good.control] == [50.0, 25.0]
    assert results.met(good.goal, good.value)
    assert not results.met(good.goal, found(-1, 1.7).value)
    assert not results.met(good.goal, found(1, 1.6).value)


@pytest.mark.slow
def test_the_whole_of_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(n1, "Stopwatch", Scales)
    monkeypatch.setattr(n1, "exported", lambda module, *_, name: (name, size(module)))
    times: dict[str, int] = {}

    def race(contenders: list[tuple[str, int]], *_: Any, **__: Any) -> dict[str, tuple[float, ...]]:
        times.update(contenders)
        return {f"onnxruntime/{name}": (float(own),) * 3 for name, own in contenders}

    monkeypatch.setattr(n1, "race", race)
    hand, whole = (n1.fresh(n1.Wide(widths, 2, 4, 2), 0) for widths in ((8, 24), (8, 16)))
    said: list[str] = []
    context = Context(scratch=tmp_path / "a", kept=tmp_path / "kept", threads=1, rounds=1, say=said.append)
    first = n1.compared(context, hand, whole, task(), TINY)
    assert times["by hand"] / times["chosen"] >= 1 / (1 - n1.LESS)
    assert first.value["speed"].value == pytest.approx(times["by hand"] / times["chosen"])
    assert len([run for run in first.runs if run.name.startswith("subnet")]) == 3
    assert [one.what for one in first.control] == list(n1.CONTROLS.values())

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("made again")

    for name in ("answered", "predicted"):
        monkeypatch.setattr(n1, name, refuse)
    assert n1.compared(context, hand, whole, task(), TINY) == first


def test_fresh_weights_are_those_of_a_seed() -> None:
    one, other = n1.Wide((4, 8), 1), n1.Wide((4, 8), 1)
    first, again = (n1.fresh(model, 3).state_dict() for model in (one, other))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert n1.Wide((4, 8), 1, 4, 2)(images(2)).shape == (2, 4)
