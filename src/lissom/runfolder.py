"""A run on disk: what was made, with hashes; what is half done, to continue from.

    recipe.yaml  plan.json  model.safetensors  model.onnx ...  original.onnx ...   what the run made
    precision.json                          after a search for bits: what each layer costs and loses
    example.safetensors                     the example inputs, so that the folder can be measured by itself
    result.json  report.html                the figures
    manifest.json                           format, status, what the run was made from, sha256 of every file
    state/                                  finished stages of an unfinished run

Every file is written under a temporary name and renamed. No pickle. A run that fails before its first stage is
finished leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import filelock
import pydantic
import torch
from torch import nn

from lissom.errors import LissomError, RunFolderError, first_line
from lissom.exhaustion import disk_full
from lissom.export.base import Artifact, digest
from lissom.files import write_text
from lissom.holder import HOLDER, hold, holder_of, release
from lissom.reading import json_of, text_of
from lissom.settings import Setting, explain

T = TypeVar("T", bound=pydantic.BaseModel)

MANIFEST = "manifest.json"
STATE = "state"
REQUIRED = ("result.json", "recipe.yaml", "plan.json", "model.safetensors", "example.safetensors")
"""What every finished run holds besides its artifacts."""
TIMED = ("choice", "search-original", "searched", "latency")
"""Stages that hold latencies, or what was chosen by them."""
NAME = re.compile(r"[\w-][\w.-]{0,199}")
"""Of a file inside the folder."""


class Source(Setting):
    """What a run is made from; a run continues only from the same."""

    model: str
    """Fingerprint of the model: class, parameter names, shapes and values."""
    wanted: str
    """Recipe or goal, target, batch size, threads: what was asked for."""
    seed: int
    lissom: str


class Manifest(Setting):
    """`manifest.json`."""

    format: Literal[1] = 1
    status: Literal["running", "finished"]
    id: str = ""
    """What the run is known by, wherever its folder lies."""
    source: Source
    target: str | None = None
    artifact: Artifact | None = None
    original: Artifact | None = None
    project: str | None = None
    project_settings: dict[str, str] = pydantic.Field(default_factory=dict)
    graph: str | None = None
    """Hash of the traced graph: the model's code, which its fingerprint does not see."""
    machines: tuple[str, ...] = ()
    """That the run was carried out on, the last one last."""
    files: dict[str, str] = pydantic.Field(default_factory=dict)
    """sha256 of every file of a finished run."""


def fingerprint(model: nn.Module) -> str:
    """Sixteen hexadecimal digits of the model's class, parameter names, shapes, types and values."""
    hashed = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            hashed.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            hashed.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()[:16]


@dataclass(frozen=True)
class StageFolder:
    """Finished stages on disk. Unlike the run folder it is not locked, and travels to other processes."""

    state: Path
    seed: int

    def stage(
        self, name: str, kind: type[T], compute: Callable[[], T], *, holds: Callable[[T], bool] = lambda _: True
    ) -> T:
        """The stage's saved outcome if it still holds, or compute and save it: what makes a killed run continue.

        Each stage draws from a random state of its own, so that a continued run draws what an unbroken one does.
        """
        path = self.state / f"{name}.json"
        if path.exists():
            with contextlib.suppress(pydantic.ValidationError, UnicodeDecodeError):
                saved = kind.model_validate_json(path.read_text(encoding="utf-8"))
                if holds(saved):
                    return saved
            path.unlink()
        torch.default_generator.manual_seed(self._seed_of(name))
        outcome = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, outcome.model_dump_json(indent=2))
        return outcome

    def _seed_of(self, name: str) -> int:
        digits = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return int.from_bytes(digits[:6])


