"""Where a training stands, in one safetensors file: tensors, and the rest as JSON in its metadata.

One file, written under a temporary name and renamed: weights and counters can never be of different moments. There
is no random state in it: every draw follows from seed, epoch and step.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pydantic
import safetensors
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from lissom.files import save_tensors
from lissom.settings import Setting
from lissom.training.history import Epoch, Pace
from lissom.training.settings import Training

NAME = "training.safetensors"


class Standing(Setting):
    """Counters of an unfinished (or finished) training."""

    of: str
    """What is trained, and how: a training goes on only from its own checkpoint."""
    pace: Pace
    epochs: tuple[Epoch, ...] = ()
    """Those that are finished."""
    step: int = 0
    """Steps done in the epoch under way."""
    loss: float = 0.0
    """Sum over the examples of the epoch under way."""
    parts: dict[str, float] = pydantic.Field(default_factory=dict[str, float])
    """Such sums of what the loss is made of."""
    examples: int = 0
    seconds: float = 0.0
    learning_rate: float = 0.0


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Counters and named tensors: `model/...`, `average/...`, `best/...`, `optimizer/...`, `along/...`,
    `synthesis/...`.
    """

    standing: Standing
    tensors: dict[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors under `name/`, without it."""
        return {k.removeprefix(f"{name}/"): v for k, v in self.tensors.items() if k.startswith(f"{name}/")}


def identity(model: nn.Module, settings: Training, seed: int, steps: int, aim: str = "") -> str:
    """Sixteen hexadecimal digits of the weights at the start, settings, seed, steps of an epoch, and the aim."""
    hashed = hashlib.sha256(f"{settings.model_dump_json()} {seed} {steps}{aim}".encode())
    for name, tensor in tensors_of(model).items():
        hashed.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        hashed.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()[:16]


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model, detached, not copied."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """
    Raises:
        RunFolderError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / NAME, checkpoint.tensors, {"standing": checkpoint.standing.model_dump_json()})


def read(folder: Path) -> bytes:
    """The checkpoint's bytes; none if there is none."""
    path = folder / NAME
    return path.read_bytes() if path.is_file() else b""


def parse(data: bytes, of: str) -> Checkpoint | None:
    """The checkpoint of the training `of`; None if it is another's or damaged, and training starts anew."""
    try:
        length = int.from_bytes(data[:8], "little")
        standing = Standing.model_validate_json(json.loads(data[8 : 8 + length])["__metadata__"]["standing"])
        return Checkpoint(standing, load_tensors(data)) if standing.of == of else None
    except (safetensors.SafetensorError, pydantic.ValidationError, ValueError, KeyError):
        return None
