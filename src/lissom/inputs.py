"""Example inputs on disk: tensors by position and by name."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from lissom.errors import RunFolderError
from lissom.files import load_tensors, save_tensors
from lissom.task import Batch


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
    """
    Raises:
        RunFolderError: the file is damaged, or holds no inputs.
    """
    held = load_tensors(path)
    if not held or not all(name.startswith(("args/", "kwargs/")) for name in held) or not _counted(held):
        raise RunFolderError(f"{path} holds no example inputs. Make the run again.")
    args = [held[f"args/{i}"] for i in range(sum(k.startswith("args/") for k in held))]
    kwargs = {k.removeprefix("kwargs/"): v for k, v in held.items() if k.startswith("kwargs/")}
    return Batch(tuple(args), kwargs)


def _counted(names: Collection[str]) -> bool:
    """Whether positions go from 0 without a gap."""
    positions = {name for name in names if name.startswith("args/")}
    return positions == {f"args/{i}" for i in range(len(positions))}
