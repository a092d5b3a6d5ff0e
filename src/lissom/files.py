"""Files that are there whole or not at all: text and weights, written under a temporary name and renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file

from lissom.errors import RunFolderError


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename: the file is there whole or not at all.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    with _whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """As `write_text`.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    with _whole(path) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def _whole(path: Path) -> Generator[Path]:
    """A temporary name beside `path` that takes its place when the block ends well, and is gone when it does not."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # a link planted there would be followed
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())  # a name must never outlive a power cut without its content
        part.replace(path)
    except (OSError, safetensors.SafetensorError) as wrong:
        reason = getattr(wrong, "strerror", None) or wrong
        raise RunFolderError(
            f"{path} cannot be written: {reason}. Free space there or choose another --out."
        ) from wrong
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Weights as safetensors, whole or not at all; tied tensors are stored once each by name."""
    with _whole(path) as part:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, part, metadata)
        part.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """
    Raises:
        RunFolderError: the file is truncated or not safetensors.
    """
    try:
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as wrong:
        raise RunFolderError(f"{path} is damaged: {wrong}. Run the compression again into another folder.") from wrong


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
