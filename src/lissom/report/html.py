"""The report page: one file that opens offline.

What a record holds (names, reasons, notes) is untrusted text: the template escapes it, figures get it as
JSON with `<` escaped, and the page's own content security policy forbids every network request.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]
from plotly.offline import get_plotlyjs  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from lissom.errors import RunFolderError, UsageError
from lissom.measure.records import RunRecord
from lissom.report import figures, tables
from lissom.report.headline import Headline, headlines, summary
from lissom.report.listing import recipe_text
from lissom.report.points import points_table, tradeoff_points, vertical
from lissom.report.units import plural


@dataclass(frozen=True)
class Figure:
    """A figure as JSON, its words for assistive technology, and the table that holds the same numbers."""

    title: str
    caption: str
    description: str
    json: Markup
    height: int
    table: tables.Table | None = None
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a run's page, in the order of reading; `kind` picks its block of the template."""

    kind: str
    title: str


@dataclass(frozen=True)
class RunView:
    """A run as the template shows it."""

    id: str
    label: str
    record: RunRecord
    headlines: tuple[Headline, ...]
    summary: str
    goal_text: str
    tables: Mapping[str, tables.Table | None]
    figures: Mapping[str, Figure]
    layers_text: str
    recipe: str
    sections: tuple[Section, ...]


def render(runs: Sequence[RunRecord]) -> str:
    """The page of one run, or of several side by side.

    Raises:
        UsageError: there is no run.
    """
    if not runs:
        raise UsageError("Nothing to report: no run was given. Name at least one run folder.")
    labels = tables.run_labels(runs)
    views = [_view(run, label, f"run-{i}") for i, (run, label) in enumerate(zip(runs, labels, strict=True), 1)]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("template.html.j2")).render(
        title=views[0].label if len(views) == 1 else f"{len(views)} runs compared",
        runs=views,
        comparison=tables.comparison(runs),
        compared=_tradeoff(runs) if len(runs) > 1 else None,
        created=max(run.created for run in runs),
        lissom=runs[-1].lissom,
        style=Markup(_asset("style.css")),
        script=Markup(_asset("page.js")),
        plotly=Markup(get_plotlyjs()),
    )


def write(runs: Sequence[RunRecord], path: Path) -> Path:
    """Render to `path`; a reader sees the old page or the new one, never half of one.

    Raises:
        UsageError: there is no run.
        RunFolderError: the file cannot be written.
    """
    page = render(runs)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as wrong:
        reason = wrong.strerror or str(wrong)
        raise RunFolderError(
            f"The report cannot be written to {path}: {reason}. Choose another place or free this one."
        ) from wrong
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _asset(name: str) -> str:
    return resources.files("lissom.report").joinpath(name).read_text(encoding="utf-8")


def _json(figure: go.Figure) -> Markup:
    text = str(figure.to_json())  # pyright: ignore[reportUnknownMemberType]
    # `</script>` or `<!--` inside a name would end or confuse the script element it sits in
    return Markup(text.replace("<", "\\u003c"))


def _view(run: RunRecord, label: str, anchor: str) -> RunView:
    return RunView(
        id=anchor,
        label=label,
        record=run,
        headlines=headlines(run),
        summary=summary(run),
        goal_text=tables.goal_text(run),
        tables={
            "before_after": tables.before_after(run),
            "layers": tables.layers(run),
            "skipped": tables.skipped(run),
            "steps": tables.steps(run),
            "trials": tables.trials(run),
            "parity": tables.parity(run),
            "environment": tables.environment(run),
        },
        figures={"tradeoff": _tradeoff([run]), "samples": _samples(run), "layers": _layers(run)},
        layers_text=tables.layers_text(run),
        recipe=recipe_text(run.recipe),
        sections=_sections(run),
    )


def _sections(run: RunRecord) -> tuple[Section, ...]:
    wanted = (
        ("result", "Result", True),
        ("notes", "Notes", bool(run.notes)),
        ("measurements", "Before and after", True),
        ("latency", "Latency samples", True),
        ("layers", "Layers", True),
        ("skipped", "Skipped layers", True),
        ("parity", "Simulation and runtime", True),
        ("trials", "Candidates", bool(run.trials)),
        ("steps", "Steps and recipe", True),
        ("environment", "Environment", True),
        ("command", "Reproduce", True),
    )
    return tuple(Section(kind, title) for kind, title, present in wanted if present)


def _tradeoff(runs: Sequence[RunRecord]) -> Figure:
    metric = vertical(runs).metric
    return Figure(
        title=f"Latency against {metric or 'size'}",
        caption=" ".join(_tradeoff_caption(runs, metric)),
        description=figures.describe_tradeoff(runs),
        json=_json(figures.tradeoff(runs)),
        height=figures.TRADEOFF_HEIGHT,
        table=points_table(runs),
    )


def _tradeoff_caption(runs: Sequence[RunRecord], metric: str | None) -> Iterator[str]:
    yield f"Better is to the left and {'up' if metric else 'down'}."
    yield "The larger the marker, the larger the file."
    candidates = sum(not trial.chosen for run in runs for trial in run.trials)
    drawn = sum(point.role == "trial" for point in tradeoff_points(runs))
    if drawn and metric:
        yield "Candidates show the metric recorded while searching, whose split may differ."
    if candidates > drawn:
        yield f"Not drawn, because a figure is missing: {plural(candidates - drawn, 'candidate')}."


def _samples(run: RunRecord) -> Figure:
    return Figure(
        title="Latency of each round",
        caption="Original and compressed model timed in turns. Dashed line: median; band: its 95 % interval.",
        description=figures.describe_samples(run),
        json=_json(figures.latency_samples(run)),
        height=figures.SAMPLES_HEIGHT,
        table=tables.samples(run),
    )


def _layers(run: RunRecord) -> Figure:
    return Figure(
        title="Cost and quantization error by layer",
        caption="Colour and hatching: the arithmetic the layer really ran in."
        " SQNR: signal to quantization noise ratio of its output on example data.",
        description=f"Bars of multiply-accumulates and of SQNR for {plural(len(run.layers), 'layer')}, in the"
        f" order of the model. {tables.layers_text(run)} The table below holds the numbers.",
        json=_json(figures.layer_bars(run)),
        height=figures.layers_height(run),
        wide=True,
    )
