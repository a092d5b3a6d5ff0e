"""A search in `result.json`: its space, every candidate, the front, the choice and why."""

from __future__ import annotations

from typing import Literal

import pydantic

from lissom.settings import Setting


class SearchTrial(Setting):
    """One candidate. Figures are None where it could not be made; ratios are original / candidate."""

    number: int
    by: str
    """Who proposed it: a searcher, or `recovery` for training of one that is known."""
    recipe: str
    point: dict[str, float | str]
    """Its value in each dimension of the space."""
    metric: float | None
    """On the first validation examples."""
    metrics: dict[str, float] = pydantic.Field(default_factory=dict[str, float])
    """The task's further metrics, by name."""
    worst_class: float | None = None
    """Least share that is right of any class, where the goal bounds single classes."""
    latency_ms: float | None
    latency_ratio: float | None
    """Median over paired rounds, with its interval."""
    latency_low: float | None
    latency_high: float | None
    size_bytes: int | None
    energy_ratio: float | None = None
    """Of one input, where the goal limits energy."""
    macs: int | None
    parameters: int | None
    started: float
    """Seconds after the first candidate of the search."""
    seconds: float
    on_front: bool
    chosen: bool
    failure: str
    """Why there are no figures."""


class Moved(Setting):
    """Candidates that another machine had measured, so that their latencies could not be compared."""

    machine: str
    """What of it differs from the machine of the search."""
    again: int
    """Measured again."""
    left: int
    """Not, for want of time: they do not count."""


class LayerEffect(Setting):
    """What one method does to one layer by itself, before any recovery."""

    layer: str
    method: str
    """`prune` (half of the outputs), `rank` (half of the products), `int8` or `int4` weights."""
    drop: float
    """Of the metric."""
    loss: float | None
    """Its rise; None where the task has none."""


class LayerSensitivity(Setting):
    """Layer by layer, method by method, on the first validation examples."""

    examples: int
    effects: tuple[LayerEffect, ...]
    left: int
    """Layers and methods that there was no time for."""


class SearchRecord(Setting):
    searcher: str
    budget_seconds: float | None
    workers: int
    space: dict[str, list[float | str]]
    """Values of each dimension."""
    closed: dict[str, str]
    """Dimensions and values that were not open, and why."""
    objectives: tuple[str, ...]
    """What the front is of: the drop of the metric, and the costs that the goal names."""
    hypervolume: float
    """Of the front, up to a drop of 0.1 and the original's costs, which count as 1 each."""
    original_metric: float
    latency_error: float | None
    """Mean relative error of the predicted latency of candidates that the model had not seen."""
    latency_layers: int = 0
    """In the table that latency was foretold from; 0 where it was foretold from the whole network's."""
    latency_candidates: int = 0
    """That the prediction was fitted on, besides the original; each was left out once for `latency_error`."""
    met: bool
    binding: str
    """The wish that stands in the way; empty where the goal is met."""
    explanation: tuple[str, ...]
    trials: tuple[SearchTrial, ...]
    moved: tuple[Moved, ...] = ()
    """By other machine."""
    fallbacks: tuple[str, ...] = ()
    """Storage or workers that could not be reached, and what took their place, as was asked for."""
    sensitivity: LayerSensitivity | None = None
    """None in files of older versions."""


class SubnetTrial(Setting):
    """A subnet of a supernet that was looked at."""

    subnet: tuple[int, ...]
    """For every axis the position of its choice; 0 is the largest."""
    by: Literal["uniform", "chance", "search"]
    """Who proposed it; those by chance are the control."""
    metric: float
    """On the first validation examples, with the supernet's weights."""
    cost: float
    """Share of the whole network's, in what the wish is about."""
    macs: int
    parameters: int
    reward: float
    on_front: bool
    chosen: bool


class AxisRecord(Setting):
    """What of the network a subnet may have less of."""

    axis: str
    """`width`, `depth`, `kernel`, `bits`, `resolution`."""
    members: tuple[str, ...]
    choices: tuple[int, ...]
    chosen: int


class ShapeRecord(Setting):
    """A layer of the whole network beside the chosen subnet's."""

    layer: str
    op: str
    before: int
    """Output channels."""
    after: int
    """0 where the layer is left out."""
    kernel_before: int | None = None
    """Side of a square kernel."""
    kernel_after: int | None = None
    bits: int | None = None
    """Chosen for its weights: 32 is float; None where bits were no axis."""


class ArchitectureRecord(Setting):
    """The search of a `Supernet` step, and the subnet that it chose."""

    wish: str
    """The field that said how much smaller: `macs_ratio`, `parameters_ratio`, `latency_ratio`, `size_ratio`."""
    goal: float
    """Share of the whole network's cost that was wished for."""
    metric: str
    searcher: str
    subnets: str
    """How many the space holds; a decimal number, which may be beyond 2^53."""
    axes: tuple[AxisRecord, ...]
    trials: tuple[SubnetTrial, ...]
    """In the order in which they were looked at."""
    layers: tuple[ShapeRecord, ...]
    """In the order of the model."""
