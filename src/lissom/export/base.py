"""What every runtime offers, and what an exported model is."""

from __future__ import annotations

import contextlib
import hashlib
import keyword
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from lissom.errors import DataError, TargetError
from lissom.settings import Setting
from lissom.task import Batch, fitting, sliced

Array = np.ndarray[Any, np.dtype[Any]]
Runner = Callable[[Sequence[Array]], list[Array]]
"""The loaded model: input arrays in the artifact's order to output arrays."""


class Availability(Setting):
    """Whether a runtime can be used here, and if not, why and what to do."""

    found: bool
    version: str | None = None
    detail: str = ""


class TensorSpec(Setting):
    """One input or output: its name in the artifact, sizes (`"N"` is the batch, `"2*N"` twice it), element type."""

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


class Ran(Setting):
    """One kernel of a call as the runtime's profiler timed it."""

    op: str
    """The runtime's own name of it."""
    ms: float
    """Lower quartile over the calls."""
    product: bool
    """Whether it multiplies: what a user calls a layer."""
    node: str = ""
    """Of a product: name of the traced node it computes; empty where the runtime does not tell."""


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

    writes_without_it: ClassVar[bool] = False
    """Its artifact can be written where the runtime itself is not installed."""
    loads_bare: ClassVar[bool] = False
    """`lissom.export.<runtime>_session` loads its artifacts without torch."""

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

    def profile(self, artifact: Artifact, folder: Path, threads: int, inputs: Sequence[Array]) -> tuple[Ran, ...]:
        """The kernels of one call in the order in which they run; empty for a runtime without a profiler.

        `inputs` are those of one call, in the artifact's order.
        """
        return ()


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
    """All outputs for a batch of any size: larger ones go through in pieces, short ones are filled and cut.

    Raises:
        DataError: the batch does not hold as many input tensors as the artifact takes.
    """
    batch = ordered(batch, artifact)
    size, limit = batch.size, artifact.batch
    parts = [[torch.from_numpy(a) for a in runner(arrays(piece))] for piece in pieces(batch, artifact)]
    if limit is None or _fits(size, artifact):
        return parts[0]
    return [
        torch.cat(group)[: size if spec.shape[0] in ("N", limit) else None] if _is_split(spec, limit) else group[0]
        for spec, group in zip(artifact.outputs, zip(*parts, strict=True), strict=True)
    ]


def ordered(batch: Batch, artifact: Artifact) -> Batch:
    """Keyword inputs in the artifact's order, whatever order they were given in.

    Raises:
        DataError: the batch does not hold as many input tensors as the artifact takes.
    """
    given = len(batch.tensors())
    if given != len(artifact.inputs):
        names = ", ".join(spec.name for spec in artifact.inputs)
        raise DataError(
            f"The exported model takes {len(artifact.inputs)} input tensors ({names}), the batch holds {given}. "
            "Give Task(feed=...) a function that makes a lissom.Batch with exactly these."
        )
    order = [spec.name for spec in artifact.inputs if spec.name in batch.kwargs]
    if len(order) != len(batch.kwargs):
        return batch
    return Batch(batch.args, {name: batch.kwargs[name] for name in order}, batch.target)


def pieces(batch: Batch, artifact: Artifact) -> Iterable[Batch]:
    """What the runner is called with, one after the other."""
    limit = artifact.batch
    if limit is None or _fits(batch.size, artifact):
        yield batch
        return
    if artifact.fixed:
        yield from fitting(batch, limit)
        return
    for start in range(0, batch.size, limit):
        yield sliced(batch, start, start + limit)


def _fits(size: int, artifact: Artifact) -> bool:
    limit = artifact.batch
    return limit is None or size == limit or (size < limit and not artifact.fixed)


def _is_split(spec: TensorSpec, limit: int) -> bool:
    """Whether an output grows with the batch; others are taken from the first piece."""
    return bool(spec.shape) and (isinstance(spec.shape[0], str) or spec.shape[0] == limit)


def input_specs(program: ExportedProgram) -> list[TensorSpec]:
    """The program's inputs under the names of forward's arguments."""
    values, batch = _values(program)
    names = [str(name) for name in program.graph_signature.user_inputs]
    return [_spec(name, values[name], batch) for name in names if isinstance(values.get(name), torch.Tensor)]


def output_specs(program: ExportedProgram) -> list[TensorSpec]:
    """The program's outputs: `output`, `output_0`, ...; those of a dict or dataclass under their keys."""
    values, batch = _values(program)
    found = program.graph_signature.user_outputs
    taken = {str(name) for name in program.graph_signature.user_inputs}
    specs: list[TensorSpec] = []
    for name, source in zip(_output_names(program, len(found)), found, strict=True):
        if not isinstance(values.get(str(source)), torch.Tensor):
            continue
        while name in taken:
            name += "_out"
        taken.add(name)
        specs.append(_spec(name, values.get(str(source)), batch))
    return specs


def _values(program: ExportedProgram) -> tuple[dict[str, Any], set[str]]:
    """What torch.export knows of each node, and the symbols it chose for the batch axis."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    shapes: list[Any] = [getattr(values.get(str(name)), "shape", ()) for name in program.graph_signature.user_inputs]
    return values, {str(shape[0]) for shape in shapes if len(shape) and isinstance(shape[0], torch.SymInt)}


def _output_names(program: ExportedProgram, count: int) -> list[str]:
    structure = program.call_spec.out_spec
    if structure is None or structure.num_leaves != count:
        return [f"output_{i}" for i in range(count)]
    leaves = pytree.tree_flatten_with_path(pytree.tree_unflatten(range(count), structure))[0]
    names: list[str] = []
    for path, _ in leaves:
        name = re.sub(r"\W+", "_", pytree.keystr(path)).strip("_")
        plain = name.isidentifier() and not keyword.iskeyword(name)
        names.append(name if plain else "_".join(filter(None, ("output", name))))
    return names


def _spec(name: str, value: Any, batch: Collection[str]) -> TensorSpec:
    def size(extent: Any) -> int | str:
        if not isinstance(extent, torch.SymInt):
            return int(extent)
        return re.sub(r"\w+", lambda word: "N" if word[0] in batch else word[0], str(extent))

    shape = tuple(size(extent) for extent in getattr(value, "shape", ()))
    return TensorSpec(name=name, shape=shape, dtype=str(getattr(value, "dtype", "")).removeprefix("torch."))


@contextlib.contextmanager
def writing(folder: Path) -> Generator[Path]:
    """An empty folder to write files into; they move into `folder` when the block ends well, else they are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as scratch:
        yield Path(scratch)
        for file in sorted(Path(scratch).iterdir()):
            file.replace(folder / file.name)


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
