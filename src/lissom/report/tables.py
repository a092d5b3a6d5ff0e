"""Tables of a run: pure functions of the record, for the terminal and for the page alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lissom.measure.records import GoalItem, LayerRecord, RunRecord, Side, StepRecord, TargetTrial
from lissom.report.qualities import energy_row, metric_name, quality_rows
from lissom.report.units import (
    MISSING,
    bytes_text,
    change_text,
    count_text,
    db_text,
    interval_text,
    metric_text,
    metric_value_text,
    ms_text,
    plural,
    ratio_interval_text,
    ratio_text,
    seconds_text,
    significant,
)

MANY = 0.95
"""Share of the parameters that are not zero above which that is not worth a row."""
UNRECORDED = "not recorded"
"""Of runs made before it was."""
Kind = Literal["text", "number", "code"]


@dataclass(frozen=True)
class Column:
    name: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """Rows of finished text. The first column names its row; `flagged` are rows that need attention."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    flagged: frozenset[int] = frozenset()


def before_after(run: RunRecord) -> Table:
    """Every measured quantity of the original and of the compressed model."""
    before, after, ratios = run.before, run.after, run.ratios
    speed = ratio_interval_text(ratios.latency, ratios.latency_low, ratios.latency_high)
    medians = (interval_text(before.latency_ms), interval_text(after.latency_ms))
    rows = (
        *quality_rows(before, after),
        ("Latency per call, median", *medians, speed),
        (
            "Latency per call, 95th percentile of rounds",
            ms_text(before.latency_ms.p95),
            ms_text(after.latency_ms.p95),
            ratio_text(_ratio(before.latency_ms.p95, after.latency_ms.p95)),
        ),
        *energy_row(before, after, ratios),
        ("Batch size", str(before.batch_size), str(after.batch_size), ""),
        (
            "Artifact size",
            bytes_text(before.size_bytes),
            bytes_text(after.size_bytes),
            ratio_text(ratios.size),
        ),
        (
            "Parameters",
            count_text(before.parameters),
            count_text(after.parameters),
            ratio_text(ratios.parameters),
        ),
        *_nonzeros_row(before, after),
        ("MACs per example", count_text(before.macs), count_text(after.macs), ratio_text(ratios.macs)),
        _memory_row(before.peak_memory_bytes, after.peak_memory_bytes),
    )
    columns = (
        Column("Quantity"),
        Column("Before", "number"),
        Column("After", "number"),
        Column("Before / after", "number"),
    )
    return Table("Original and compressed model", columns, rows)


def _nonzeros_row(before: Side, after: Side) -> tuple[tuple[str, str, str, str], ...]:
    """Only where single weights were set to zero, not just biases that never moved."""
    if before.nonzeros is None or after.nonzeros is None or after.nonzeros > MANY * after.parameters:
        return ()
    ratio = ratio_text(_ratio(before.nonzeros, after.nonzeros))
    return (("Parameters that are not zero", count_text(before.nonzeros), count_text(after.nonzeros), ratio),)


def _memory_row(before: int | None, after: int | None) -> tuple[str, ...]:
    ratio = MISSING if before is None or after is None else ratio_text(_ratio(before, after))
    return ("Peak memory above the bare runtime", bytes_text(before), bytes_text(after), ratio)


def _ratio(before: float, after: float) -> float:
    return before / after if after else float("nan")


def goals(run: RunRecord) -> Table:
    rows = tuple((item.wish, item.figure, verdict(item)) for item in run.goal)
    missed = frozenset(i for i, item in enumerate(run.goal) if item.hard and not item.met)
    return Table("Goal", (Column("Wish"), Column("Reached", "number"), Column("Verdict")), rows, missed)


def goal_text(run: RunRecord) -> str:
    """'Goal met: 3 of 3 items, 0 of 1 soft wish reached', 'Goal missed: 1 of 2 items met'; empty without one."""
    if not run.goal:
        return ""
    hard, soft = ([item for item in run.goal if item.hard is kind] for kind in (True, False))
    met = sum(item.met for item in hard)
    items = f"{met} of {plural(len(hard), 'item')}"
    text = f"Goal met: {items}" if met == len(hard) else f"Goal missed: {items} met"
    reached = f"{sum(item.met for item in soft)} of {len(soft)} soft wish{'es' if len(soft) > 1 else ''} reached"
    if not hard:
        return f"No wish decides: {reached}"
    return f"{text}, {reached}" if soft else text


def verdict(item: GoalItem) -> str:
    """A soft wish is reached or not; one that decides is met or missed."""
    if item.hard:
        return "met" if item.met else "missed"
    return "soft, reached" if item.met else "soft, not reached"


def as_planned(layer: LayerRecord) -> bool | None:
    """Whether the runtime ran the layer as planned; None when it does not tell."""
    return None if layer.ran == "unknown" else layer.ran == layer.planned


