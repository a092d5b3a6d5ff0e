"""Models from where people have them: ONNX files and `torch.export` programs, beside project files.

    model, task = lissom.source("model.onnx", data="images/", mean=0.5, std=0.25)

One module per kind of source. None of them runs code that a file brings.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from lissom.errors import ProjectError
from lissom.sources.examples import Preprocessing, with_data
from lissom.sources.settings import SourceSettings
from lissom.task import Task

Opened = tuple[nn.Module, Task, Preprocessing]


def source(given: str | Path, **settings: Any) -> tuple[nn.Module, Task]:
    """The model, and the task that its data makes; without data a task of example inputs alone.

    Args:
        given: an ONNX file (`.onnx`) or a `torch.export` program (`.pt2`).
        settings: fields of `SourceSettings`, as text or as values.

    Raises:
        UsageError: an unknown setting, a free size that is not given, a folder that is not there.
        ProjectError: a file that is missing, of another kind, damaged, or of operators that are not known.
        VerificationError: a lifted model that answers otherwise than ONNX Runtime.
        DataError: data that does not fit the model.
    """
    opener = _opener(str(given))
    if opener is None:
        raise ProjectError(f"{given} is no source of a model. Known: {KINDS}.")
    wanted = SourceSettings.parse(settings, str(given))
    model, task, expected = opener(given, wanted)
    return model, with_data(model, task, wanted, expected)


KINDS = "PROJECT.py, FILE.onnx, FILE.pt2"


def is_source(given: str | Path) -> bool:
    """Whether `source` opens it; by its suffix alone."""
    return _opener(str(given)) is not None


def _opener(given: str) -> Callable[[str | Path, SourceSettings], Opened] | None:
    suffix = Path(given).suffix.lower()
    return {".onnx": _onnx, ".pt2": _program}.get(suffix)


def _onnx(given: str | Path, settings: SourceSettings) -> Opened:
    from lissom.sources.onnx_file import open_onnx

    model, example = open_onnx(Path(given), settings.shape)
    return model, Task(example_inputs=example, name=Path(given).stem), Preprocessing()


def _program(given: str | Path, settings: SourceSettings) -> Opened:
    from lissom.sources.program import open_program

    model, args, kwargs = open_program(Path(given), settings.shape)
    return model, Task(example_inputs=args, example_kwargs=kwargs, name=Path(given).stem), Preprocessing()
