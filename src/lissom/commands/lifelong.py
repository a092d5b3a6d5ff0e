"""`lissom lifelong`: many tasks in one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from lissom.commands.shared import (
    AsJson,
    DataFolder,
    Project,
    RecipeFile,
    Setting,
    TargetName,
    WeightsFile,
    one_runtime,
    opened,
    print_json,
    settings_of,
    show_artifact,
    work,
)
from lissom.errors import UsageError, first_line
from lissom.reading import text_of, yaml_of

app = typer.Typer(
    name="lifelong",
    help="Many tasks in one model: each new one leaves every bit of the others as it was.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the backbone and its tasks.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the task.")]


@app.command()
def add(  # noqa: PLR0913  one option per wish
    folder: Folder,
    name: Name,
    project: Project,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="pack (default), grow, lwf, ewc or progress.")
    ] = None,
    fields: Annotated[Path | None, typer.Option("--settings", help="YAML or JSON: the method and its fields.")] = None,
    share: Annotated[float | None, typer.Option(help="Of the weights, what this task may keep (pack, grow).")] = None,
    goal: Annotated[float | None, typer.Option(help="Validation metric that the task has to reach (grow).")] = None,
    bits: Annotated[int, typer.Option(help="Of a shared weight, for a new folder: 8 or 32.")] = 32,
    head: Annotated[str | None, typer.Option(help="Module that makes the output, for a new folder.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    data: DataFolder = None,
    weights: WeightsFile = None,
    settings: Setting = None,
    as_json: AsJson = False,
) -> None:
    """Learn a task; the first one makes the folder. Killed, the same command goes on."""
    from lissom.lifelong import Lifelong
    from lissom.terminal import progress_bar, quiet_native, show_task

    wanted = _method(method, fields, {"share": share, "goal": goal})
    with work(as_json):
        model, task = opened(project, settings_of(settings, data, weights), as_json=as_json)
        with progress_bar(silent=as_json) as progress, quiet_native():
            if (folder / "lifelong.json").exists():
                lifelong = Lifelong.open(folder, model)
            else:
                lifelong = Lifelong.create(model, folder, task, bits=cast(Any, bits), head=head, seed=seed)
            record = lifelong.add(name, task, wanted, seed=seed, progress=progress)
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        show_task(record)
    raise typer.Exit(1 if record.goal_met is False else 0)


@app.command("list")
def list_(
    folder: Folder,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="All of it as a page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tasks, what each costs, how much is free, what was forgotten."""
    from lissom.lifelong.store import Store
    from lissom.report.lifelong import write
    from lissom.terminal import show_lifelong

    record = Store(folder).record
    page = write(record, folder.name, html) if html else None
    if as_json:
        print_json({**record.model_dump(mode="json"), **({"html": str(page)} if page else {})})
        return
    show_lifelong(record)
    if page:
        typer.echo(f"\nPage: {page}")


@app.command()
def export(
    folder: Folder,
    name: Name,
    project: Project,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that the file is written into.")],
    target: TargetName = "onnxruntime",
    recipe: RecipeFile = None,
    settings: Setting = None,
    as_json: AsJson = False,
) -> None:
    """Write one task's model for a runtime, by a recipe or with its normalizations folded."""
    import lissom
    from lissom.lifelong import Lifelong
    from lissom.pipeline import export_model
    from lissom.project import load_project
    from lissom.terminal import quiet_native

    one_runtime(target)
    wanted = lissom.Recipe.read(recipe) if recipe else lissom.Recipe([lissom.Fold()])
    with work(as_json):
        model, task = load_project(project, settings_of(settings))
        with quiet_native():
            made = Lifelong.open(folder, model).model(name)
            artifact = export_model(made, task, wanted, target=target, out=out)
    show_artifact(out, wanted, artifact, as_json=as_json)


@app.command()
def prove(folder: Folder, project: Project, settings: Setting = None, as_json: AsJson = False) -> None:
    """Answer every task's stored probes again and compare bit for bit. Exit code 3 if a task is not what it was."""
    from lissom.lifelong import Lifelong
    from lissom.project import load_project
    from lissom.terminal import show_proof

    with work(as_json):
        model, _ = load_project(project, settings_of(settings))
        proof = Lifelong.open(folder, model).prove()
    if as_json:
        tasks = [{**task.model_dump(mode="json"), "held": task.held} for task in proof.tasks]
        print_json({"held": proof.held, "tasks": tasks})
    else:
        show_proof(proof.tasks)
    raise typer.Exit(0 if proof.held else 3)


def _method(method: str | None, file: Path | None, given: dict[str, float | None]) -> Any:
    """
    Raises:
        UsageError: two methods, a file that cannot be read, or a field that the method does not have.
    """
    from lissom.lifelong.settings import parse

    data: dict[str, Any] = {}
    if file is not None:
        try:
            held = yaml_of(text_of(file))
        except (OSError, ValueError) as wrong:
            raise UsageError(
                f"--settings {file} cannot be read: {first_line(wrong)}. Write {{method: pack, share: 0.1}}."
            ) from wrong
        if not isinstance(held, dict):
            raise UsageError(f"--settings {file} holds no fields. Write {{method: pack, share: 0.1}}.")
        data = dict(cast("dict[str, Any]", held))
        if method is not None and data.setdefault("method", method) != method:
            raise UsageError(f"--method {method}, but {file} says {data['method']!r}. Leave one of them out.")
    data.setdefault("method", method or "pack")
    data |= {name: value for name, value in given.items() if value is not None}
    return parse(data, f"--settings {file}" if file else "lissom lifelong add")
