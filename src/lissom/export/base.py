"""What every runtime offers, and what an exported model is."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from lissom.errors import TargetError
from lissom.settings import Setting
from lissom.task import Batch, fitting

Array = np.ndarray[Any, np.dtype[Any]]
Runner = Callable[[Sequence[Array]], list[Array]]
"""The loaded model: input arrays in the artifact's order to output arrays."""


class Availability(Setting):
    """Whether a runtime can be used here, and if not, why and what to do."""

    found: bool
    version: str | None = None
    detail: str = ""


class TensorSpec(Setting):
    """One input or output: its name in the artifact, sizes (`"N"` follows the batch), element type."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


Kind = Literal["product", "add", "pool"]


class Kernel(Setting):
    """One operator as the runtime says it runs: the weight or node it came from, and its precision."""

    source: str
    """The weight's name where the operator has one, else the traced node's name."""
    op: str
    """The runtime's own name of the operator."""
    precision: str
    """`int8`, `int8 dynamic` (input rounded at run time), `float32`; `unknown` where the runtime does not tell."""
    node: str = ""
    """Name of the traced node it computes; empty where the runtime does not tell."""
    kind: Kind = "product"
    """What it does there; a node is judged by the kernel of its own kind."""


class Artifact(Setting):
    """Exported file(s) of one model for one target, as described in a run folder's manifest."""

    target: str
    files: tuple[str, ...]
    """Names inside the artifact's folder; the first is the one to load."""
    sha256: dict[str, str]
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: int | None
    """The largest batch one call takes; None for any."""
    fixed: bool
    """The batch must be exactly `batch`."""
    kernels: tuple[Kernel, ...] | None = None
    """What a compiler said at export time, for runtimes that cannot be asked afterwards."""


class Runtime(ABC):
    """A runtime: found or not, writes an artifact, loads it, says how it runs."""

    @abstractmethod
    def availability(self) -> Availability: ...

    @abstractmethod
    def export(self, model: nn.Module, example: Batch, target: str, folder: Path, stem: str) -> Artifact:
        """Write the model into `folder` as `stem` plus the runtime's suffix.

        Raises:
            ExportError: the model does not export; names the operator.
        """

    @abstractmethod
    def load(self, artifact: Artifact, folder: Path, threads: int) -> Runner:
        """Ready to run on `threads` threads."""

    @abstractmethod
    def kernels(self, artifact: Artifact, folder: Path) -> tuple[Kernel, ...]:
        """How each operator really runs, read back from the runtime's own optimized graph."""


Support = Literal["yes", "no"]


def require(availability: Availability, title: str) -> None:
    """
    Raises:
        TargetError: the runtime is not installed; the message says how to install it.
    """
    if not availability.found:
        raise TargetError(f"{title} is not available here: {availability.detail}")


def arrays(batch: Batch) -> list[Array]:
    """The batch's input tensors as contiguous arrays, in the artifact's order."""
    return [np.ascontiguousarray(tensor.detach().cpu().numpy()) for tensor in batch.tensors()]


def run(runner: Runner, artifact: Artifact, batch: Batch) -> list[torch.Tensor]:
    """All outputs for a batch of any size: larger ones go through in pieces, short ones are filled and cut."""
    size = batch.size
    limit = artifact.batch
    if limit is None or (size <= limit and not artifact.fixed) or size == limit:
        return [torch.from_numpy(a) for a in runner(arrays(batch))]
    parts = [runner(arrays(piece)) for piece in fitting(batch, limit)]
    joined = [torch.from_numpy(np.concatenate(group)) if group[0].ndim else torch.from_numpy(group[0]) for group in zip(*parts, strict=True)]
    return [t[:size] if t.ndim else t for t in joined]


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def artifact_of(
    target: str,
    folder: Path,
    names: Sequence[str],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    batch: int | None,
    fixed: bool,
    kernels: tuple[Kernel, ...] | None = None,
) -> Artifact:
    """Describe files that were just written."""
    return Artifact(
        target=target,
        files=tuple(names),
        sha256={name: digest(folder / name) for name in names},
        size_bytes=sum((folder / name).stat().st_size for name in names),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        batch=batch,
        fixed=fixed,
        kernels=kernels,
    )
