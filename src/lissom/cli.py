"""The command line. Exit codes: 0 done and goal met, 1 goal missed, 2 wrong usage, 3 failed, 130 interrupted."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import typer

from lissom._version import __version__
from lissom.commands import lifelong
from lissom.commands.compress import compress
from lissom.commands.plan import plan
from lissom.commands.recommend import recommend
from lissom.commands.shared import (
    AsJson,
    BatchSize,
    DataFolder,
    DataFree,
    Project,
    RecipeFile,
    Setting,
    TargetName,
    Threads,
    WeightsFile,
    making_of,
    one_runtime,
    opened,
    print_json,
    settings_of,
    show_artifact,
    work,
)
from lissom.console import plain_console
from lissom.errors import LissomError, UsageError, first_line
from lissom.exhaustion import disk_full, out_of_memory

app = typer.Typer(
    name="lissom",
    help="Compress trained PyTorch models, measured on the runtime they ship on.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 goal met, 1 goal missed, 2 wrong usage, 3 failed, 130 interrupted (same command resumes).",
)

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders made by compress.")]

app.add_typer(lifelong.app, name="lifelong", short_help="Many tasks in one model: add, list, prove, export.")


def main() -> None:
    """Entry point: errors become one sentence and an exit code."""
    try:
        code = app(prog_name="lissom", standalone_mode=False)  # an Exit inside comes back as its code, Ctrl-C as 130
        sys.stdout.flush()
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:  # the reader of stdout has seen enough, as in `lissom inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except UsageError as wrong:
        _say(f"error: {wrong}")
        code = 2
    except LissomError as wrong:
        _say(f"failed: {wrong}")
        code = 3
    except Exception as wrong:  # noqa: BLE001  the last stop before the shell
        show = getattr(wrong, "show", None)
        if callable(show):  # click's own usage errors
            show()
            sys.exit(2)
        if reason := _exhausted(wrong):
            _say(f"failed: {reason}")
            sys.exit(3)
        traceback.print_exc()
        _say(f"failed: {type(wrong).__name__}, which Lissom does not expect. Please report it with the lines above.")
        code = 3
    if code == 130:
        _say("Stopped. The same command continues where it was.")
    sys.exit(code or 0)


def _exhausted(wrong: Exception) -> str | None:
    """What the machine has run out of, and what to do; None if it is something else."""
    if out_of_memory(wrong):
        return (
            f"out of memory: {first_line(wrong)}. Give the task smaller batches, --batch a smaller one, --workers "
            "fewer, or run on a machine with more memory. What is finished is kept: the same command continues."
        )
    if disk_full(wrong):
        return f"nothing more can be written: {first_line(wrong)}. Free space there; the same command continues."
    return None


def _say(text: str) -> None:
    plain_console(stderr=True, soft_wrap=True).print(text)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lissom {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    # Exporters warn about packages nobody asked for; what matters is raised, not warned.
    warnings.simplefilter("ignore")


@app.command(short_help="The whole story on bundled real data, in two minutes: start here.")
def demo(
    out: Annotated[Path | None, typer.Option(help="Run folder (default: a fresh one under runs/).")] = None,
    as_json: AsJson = False,
) -> None:
    """The whole story on bundled real data, offline, in about two minutes."""
    from lissom.demo import run_demo

    records, met = run_demo(out, as_json=as_json)
    if as_json:
        print_json(records)
    raise typer.Exit(0 if met else 1)


app.command(short_help="Which methods fit a model, why, and a recipe to start from.")(recommend)


@app.command(short_help="Layers, shapes, costs, coupled channels, sensitivity.")
def inspect(  # noqa: PLR0913  one option per wish
    project: Project,
    groups: Annotated[bool, typer.Option("--groups", help="The channels that can only be cut together.")] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="What cutting each group alone does to metric and loss.")
    ] = False,
    saturation: Annotated[
        bool, typer.Option("--saturation", help="Clipping, noise and overflow in the target's integers.")
    ] = False,
    target: TargetName = "onnxruntime",
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="All of it as a page.")] = None,
    data: DataFolder = None,
    weights: WeightsFile = None,
    settings: Setting = None,
    as_json: AsJson = False,
) -> None:
    """Layers, shapes and costs of a model; coupled channels, how much it suffers when they are cut or rounded."""
    import lissom
    from lissom.pipeline import saturation as saturate
    from lissom.pipeline import sensitivity as sense
    from lissom.report.inspection import write
    from lissom.terminal import progress_bar, quiet_native, show_graph, show_groups, show_saturation, show_sensitivity

    with work(as_json):
        model, task = opened(project, settings_of(settings, data, weights), as_json=as_json)
        with progress_bar(silent=as_json or not (sensitivity or saturation)) as progress, quiet_native():
            graph = lissom.analyze(model, task)
            found = sense(model, task, progress=progress) if sensitivity else None
            integers = saturate(model, task, target=target, progress=progress) if saturation else None
    page = write(graph, task.name, html, found, integers) if html else None
    if as_json:
        layers = [layer.model_dump(mode="json") for layer in graph.layers]
        totals = {"macs": graph.macs, "parameters": graph.parameters, "bytes": graph.bytes}
        more = {
            **({"sensitivity": found.model_dump(mode="json")} if found else {}),
            **({"saturation": integers.model_dump(mode="json")} if integers else {}),
        }
        print_json(
            {
                "name": task.name,
                "classes": task.classes,
                "notes": task.notes,
                **totals,
                "dynamic_batch": graph.dynamic_batch,
                "uncounted": graph.uncounted,
                "groups": [group.model_dump(mode="json") for group in graph.groups],
                "layers": layers,
                **more,
                **({"html": str(page)} if page else {}),
            }
        )
        return
    show_graph(graph, task.name)
    if groups:
        show_groups(graph)
    if found:
        show_sensitivity(found)
    if integers:
        show_saturation(integers)
    if page:
        typer.echo(f"\nPage: {page}")


app.command(short_help="Dry run: what would change, what is skipped and why.")(plan)
app.command(short_help="Compress a model for a target and a goal, and prove it.")(compress)


@app.command(short_help="Transform and write the file for a runtime, unmeasured.")
def export(  # noqa: PLR0913  one option per wish
    project: Project,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that the file is written into.")],
    target: TargetName = "onnxruntime",
    recipe: RecipeFile = None,
    data_free: DataFree = None,
    data: DataFolder = None,
    weights: WeightsFile = None,
    settings: Setting = None,
    as_json: AsJson = False,
) -> None:
    """Transform and write the file for a runtime, without measuring: for a device that is not this one."""
    import lissom
    from lissom.pipeline import export_model, recipes_for, supplied
    from lissom.terminal import quiet_native

    one_runtime(target)
    wanted = lissom.Recipe.read(recipe) if recipe else None
    with work(as_json):
        model, task = opened(project, settings_of(settings, data, weights), as_json=as_json)
        making = making_of(model, task, wanted, data_free)
        with quiet_native():
            task, _ = supplied(model, task, making, seed=0)
            wanted = (making.recipe if making else wanted) or recipes_for(lissom.analyze(model, task), task)[0]
            artifact = export_model(model, task, wanted, target=target, out=out)
    show_artifact(out, wanted, artifact, as_json=as_json)


@app.command(short_help="Original against compressed, interleaved, with intervals.")
def measure(
    runs: Runs,
    batch: BatchSize = None,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(min=3, help="Interleaved rounds.")] = 40,
    as_json: AsJson = False,
) -> None:
    """Original against compressed, all runs interleaved, with intervals."""
    from lissom.pipeline import remeasure
    from lissom.terminal import measured_rows, quiet_native, show_measured

    with work(as_json), quiet_native():
        rows = remeasure(runs, batch_size=batch, threads=threads, rounds=rounds)
    if as_json:
        print_json(measured_rows(rows))
    else:
        show_measured(rows)


@app.command(short_help="The HTML page again, several runs side by side.")
def report(
    runs: Runs,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file (default: report.html here).")] = None,
    as_json: AsJson = False,
) -> None:
    """The HTML page again, several runs side by side."""
    from lissom.pipeline import read_result
    from lissom.report.html import write

    path = write([read_result(run) for run in runs], out or Path("report.html"))
    if as_json:
        print_json({"report": str(path)})
    else:
        typer.echo(f"Report: {path}")


@app.command(short_help="The runtimes found here, and how to install the others.")
def targets(as_json: AsJson = False) -> None:
    """The runtimes found here, what each can do, how to install the others."""
    from lissom.export.catalogue import survey
    from lissom.terminal import quiet_native, show_targets

    with quiet_native():
        found = survey()
    if as_json:
        print_json(
            {name: {**t.model_dump(mode="json"), **here.model_dump(mode="json")} for name, (t, here) in found.items()}
        )
    else:
        show_targets(found)
