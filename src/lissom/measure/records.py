"""What a measurement is: raw samples, units, environment; JSON, no tensors.

`RunRecord` is `result.json`, versioned by `format`. Reports are functions of it alone.
"""

from __future__ import annotations

from typing import Any, Literal

from lissom.measure.metric_records import ClassShares, MetricValue
from lissom.measure.search_records import ArchitectureRecord, SearchRecord
from lissom.measure.synthesis import SynthesisRecord
from lissom.settings import Setting

FORMAT = 1


class Interval(Setting):
    """A median with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float


class Latency(Interval):
    """Milliseconds per call. `samples` are block medians in the order they were timed, one per A/B round."""

    p95: float
    samples: tuple[float, ...]


class EnergyUse(Interval):
    """Joules per input, by the processor's counters. One sample per A/B round."""

    samples: tuple[float, ...]


class Side(Setting):
    """One model on one runtime: the original (`before`) or the compressed one (`after`)."""

    metric: MetricValue | None
    latency_ms: Latency
    batch_size: int
    size_bytes: int
    """Of the artifact file(s), as shipped."""
    parameters: int
    macs: int
    """Multiply-accumulates of one example (batch of one)."""
    peak_memory_bytes: int | None
    """Peak resident memory of a fresh process that loads and runs the artifact, above the bare runtime's."""
    nonzeros: int | None = None
    """Trainable parameters that are not exactly zero, before rounding; None where an older version did not count."""
    metrics: tuple[MetricValue, ...] = ()
    """The task's further metrics, in its order, of the same pass over the data as `metric`."""
    classes: ClassShares | None = None
    """Of the same pass, by the first of the metrics that tells classes apart; None where none does."""
    energy: EnergyUse | None = None
    """At the measured batch; None where the machine exposes no counters."""


class Ratios(Setting):
    """before / after: above 1 is better. `latency` is the median of paired per-round ratios, with its interval."""

    size: float
    latency: float
    latency_low: float
    latency_high: float
    macs: float
    parameters: float
    energy: float | None = None
    """Per input, the median of paired per-round ratios, with its interval; None where it was not measured."""
    energy_low: float | None = None
    energy_high: float | None = None


class GoalItem(Setting):
    """One wish of the goal, the figure reached, and whether it is met."""

    wish: str
    figure: str
    met: bool
    hard: bool = True
    """Whether it decides if the goal is met; a soft one does not."""


class EpochRecord(Setting):
    """One pass over the training data."""

    loss: float
    """Mean over the examples, as trained on: augmented, with penalty."""
    learning_rate: float
    """Of its last step."""
    metric: float | None
    """On the validation split; None without."""
    seconds: float


class TrainingRecord(Setting):
    """A training, epoch by epoch. The weights are those after epoch `chosen` (from 0)."""

    metric_name: str | None
    epochs: tuple[EpochRecord, ...]
    chosen: int
    precision: Literal["float32", "bfloat16"]
    channels_last: bool
    compiled: bool = False
    step_ms: dict[str, float]
    """Median milliseconds of a forward and backward pass in each way that was timed; empty without a choice."""


class AnswererRecord(Setting):
    """One of those that were asked: `student`, a teacher by its name, `without a teacher`."""

    name: str
    metric: float | None
    calibration_error: float | None
    """Expected, over 15 intervals of the confidence; None where answers or targets are no classes."""
    agreement: float | None = None
    """Share of the answers with the teachers' likeliest class; None where answers are no classes."""


class ClassRecord(Setting):
    """Of the examples of one class, the share that each answerer had right, in their order."""

    label: int
    examples: int
    right: tuple[float, ...]


class ComparisonRecord(Setting):
    """A student beside its teachers and its control, on the first examples of the validation split."""

    metric_name: str | None
    answerers: tuple[AnswererRecord, ...]
    agreement: float | None = None
    """Share of the answers with the teachers' likeliest class."""
    unexplained: float | None = None
    """|student - teacher|^2 / |teacher|^2, where answers are no classes."""
    classes: tuple[ClassRecord, ...]
    """At most 100, those in which student and first teacher differ most first."""


class DistillationRecord(Setting):
    """What a step learned from teachers, and what came of it."""

    teachers: tuple[str, ...]
    share: float
    losses: dict[str, float]
    """Of the epoch whose weights are kept: `task` and each loss, unweighted."""
    taps: dict[str, dict[str, str]]
    """Loss -> student's module -> teacher's."""
    rounds: tuple[float | None, ...] = ()
    """Validation metric of each generation, where there were several."""
    kept: int = 0
    replaced: int = 0
    kept_bytes: int = 0
    """Answers of the teachers that were kept, of these made again, and their size."""
    comparison: ComparisonRecord | None = None


class CorrectionRecord(Setting):
    """A correction of a quantized model: relative squared error of its outputs, on held-out examples."""

    name: str
    layers: int
    error_before: float
    error_after: float
    accepted: bool


class StepRecord(Setting):
    transform: str
    settings: dict[str, Any]
    seconds: float
    metric: MetricValue | None
    """On the validation split, of the torch model after this step."""
    metrics: tuple[MetricValue, ...] = ()
    """The further ones, of the same pass."""
    title: str = ""
    """With the settings that differ from the defaults: `Prune(macs_ratio=2.1)`."""
    did: str = ""
    """What its plan holds, in words: "3 groups of channels cut, in 9 layers"."""
    macs: int | None = None
    """Of one example, after this step."""
    parameters: int | None = None
    module: Literal["own class", "exported graph"] | None = None
    """What the torch model is after this step: of the original's class, or a graph exported from it."""
    reason: str = ""
    """Why a step that keeps the class wherever it can left a graph; empty where it did not."""
    training: TrainingRecord | None = None
    distillation: DistillationRecord | None = None
    synthesis: SynthesisRecord | None = None
    """Of a training whose inputs were made up while it trained."""
    made_up: tuple[str, ...] = ()
    """Splits that it read and that were made up; empty where all data are the task's."""
    corrections: tuple[CorrectionRecord, ...] = ()
    """What a quantization tried, in that order."""
    architecture: ArchitectureRecord | None = None
    """Of a search for an architecture."""


