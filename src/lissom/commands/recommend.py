"""`lissom recommend`: which methods fit a model in a scenario, what they would save, a recipe to start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lissom.commands.shared import (
    AsJson,
    DataFolder,
    Project,
    Setting,
    WeightsFile,
    opened,
    print_json,
    settings_of,
    work,
)

if TYPE_CHECKING:
    from lissom.advise import Recommendation

SCENARIO = "mobile, realtime, edge, server, gpu, no-data or memory"
Scenario = Annotated[str, typer.Option("--scenario", metavar="NAME", help=f"{SCENARIO[0].upper()}{SCENARIO[1:]}.")]


def recommend(
    project: Project,
    scenario: Scenario,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="A name from `lissom targets` (default: the scenario's).")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="The recipe, as YAML.")] = None,
    data: DataFolder = None,
    weights: WeightsFile = None,
    settings: Setting = None,
    as_json: AsJson = False,
) -> None:
    """Which methods fit this model and its data, why, what was measured before, and a recipe to start from."""
    from lissom.advise import scenario_of, to_yaml
    from lissom.files import write_text
    from lissom.pipeline import recommend as advise
    from lissom.terminal import quiet_native

    scenario_of(scenario)  # a wrong name should not wait for the project
    with work(as_json):
        model, task = opened(project, settings_of(settings, data, weights), as_json=as_json)
        with quiet_native():
            found = advise(model, task, scenario, target=target)
    if out:
        write_text(out, to_yaml(found, str(project), str(out)))
    if as_json:
        print_json(
            {**found.model_dump(mode="json"), "recipe": found.recipe.to_data(), "out": str(out) if out else None}
        )
    else:
        _show(found, project, out)


def _show(found: Recommendation, project: Path, out: Path | None) -> None:
    from rich.table import Table
    from rich.text import Text

    from lissom.advise.methods import percent
    from lissom.advise.recommendation import counted_text, evidence_text, measured_text
    from lissom.console import plain_console
    from lissom.report.units import bytes_text, count_text
    from lissom.target import load_target

    console, target = plain_console(), load_target(found.target)
    facts = found.facts
    console.print(found.name, style="bold", end="")
    console.print(f": {found.scenario} ({found.title}), {target.title}\n")
    shares = ", ".join(
        f"{part} {percent(share.macs)} of the products and {percent(share.parameters)} of the parameters"
        for part, share in facts.shares.items()
    )
    console.print(
        f"Kind of model: {facts.kind}. {count_text(facts.macs)} MACs, {count_text(facts.parameters)} parameters, "
        f"{bytes_text(facts.bytes)}; {shares or 'no layer with weights'}. "
        f"Data: {', '.join(facts.splits) or 'none'}."
    )
    if not found.installed:
        console.print(f"{target.title} is not installed here: `lissom targets` says how. Nothing below needs it.")
    for title, rows in (
        ("In the recipe", [one for one in found.methods if one.used]),
        ("Fits, and is not in this recipe", [one for one in found.methods if one.fits and not one.used]),
        ("Does not fit", [one for one in found.methods if not one.fits]),
    ):
        if not rows:
            continue
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        fits = rows[0].fits
        for name in ("method", "why", *(["measured before"] if fits else [])):
            table.add_column(name, overflow="fold")
        for one in rows:
            measured = "" if one.method in ("fold", "made-up-inputs") else measured_text(one, facts.kind)
            table.add_row(one.method, one.why, *([measured] if fits else []))
        console.print()
        console.print(table)
    console.print()
    together = next((row for row in found.evidence if row.kind == facts.kind), None)
    console.print(f"All of it together: {evidence_text(together) if together else 'not measured yet on such a model'}.")
    if found.after is not None:
        console.print(counted_text(found))
    for note in (*found.lowered, *found.counted):
        console.print(note)
    console.print("Latency and loss of this model: not measured; the command below measures both.")
    console.print(Text.assemble("\n", ("Recipe", "bold")), end="")
    console.print(f", written to {out}" if out else "")
    if not out:
        console.print(found.recipe_yaml, soft_wrap=True)
    data_free = f" --data-free {found.data_free}" if found.data_free else ""
    recipe = f"--recipe {out}{data_free}" if out else f"--scenario {found.scenario}"
    console.print(
        f"\nlissom compress {project} --target {found.target} {recipe} --out runs/{found.scenario}",
        soft_wrap=True,
    )
