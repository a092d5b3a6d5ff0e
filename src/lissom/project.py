"""Project files: plain Python that defines `build() -> (model, task)`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lissom.errors import LissomError, ProjectError, nearest
from lissom.task import Task


def load_project(path: str | Path, settings: Mapping[str, str]) -> tuple[nn.Module, Task]:
    """Run the project file's `build(**settings)`.

    Raises:
        ProjectError: no such file, no `build`, a setting it does not take, an error inside it, or the wrong return.
    """
    path = Path(path)
    build = _build_of(path)
    _check_settings(path, build, settings)
    try:
        built = build(**settings)
    except LissomError:
        raise
    except Exception as wrong:  # whatever the user's own code raises
        raise ProjectError(f"build() in {path} failed{_place(wrong, path)}: {type(wrong).__name__}: {wrong}") from wrong
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


def _build_of(path: Path) -> Callable[..., Any]:
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ProjectError(f"There is no project file {path}. {nearest(path.name, near)}")
    spec = importlib.util.spec_from_file_location(f"lissom_project_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ProjectError(f"{path} is not a Python file. A project file defines build() -> (model, task).")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.path.insert(0, str(path.parent))  # neighbours of the file import as if it were run as a script
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except LissomError:
        raise
    except Exception as wrong:  # a project file may raise anything
        raise ProjectError(f"{path} cannot be run{_place(wrong, path)}: {type(wrong).__name__}: {wrong}") from wrong
    finally:
        sys.path[:] = before
    build = getattr(module, "build", None)
    if not callable(build):
        defined = [n for n, v in vars(module).items() if inspect.isfunction(v)]
        raise ProjectError(
            f"{path} defines no build(). It must define build() -> (model, task). {nearest('build', defined)}"
        )
    return build


def _check_settings(path: Path, build: Callable[..., Any], settings: Mapping[str, str]) -> None:
    parameters = inspect.signature(build).parameters
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
    return f" at line {frames[-1].lineno} (`{frames[-1].line}`)" if frames else ""


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return type(value).__name__
