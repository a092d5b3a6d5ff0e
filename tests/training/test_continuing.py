"""Killed at any point, the same call ends with the same weights, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import EVERYTHING, After, Killed, equal, net, settings, shuffled, task
from torch import nn

from lissom import metrics
from lissom.training import checkpoint
from lissom.training import finetune as loop
from lissom.training.finetune import Trained, finetune
from lissom.training.history import History
from lissom.training.settings import Training
from small_models import traced

PROGRAM = Path(__file__).with_name("program.py")


def whole(
    settings: Training, folder: Path | None = None, tick: Any = lambda _: None, model: nn.Module | None = None
) -> Trained:
    return finetune(model or net(), task(shuffled()), settings, folder=folder, tick=tick, seed=3)


def without_clock(history: History) -> History:
    epochs = tuple(epoch.model_copy(update={"seconds": 0.0}) for epoch in history.epochs)
    return history.model_copy(update={"epochs": epochs})


KINDS = {
    "everything": settings(**EVERYTHING, patience=3),
    "adamw": settings(epochs=3, optimizer="adamw", learning_rate=None),
    "channels last": settings(epochs=3, channels_last=True, clip_norm=0.5),
    "bfloat16": settings(epochs=3, precision="bfloat16"),
}


@pytest.mark.parametrize("every", [0.0, 60.0])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_step_it_is_the_same_training(
    kind: str, every: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", every)
    unbroken = whole(KINDS[kind])
    for step in range(1, 10):
        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            whole(KINDS[kind], folder, After(step))
        torch.rand(7)
        shares: list[float] = []
        again = whole(KINDS[kind], folder, shares.append)
        assert equal(again.model, unbroken.model), step
        assert without_clock(again.history) == without_clock(unbroken.history)
        done = (step - 1) if every == 0.0 else (step - 1) // 3 * 3
        assert len(shares) == 9 - done + 1, "finished steps are not done again"


def test_killed_at_every_step_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    chosen = KINDS["everything"]
    kills = 0
    while True:
        try:
            again = whole(chosen, tmp_path, After(2))
            break
        except Killed:
            kills += 1
    assert kills == 9  # a process ends one step at most, and its second tick kills it
    assert equal(again.model, whole(chosen).model)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_every_checkpoint(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = checkpoint.save_tensors
    calls = 0

    def interrupted(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if moment == "after":
            save(*arguments)
        if calls % 2:
            raise Killed
        if moment == "before":
            save(*arguments)

    chosen = KINDS["everything"]
    unbroken = whole(chosen)
    monkeypatch.setattr(checkpoint, "save_tensors", interrupted)
    for _ in range(9):
        try:
            assert equal(whole(chosen, tmp_path).model, unbroken.model)
            break
        except Killed:
            continue
    else:
        pytest.fail("it never ended")
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.NAME]


def test_the_best_weights_are_remembered(tmp_path: Path) -> None:
    """A metric that falls while the model learns: the first epoch stays the best, and is over when the kill comes."""
    shy = metrics.Metric("shy", whole=lambda outputs, _: -float(outputs.abs().mean()))

    def train(folder: Path | None, tick: Any = lambda _: None) -> Trained:
        aim = task(shuffled(), metric=shy)
        return finetune(net(), aim, settings(epochs=9, learning_rate=0.2, patience=3), folder=folder, tick=tick)

    unbroken = train(None)
    assert (unbroken.history.chosen, len(unbroken.history.epochs)) == (0, 4)
    with pytest.raises(Killed):
        train(tmp_path, After(8))
    assert equal(train(tmp_path).model, unbroken.model)


def test_an_exported_graph_continues_too(tmp_path: Path) -> None:
    _, _, made = traced("residual")
    unbroken = whole(settings(epochs=3, ema=0.5), model=made.module)
    with pytest.raises(Killed):
        whole(settings(epochs=3, ema=0.5), tmp_path, After(5), model=made.module)
    assert equal(whole(settings(epochs=3, ema=0.5), tmp_path, model=made.module).model, unbroken.model)


def test_a_finished_training_is_read_back_at_once(tmp_path: Path) -> None:
    first = whole(KINDS["everything"], tmp_path)
    shares: list[float] = []
    again = whole(KINDS["everything"], tmp_path, shares.append)
    assert shares == [1.0]
    assert equal(first.model, again.model)
    assert again.history == first.history


def test_only_its_own_checkpoint_is_continued(tmp_path: Path) -> None:
    other = settings(epochs=3, learning_rate=0.01)
    for change in (lambda: whole(KINDS["adamw"], tmp_path), lambda: whole(other, tmp_path, model=net(seed=9)),
                   lambda: (tmp_path / checkpoint.NAME).write_bytes(b"half"),
                   lambda: (tmp_path / checkpoint.NAME).write_bytes(b"")):  # fmt: skip
        change()
        assert equal(whole(other, tmp_path).model, whole(other).model)


def test_the_measured_pace_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that goes on computes as it began, whatever is faster now."""
    chosen = settings(epochs=3, precision="auto", channels_last="auto")
    with pytest.raises(Killed):
        whole(chosen, tmp_path, After(4))
    monkeypatch.setattr(loop, "pace_of", lambda *_, **__: pytest.fail("measured again"))
    assert len(whole(chosen, tmp_path).history.pace.step_ms) > 1


def run(folder: Path, out: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(PROGRAM), str(folder), str(out)], env={**os.environ, **environment}
    )


@pytest.mark.slow
def test_really_killed_at_random_times(tmp_path: Path) -> None:
    killed = 0
    while not (tmp_path / "out").exists():
        with run(tmp_path / "work", tmp_path / "out", SLOWLY="0.05") as process:
            state = tmp_path / "work" / checkpoint.NAME
            before = state.stat().st_mtime_ns if state.exists() else 0
            while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
                time.sleep(0.005)
            time.sleep(0.07 * killed % 0.2)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                killed += 1
    assert killed >= 4
    with run(tmp_path / "unbroken", tmp_path / "wanted"):
        pass
    assert (tmp_path / "out").read_bytes() == (tmp_path / "wanted").read_bytes()
