"""P7 at toy size: which candidate is taken, what differs between the arms, and that a killed one goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.context import Context
from benchmarks.experiments import p7
from benchmarks.results import met
from torch import nn

import lissom
from benchmarks import results
from lissom.data import Batches, Images
from lissom.search.space import Point, Space
from lissom.spaces import Stage, mbconv
from lissom.training.settings import Training

TINY = p7.Sizes(
    images=96, dense=Training(epochs=1, learning_rate=0.05, precision="float32"), faster=1.3, drop=0.3, budget="60s",
    epochs=1, batch=16,
)  # fmt: skip


def trial(number: int, metric: float | None, times: float | None, **point: object) -> dict[str, object]:
    own = Point().with_(**point).model_dump()
    return {"number": number, "metric": metric, "latency_ratio": times, "macs": None, "by": "netadapt", "point": own}


def test_the_best_of_those_that_keep_the_wish_is_taken_without_its_training():
    trials = [
        trial(0, 0.9, 1.0),
        trial(1, 0.7, 2.6, prune=2.0, epochs=3),
        trial(2, 0.5, 3.0, prune=3.0),
        trial(3, None, None, prune=6.0),
    ]
    assert p7.picked(trials, 2.5) == Point(prune=2.0)
    assert p7.picked(trials, 2.8) == Point(prune=3.0)
    assert p7.picked(trials, 9.0) == Point(prune=3.0)


def test_training_stands_between_structure_and_rounding():
    steps = Space().recipe(Point(depth=0.2, prune=2.0, rank=1.6, precision="int8")).steps
    names = [step.name for step in p7.recovering(steps, 4).steps]
    assert names == ["PruneDepth", "Prune", "Factorize", "Finetune", "Fold", "Quantize"]
    assert p7.scratch(p7.Sizes()).epochs == p7.Sizes().dense.epochs + p7.Sizes().epochs


def test_it_is_judged_by_accuracy_at_equal_latency():
    def found(gain: int, ms: float) -> results.Outcome:
        right = {name: [1] * 50 + [0] * 50 for name in (p7.ORIGINAL, p7.UNIFORM, p7.NARROW)}
        right[p7.OURS] = [1] * (50 + gain) + [0] * (50 - gain)
        samples = {f"onnxruntime/{name}": (1.0,) * 4 for name in (p7.ORIGINAL, p7.OURS, p7.NARROW)}
        samples["onnxruntime/uniform"] = (ms,) * 4
        trials = {"trials": [trial(0, 0.9, 1.0)]}
        return p7.outcome(p7.Sizes(), trials, Point(prune=2.0), 0.3, right, samples)

    good = found(1, 1.02)
    assert good.value["accuracy over uniform scaling"].value == 1.0
    assert met(good.goal, good.value)
    for wrong in (found(0, 1.0), found(1, 1.05), found(1, 0.95)):
        assert not met(wrong.goal, wrong.value)


def coloured(count: int, seed: int) -> Images:
    """Four colours under noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    colours = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [160, 160, 40]])
    noise = torch.randint(-50, 51, (count, 3, 16, 16), generator=generator)
    pixels = (colours[labels][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)
    return Images(pixels, labels, ("red", "green", "blue", "yellow"))


def toy() -> tuple[nn.Module, lissom.Task]:
    train, test = coloured(256, 0), coloured(64, 1)
    x = next(iter(Batches(test, batch_size=1)))[0]
    stages = tuple(Stage(width=width, depth=2, kernel=3, expansion=4.0, stride=2, squeeze=0.0) for width in (16, 32))
    return mbconv(4, stages, head=64, activation="relu"), lissom.Task(
        example_inputs=(x,), train=Batches(train, batch_size=32, shuffle=True), calibration=Batches(train, 32),
        validation=Batches(test, 32), test=Batches(test, 32), loss=nn.functional.cross_entropy,
        metric=lissom.metrics.accuracy,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning:torch")
def test_the_whole_of_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    context = Context(scratch=tmp_path, kept=tmp_path / "kept", threads=1, rounds=3, say=lambda _: None)
    monkeypatch.setattr(p7, "LOOKS", 3)
    model, task = toy()
    model = p7.trained_once(context, model, task, replace_epochs(TINY.dense, 3))
    first = p7.compared(context, model, task, TINY)
    assert set(first.value) > {wish.figure for wish in first.goal.wishes}
    original = first.control[0]
    assert original.value > 70
    timed = [one for one in first.runs if one.samples_ms]
    assert len(timed) == 4

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    for name in ("recorded", "transform", "race"):
        monkeypatch.setattr(p7, name, refuse)
    assert p7.compared(replace(context, kept=context.kept), model, task, TINY) == first


def replace_epochs(training: Training, epochs: int) -> Training:
    return training.model_copy(update={"epochs": epochs})
