"""Many compressions in one process: files, threads and memory do not pile up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import lissom
from lissom import Fold, Recipe

MEGABYTE = 1 << 20


class Held(NamedTuple):
    files: int
    threads: int
    bytes: int


def held() -> Held:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads = len(list(Path("/proc/self/task").iterdir()))
    return Held(len(list(Path("/proc/self/fd").iterdir())), threads, pages * os.sysconf("SC_PAGE_SIZE"))


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
    # torch.export keeps the symbols of each trace with a free batch alive: docs/log.md
    assert after.bytes - before.bytes < 16 * MEGABYTE + count * 2 * MEGABYTE
