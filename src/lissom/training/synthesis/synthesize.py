"""`synthesize`: a task without data becomes one with, from what the model itself remembers of its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.errors import UsageError
from lissom.measure.synthesis import Signs, SynthesisPoint, SynthesisRecord
from lissom.metrics import Metric, accuracy
from lissom.task import Batch, Feed, Split, Task
from lissom.training.chance import generator_of
from lissom.training.pace import device_of
from lissom.training.synthesis.settings import LEARNED, Synthesis
from lissom.training.synthesis.signs import LOOKED_AT, point_of
from lissom.training.synthesis.source import Source
from lissom.training.teacher import frozen

AGREEMENT = Metric("agreement", per_example=accuracy.per_example)
"""Accuracy with the model's own answers for truth."""
HELD_OUT = 0.2
"""Share of the examples that becomes the validation split."""
FEWEST = 10
MOMENTS = 10
"""At which a synthesis is looked at on the way, at most."""


class Synthesized(NamedTuple):
    """A task with made up data, and what they look like."""

    task: Task
    signs: Signs


class MadeUp(NamedTuple):
    """Inputs `(examples, *shape)`, one tensor for each input that is made, and how they came to be."""

    values: list[Tensor]
    record: SynthesisRecord


def synthesize(
    model: nn.Module,
    task: Task,
    settings: Synthesis | None = None,
    *,
    examples: int = 1024,
    seed: int = 0,
    **fields: Any,
) -> Synthesized:
    """The task with made up inputs for calibration and training, labelled by the model. No data are read.

    Splits that the task has stay as they are. A fifth of the examples is held out. Where the model answers with logits
    `(batch, classes)` and the task has no validation data, these are it; where it has no metric either, the metric is
    the share of examples in which the likeliest class is that of `model`: agreement. Settings and students can be
    chosen by it without real data. Without a loss it is cross-entropy with the model's likeliest classes.

    Args:
        settings: how; or its fields one by one, as in `synthesize(model, task, method="generator", low=0, high=1)`.
        examples: inputs that are made. A generator is first trained for `settings.steps` batches.
        seed: decides every draw.

    Raises:
        UsageError: settings and fields, a wrong field, fewer than ten examples.
        DataError: inputs of integers, inputs that a generator cannot make, an inversion of a model without batch
            normalizations, a synthesis that diverged.
    """
    if settings is not None and fields:
        raise UsageError(f"synthesize takes settings or their fields, got both: leave {next(iter(fields))!r} out.")
    if examples < FEWEST:
        raise UsageError(f"synthesize makes at least {FEWEST} examples, got examples={examples}.")
    chosen = settings or Synthesis.parse(fields, "synthesize")
    made = make_up(model, task, chosen, examples=examples, seed=seed)
    return Synthesized(furnished(model, task, chosen, made.values), made.record.signs)


def _ignore(_: float) -> None:
    pass


def make_up(
    model: nn.Module,
    task: Task,
    settings: Synthesis,
    *,
    examples: int,
    seed: int = 0,
    tick: Callable[[float], None] = _ignore,
) -> MadeUp:
    """Inputs that `model` finds likely, on its device; `tick` hears the share that is done.

    Raises:
        DataError: as `synthesize`.
    """
    source = Source(settings, frozen(model, device_of(model)), task, seed)
    learned = settings.steps if settings.method in LEARNED else 0
    starts = range(0, examples, settings.batch_size)
    total, looked = learned + len(starts), 0
    history: list[SynthesisPoint] = []
    made: list[list[Tensor]] = []
    for step in range(total):
        # Whole batches: normalizations of a generator and moments of a batch depend on its size.
        if step < learned:
            chance = generator_of("synthesis", seed, 0, step)
            values = source.maker.make(settings.batch_size, chance, None)
        else:
            chance = generator_of("examples", seed, starts[step - learned])
            values = source.new(settings.batch_size, chance)
            made.append(values)
        if (step + 1) * MOMENTS // total > looked:
            looked = (step + 1) * MOMENTS // total
            history.append(point_of(source.examiner, [one[:LOOKED_AT] for one in values], None))
        tick((step + 1) / total)
    whole = [torch.cat(each)[:examples].contiguous() for each in zip(*made, strict=True)]
    some = [one[:LOOKED_AT] for one in whole]
    labelled = source.examiner.classes(source.form.batch(some)) is not None
    wanted: tuple[Split, ...] = ("train", "calibration", "validation") if labelled else ("train", "calibration")
    splits = [split for split in wanted if not task.has(split)]
    return MadeUp(whole, source.record(some, splits, examples, history))


def furnished(model: nn.Module, task: Task, settings: Synthesis, values: list[Tensor]) -> Task:
    """The task with `values`, from `make_up`, for the splits that it lacks."""
    source = Source(settings, frozen(model, device_of(model)), task, 0)
    held_out = round(HELD_OUT * len(values[0]))
    ours = _batches(source, [one[held_out:] for one in values])
    theirs = _batches(source, [one[:held_out] for one in values])
    given: dict[str, Any] = {"train": ours, "calibration": ours}
    if theirs[0].target is not None:
        if task.loss is None:
            given["loss"] = F.cross_entropy
        if not task.has("validation"):
            given["validation"] = theirs
            if task.metric is None:
                given["metric"] = AGREEMENT
    kept = {split for split in ("train", "calibration") if getattr(task, split) is not None}
    given = {name: value for name, value in given.items() if name not in kept}
    return replace(task, feed=_feed(task.feed), **given)


def _batches(source: Source, values: list[Tensor]) -> list[Batch]:
    """Labelled, on the CPU."""

    def home(leaf: Any) -> Any:
        return leaf.cpu() if isinstance(leaf, Tensor) else leaf

    found: list[Batch] = []
    for start in range(0, len(values[0]), source.settings.batch_size):
        batch = source.labelled([one[start : start + source.settings.batch_size] for one in values])
        args, kwargs, target = pytree.tree_map(home, (batch.args, dict(batch.kwargs), batch.target))
        found.append(Batch(args, kwargs, target))
    return found


def _feed(feed: Feed) -> Feed:
    """Made up batches need no feeding; those of the task's own splits do."""
    return lambda batch: batch if isinstance(batch, Batch) else feed(batch)
