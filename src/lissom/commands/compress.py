"""`lissom compress`: the whole way, from a model, its task and a goal to a measured artifact and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lissom.commands.recommend import SCENARIO
from lissom.commands.shared import (
    AsJson,
    BatchSize,
    ClassDrop,
    ClassFloor,
    DataFolder,
    DataFree,
    Drop,
    Energy,
    GoalFile,
    Latency,
    LatencyP95,
    Macs,
    Memory,
    Parameters,
    Project,
    RecipeFile,
    Setting,
    Size,
    Soft,
    TargetName,
    Threads,
    Throughput,
    WeightsFile,
    crew,
    goal_of,
    opened,
    print_json,
    settings_of,
    typed,
    work,
)


def compress(  # noqa: PLR0913  one option per wish
    project: Project,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder; an unfinished one is continued.")],
    target: TargetName = "auto",
    recipe: RecipeFile = None,
    scenario: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Start from the recipe of `lissom recommend`: {SCENARIO}."),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="original|self|PROJECT.py|FILE.onnx|RUN",
            help="What each Finetune of the recipe learns from; may be given several times.",
        ),
    ] = None,
    drop: Drop = None,
    class_floor: ClassFloor = None,
    class_drop: ClassDrop = None,
    latency: Latency = None,
    latency_p95: LatencyP95 = None,
    throughput: Throughput = None,
    size: Size = None,
    macs: Macs = None,
    memory: Memory = None,
    energy: Energy = None,
    parameters: Parameters = None,
    soft: Soft = None,
    goal_file: GoalFile = None,
    data_free: DataFree = None,
    budget: Annotated[str | None, typer.Option(help="Time for the run, searching for a recipe: 10min.")] = None,
    search: Annotated[
        str | None,
        typer.Option(help="auto, knapsack, netadapt, hypervolume, nsga2, tpe, anneal, random (with a budget: auto)."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="Database of the search's trials (default: in the run folder).")
    ] = None,
    workers: Annotated[str, typer.Option(metavar="N", help="Candidates at a time: 4, ray:4, ray://HOST:PORT.")] = "1",
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Go on here where --storage or --workers cannot be reached.")
    ] = False,
    batch: BatchSize = None,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    data: DataFolder = None,
    weights: WeightsFile = None,
    settings: Setting = None,
    as_json: AsJson = False,
) -> None:
    """Compress a model for a target and a goal, and prove the outcome in a report."""
    import lissom
    from lissom.project import taught
    from lissom.terminal import progress_bar, quiet_native, show_run

    goal = goal_of(
        goal_file, drop=drop, class_floor=class_floor, class_drop=class_drop, latency=latency, latency_p95=latency_p95,
        throughput=throughput, size=size, macs=macs, memory=memory, energy=energy, parameters=parameters, soft=soft,
    )  # fmt: skip
    wanted = lissom.Recipe.read(recipe) if recipe else None
    given = settings_of(settings, data, weights)
    with work(as_json):
        model, task = opened(project, given, as_json=as_json)
        if teacher:
            wanted, task = taught(wanted, task, teacher)
        with crew(model, task, workers), progress_bar(silent=as_json) as progress, quiet_native():
            result = lissom.compress(
                model, task, target=target, goal=goal, recipe=wanted, scenario=scenario, budget=budget, out=out,
                batch_size=batch, threads=threads, seed=seed, data_free=data_free, search=search, storage=storage,
                workers=int(workers) if workers.isdecimal() else workers, fallback=fallback, progress=progress,
                command=typed(), project=(str(project), given),
            )  # fmt: skip
    if as_json:
        print_json(result.record.model_dump(mode="json"))
    else:
        show_run(result.record, result.folder, result.report)
    raise typer.Exit(0 if result.goal_met else 1)
