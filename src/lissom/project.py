"""Project files: plain Python that defines `build() -> (model, task)`."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lissom.errors import LissomError, ProjectError, UsageError, cut, nearest, shown, words_of
from lissom.recipe import Recipe
from lissom.sources import KINDS, is_source, source
from lissom.task import Task
from lissom.transforms.finetuning import Finetune


def load_project(path: str | Path, settings: Mapping[str, str]) -> tuple[nn.Module, Task]:
    """Run the project file's `build(**settings)`; any other source of a model is opened with these settings.

    Raises:
        ProjectError: no such file, no `build`, a setting it does not take, an error inside it, or the wrong return.
        LissomError: as `lissom.source`, for an ONNX file or a program.
    """
    path = Path(path)
    if is_source(path):
        return source(path, **settings)
    with _neighbours(path):
        build = _build_of(path)
        _check_settings(path, build, settings)
        with _explained(f"build() in {path} failed", path):
            built = build(**settings)
    if not isinstance(built, tuple) or len(built) != 2:
        raise ProjectError(f"build() in {path} must return (model, task), got {_shown(built)}.")
    model, task = built
    if not isinstance(model, nn.Module):
        raise ProjectError(
            f"build() in {path} must return a torch.nn.Module first, got {_shown(model)}. Return (model, task)."
        )
    if not isinstance(task, Task):
        raise ProjectError(f"build() in {path} must return a lissom.Task second, got {_shown(task)}.")
    return model, task


def taught(recipe: Recipe | None, task: Task, teachers: Sequence[str]) -> tuple[Recipe, Task]:
    """Every `Finetune` of the recipe learns from `teachers`: names, models of other project files, ONNX files, runs.

    Raises:
        UsageError: no recipe, or one that trains nothing.
        ProjectError: the project file.
    """
    if recipe is None or not any(isinstance(step, Finetune) for step in recipe.steps):
        raise UsageError(
            f"--teacher {teachers[0]} is what the Finetune steps of a recipe learn from, and there is "
            f"{'no recipe' if recipe is None else 'none in this one'}. Give --recipe FILE with a Finetune step."
        )
    names = [one for one in teachers if one in ("original", "self")]
    others = [_teacher(one) for one in teachers if one not in names]
    if others:
        names.append("task")
        task = replace(task, teacher=others if len(others) > 1 else others[0])
    given = {"teacher": names if len(names) > 1 else names[0]}
    steps = [
        type(step).parse({**step.model_dump(), **given}, "--teacher") if isinstance(step, Finetune) else step
        for step in recipe.steps
    ]
    return Recipe(steps), task


def _teacher(given: str) -> nn.Module | Path:
    path = Path(given)
    return path if path.suffix == ".onnx" or path.is_dir() else load_project(path, {})[0]


def _build_of(path: Path) -> Callable[..., Any]:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        way_out = nearest(path.name, near) if near else "Give the path of a Python file that defines build()."
        raise ProjectError(f"There is no project file {path}. {way_out}")
    spec = importlib.util.spec_from_file_location(f"lissom_project_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ProjectError(f"{path} is not a Python file. A model is given as {KINDS}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _explained(f"{path} cannot be run", path):
        spec.loader.exec_module(module)
    build = getattr(module, "build", None)
    if not callable(build):
        defined = [n for n, v in vars(module).items() if inspect.isfunction(v)]
        raise ProjectError(
            f"{path} defines no build(). It must define build() -> (model, task). {nearest('build', defined)}"
        )
    return build


@contextlib.contextmanager
def _neighbours(path: Path) -> Generator[None]:
    """Modules beside the file import as if it were run as a script."""
    place = str(path.resolve().parent)
    sys.path.insert(0, place)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(place)


@contextlib.contextmanager
def _explained(what: str, path: Path) -> Generator[None]:
    """Whatever the user's own code raises, as one sentence with its line."""
    try:
        yield
    except LissomError:
        raise
    except SystemExit as wrong:
        raise ProjectError(f"{what}{_place(wrong, path)}: it called sys.exit({shown(wrong.code)}).") from wrong
    except Exception as wrong:
        raise ProjectError(f"{what}{_place(wrong, path)}: {type(wrong).__name__}: {words_of(wrong)}") from wrong


def _check_settings(path: Path, build: Callable[..., Any], settings: Mapping[str, str]) -> None:
    try:
        parameters = inspect.signature(build).parameters
    except ValueError:  # a class of Python's own: what it takes shows when it is called
        return
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name in settings:
        if name not in parameters and not open_ended:
            raise ProjectError(f"build() in {path} takes no {name!r}. {nearest(name, parameters)}")
    for name, parameter in parameters.items():
        variadic = parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        if parameter.default is inspect.Parameter.empty and name not in settings and not variadic:
            raise ProjectError(f"build() in {path} needs {name!r}. Give --set {name}=VALUE.")


def _place(wrong: BaseException, path: Path) -> str:
    frames = [f for f in traceback.extract_tb(wrong.__traceback__) if Path(f.filename).name == path.name]
    return f" at line {frames[-1].lineno} (`{cut(frames[-1].line or '', 200)}`)" if frames else ""


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, type):
        return f"the class {value.__name__} itself, not an instance"
    return type(value).__name__
