"""The report page: one file that opens offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lissom.errors import UsageError
from lissom.measure.records import RunRecord
from lissom.measure.search_records import LayerSensitivity
from lissom.report import (
    architectures,
    channels,
    figures,
    layereffects,
    lessons,
    othergoals,
    searches,
    syntheses,
    tables,
    trainings,
)
from lissom.report.headline import Headline, headlines, summary
from lissom.report.listing import recipe_text
from lissom.report.page import Figure, Section, filled, json_of, write_page
from lissom.report.points import points_table, tradeoff_points, vertical
from lissom.report.units import plural


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
    trainings: tuple[Figure, ...]
    architectures: tuple[tuple[str, str, Figure, Figure], ...]
    """Of each search: title, words, front, drawing."""
    lessons: tuple[lessons.Lesson, ...]
    syntheses: tuple[tuple[syntheses.Synthesis, Figure | None], ...]
    layers_text: str
    channels_text: str
    recipe: str
    sections: tuple[Section, ...]
    other_goals: tuple[str, ...]


def render(runs: Sequence[RunRecord]) -> str:
    """The page of one run, or of several side by side.

    Raises:
        UsageError: there is no run.
    """
    if not runs:
        raise UsageError("Nothing to report: no run was given. Name at least one run folder.")
    labels = tables.run_labels(runs)
    views = [_view(run, label, f"run-{i}") for i, (run, label) in enumerate(zip(runs, labels, strict=True), 1)]
    return filled(
        "template.html.j2",
        title=views[0].label if len(views) == 1 else f"{len(views)} runs compared",
        runs=views,
        comparison=tables.comparison(runs),
        compared=_tradeoff(runs) if len(runs) > 1 else None,
        created=max(run.created for run in runs),
        lissom=runs[-1].lissom,
    )


def write(runs: Sequence[RunRecord], path: Path) -> Path:
    """Render to `path`; a reader sees the old page or the new one, never half of one.

    Raises:
        UsageError: there is no run.
        RunFolderError: the file cannot be written.
    """
    return write_page(render(runs), path)


def _view(run: RunRecord, label: str, anchor: str) -> RunView:
    asked_otherwise = othergoals.answers(run.search) if run.search else ()
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
            "corrections": lessons.corrections(run.steps),
            "made_up": syntheses.readers(run),
            "trials": tables.trials(run),
            "parity": tables.parity(run),
            "environment": tables.environment(run),
            "other_goals": othergoals.table(asked_otherwise),
        },
        figures={
            "tradeoff": _tradeoff([run]),
            "samples": _samples(run),
            "layers": _layers(run),
            "channels": _channels(run),
            **_search(run),
        },
        trainings=_trainings(run),
        architectures=_architectures(run),
        lessons=lessons.lessons(run.steps),
        syntheses=tuple((one, _synthesis(one)) for one in syntheses.syntheses(run)),
        layers_text=tables.layers_text(run),
        channels_text=channels.summary(run.channels),
        recipe=recipe_text(run.recipe),
        sections=_sections(run),
        other_goals=othergoals.sentences(asked_otherwise),
    )


def _sections(run: RunRecord) -> tuple[Section, ...]:
    wanted = (
        ("result", "Result", True),
        ("notes", "Notes", bool(run.notes)),
        ("measurements", "Before and after", True),
        ("latency", "Latency samples", True),
        ("layers", "Layers", True),
        ("channels", "Channels", bool(run.channels)),
        ("skipped", "Skipped layers", True),
        ("parity", "Simulation and runtime", True),
        ("trials", "Candidates", bool(run.trials)),
        ("search", "Search", run.search is not None),
        ("architecture", "Architecture", bool(architectures.searched(run.steps))),
        ("steps", "Steps and recipe", True),
        ("training", "Training", bool(trainings.trained(run.steps))),
        ("synthesis", "Made up data", syntheses.readers(run) is not None),
        ("distillation", "Distillation", any(step.distillation for step in run.steps)),
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
        json=json_of(figures.tradeoff(runs)),
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
        json=json_of(figures.latency_samples(run)),
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
        json=json_of(figures.layer_bars(run)),
        height=figures.layers_height(run),
        wide=True,
    )


def _trainings(run: RunRecord) -> tuple[Figure, ...]:
    return tuple(
        Figure(
            title=trainings.title(number, step),
            caption=trainings.caption(training),
            description=trainings.description(training),
            json=json_of(trainings.curves(training)),
            height=trainings.HEIGHT,
            table=trainings.table(training),
        )
        for number, step, training in trainings.trained(run.steps)
    )


def _architectures(run: RunRecord) -> tuple[tuple[str, str, Figure, Figure], ...]:
    return tuple(
        (
            f"Step {number}, {step.title or step.transform}",
            architectures.text(record),
            Figure(
                title="Front of the architecture search",
                caption="Better is to the right and up. Dashed: the wish. Subnets have the supernet's weights, before "
                "any fine-tuning.",
                description=architectures.text(record),
                json=json_of(architectures.front(record)),
                height=architectures.HEIGHT,
                table=architectures.trials(record),
            ),
            Figure(
                title="The chosen subnet beside the whole network",
                caption="Grey: channels of the whole network; blue: those that stay. Beside the bars: channels, side "
                "of the kernel, and bits of the weights where they were chosen.",
                description=architectures.description(record),
                json=json_of(architectures.drawing(record.layers)),
                height=architectures.height(record.layers),
                table=architectures.layers(record),
                wide=len(record.layers) > architectures.MANY,
            ),
        )
        for number, step, record in architectures.searched(run.steps)
    )


def _synthesis(one: syntheses.Synthesis) -> Figure | None:
    if not one.record.history:
        return None
    return Figure(
        title=f"{one.title}: losses and signs on the way",
        caption="Of inputs that were held out: neither learned from nor shown. Left: what the synthesizer makes small, "
        "before it is weighed. Right: shares, where 1 is certain, balanced, agreed, or no idea (entropy).",
        description=syntheses.description(one.record),
        json=json_of(syntheses.curves(one.record, one.moment)),
        height=syntheses.HEIGHT,
        table=syntheses.table(one.record, one.moment),
    )


def _search(run: RunRecord) -> dict[str, Figure]:
    if run.search is None:
        return {}
    effects = {
        "effects": Figure(
            title="What each value does by itself",
            caption="Candidates that differ from the original in one dimension alone. Colour: drop of the metric; "
            "text: the value and how many times faster. Empty: not tried by itself.",
            description="A heat map of drops of the metric, dimensions by values; the table below holds the numbers.",
            json=json_of(searches.effects(run.search)),
            height=searches.effects_height(run.search),
            table=searches.effects_table(run.search),
        )
    }
    layers = run.search.sensitivity
    return {
        **(effects if searches.alone(run.search) else {}),
        **({"layers_methods": _layer_effects(layers)} if layers and layers.effects else {}),
        "front": Figure(
            title="Front of the search",
            caption="Better is to the right and up. Bars: 95 % intervals of the latency. Dashed: the original's "
            "metric. The front is of all objectives, so that a candidate on it can lie behind others here.",
            description=searches.text(run.search),
            json=json_of(searches.front(run.search)),
            height=searches.HEIGHT,
            table=searches.trials(run.search, only_front=True),
        ),
        "timeline": Figure(
            title="Time line of the search",
            caption="When each candidate was made and measured, and who proposed it.",
            description=searches.text(run.search),
            json=json_of(searches.timeline(run.search)),
            height=searches.TIMELINE_HEIGHT,
            table=searches.trials(run.search),
        ),
    }


def _layer_effects(found: LayerSensitivity) -> Figure:
    return Figure(
        title="What each method does to each layer",
        caption="Colour and text: drop of the metric. The costliest layer is on top. These figures tell layers apart; "
        "what recovers afterwards, by fitting or training, they do not see.",
        description=layereffects.text(found),
        json=json_of(layereffects.heat(found)),
        height=layereffects.height(found),
        table=layereffects.table(found),
        wide=len({one.layer for one in found.effects}) > layereffects.MANY,
    )


def _channels(run: RunRecord) -> Figure:
    return Figure(
        title="Output channels of each layer, before and after",
        caption="Over the whole recipe, in the order of the model. Layers that make the same channels lose the same.",
        description=channels.description(run.channels),
        json=json_of(channels.bars(run.channels)),
        height=channels.height(run.channels),
        table=channels.table(run.channels),
        wide=len(run.channels) > channels.MANY,
    )
