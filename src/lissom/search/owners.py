"""Who is at work on a trial, and whether that process still lives.

A process holds a lock on a file of its own for as long as it lives; the system lets go of it however the process ends.
So a trial whose owner's lock can be had is nobody's. Of another machine nothing is known but the time: its trials are
left alone for a day. One that lies more than a day ahead was begun by a clock that has been set back since.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import filelock

DAY = 86400.0


class Owner:
    """This process. `id` is host and name; names are unique, so that all storages of a machine share a folder, however
    they are spelt."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self.folder = Path(tempfile.gettempdir()) / "lissom-owners"
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # another user made it, for everybody
            self.folder.chmod(0o1777)
        name = uuid.uuid4().hex
        self.id = f"{socket.gethostname()}/{name}"
        self._lock = filelock.FileLock(self.folder / f"{name}.lock")
        self._lock.acquire()

    def gone(self, owner: str, started: float) -> bool:
        """Whether the process that began a trial at that time no longer works on it."""
        if owner == self.id:
            return False
        host, _, name = owner.partition("/")
        if host != socket.gethostname():
            return abs(self._now() - started) > DAY
        path = self.folder / f"{name}.lock"
        if not path.exists():
            return True
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except (filelock.Timeout, PermissionError):
            return False
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
        return True

    def first(self) -> filelock.BaseFileLock:
        """Held while a storage is set up: two processes that begin together would both make its tables."""
        return filelock.FileLock(self.folder / "first.lock")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            Path(self._lock.lock_file).unlink()
        self._lock.release()