def layers(run: RunRecord) -> Table:
    sparse = any(layer.zeros for layer in run.layers)
    rows = tuple((*_layer_row(layer), *((_zeros_text(layer),) if sparse else ())) for layer in run.layers)
    columns = (
        Column("Layer", "code"),
        Column("Operator", "code"),
        Column("MACs", "number"),
        Column("Parameters before", "number"),
        Column("Parameters after", "number"),
        Column("SQNR", "number"),
        Column("Weights"),
        Column("Planned"),
        Column("Ran as"),
        Column("As planned"),
        *((Column("Zeros"),) if sparse else ()),
    )
    flagged = frozenset(i for i, layer in enumerate(run.layers) if as_planned(layer) is False)
    return Table("Cost, quantization error and arithmetic of each layer", columns, rows, flagged)


def _zeros_text(layer: LayerRecord) -> str:
    """'50 % (2:4)'; empty for a dense layer."""
    if not layer.zeros:
        return ""
    return f"{layer.zeros:.0%} ({layer.pattern})" if layer.pattern else f"{layer.zeros:.0%}"


def _layer_row(layer: LayerRecord) -> tuple[str, ...]:
    verdict = {True: "yes", False: "no", None: "unknown"}
    return (
        layer.layer,
        layer.op,
        count_text(layer.macs),
        count_text(layer.parameters_before),
        count_text(layer.parameters_after),
        db_text(layer.sqnr_db),
        layer.weights,
        layer.planned,
        "not reported" if layer.ran == "unknown" else layer.ran,
        verdict[as_planned(layer)],
    )


def precisions_text(run: RunRecord) -> str:
    """'Ran as: 20 layers int8, 2 layers float32. Weights: 20 layers int8, 1 layer float16.'; empty where not told."""
    ran = _tally(layer.ran for layer in run.layers if layer.ran != "unknown")
    weights = _tally(layer.weights for layer in run.layers if layer.weights)
    return " ".join(f"{title}: {text}." for title, text in (("Ran as", ran), ("Weights", weights)) if text)


def _tally(values: Iterable[str]) -> str:
    return ", ".join(f"{plural(count, 'layer')} {value}" for value, count in Counter(values).most_common())


def layers_text(run: RunRecord) -> str:
    """'20 of 22 layers ran as planned. 1 layer did not. Of 1 layer the runtime does not tell.'"""
    verdicts = [as_planned(layer) for layer in run.layers]
    yes, no, unknown = (verdicts.count(v) for v in (True, False, None))
    text = f"{yes} of {plural(len(verdicts), 'layer')} ran as planned."
    text += f" {plural(no, 'layer')} did not." if no else ""
    return text + (f" For {plural(unknown, 'layer')} the runtime does not tell." if unknown else "")


def skipped(run: RunRecord) -> Table:
    rows = tuple((skip.layer, skip.transform, skip.reason) for skip in run.skipped)
    columns = (Column("Layer", "code"), Column("Transform"), Column("Reason"))
    return Table("Layers that a transform left alone", columns, rows)


def steps(run: RunRecord) -> Table:
    rows = tuple(
        (
            f"{number}. {_step_title(step)}",
            step.did or UNRECORDED,
            _step_macs(run, step),
            _step_module(step),
            seconds_text(step.seconds),
            metric_text(step.metric),
        )
        for number, step in enumerate(run.steps, start=1)
    )
    columns = (
        Column("Step", "code"),
        Column("What it did"),
        Column("MACs after it", "number"),
        Column("Model after it"),
        Column("Time", "number"),
        Column("Metric after it (validation)", "number"),
    )
    return Table("Transforms in the order they ran", columns, rows)


def _step_title(step: StepRecord) -> str:
    settings = ", ".join(f"{key}={_value_text(value)}" for key, value in step.settings.items())
    return step.title or (f"{step.transform}({settings})" if settings else step.transform)


def _step_module(step: StepRecord) -> str:
    """'exported graph: its own forward() does not run at the new sizes', 'own class'."""
    return f"{step.module or UNRECORDED}{': ' if step.reason else ''}{step.reason}"


def reasons(run: RunRecord) -> tuple[str, ...]:
    """A sentence for each step that could not keep the model's class."""
    return tuple(
        f"After step {number}, {_step_title(step)}, the model is an exported graph: {step.reason}."
        for number, step in enumerate(run.steps, start=1)
        if step.reason
    )


def _step_macs(run: RunRecord, step: StepRecord) -> str:
    """'17.1M (2.4x fewer)'; the ratio is to the original."""
    if step.macs is None:
        return UNRECORDED
    ratio = ratio_text(_ratio(run.before.macs, step.macs))
    same = ratio == ratio_text(1.0)
    return count_text(step.macs) if same else f"{count_text(step.macs)} ({ratio} fewer)"


