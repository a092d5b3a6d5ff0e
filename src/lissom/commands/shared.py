"""What commands share: options, output, the way from `NAME=VALUE` to arguments."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pydantic_core
import typer

from lissom.errors import GoalError, TargetError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from lissom.export.base import Artifact
    from lissom.goal import Goal
    from lissom.pipeline import Arranged
    from lissom.recipe import Recipe
    from lissom.task import Task

Project = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="PROJECT.py that defines build() -> (model, task), an ONNX file, a .pt2 program, timm:NAME or hf:FOLDER.",
    ),
]
DataFolder = Annotated[
    str | None,
    typer.Option("--data", metavar="FOLDER", help="Images, texts or parquet files: short for --set data=FOLDER."),
]
WeightsFile = Annotated[
    str | None,
    typer.Option("--weights", metavar="FILE|random", help="Of a timm model: short for --set weights=FILE."),
]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="NAME=VALUE", help="Argument of build(), or setting of another source."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")]
TargetName = Annotated[str, typer.Option("--target", "-t", help="A name from `lissom targets`, or auto.")]
DataFree = Annotated[
    str | None,
    typer.Option(
        "--data-free",
        metavar="METHOD[,NAME=VALUE...]",
        help="Make inputs up where the task has no data: auto, inversion, generator, adversarial, meta, drawings or "
        "noise, with fields of Synthesis and examples, as in inversion,low=0,high=1.",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the runtime (default: all cores).")]
BatchSize = Annotated[int | None, typer.Option("--batch", min=1, help="Batch that latency is measured at.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", "-r", help="YAML or JSON recipe.")]

Drop = Annotated[
    list[str] | None,
    typer.Option(help="Largest metric drop: 1%, 0.5pt, 0.01; 1%rel of the original's; f1=1% of a further metric."),
]
ClassFloor = Annotated[str | None, typer.Option(help="Least accuracy of every single class: 80%.")]
ClassDrop = Annotated[str | None, typer.Option(help="Largest accuracy drop of any single class: 3%.")]
Latency = Annotated[str | None, typer.Option(help="4x faster, or at most 2.5ms.")]
LatencyP95 = Annotated[str | None, typer.Option(help="At most this 95th percentile: 5ms.")]
Throughput = Annotated[str | None, typer.Option(help="At least so many examples a second: 500/s.")]
Size = Annotated[str | None, typer.Option(help="8x smaller, or at most 300KB.")]
Macs = Annotated[str | None, typer.Option(help="2x fewer multiply-accumulates.")]
Memory = Annotated[str | None, typer.Option(help="At most this peak memory: 200MB.")]
Energy = Annotated[str | None, typer.Option(help="2x less energy per input, or at most 5mJ.")]
Parameters = Annotated[str | None, typer.Option(help="2x fewer parameters.")]
Soft = Annotated[
    list[str] | None,
    typer.Option(metavar="WISH", help="A wish that orders and does not decide: latency, drop.f1, ..."),
]
GoalFile = Annotated[
    Path | None, typer.Option("--goal", metavar="FILE", help="YAML or JSON with wishes: latency: 4x, soft: size.")
]


@contextlib.contextmanager
def work(as_json: bool) -> Generator[None]:
    """Whatever libraries print goes to standard error if standard output is for JSON."""
    from lissom.terminal import stdout_kept

    with stdout_kept(wanted=as_json):
        yield


@contextlib.contextmanager
def crew(model: nn.Module, task: Task, workers: str) -> Generator[None]:
    """Under `torchrun` all processes do the trainings inside; all but the first end here, once it is done."""
    from lissom.training import crew as crews
    from lissom.training.finetune import finetune
    from lissom.training.pace import device_of

    if crews.size() > 1 and workers != "1":
        raise UsageError(f"--workers {workers} and torchrun both divide the work. Leave one of them out.")
    device = device_of(model)
    if crews.follows():
        crews.follow(task, device, finetune)
        raise typer.Exit
    with crews.leading(task, device):
        yield


def typed() -> str:
    """The command as it was typed, without the password of a database: it stands in the report."""
    return re.sub(r"(://[^:/@\s]*:)[^@\s]*@", r"\1***@", shlex.join(["lissom", *sys.argv[1:]]))


def settings_of(given: list[str] | None, data: str | None = None, weights: str | None = None) -> dict[str, str]:
    """
    Raises:
        UsageError: not `NAME=VALUE`, or data or weights given twice.
    """
    found: dict[str, str] = {}
    for item in given or []:
        name, sign, value = item.partition("=")
        if not sign or not name.isidentifier():
            raise UsageError(f"--set takes NAME=VALUE, got {item!r}. Write --set data=FOLDER.")
        found[name] = value
    for name, value in (("data", data), ("weights", weights)):
        if value is not None:
            if name in found:
                raise UsageError(f"--{name} {value} and --set {name}={found[name]} are both given. Leave one out.")
            found[name] = value
    return found


def opened(project: Path, settings: dict[str, str], *, as_json: bool) -> tuple[nn.Module, Task]:
    """Model and task; what reading them took for granted is said, unless one JSON document is asked for.

    Raises:
        LissomError: as `lissom.project.load_project`.
    """
    from lissom.project import load_project

    model, task = load_project(project, settings)
    if not as_json:
        for note in task.notes:
            typer.echo(note)
    return model, task


def goal_of(file: Path | None, **options: str | list[str] | None) -> Goal:
    """The wishes of a file and of the options together.

    Raises:
        GoalError: not understood, or a wish that both say.
    """
    from lissom.goal import Goal

    held = Goal.data_of(file) if file else {}
    given = {name: value for name, value in options.items() if value}
    for name in held:
        if name.replace("-", "_") in given:
            option = "--" + name.replace("_", "-")
            raise GoalError(f"{option} and the goal {file} both say it. Leave one of them out.")
    return Goal.from_data({**held, **given}, str(file) if file else "the goal")


def making_of(model: nn.Module, task: Task, recipe: Recipe | None, data_free: str | None) -> Arranged | None:
    """What is made up for the task; None where nothing was asked for.

    Raises:
        UsageError: an unknown method or field, or a task with training data.
    """
    from lissom.pipeline import arranged

    return arranged(model, task, recipe, data_free) if data_free is not None else None


def one_runtime(target: str) -> None:
    """
    Raises:
        TargetError: "auto", which chooses by measuring.
    """
    if target == "auto":
        raise TargetError("export writes for one runtime; auto is for compress. Give --target onnxruntime.")


def show_artifact(out: Path, recipe: Recipe, artifact: Artifact, *, as_json: bool) -> None:
    """What was written into the folder `out`, by which recipe."""
    if as_json:
        print_json({"folder": str(out), "recipe": recipe.to_data(), **artifact.model_dump(mode="json")})
    else:
        typer.echo(f"Written: {', '.join(str(out / name) for name in artifact.files)} (not measured)")


def print_json(data: Any) -> None:
    # JSON has no NaN and no infinity: they become null, as in result.json.
    sys.stdout.write(pydantic_core.to_json(data, indent=2, inf_nan_mode="null").decode() + "\n")
