"""A lifelong folder on disk.

    lifelong.json  original.safetensors     what all tasks have in common, and the model's own values
    tasks/0001-name/                        one folder for each task, written once and never changed
        task.json  masks.bin  weights.safetensors  private.safetensors  probe.safetensors  answers.safetensors
    tasks/0001-name/shared.safetensors  memory.safetensors   where weights drift: the newest task's only
    measured/0001-test.json                 metrics after that many tasks
    adding/                                 checkpoints of an addition under way

A task is written into a hidden folder that is renamed when it is whole: the rename is the commit. Nothing that an
earlier task needs is ever opened for writing. No pickle.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TypeVar

import filelock
import pydantic
from torch import Tensor

from lissom.errors import RunFolderError, UsageError, first_line, nearest
from lissom.export.base import digest
from lissom.files import load_tensors, save_tensors, write_text
from lissom.holder import hold, holder_of, release
from lissom.lifelong.backbone import Addition
from lissom.measure.lifelong import Backbone, LifelongRecord, Row, TaskRecord
from lissom.reading import json_of, text_of
from lissom.settings import Setting, explain
from lissom.training.checkpoint import NAME as CHECKPOINT

S = TypeVar("S", bound=Setting)

MANIFEST, ORIGINAL, ADDING = "lifelong.json", "original.safetensors", "adding"
MASKS, WEIGHTS, PRIVATE = "masks.bin", "weights.safetensors", "private.safetensors"
PROBE, ANSWERS = "probe.safetensors", "answers.safetensors"
SHARED, MEMORY = "shared.safetensors", "memory.safetensors"
NEWEST = (SHARED, MEMORY)
"""Of the newest task only: the tasks before are answered with its weights."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Intent(Setting):
    """`adding/adding.json`: what is being added, so that only the same is continued."""

    name: str
    index: int
    method: str
    settings: dict[str, pydantic.JsonValue]
    seed: int


