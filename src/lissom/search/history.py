"""What a search has found out: measurements and trials, as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pydantic

from lissom.goal import Goal
from lissom.search.space import Point, Space
from lissom.settings import Setting


class LayerTime(Setting):
    """A layer of a candidate and the time that it took inside the whole network, on the runtime's own clock.

    What runs after it and belongs to no layer (activations, additions, reorderings, rounding) is in its time: it
    depends on the same channels.
    """

    name: str
    """Of its module; parts of a layer that was split have names below that of the layer."""
    inputs: int
    """Channels that it reads: those of the layer before it, as far as one of its outputs depends on them."""
    outputs: int
    """Channels that it makes."""
    macs: int
    """Multiply-accumulates for one example."""
    ms: float
    """Milliseconds a call, of the batch that was timed."""


class Timed(Setting):
    """A candidate timed against the original and taken apart by the runtime's profiler; no word about its metric."""

    latency_ms: float
    latency_ratio: float
    """original / candidate, median of paired rounds."""
    layers: tuple[LayerTime, ...]
    """In the order in which they ran; empty for a runtime without a profiler."""


class Probe(Setting):
    """A candidate that was made for the table of layers alone. `timed` is None where it could not be made."""

    point: Point
    timed: Timed | None
    failure: str = ""
    seconds: float = 0.0


class Measurement(Setting):
    """What a recipe made of the model, measured. Ratios are original / candidate, as in a goal."""

    metric: float
    """On validation data, higher is better."""
    examples: int
    """That the metric is over."""
    latency_ms: float
    latency_ratio: float
    """Median of paired rounds against the original, with its interval."""
    latency_low: float
    latency_high: float
    size_bytes: int
    macs: int
    parameters: int
    metrics: dict[str, float] = pydantic.Field(default_factory=dict[str, float])
    """The task's further metrics by name, on the same examples."""
    classes: dict[int, float] = pydantic.Field(default_factory=dict[int, float])
    """Share that is right of each class, on the same examples, where the goal bounds single classes."""
    latency_p95_ms: float | None = None
    """Of the original alone."""
    batch_size: int = 1
    """That was timed."""
    peak_memory_bytes: int | None = None
    """Where the goal limits it."""
    machine: str = ""
    """What it was timed on: latencies of different machines are not compared."""
    energy_joules: float | None = None
    """Of one input, where the goal limits it."""
    energy_ratio: float | None = None
    """As `latency_ratio`."""
    epoch_seconds: float | None = None
    """Of one pass over the training data, where there was training."""
    layers: tuple[LayerTime, ...] = ()
    """Where the runtime tells their times, and the search goes by latency."""


class Failure(Setting):
    """Why there is no measurement."""

    reason: str
    passing: bool = False
    """Whether the cause may be the machine's at that moment, such as too little memory, and not the candidate's."""


class Trial(Setting):
    """One candidate, evaluated once."""

    number: int
    point: Point
    recipe: str
    """Id of the recipe: what makes two trials the same."""
    by: str
    """The searcher that proposed it."""
    state: Literal["running", "done", "failed"]
    measurement: Measurement | None = None
    failure: str = ""
    passing: bool = False
    """Of a failure: it gets one more try when the search is continued."""
    started: float = 0.0
    """Seconds since the epoch."""
    seconds: float = 0.0
    place: str = ""
    """The run that evaluated it."""
    machine: str = ""
    """That it was timed on."""


@dataclass(frozen=True)
class View:
    """What a searcher proposes from: everything that is known, and what is being tried.

    `trials` are those without training, finished, in the order of their numbers.
    """

    space: Space
    goal: Goal
    original: Measurement
    trials: tuple[Trial, ...]
    pending: frozenset[Point] = frozenset()
    seed: int = 0
    probes: tuple[Probe, ...] = ()
    step: int = 1
    """Channels that the target computes together."""

    @cached_property
    def known(self) -> dict[Point, Trial]:
        return {trial.point: trial for trial in self.trials}

    def new(self, point: Point) -> bool:
        """Neither tried nor being tried."""
        return point not in self.known and point not in self.pending

    def measured(self, point: Point) -> Measurement | None:
        trial = self.known.get(point)
        return trial.measurement if trial else None


def view(
    space: Space,
    goal: Goal,
    original: Measurement,
    trials: Iterable[Trial],
    *,
    pending: Iterable[Point] = (),
    seed: int = 0,
    probes: tuple[Probe, ...] = (),
    step: int = 1,
) -> View:
    """Of the trials, those without training."""
    own = sorted((t for t in trials if t.point.epochs == 0 and t.state != "running"), key=lambda t: t.number)
    return View(space, goal, original, tuple(own), frozenset(pending), seed, probes, step)
