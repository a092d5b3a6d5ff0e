"""Teachers that are files: an ONNX file, or the compressed model of a finished run, each on its own runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from lissom.errors import UsageError
from lissom.export.base import Artifact, require, run
from lissom.export.catalogue import runtime_of
from lissom.export.onnxruntime import described
from lissom.measure.environment import available_cores
from lissom.runfolder import verify
from lissom.target import load_target
from lissom.task import Batch, Task


def with_teachers(task: Task) -> Task:
    """The task with functions in place of teachers that are paths; the same task where none is.

    Raises:
        UsageError: a path that is neither an ONNX file nor a folder.
        RunFolderError: the folder is no finished run, or was altered.
        TargetError: its runtime is not installed here.
    """
    given: object = task.teacher
    several = cast(Sequence[object], given) if isinstance(given, (list, tuple)) else [given]
    if not any(isinstance(one, (str, Path)) for one in several):
        return task
    made = [teacher_of(Path(one)) if isinstance(one, (str, Path)) else one for one in several]
    return replace(task, teacher=made if isinstance(given, (list, tuple)) else made[0])


def teacher_of(path: Path) -> Callable[..., Any]:
    """A function that is called as a model is: one output as a tensor, several as a dict under their names.

    Raises:
        UsageError, RunFolderError, TargetError: as `with_teachers`.
    """
    if path.is_dir():
        manifest = verify(path)
        assert manifest.artifact is not None  # verify looked
        return _function(manifest.artifact, path)
    if path.suffix != ".onnx":
        raise UsageError(
            f"The teacher {path} is neither an ONNX file nor the folder of a finished run. Give one of them, a module, "
            "or a function."
        )
    return _function(described(path), path.parent)


def _function(artifact: Artifact, folder: Path) -> Callable[..., Any]:
    target = load_target(artifact.target)
    runtime = runtime_of(target)
    require(runtime.availability(), target.title)
    runner = runtime.load(artifact, folder, available_cores())
    names = [spec.name for spec in artifact.outputs]

    def answer(*args: Any, **kwargs: Any) -> torch.Tensor | dict[str, torch.Tensor]:
        outputs = run(runner, artifact, Batch(args, kwargs))
        return outputs[0] if len(names) == 1 else dict(zip(names, outputs, strict=True))

    return answer