class Store:
    """Reads and writes a folder; decides nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backbone = read_json(folder / MANIFEST, Backbone)

    @classmethod
    def create(cls, folder: Path, backbone: Backbone, original: Mapping[str, Tensor]) -> Store:
        """
        Raises:
            RunFolderError: the folder holds something, or cannot be written.
        """
        if (folder / MANIFEST).exists():
            raise RunFolderError(
                f"{folder} already holds a backbone: Lifelong.open goes on with it. Choose another folder."
            )
        if folder.exists() and (not folder.is_dir() or any(_foreign(path) for path in folder.iterdir())):
            raise RunFolderError(f"The folder {folder} is not empty. Choose another folder for a new backbone.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as wrong:
            raise RunFolderError(
                f"{folder} cannot be made: {wrong.strerror or wrong}. Choose another folder."
            ) from wrong
        save_tensors(folder / ORIGINAL, dict(original))
        whole = backbone.model_copy(update={"original": digest(folder / ORIGINAL)})
        write_text(folder / MANIFEST, whole.model_dump_json(indent=2))
        return cls(folder)

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """One process at a time may add.

        Raises:
            RunFolderError: another one is at it.
        """
        lock = filelock.FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as wrong:
            said = f"{self.folder} is in use by another process{holder_of(self.folder)}. Wait for it."
            raise RunFolderError(said) from wrong
        except OSError as wrong:
            raise RunFolderError(
                f"{self.folder} cannot be locked: {wrong.strerror or wrong}. Copy it to where you may write."
            ) from wrong
        try:
            hold(self.folder)
            yield
        finally:
            release(self.folder)
            lock.release()

    def original(self) -> dict[str, Tensor]:
        """The model's own values.

        Raises:
            RunFolderError: missing or altered.
        """
        check(self.folder / ORIGINAL, self.backbone.original)
        return load_tensors(self.folder / ORIGINAL)

    def tasks(self) -> tuple[TaskRecord, ...]:
        """In the order in which they were added.

        Raises:
            RunFolderError: a record is damaged, or one is missing.
        """
        found = [read_json(path / "task.json", TaskRecord) for path in sorted(self.folder.glob("tasks/[0-9]*"))]
        for position, task in enumerate(found, 1):
            if task.index != position:
                raise RunFolderError(
                    f"{self.folder}: the task number {position} is missing ({task.name!r} is number {task.index}). "
                    "Each task needs all before it; copy the folder again."
                )
        return tuple(found)

    def task(self, name: str) -> TaskRecord:
        """
        Raises:
            UsageError: there is no such task.
        """
        known = {task.name: task for task in self.tasks()}
        if name not in known:
            raise UsageError(f"There is no task {name!r} in {self.folder}. {nearest(name, known)}")
        return known[name]

    def place(self, task: TaskRecord) -> Path:
        return self.folder / "tasks" / f"{task.index:04}-{task.name}"

    def tensors(self, task: TaskRecord, file: str) -> dict[str, Tensor]:
        """
        Raises:
            RunFolderError: the file is missing, truncated or altered.
        """
        path = self.place(task) / file
        check(path, task.files.get(file))
        return load_tensors(path)

    def addition(self, task: TaskRecord) -> Addition:
        """
        Raises:
            RunFolderError: a file is missing, truncated or altered.
        """
        path = self.place(task) / MASKS
        check(path, task.files.get(MASKS))
        return Addition(path.read_bytes(), self.tensors(task, WEIGHTS))

    def rows(self) -> tuple[Row, ...]:
        return tuple(read_json(path, Row) for path in sorted(self.folder.glob("measured/*.json")))

    def keep_row(self, row: Row) -> None:
        place = self.folder / "measured"
        place.mkdir(exist_ok=True)
        path = place / f"{row.after:04}-{row.split}.json"
        if path.exists():  # measured in parts: what was found before stays
            held = read_json(path, Row)
            found = {"metrics": {**held.metrics, **row.metrics}}
            if row.identified is None:
                found |= {"identified": held.identified, "identified_together": held.identified_together}
            row = row.model_copy(update=found)
        write_text(path, row.model_dump_json(indent=2))

    def adding(self, intent: Intent) -> Path:
        """The folder of checkpoints for an addition: that of a killed one, if it was the same.

        Raises:
            RunFolderError: another addition was not finished.
        """
        place = self.folder / ADDING
        self.abandon()
        held = read_json(place / "adding.json", Intent) if (place / "adding.json").exists() else None
        if held is not None and held != intent:
            differs = [field for field in Intent.model_fields if getattr(held, field) != getattr(intent, field)]
            raise RunFolderError(
                f"{self.folder} holds an unfinished addition of {held.name!r}, which differs in "
                f"{' and '.join(differs)}. Repeat that call to continue it, or delete {place}."
            )
        place.mkdir(exist_ok=True)
        write_text(place / "adding.json", intent.model_dump_json(indent=2))
        return place

    def abandon(self) -> None:
        """Forget an addition of which nothing was trained yet."""
        place = self.folder / ADDING
        if place.exists() and not any(place.rglob(CHECKPOINT)):
            shutil.rmtree(place)

    def stage(self, intent: Intent) -> Path:
        """An empty hidden folder for the files of a task."""
        place = self.folder / "tasks" / f".{intent.index:04}-{intent.name}.part"
        if place.exists():
            shutil.rmtree(place)
        place.mkdir(parents=True)
        return place

    def commit(self, staged: Path, record: TaskRecord) -> TaskRecord:
        """The staged files as a task, whole or not at all; what only it needs of the past is tidied up."""
        files = {path.name: digest(path) for path in sorted(staged.iterdir())}
        record = record.model_copy(update={"files": files})
        write_text(staged / "task.json", record.model_dump_json(indent=2))
        _sync(staged)
        staged.rename(self.place(record))
        _sync(self.folder / "tasks")
        self.tidy()
        return record

    def tidy(self) -> None:
        """Delete what no task needs any more."""
        records = self.tasks()
        for old in records[:-1]:
            for name in NEWEST:
                (self.place(old) / name).unlink(missing_ok=True)
        intent = self.folder / ADDING / "adding.json"
        if intent.exists() and read_json(intent, Intent).index <= len(records):
            shutil.rmtree(self.folder / ADDING)

    @property
    def record(self) -> LifelongRecord:
        """Everything that is known about the folder, as data."""
        tasks = self.tasks()
        return LifelongRecord(
            backbone=self.backbone,
            tasks=tasks,
            rows=self.rows(),
            bytes_on_disk=self.size(),
            alone_bytes=len(tasks) * (self.folder / ORIGINAL).stat().st_size * self.backbone.bits // 32,
        )

    def size(self) -> int:
        """Bytes of what the tasks need, without probes, records and checkpoints."""
        files = [self.folder / MANIFEST]
        for task in self.tasks():
            files += [self.place(task) / name for name in (MASKS, WEIGHTS, PRIVATE, SHARED)]
        return sum(path.stat().st_size for path in files if path.exists())


def _foreign(path: Path) -> bool:
    """Whether a file is not what the making of a folder may have left when it was killed."""
    return path.name != ORIGINAL and not path.name.startswith(".")


def check_name(name: str) -> None:
    """
    Raises:
        UsageError: no name for a folder.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            "A task's name has letters, digits, '.', '_' and '-', begins with a letter or digit and is at most "
            f"64 long, got {name!r}."
        )


def check(path: Path, wanted: str | None) -> None:
    """
    Raises:
        RunFolderError: the file is missing, truncated or altered.
    """
    if not path.is_file():
        raise RunFolderError(f"{path} is missing. Copy the folder again.")
    if digest(path) != wanted:
        raise RunFolderError(
            f"{path} is truncated or altered: its sha256 is not the recorded one. Copy the folder again."
        )


def read_json(path: Path, kind: type[S]) -> S:
    """
    Raises:
        RunFolderError: missing, damaged, or of another format.
    """
    try:
        data = json_of(text_of(path))
    except FileNotFoundError as wrong:
        raise RunFolderError(f"{path} is missing: {path.parent} is no lifelong folder, or not a whole one.") from wrong
    except (OSError, ValueError) as wrong:
        raise RunFolderError(f"{path} is damaged: {first_line(wrong)}. Copy the folder again.") from wrong
    if kind is Backbone and isinstance(data, dict) and data.get("format") != 1:
        raise RunFolderError(
            f"{path} is of format {data.get('format')!r}, this Lissom reads format 1. Use the Lissom that made it."
        )
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as wrong:
        raise RunFolderError(
            f"{explain(wrong, str(path), kind)} The file is damaged; copy the folder again."
        ) from wrong


def _sync(path: Path) -> None:
    """A name must never outlive a power cut without its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
