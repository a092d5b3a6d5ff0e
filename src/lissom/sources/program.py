"""`torch.export` programs (`.pt2`), loaded only where the archive is data alone (`lissom.export.archive`)."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from lissom.errors import ProjectError, first_line
from lissom.export.archive import EMPTY, unsafe
from lissom.graph.describe import is_free
from lissom.sources.files import existing
from lissom.sources.shapes import made_up, read_shapes


def open_program(path: Path, shape: str | None) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The program as a module, and positional and keyword example inputs (seeded) of its shapes.

    The example inputs that `torch.export.save` pickles into the archive are left out, never unpickled.

    Raises:
        ProjectError: no such file, an archive that holds more than data, or one that torch cannot load.
    """
    existing(path)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "program.pt2"
        try:
            _without_examples(path, plain)
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as wrong:
            raise ProjectError(f"{path} is no .pt2 archive: {first_line(wrong)}. Save it again.") from wrong
        found = unsafe(plain)
        if found:
            raise ProjectError(
                f"{path} holds {found}. Only programs that are data are loaded: save the model again with "
                "torch.export.save, or give a project file."
            )
        try:
            program = torch.export.load(plain)
        except Exception as wrong:  # torch raises dozens of types here
            raise ProjectError(f"{path} cannot be loaded: {first_line(wrong)}. Save it with this torch.") from wrong
    args, kwargs = _examples(path, program, shape)
    return program.module(check_guards=False), args, kwargs


def _without_examples(path: Path, plain: Path) -> None:
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(plain, "w", zipfile.ZIP_STORED) as kept:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise NotImplementedError(f"{entry.filename!r} is compressed")
            kept.writestr(entry.filename, b"" if EMPTY.fullmatch(entry.filename) else archive.read(entry))


def _examples(path: Path, program: ExportedProgram, shape: str | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    specs = [spec.arg for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    names = [spec.name for spec in specs if isinstance(spec, TensorArgument)]
    wanted = read_shapes(shape, names)
    leaves: list[Any] = []
    for number, spec in enumerate(specs):
        if not isinstance(spec, TensorArgument):
            leaves.append(getattr(spec, "value", None))
            continue
        value = values[spec.name]
        assert isinstance(value, Tensor)
        sizes = [None if is_free(size) else int(size) for size in value.shape]
        kind = torch.zeros((), dtype=value.dtype).numpy().dtype
        leaves.append(made_up(f"{path}: input {spec.name!r}", sizes, wanted.get(spec.name), kind, number))
    structure = program.call_spec.in_spec
    assert structure is not None
    args, kwargs = pytree.tree_unflatten(leaves, structure)
    return tuple(args), dict(kwargs)
