"""Who holds the lock of a folder: a note beside it, for the error that another process gets.

The lock itself is the system's and ends with its process; the note is only believed where the lock is held.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from pathlib import Path

import pydantic

from lissom.errors import RunFolderError
from lissom.files import write_text
from lissom.reading import text_of
from lissom.settings import Setting

HOLDER = ".holder.json"


class Holder(Setting):
    """`.holder.json`."""

    pid: int
    host: str
    since: str
    """Local time, to the second."""


def hold(folder: Path) -> None:
    """Note that this process has the folder; where no note can be written, there is none."""
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    with contextlib.suppress(RunFolderError):
        held = Holder(pid=os.getpid(), host=socket.gethostname(), since=now)
        write_text(folder / HOLDER, held.model_dump_json())


def holder_of(folder: Path) -> str:
    """` (process 42 on host, since 2026-01-01 12:00:00+00:00)`, to follow "another process"; empty if unknown."""
    with contextlib.suppress(OSError, ValueError, pydantic.ValidationError):
        held = Holder.model_validate_json(text_of(folder / HOLDER, largest=10_000))
        return f" (process {held.pid} on {held.host}, since {held.since})"
    return ""


def release(folder: Path) -> None:
    """Take the note away, while the lock is still held."""
    with contextlib.suppress(OSError):
        (folder / HOLDER).unlink()
