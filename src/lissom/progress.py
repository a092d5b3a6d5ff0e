"""Progress of a whole run: finished stages and the one under way, as one share from 0 to 1."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence

Report = Callable[[float, str], None]
"""(share of the whole run that is done, what is being done)."""


class Stages:
    """Stages with expected seconds; `with stages("measure") as tick: tick(0.5)`."""

    def __init__(self, expected: Sequence[tuple[str, float]], report: Report | None) -> None:
        self._seconds = dict(expected)
        self._total = sum(self._seconds.values()) or 1.0
        self._shown = 0.0
        self._done = 0.0
        self._report = report

    @contextlib.contextmanager
    def __call__(self, name: str) -> Generator[Callable[[float], None]]:
        seconds = self._seconds.pop(name, 0.0)

        def tick(share: float) -> None:
            done = (self._done + seconds * min(max(share, 0.0), 1.0)) / self._total
            self._shown = max(self._shown, min(done, 1.0))  # a bar never runs backwards
            if self._report and seconds:  # a stage that takes no time has nothing to do in this run
                self._report(self._shown, name)

        tick(0.0)
        yield tick
        tick(1.0)
        self._done += seconds
