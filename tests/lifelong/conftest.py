"""Folders with a few tasks, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import worlds

from lissom.lifelong import Grow, Lifelong


@pytest.fixture(scope="session", params=[32, 8], ids=["float32", "int8"])
def three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lifelong:
    """Two packed tasks and one that picks; nobody may change it."""
    folder = tmp_path_factory.mktemp("three") / "folder"
    lifelong = Lifelong.create(worlds.net(), folder, worlds.task(0), bits=request.param)
    lifelong.add("a", worlds.task(0), worlds.pack())
    lifelong.add("b", worlds.task(1, classes=4), worlds.pack())
    lifelong.add("c", worlds.task(2), Grow(share=0.2, training=worlds.quick(4), retraining=worlds.quick(2)))
    return lifelong


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "folder"