class SkipRecord(Setting):
    transform: str
    layer: str
    reason: str


class ChannelRecord(Setting):
    """A layer's output channels (and input channels, where its weight shows them) before and after pruning."""

    layer: str
    op: str
    before: int
    after: int
    inputs_before: int | None = None
    inputs_after: int | None = None
    coupled: tuple[str, ...] = ()
    """Other layers whose channels can only be cut with these."""
    reason: str = ""
    """Why they are all still there; empty where some were cut."""


class LayerRecord(Setting):
    """One layer before and after; `sqnr_db` is its output's signal to quantization noise ratio on example data."""

    layer: str
    op: str
    macs: int
    parameters_before: int
    parameters_after: int
    planned: str
    """What the plan asked for: int8, int8 dynamic, float32."""
    ran: str
    """What the runtime's optimized graph says it ran as; `unknown` where the runtime does not tell."""
    sqnr_db: float | None
    weights: str = ""
    """How its weights are stored: `int8`, `int4`, `float16`, `float32`; empty for a layer without."""
    zeros: float = 0.0
    """Share of its weights that `Sparsify` made zero and that still are, before rounding."""
    pattern: str = ""
    """The N:M pattern or the block that they have; empty where none was asked for or it is lost."""


class Parity(Setting):
    """Torch simulation against the runtime's own output, in int8 steps of each output's range."""

    max_steps: float
    mean_steps: float
    agreement: float | None
    """Share of examples whose arg-max is the same, for two-dimensional outputs."""


class Environment(Setting):
    cpu: str
    cores: int
    threads: int
    isa: tuple[str, ...]
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str]


class TargetTrial(Setting):
    """A candidate that was tried on the way: which runtime and recipe, how fast, chosen or not, why not."""

    target: str
    recipe: str
    latency_ms: float | None
    metric: float | None
    size_bytes: int | None
    chosen: bool
    note: str


class RunRecord(Setting):
    """`result.json`."""

    format: Literal[1] = 1
    lissom: str
    name: str
    created: str
    """UTC, ISO 8601."""
    target: str
    before: Side
    after: Side
    ratios: Ratios
    goal: tuple[GoalItem, ...]
    steps: tuple[StepRecord, ...]
    skipped: tuple[SkipRecord, ...]
    layers: tuple[LayerRecord, ...]
    channels: tuple[ChannelRecord, ...] = ()
    """Of every layer with channels, over all pruning steps; empty where nothing was pruned."""
    parity: Parity | None
    trials: tuple[TargetTrial, ...]
    search: SearchRecord | None = None
    """Of a run that was given a budget or a search in place of a recipe."""
    notes: tuple[str, ...]
    synthesis: SynthesisRecord | None = None
    """Data that were made up for the whole run; None where none were."""
    recipe: list[dict[str, Any]]
    command: str
    """Reproduces the run; shown in the report."""
    environment: Environment
    seed: int


class CutEffect(Setting):
    """The model with one group cut alone, and nothing else done."""

    ratio: float
    """Share of the group's channels that was to go."""
    kept: int
    macs: int
    """Of the whole model, for one example."""
    metric: float | None
    loss: float | None


class GroupSensitivity(Setting):
    group: str
    size: int
    layers: tuple[str, ...]
    effects: tuple[CutEffect, ...]


class Sensitivity(Setting):
    """How much the model suffers when single groups of channels are cut, without recovery or training."""

    criterion: str
    split: Literal["validation", "calibration", "train"]
    examples: int
    metric_name: str | None
    metric: float | None
    """Of the uncut model, on the same examples."""
    loss: float | None
    macs: int
    ratios: tuple[float, ...]
    groups: tuple[GroupSensitivity, ...]


class ValueSaturation(Setting):
    """A value that is rounded: what was seen of it, and what its grid makes of that."""

    value: str
    """Node of the traced graph, or an input of the model."""
    layer: str
    low: float
    high: float
    grid_low: float
    grid_high: float
    """Ends of the integer grid, in the value's own units."""
    dtype: str
    method: str
    """What set the range."""
    clipped: float
    """Share of the values that the grid clips, on the calibration data."""
    tail: float
    """Largest magnitude over the one that 99.9 % of the magnitudes stay below."""
    sqnr_db: float | None
    """Signal to rounding noise of this value alone; None without signal or noise."""


class LayerSaturation(Setting):
    """An integer product: whether it can overflow without VNNI, and the noise of its output."""

    layer: str
    op: str
    input_dtype: str
    highest: int
    lowest: int
    """Extreme sums of two products."""
    rows: int
    rows_at_risk: int
    """Output channels with two weights whose products can leave 16 bits together."""
    own_db: float | None
    """SQNR of the output when only this layer is rounded."""
    accumulated_db: float | None
    """SQNR of the output when everything is rounded."""


class Saturation(Setting):
    """Clipping, noise and overflow of a model in the integers of a target."""

    target: str
    calibration: str
    examples: int
    """Calibration examples that ranges and clipped shares come from."""
    vnni: bool
    """This machine multiplies without saturating."""
    values: tuple[ValueSaturation, ...]
    layers: tuple[LayerSaturation, ...]
    simulated_db: float | None
    """SQNR of the model's outputs in the torch simulation."""
    runtime_db: float | None
    """SQNR of the model's outputs as the runtime computes them; None where it is not installed."""
    notes: tuple[str, ...] = ()
