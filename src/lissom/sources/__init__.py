"""Models from where people have them: ONNX files, `torch.export` programs, timm, transformers; beside project files.

    model, task = lissom.source("model.onnx", data="images/", mean=0.5, std=0.25)
    model, task = lissom.source("timm:resnet18", data="images/", weights="resnet18.safetensors")
    model, task = lissom.source("hf:folder", data="texts/")

One module per kind of source. None of them runs code that a file brings.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lissom.errors import ProjectError
from lissom.sources.examples import with_data
from lissom.sources.opened import Opened
from lissom.sources.settings import SourceSettings
from lissom.task import Task


def source(given: str | Path, **settings: Any) -> tuple[nn.Module, Task]:
    """The model, and the task that its data makes; without data a task of example inputs alone.

    Args:
        given: an ONNX file (`.onnx`), a `torch.export` program (`.pt2`), `timm:NAME`, or `hf:FOLDER`, `hf:NAME`.
        settings: fields of `SourceSettings`, as text or as values.

    Raises:
        UsageError: an unknown setting, a free size that is not given, a folder or a library that is not there.
        ProjectError: a file that is missing, of another kind, damaged, or of operators that are not known; weights
            that cannot be fetched.
        VerificationError: a lifted model that answers otherwise than ONNX Runtime.
        DataError: data that does not fit the model.
    """
    opener = _opener(str(given))
    if opener is None:
        raise ProjectError(f"{given} is no source of a model. Known: {KINDS}.")
    wanted = SourceSettings.parse(settings, str(given))
    with torch.random.fork_rng(devices=[]):  # libraries draw weights before they read them
        opened = opener(str(given), wanted)
    return opened.model, with_data(opened, wanted)


KINDS = "PROJECT.py, FILE.onnx, FILE.pt2, timm:NAME, hf:FOLDER"


def is_source(given: str | Path) -> bool:
    """Whether `source` opens it; by its prefix or suffix alone."""
    return _opener(str(given)) is not None


def _opener(given: str) -> Callable[[str, SourceSettings], Opened] | None:
    kind = next((prefix for prefix in ("timm:", "hf:") if given.startswith(prefix)), Path(given).suffix.lower())
    return {"timm:": _timm, "hf:": _hugging_face, ".onnx": _onnx, ".pt2": _program}.get(kind)


def _timm(given: str, settings: SourceSettings) -> Opened:
    from lissom.sources.timm_model import open_timm

    return open_timm(given, settings)


def _hugging_face(given: str, settings: SourceSettings) -> Opened:
    from lissom.sources.hugging_face import open_hugging_face

    return open_hugging_face(given, settings)


def _onnx(given: str, settings: SourceSettings) -> Opened:
    from lissom.sources.onnx_file import open_onnx

    settings.refuse(given, "weights", "text", "length")
    model, example = open_onnx(Path(given), settings.shape)
    return Opened(model, Task(example_inputs=example, name=Path(given).stem))


def _program(given: str, settings: SourceSettings) -> Opened:
    from lissom.sources.program import open_program

    settings.refuse(given, "weights", "text", "length")
    model, args, kwargs = open_program(Path(given), settings.shape)
    return Opened(model, Task(example_inputs=args, example_kwargs=kwargs, name=Path(given).stem))
