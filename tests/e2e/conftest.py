"""One finished run for all tests that read one, and short measurements for those that do not look at them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

import lissom
from lissom import Fold, Goal, Recipe
from lissom.pipeline import measuring


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> lissom.Result:
    """A whole run with everything measured as for a user."""
    return lissom.compress(
        tiny.tiny(),
        tiny.task(),
        target="onnxruntime",
        recipe=tiny.RECIPE,
        goal=Goal(metric_drop=0.05, macs_ratio=1.0),
        out=tmp_path_factory.mktemp("finished") / "run",
        batch_size=16,
        threads=1,
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither processes for peak memory nor many rounds of latency."""
    monkeypatch.setattr(measuring, "peak_memory", lambda *_: 1_000_000)
    monkeypatch.setattr(measuring, "ROUNDS", 3)


@pytest.fixture
def run(quick: None, tmp_path: Path) -> Callable[..., lissom.Result]:
    """`compress` of the tiny network with changed arguments, into tmp_path/run."""

    def compress(model=None, task=None, **changed) -> lissom.Result:
        given = {"target": "onnxruntime", "recipe": Recipe([Fold()]), "out": tmp_path / "run", "threads": 1}
        return lissom.compress(model or tiny.tiny(), task or tiny.task(), **{**given, **changed})

    return compress
