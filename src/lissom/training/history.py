"""What a training was, epoch by epoch, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import pydantic

from lissom.measure.synthesis import SynthesisPoint, SynthesisRecord
from lissom.settings import Setting


def _none(value: object) -> bool:
    return not value


class Pace(Setting):
    """In which precision and memory order a step is computed, whether compiled, and what each possibility took."""

    precision: Literal["float32", "bfloat16"]
    channels_last: bool
    step_ms: dict[str, float] = pydantic.Field(default_factory=dict[str, float])
    """Median milliseconds of a forward and backward pass; empty if nothing was left to choose."""
    compiled_for: Annotated[tuple[tuple[int, ...], ...], pydantic.Field(exclude_if=_none)] = ()
    """Shapes of the inputs that the model was compiled for; empty: it is computed as it is."""


class Epoch(Setting):
    """One pass over the training data."""

    loss: float
    """Mean over the examples, as trained on: augmented, with penalty."""
    learning_rate: float
    """Of its last step."""
    metric: float | None
    """On the validation split, of the weights that would be handed out; None without metric or split."""
    seconds: float
    parts: dict[str, float] = pydantic.Field(default_factory=dict[str, float], exclude_if=_none)
    """What the loss of a distillation is made of: `task` and each of its losses, unweighted means over the examples."""
    synthesis: Annotated[SynthesisPoint | None, pydantic.Field(exclude_if=_none)] = None
    """Made up inputs at its end, where there are no data."""


class Lesson(Setting):
    """How a training with teachers compared them."""

    teachers: tuple[str, ...]
    share: float
    taps: dict[str, dict[str, str]]
    """Loss -> student's module -> teacher's."""
    kept: int = 0
    """Answers that were kept for later epochs, one for each step of each view."""
    replaced: int = 0
    """Of these, made again because the batch was another one than before."""
    kept_bytes: int = 0
    rounds: Annotated[tuple[float | None, ...], pydantic.Field(exclude_if=_none)] = ()
    """Validation metric of each generation, where there were several."""


class History(Setting):
    """A whole training. Kept weights are those after epoch `chosen` (from 0)."""

    pace: Pace
    metric_name: str | None
    epochs: tuple[Epoch, ...]
    chosen: int
    lesson: Annotated[Lesson | None, pydantic.Field(exclude_if=_none)] = None
    synthesis: Annotated[SynthesisRecord | None, pydantic.Field(exclude_if=_none)] = None
    """Of the inputs of a training without data."""


def in_rounds(generations: Sequence[History]) -> History:
    """That of the last generation, which knows the validation metric of each where there were several."""
    last = generations[-1]
    if len(generations) < 2 or last.lesson is None:
        return last
    metrics = tuple(one.epochs[one.chosen].metric for one in generations)
    return last.model_copy(update={"lesson": last.lesson.model_copy(update={"rounds": metrics})})


def best_of(epochs: tuple[Epoch, ...]) -> int:
    """The first epoch with the highest validation metric."""
    metrics = [-float("inf") if epoch.metric is None else epoch.metric for epoch in epochs]
    return metrics.index(max(metrics))


def is_over(epochs: tuple[Epoch, ...], wanted: int, patience: int | None) -> bool:
    """Whether training ends here: enough epochs, or `patience` of them without a better validation metric."""
    if len(epochs) >= wanted:
        return True
    return patience is not None and bool(epochs) and len(epochs) - 1 - best_of(epochs) >= patience
