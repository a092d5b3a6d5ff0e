"""A recipe carried out and written for a runtime, without measuring: the file for a device that is not this one."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lissom.errors import RunFolderError
from lissom.export.base import Artifact, require
from lissom.export.catalogue import runtime_of
from lissom.pipeline.arguments import check_weights
from lissom.pipeline.teachers import with_teachers
from lissom.pipeline.transforming import transform
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Task


def export_model(model: nn.Module, task: Task, recipe: Recipe, *, target: str, out: str | Path) -> Artifact:
    """Transform `model` and write it into the folder `out` under the target's file name; nothing is measured.

    TensorRT's QDQ ONNX file is written without TensorRT; the other runtimes have to be installed.

    Raises:
        TargetError: no such target, or its exporter is not installed.
        RunFolderError: the folder already holds that file, or cannot be written.
        ExportError: the model does not export.
    """
    chosen = load_target(target)
    runtime, folder = runtime_of(chosen), Path(out)
    if not runtime.writes_without_it:
        require(runtime.availability(), chosen.title)
    check_weights(model)
    if (folder / chosen.artifact).exists():
        raise RunFolderError(f"{folder / chosen.artifact} exists already. Choose another --out, or delete it.")
    steps = transform(model, with_teachers(task), recipe, chosen)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return runtime.export(steps[-1].model, task.example, chosen.name, folder, Path(chosen.artifact).stem)
    except OSError as wrong:
        raise RunFolderError(f"{folder} cannot be written: {wrong.strerror or wrong}. Choose another --out.") from wrong
