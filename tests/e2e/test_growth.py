"""Many compressions in one process: files, threads and memory do not pile up."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import lissom
from lissom import Fold, Recipe
from lissom.pipeline import export_model

MEGABYTE = 1 << 20


class Held(NamedTuple):
    files: int
    threads: int
    bytes: int


def held() -> Held:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads = len(list(Path("/proc/self/task").iterdir()))
    return Held(len(list(Path("/proc/self/fd").iterdir())), threads, pages * os.sysconf("SC_PAGE_SIZE"))


def test_traces_are_let_go(tmp_path: Path) -> None:
    def once(number: int) -> tuple[int, int, int]:
        out = tmp_path / str(number)
        export_model(tiny.tiny(), tiny.task(), Recipe([Fold()]), target="onnxruntime", out=out)
        gc.collect()
        alive = gc.get_objects()
        return sum(type(one) is ShapeEnv for one in alive), len(alive), held().files

    once(0)
    before, *others = [once(number) for number in range(1, 4)]
    assert all(after[0] <= before[0] and after[2] <= before[2] for after in others)
    assert (others[-1][1] - before[1]) / len(others) < 1000  # a trace that is kept holds 7,000


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [4, 100])
def test_nothing_piles_up(run: Callable[..., lissom.Result], tmp_path: Path, count: int) -> None:
    def once(number: int) -> None:
        run(out=tmp_path / str(number), recipe=Recipe([Fold()]))

    for number in range(3):
        once(number)
    before = held()
    for number in range(3, 3 + count):
        once(number)
    after = held()
    assert after.files <= before.files
    assert after.threads <= before.threads
    # what is left of each, 0.15 MB, is small objects of libraries: docs/log.md
    assert after.bytes - before.bytes < 16 * MEGABYTE + count * MEGABYTE / 2
