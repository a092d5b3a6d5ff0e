"""A run on disk: what was made, with hashes; what is half done, to continue from.

    recipe.yaml  plan.json  model.safetensors  model.onnx ...  original.onnx ...   what the run made
    example.safetensors                     the example inputs, so that the folder can be measured by itself
    result.json  report.html                the figures
    manifest.json                           format, status, what the run was made from, sha256 of every file
    state/                                  finished stages of an unfinished run

Every file is written under a temporary name and renamed. No pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal, TypeVar

import filelock
import pydantic
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lissom.errors import RunFolderError
from lissom.export.base import Artifact, digest
from lissom.settings import Setting
from lissom.task import Batch

T = TypeVar("T", bound=pydantic.BaseModel)

MANIFEST = "manifest.json"
STATE = "state"


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
    source: Source
    target: str | None = None
    artifact: Artifact | None = None
    original: Artifact | None = None
    project: str | None = None
    project_settings: dict[str, str] = pydantic.Field(default_factory=dict)
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


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename: the file is there whole or not at all.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as wrong:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunFolderError(f"{path} cannot be written: {wrong.strerror or wrong}. Choose another folder.") from wrong


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Weights as safetensors, whole or not at all; tied tensors are stored once each by name."""
    part = path.with_name(f".{path.name}.part")
    try:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, part)
        part.replace(path)
    except OSError as wrong:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunFolderError(f"{path} cannot be written: {wrong.strerror or wrong}. Choose another folder.") from wrong


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """
    Raises:
        RunFolderError: the file is truncated or not safetensors.
    """
    try:
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as wrong:
        raise RunFolderError(f"{path} is damaged: {wrong}. Run the compression again into another folder.") from wrong


def save_example(path: Path, example: Batch) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for index, value in enumerate(example.args):
        tensors[f"args/{index}"] = value
    for name, value in example.kwargs.items():
        tensors[f"kwargs/{name}"] = value
    wrong = [name for name, value in tensors.items() if not isinstance(value, torch.Tensor)]  # pyright: ignore
    if wrong:
        raise RunFolderError(
            f"Example input {wrong[0]} is not a tensor; wrap the model in a module that fixes it, so that every input "
            "is a tensor a runtime can be given."
        )
    save_tensors(path, tensors)


def load_example(path: Path) -> Batch:
    held = load_tensors(path)
    args = [held[f"args/{i}"] for i in range(sum(k.startswith("args/") for k in held))]
    kwargs = {k.removeprefix("kwargs/"): v for k, v in held.items() if k.startswith("kwargs/")}
    return Batch(tuple(args), kwargs)


class RunFolder:
    """An open run folder, locked against a second process.

    Raises:
        RunFolderError: not writable, in use, holding something else or another run.
    """

    def __init__(self, path: Path, source: Source, project: str | None, settings: dict[str, str]) -> None:
        self.path = path
        self.state = path / STATE
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
                f"The run folder {path} is in use by another process. Wait for it, or choose another --out."
            ) from wrong
        try:
            self.manifest = self._open(source, project, settings)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the folder free for others."""
        self._lock.release()
        with contextlib.suppress(OSError):
            (self.path / ".lock").unlink()

    @property
    def finished(self) -> bool:
        return self.manifest.status == "finished"

    def _open(self, source: Source, project: str | None, settings: dict[str, str]) -> Manifest:
        if (self.path / MANIFEST).exists():
            manifest = read_manifest(self.path)
            differs = [
                field for field in Source.model_fields if getattr(manifest.source, field) != getattr(source, field)
            ]
            if differs:
                old, new = getattr(manifest.source, differs[0]), getattr(source, differs[0])
                raise RunFolderError(
                    f"The run folder {self.path} already holds another run: its {differs[0]} is {old}, this one's is "
                    f"{new}. Choose another --out, or delete that folder."
                )
        else:
            other = [
                p.name for p in self.path.iterdir() if p.name not in (".lock", STATE) and not p.name.endswith(".part")
            ]
            if other:
                raise RunFolderError(
                    f"The folder {self.path} is not empty and holds no run ({sorted(other)[0]!r} is in it). Choose "
                    "another --out."
                )
            manifest = Manifest(status="running", source=source, project=project, project_settings=settings)
            self.write_manifest(manifest)
        if manifest.status == "running":
            self.state.mkdir(exist_ok=True)
        return manifest

    def write_manifest(self, manifest: Manifest) -> None:
        write_text(self.path / MANIFEST, manifest.model_dump_json(indent=2))
        self.manifest = manifest

    def stage(self, name: str, kind: type[T], compute: Callable[[], T]) -> T:
        """The stage's saved outcome, or compute and save it: what makes a killed run continue."""
        path = self.state / f"{name}.json"
        if path.exists():
            try:
                return kind.model_validate_json(path.read_text(encoding="utf-8"))
            except pydantic.ValidationError:
                path.unlink()
        outcome = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, outcome.model_dump_json(indent=2))
        return outcome

    def finish(self, artifact: Artifact, original: Artifact, target: str) -> None:
        """Hash every file, mark the run finished, drop the state."""
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
    finally:
        folder.close()


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
        return Manifest.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, OSError) as wrong:
        raise RunFolderError(f"{file} is damaged: {str(wrong).splitlines()[0]}. Make the run again.") from wrong


def verify(path: Path) -> Manifest:
    """The manifest of a finished run whose every file is as it was written.

    Raises:
        RunFolderError: unfinished, or a file is missing, truncated or altered; says which.
    """
    manifest = read_manifest(path)
    if manifest.status != "finished":
        raise RunFolderError(f"The run in {path} is not finished. The command that started it continues it.")
    for name, expected in manifest.files.items():
        file = path / name
        if file.name != name or name.startswith("."):
            raise RunFolderError(
                f"{path}/{MANIFEST} names {name!r}, which lies outside the run folder. Do not trust it."
            )
        if not file.exists():
            raise RunFolderError(
                f"{file} is missing. The run folder is incomplete; copy it again or make the run again."
            )
        if digest(file) != expected:
            raise RunFolderError(
                f"{file} is truncated or altered: its sha256 is not the one in {MANIFEST}. Copy the folder again or "
                "make the run again."
            )
    return manifest


def artifact_files(manifest: Manifest) -> tuple[str, ...]:
    held: list[Any] = [a for a in (manifest.artifact, manifest.original) if a is not None]
    return tuple(name for artifact in held for name in artifact.files)
