"""PyTorch itself, eager, from a `torch.export` program. Integers are simulated: nothing runs in integers.

The file is what `torch.export.save` writes, without the example inputs: they are the only part of it that is
pickled. Loading refuses an archive that holds anything else than plain tensors and JSON without code.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

import lissom.transforms.quantization.rewrite  # noqa: F401  # pyright: ignore[reportUnusedImport]  registers operators
from lissom.errors import ExportError, RunFolderError, first_line
from lissom.export.archive import unsafe
from lissom.export.base import (
    Array,
    Artifact,
    Availability,
    Kernel,
    Runner,
    Runtime,
    artifact_of,
    input_specs,
    output_specs,
    writing,
)
from lissom.export.kernels import kind_of
from lissom.functional.weightgrid import restored_groups
from lissom.graph.describe import op_name
from lissom.graph.trace import export_program, torch_threads
from lissom.task import Batch
from lissom.transforms.base import clone
from lissom.transforms.quantization.grouped import RESTORE


class Torch(Runtime):
    """The reference: always there, never faster for integers."""

    def availability(self) -> Availability:
        return Availability(found=True, version=importlib.metadata.version("torch"))

    def export(self, model: nn.Module, example: Batch, target: str, folder: Path, stem: str) -> Artifact:
        program, dynamic = export_program(_plain(model), example)
        program.example_inputs = None
        with writing(folder) as scratch:
            path = scratch / f"{stem}.pt2"
            with path.open("wb") as file:
                try:
                    torch.export.save(program, file)
                except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as wrong:
                    raise ExportError(f"torch.export cannot save the model: {wrong}") from wrong
            _require_plain(path, ExportError)
        return artifact_of(
            target,
            folder,
            [path.name],
            input_specs(program),
            output_specs(program),
            batch=None if dynamic else example.size,
            fixed=not dynamic,
        )

    def load(self, artifact: Artifact, folder: Path, threads: int) -> Runner:
        program = _load(folder / artifact.files[0])
        module = program.module(check_guards=False)

        def call(inputs: Sequence[Array]) -> list[Array]:
            args, kwargs = _arguments(program, inputs)
            with torch_threads(threads), torch.no_grad():
                found = module(*args, **kwargs)
            return [t.numpy() for t in pytree.tree_leaves(found) if isinstance(t, torch.Tensor)]

        return call

    def kernels(self, artifact: Artifact, folder: Path) -> tuple[Kernel, ...]:
        program = _load(folder / artifact.files[0])
        return tuple(
            Kernel(source=node.name, op=op_name(node), precision="float32", node=node.name, kind=kind)
            for node in program.graph.nodes
            if node.op == "call_function" and (kind := kind_of(op_name(node))) is not None
        )


def _plain(model: nn.Module) -> nn.Module:
    """Stored weights restored by torch's own operators, so that the file needs no others."""
    if not isinstance(model, GraphModule) or all(node.target is not RESTORE for node in model.graph.nodes):
        return model
    made = clone(model)
    for node in made.graph.nodes:
        if node.target is RESTORE:
            node.target, node.args = restored_groups, node.args[:4]
    made.recompile()
    return made


def _arguments(program: ExportedProgram, inputs: Sequence[Array]) -> tuple[Any, Any]:
    """Flat arrays as forward takes them, positional and by keyword, constants of the traced call in between."""
    tensors = iter(inputs)
    leaves = [
        torch.from_numpy(next(tensors)) if isinstance(spec.arg, TensorArgument) else getattr(spec.arg, "value", None)
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    ]
    structure = program.call_spec.in_spec
    assert structure is not None
    return pytree.tree_unflatten(leaves, structure)


def _load(path: Path) -> ExportedProgram:
    """
    Raises:
        RunFolderError: the archive holds pickled parts or code, is damaged, or Lissom did not write it.
    """
    _require_plain(path, RunFolderError)
    try:
        return torch.export.load(path)
    except Exception as wrong:
        reason = first_line(wrong)
        raise RunFolderError(f"{path} cannot be loaded: {reason}. Copy it again or make the run again.") from wrong


def _require_plain(path: Path, error: type[ExportError | RunFolderError]) -> None:
    """Nothing in the archive may be unpickled, written into source text or evaluated when torch reads it."""
    found = unsafe(path)
    if found:
        raise error(
            f"{path.name} holds {found}. Models with custom objects or tensor subclasses cannot go to target 'torch'; "
            "for any other file, export the model again."
        )
