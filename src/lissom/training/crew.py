"""A whole run under `torchrun`: one process leads, the others train with it and do nothing else.

The leader (rank 0) plans, exports, measures and writes. Whenever it comes to a training, it sends what is to be trained
to the others, and all train as one (`training.distributed`). What both have from the project file, data above all, is
named and not sent. What is sent is pickled: it goes from process to process of one command, and never through a file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import os
import pickle
from collections.abc import Callable, Generator, Mapping
from contextvars import ContextVar
from typing import Any

import cloudpickle
import torch

from lissom.errors import LissomError
from lissom.task import Task
from lissom.training.distributed import Team, joined

WAIT = datetime.timedelta(days=7)
"""Between two trainings the leader may export and measure for long. Who dies is noticed at once by `torchrun`. As
milliseconds it fits into 32 bits."""

_task: ContextVar[Task | None] = ContextVar("task of the project", default=None)


def size() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def follows() -> bool:
    """Whether this process is one that trains with a leader."""
    return size() > 1 and int(os.environ.get("RANK", "0")) > 0


@contextlib.contextmanager
def leading(task: Task, device: torch.device) -> Generator[None]:
    """Trainings inside are done by all processes; alone, nothing changes. `task` is that of the project file."""
    if size() == 1:
        yield
        return
    with joined(device, WAIT) as team:
        token = _task.set(task)
        try:
            yield
        finally:
            _task.reset(token)
            with contextlib.suppress(RuntimeError):  # of others that are gone already
                team.from_first(bytes)


def follow(task: Task, device: torch.device, train: Callable[..., object]) -> None:
    """Train with the leader until it is done; `task` is that of the project file."""
    with joined(device, WAIT) as team:
        while sent := team.from_first(bytes):
            job = _Reader(io.BytesIO(sent), _known(task)).load()
            # What is wrong with a training is wrong on every process, and the leader says it.
            with contextlib.suppress(LissomError):
                train(**job)


def offer(team: Team, job: Mapping[str, Any]) -> None:
    """The others join this training, with these arguments of it; without a crew they are in it already."""
    task = _task.get()
    if task is None or team.size == 1:
        return
    file = io.BytesIO()
    _Writer(file, _known(task)).dump(dict(job))
    team.from_first(file.getvalue)


def _known(task: Task) -> dict[str, Any]:
    """What every process has from its own reading of the project file."""
    held = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    return {name: value for name, value in held.items() if not isinstance(value, str | tuple | type(None))}


class _Writer(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, known: Mapping[str, Any]) -> None:
        super().__init__(file)
        self._names = {id(value): name for name, value in known.items()}

    def persistent_id(self, obj: Any) -> str | None:
        return self._names.get(id(obj))


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, known: Mapping[str, Any]) -> None:
        super().__init__(file)
        self._known = known

    def persistent_load(self, pid: str) -> Any:
        return self._known[pid]
