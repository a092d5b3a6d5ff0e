"""Timing alone: candidates are worked on side by side, and timed while none of the others is worked on.

Work holds a lock that is shared; whoever times turns its own into an exclusive one, which it gets when all others are
done or wait for the same. The lock is a file of the system's own kind, let go of however a process ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Quiet:
    path: Path

    @contextlib.contextmanager
    def working(self) -> Generator[Shared]:
        import fcntl  # not on Windows

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield Shared(file.fileno())


@dataclass(frozen=True)
class Shared:
    """A share of the lock, as long as the work lasts."""

    descriptor: int

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        import fcntl

        # The system lets go of the share before it waits: two that want to be alone do not wait for each other.
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.descriptor, fcntl.LOCK_SH)