class RunFolder:
    """An open run folder, locked against a second process.

    Raises:
        RunFolderError: not writable, in use, holding something else or another run.
    """

    def __init__(self, path: Path, source: Source, project: str | None, settings: dict[str, str]) -> None:
        self.path = path
        self.state = path / STATE
        self._made = [p for p in (path, *path.parents) if not p.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".probe"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as wrong:
            raise RunFolderError(
                f"The run folder {path} cannot be written: {wrong.strerror or wrong}. Choose another --out."
            ) from wrong
        self._lock = filelock.FileLock(path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as wrong:
            raise RunFolderError(
                f"The run folder {path} is in use by another process{holder_of(path)}. Wait for it, or choose another "
                "--out."
            ) from wrong
        except OSError as wrong:
            raise RunFolderError(
                f"The run folder {path} cannot be locked: {wrong.strerror or wrong}. Choose another --out."
            ) from wrong
        try:
            hold(path)
            self.manifest = self._open(source, project, settings)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the folder free for others."""
        release(self.path)
        with contextlib.suppress(OSError):
            (self.path / ".lock").unlink()  # while it is held: filelock notices an unlinked file and tries again
        self._lock.release()
        self._remove_made()

    def abandon(self) -> None:
        """After a failure: leave nothing behind, unless a finished stage is worth continuing from."""
        if not self._fresh or self._any_stage():
            return
        for held in self.path.iterdir():
            if held.name in (".lock", HOLDER):
                continue
            with contextlib.suppress(OSError):
                shutil.rmtree(held) if held.is_dir() and not held.is_symlink() else held.unlink()

    def _any_stage(self) -> bool:
        return any(self.state.rglob("*.json"))

    def _remove_made(self) -> None:
        for folder in self._made:
            with contextlib.suppress(OSError):  # not empty: worth keeping
                folder.rmdir()

    @property
    def finished(self) -> bool:
        return self.manifest.status == "finished"

    def _open(self, source: Source, project: str | None, settings: dict[str, str]) -> Manifest:
        if (self.path / MANIFEST).exists():
            manifest = read_manifest(self.path)
            if manifest.source != source:
                if manifest.status == "finished" or self._any_stage():
                    raise RunFolderError(_another(self.path, manifest, source))
                manifest = None  # begun and nothing finished: nothing is lost
        else:
            manifest = None
            other = [
                p.name
                for p in self.path.iterdir()
                if p.name not in (".lock", HOLDER, f".{HOLDER}.part", f".{MANIFEST}.part")
            ]
            if other:
                raise RunFolderError(
                    f"The folder {self.path} is not empty and holds no run ({sorted(other)[0]!r} is in it). Choose "
                    "another --out."
                )
        self._fresh = manifest is None
        if manifest is None:
            manifest = Manifest(
                status="running", id=uuid.uuid4().hex, source=source, project=project, project_settings=settings
            )
            self.write_manifest(manifest)
        if manifest.status == "running":
            self.state.mkdir(exist_ok=True)
        return manifest

    def write_manifest(self, manifest: Manifest) -> None:
        write_text(self.path / MANIFEST, manifest.model_dump_json(indent=2))
        self.manifest = manifest

    def of_graph(self, graph: str) -> None:
        """Note the traced graph. Stages finished with another one, that of code changed since, are done again.

        Raises:
            RunFolderError: the run is finished, and its graph was another one.
        """
        held = self.manifest.graph
        if held == graph:
            return
        if self.finished and held is None:
            return
        if self.finished:
            raise RunFolderError(
                f"The run folder {self.path} holds a finished run of a model with the same weights and another "
                "forward(). Choose another --out, or delete that folder."
            )
        if held is not None:
            shutil.rmtree(self.state)
            self.state.mkdir()
        self.write_manifest(self.manifest.model_copy(update={"graph": graph}))

    def of_machine(self, machine: str) -> None:
        """Note what the run is carried out on. Latencies that were taken on another machine are taken again."""
        held = self.manifest.machines
        if held and held[-1] == machine:
            return
        if held:
            for name in TIMED:
                (self.state / f"{name}.json").unlink(missing_ok=True)
        self.write_manifest(self.manifest.model_copy(update={"machines": (*held, machine)}))

    def stage(
        self, name: str, kind: type[T], compute: Callable[[], T], *, holds: Callable[[T], bool] = lambda _: True
    ) -> T:
        """As `StageFolder.stage`."""
        return self.stages.stage(name, kind, compute, holds=holds)

    @property
    def stages(self) -> StageFolder:
        """What another process needs to keep stages here."""
        return StageFolder(self.state, self.manifest.source.seed)

    def finish(self, artifact: Artifact, original: Artifact, target: str) -> None:
        """Hash every file, mark the run finished, drop the state."""
        for left in (*self.path.glob(".*.part"), *self.path.glob(".export-*")):  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        names = sorted(
            p.name for p in self.path.iterdir() if p.is_file() and not p.name.startswith(".") and p.name != MANIFEST
        )
        self.write_manifest(
            self.manifest.model_copy(
                update={
                    "status": "finished",
                    "artifact": artifact,
                    "original": original,
                    "target": target,
                    "files": {name: digest(self.path / name) for name in names},
                }
            )
        )
        shutil.rmtree(self.state, ignore_errors=True)


@contextlib.contextmanager
def opened(path: Path, source: Source, project: str | None, settings: dict[str, str]) -> Generator[RunFolder]:
    folder = RunFolder(path, source, project, settings)
    try:
        yield folder
    except BaseException as wrong:
        folder.abandon()
        if isinstance(wrong, Exception) and not isinstance(wrong, LissomError) and disk_full(wrong):
            raise RunFolderError(
                f"The run in {path} cannot go on: {first_line(wrong)}. Free space there, in the temporary folder "
                f"({tempfile.gettempdir()}) too, and repeat the command: it continues. Or choose another --out."
            ) from wrong
        raise
    finally:
        folder.close()


def _another(path: Path, manifest: Manifest, source: Source) -> str:
    held = manifest.source
    if held.model != source.model:
        differs = (
            f"of another model (its fingerprint is {held.model}, this one's is {source.model}). If it should be the "
            "same, build() must return the same weights every time: load a checkpoint, or seed and fix the training"
        )
    elif held.wanted != source.wanted:
        differs = f"that was asked for otherwise: {held.wanted}; now: {source.wanted}"
    elif held.seed != source.seed:
        differs = f"of seed {held.seed}, now it is {source.seed}"
    else:
        differs = f"of Lissom {held.lissom}, this is {source.lissom}"
    status = "a finished run" if manifest.status == "finished" else "an unfinished run"
    continues = "" if manifest.status == "finished" else "repeat its own command to continue it, "
    return (
        f"The run folder {path} already holds {status} {differs}. To go on, {continues}choose another --out, or delete "
        "that folder."
    )


def read_manifest(path: Path) -> Manifest:
    """
    Raises:
        RunFolderError: there is no manifest, or it is damaged or of an unknown format.
    """
    file = path / MANIFEST
    if not file.exists():
        raise RunFolderError(
            f"{path} is not a run folder: it has no {MANIFEST}. `lissom compress ... --out` makes one."
        )
    try:
        data = json_of(text_of(file))
        if isinstance(data, dict) and data.get("format") != 1:
            raise RunFolderError(
                f"{file} is of format {data.get('format')!r}, this Lissom reads format 1. Use the Lissom that made it."
            )
        return Manifest.model_validate(data)
    except pydantic.ValidationError as wrong:
        raise RunFolderError(
            f"{explain(wrong, str(file), Manifest)} The file is damaged; make the run again."
        ) from wrong
    except (ValueError, OSError) as wrong:
        raise RunFolderError(f"{file} is damaged: {first_line(wrong)}. Make the run again.") from wrong


def verify(path: Path) -> Manifest:
    """The manifest of a finished run whose every file is as it was written.

    Raises:
        RunFolderError: unfinished, or a file is missing, truncated or altered; says which.
    """
    manifest = read_manifest(path)
    if manifest.status != "finished":
        raise RunFolderError(f"The run in {path} is not finished. The command that started it continues it.")
    for name in (*manifest.files, *_artifact_files(manifest)):
        if not NAME.fullmatch(name):
            raise RunFolderError(
                f"{path / MANIFEST} names {name!r}, which lies outside the run folder. Do not trust it."
            )
    unlisted = [name for name in (*REQUIRED, *_artifact_files(manifest)) if name not in manifest.files]
    if unlisted or manifest.artifact is None or manifest.original is None or manifest.target is None:
        what = repr(unlisted[0]) if unlisted else "the artifact"
        raise RunFolderError(f"{path / MANIFEST} is damaged: it does not list {what}. Make the run again.")
    for name in manifest.files:
        check_file(path, manifest, name)
    return manifest


def check_file(path: Path, manifest: Manifest, name: str) -> None:
    """
    Raises:
        RunFolderError: the file is missing, truncated or altered.
    """
    file = path / name
    if file.is_symlink() and file.resolve().parent != path.resolve():
        raise RunFolderError(f"{file} is a link that leads outside the run folder. Do not trust it.")
    if not file.is_file():
        raise RunFolderError(f"{file} is missing. The run folder is incomplete; copy it again or make the run again.")
    if digest(file) != manifest.files.get(name):
        raise RunFolderError(
            f"{file} is truncated or altered: its sha256 is not the one in {MANIFEST}. Copy the folder again or make "
            "the run again."
        )


def _artifact_files(manifest: Manifest) -> tuple[str, ...]:
    held = [one for one in (manifest.artifact, manifest.original) if one is not None]
    return tuple(name for artifact in held for name in artifact.files)
