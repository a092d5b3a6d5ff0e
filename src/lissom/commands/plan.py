"""`lissom plan`: what a recipe would do, or where a search would start for a goal. Nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lissom.commands.shared import (
    AsJson,
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
    Throughput,
    WeightsFile,
    goal_of,
    making_of,
    opened,
    print_json,
    settings_of,
    work,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lissom.goal import Goal
    from lissom.pipeline import Start
    from lissom.pipeline.foresight import Foresight
    from lissom.recipe import Recipe
    from lissom.target import Target
    from lissom.task import Task


def plan(  # noqa: PLR0913  one option per wish
    project: Project,
    recipe: RecipeFile = None,
    target: TargetName = "onnxruntime",
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
    data: DataFolder = None,
    weights: WeightsFile = None,
    settings: Setting = None,
    as_json: AsJson = False,
) -> None:
    """Dry run: what would change, what is skipped and why, predicted cost. With a goal, of the recipe to start from."""
    import lissom
    from lissom.errors import TargetError, UsageError
    from lissom.pipeline import foresee, recipes_for, supplied
    from lissom.target import load_target
    from lissom.terminal import collapse_of, quiet_native, show_plans

    if target == "auto":
        raise TargetError("plan shows what one runtime would get; auto is for compress. Give --target onnxruntime.")
    goal = goal_of(
        goal_file, drop=drop, class_floor=class_floor, class_drop=class_drop, latency=latency, latency_p95=latency_p95,
        throughput=throughput, size=size, macs=macs, memory=memory, energy=energy, parameters=parameters, soft=soft,
    )  # fmt: skip
    chosen, own = load_target(target), settings_of(settings, data, weights)
    if goal != lissom.Goal():
        for option, given in (("--recipe", recipe), ("--data-free", data_free)):
            if given is not None:
                raise UsageError(
                    f"plan shows a recipe for the goal, and {option} {given} is given as well. Leave one of them out."
                )
        _towards(project, own, goal, chosen, as_json=as_json)
        return
    wanted = lissom.Recipe.read(recipe) if recipe else None
    with work(as_json):
        model, task = opened(project, own, as_json=as_json)
        making = making_of(model, task, wanted, data_free)
        with quiet_native():
            graph = lissom.analyze(model, task)
            task, made = supplied(model, task, making, seed=0)
            wanted = (making.recipe if making else wanted) or recipes_for(graph, task)[0]
            steps = foresee(model, task, wanted, chosen)
    if as_json:
        print_json(
            {
                **_as_data(wanted, chosen, task, steps),
                **({"data_free": list(making.why)} if making else {}),
                **({"synthesis": made.model_dump(mode="json")} if made else {}),
            }
        )
    else:
        show_plans(graph, steps, chosen, (*(making.why if making else ()), *collapse_of(made)))


def _towards(project: Path, settings: dict[str, str], goal: Goal, target: Target, *, as_json: bool) -> None:
    import lissom
    from lissom.pipeline import start_for
    from lissom.terminal import quiet_native, show_plans

    with work(as_json):
        model, task = opened(project, settings, as_json=as_json)
        with quiet_native():
            graph = lissom.analyze(model, task)
            found = start_for(model, task, goal, target)
    if not as_json:
        show_plans(graph, found.steps, target)
        _show(found)
        return
    print_json(
        {
            **_as_data(found.recipe, target, task, found.steps),
            "goal": goal.model_dump(mode="json", exclude_defaults=True),
            "foreseen": [{**one.model_dump(mode="json"), "kept": one.kept} for one in found.wishes],
            "start": found.notes,
        }
    )


def _as_data(recipe: Recipe, target: Target, task: Task, steps: Sequence[Foresight]) -> dict[str, object]:
    return {
        "recipe": recipe.to_data(),
        "target": target.name,
        "notes": task.notes,
        "plans": [step.plan.model_dump(mode="json") for step in steps],
        "outlook": [step.model_dump(mode="json", exclude={"plan"}) for step in steps],
    }


def _show(found: Start) -> None:
    from rich.table import Table

    from lissom.console import plain_console

    console = plain_console()
    table = Table(title="Foreseen for the goal", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("wish", "foreseen", "kept", "basis"):
        table.add_column(name)
    for one in found.wishes:
        # Shares of a cost are told as the wish is, as times fewer.
        drops = "drop" in one.wish or "class" in one.wish
        figure = "" if one.figure is None else f"{one.figure:.4f}" if drops else f"{1 / max(one.figure, 1e-9):.2f}x"
        kept = {True: "yes", False: "no", None: "not known"}[one.kept]
        table.add_row(f"{one.wish}{'' if one.hard else ' (soft)'}", figure, kept, one.basis)
    console.print(table)
    for note in found.notes:
        console.print(note)
    console.print("\nRecipe", style="bold")
    console.print(found.recipe.to_yaml(), soft_wrap=True)