def _value_text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def trials(run: RunRecord) -> Table:
    metric = run.before.metric.name if run.before.metric else ""
    rows = tuple(_trial_row(trial, metric) for trial in run.trials)
    columns = (
        Column("Target"),
        Column("Recipe"),
        Column("Latency", "number"),
        Column("Metric", "number"),
        Column("Size", "number"),
        Column("Chosen"),
        Column("Note"),
    )
    return Table("Candidates measured on the way", columns, rows)


def _trial_row(trial: TargetTrial, metric: str) -> tuple[str, ...]:
    return (
        trial.target,
        trial.recipe,
        ms_text(trial.latency_ms),
        metric_value_text(metric, trial.metric),
        bytes_text(trial.size_bytes),
        "chosen" if trial.chosen else "no",
        trial.note,
    )


def parity(run: RunRecord) -> Table | None:
    """How far the runtime's outputs are from the simulation's; None when it was not compared."""
    if run.parity is None:
        return None
    agreement = run.parity.agreement
    rows = (
        ("Largest difference", f"{significant(run.parity.max_steps)} int8 steps"),
        ("Mean difference", f"{significant(run.parity.mean_steps)} int8 steps"),
        ("Same arg-max", MISSING if agreement is None else f"{agreement:.2%} of examples"),
    )
    columns = (Column("Output difference"), Column("Value"))
    return Table("Simulation in PyTorch against the runtime", columns, rows)


def environment(run: RunRecord) -> Table:
    env = run.environment
    versions = ", ".join(f"{name} {version}" for name, version in sorted(env.versions.items()))
    rows = (
        ("Processor", env.cpu),
        ("Cores / threads used", f"{env.cores} / {env.threads}"),
        ("Instruction sets", ", ".join(env.isa) or "none reported"),
        ("Memory", bytes_text(env.memory_bytes)),
        ("System", env.system),
        ("Python", env.python),
        ("Packages", versions or "none reported"),
        ("Lissom", run.lissom),
        ("Seed", str(run.seed)),
        ("Created", run.created),
    )
    return Table("Where the numbers were measured", (Column("Item"), Column("Value")), rows)


def comparison(runs: Sequence[RunRecord]) -> Table:
    """Runs side by side: one column each."""
    columns = (Column("Quantity"), *(Column(label) for label in run_labels(runs)))
    rows = tuple((name, *cells) for name, cells in _comparison_rows(runs).items())
    return Table("Runs side by side", columns, rows)


def run_labels(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """A name for each run, told apart by target, then by number."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.name} ({run.target})" for run in runs]
    if len(set(names)) < len(names):
        names = [f"{name} #{number}" for number, name in enumerate(names, start=1)]
    return tuple(names)


def _comparison_rows(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    return {
        "Target": [run.target for run in runs],
        "Goal": [_short_goal(run) for run in runs],
        "Size ratio, before / after": [ratio_text(run.ratios.size) for run in runs],
        "Latency ratio, before / after": [
            ratio_interval_text(run.ratios.latency, run.ratios.latency_low, run.ratios.latency_high) for run in runs
        ],
        "Metric": [metric_name(run.after.metric) if run.after.metric else MISSING for run in runs],
        "Metric before": [metric_text(run.before.metric) for run in runs],
        "Metric after": [metric_text(run.after.metric) for run in runs],
        "Metric change": [change_text(run.before.metric, run.after.metric) for run in runs],
        "Size after": [bytes_text(run.after.size_bytes) for run in runs],
        "Latency before": [interval_text(run.before.latency_ms) for run in runs],
        "Latency after": [interval_text(run.after.latency_ms) for run in runs],
        "Batch size": [str(run.after.batch_size) for run in runs],
        "Parameters after": [count_text(run.after.parameters) for run in runs],
        "MACs after": [count_text(run.after.macs) for run in runs],
        "Peak memory after": [bytes_text(run.after.peak_memory_bytes) for run in runs],
        "Processor": [run.environment.cpu for run in runs],
        "Seed": [str(run.seed) for run in runs],
    }


def _short_goal(run: RunRecord) -> str:
    if not run.goal:
        return "none set"
    hard = [item.met for item in run.goal if item.hard]
    soft = [item.met for item in run.goal if not item.hard]
    text = f"{'met' if all(hard) else 'missed'}: {sum(hard)} of {len(hard)}"
    return f"{text}, soft {sum(soft)} of {len(soft)}" if soft else text


def samples(run: RunRecord) -> Table:
    """The raw latencies, one A/B round a row."""
    before, after = run.before.latency_ms.samples, run.after.latency_ms.samples
    rows = tuple(
        (str(number), _sample(before, number), _sample(after, number))
        for number in range(1, max(len(before), len(after)) + 1)
    )
    columns = (Column("Round"), Column("Before, ms", "number"), Column("After, ms", "number"))
    return Table("Latency of each round, milliseconds per call", columns, rows)


def _sample(values: Sequence[float], number: int) -> str:
    return significant(values[number - 1], 4) if number <= len(values) else ""
