"""`synthesize`: a task without data becomes one with, from what the model itself remembers of its data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.errors import UsageError
from lissom.metrics import Metric, accuracy
from lissom.task import Batch, Feed, Task
from lissom.training.chance import generator_of
from lissom.training.history import Signs
from lissom.training.pace import device_of
from lissom.training.synthesis.settings import LEARNED, Synthesis
from lissom.training.synthesis.source import LOOKED_AT, Source, signs_of
from lissom.training.teacher import frozen

AGREEMENT = Metric("agreement", per_example=accuracy.per_example)
"""Accuracy with the model's own answers for truth."""
HELD_OUT = 0.2
"""Share of the examples that becomes the validation split."""


class Synthesized(NamedTuple):
    """A task with made up data, and what they look like."""

    task: Task
    signs: Signs


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
    chosen by it without real data.

    Args:
        settings: how; or its fields one by one, as in `synthesize(model, task, method="generator", low=0, high=1)`.
        examples: inputs that are made. A generator is first trained for `settings.steps` batches.
        seed: decides every draw.

    Raises:
        UsageError: settings and fields, a wrong field, fewer than ten examples.
        DataError: inputs of integers, inputs that a generator cannot make, a synthesis that diverged.
    """
    if settings is not None and fields:
        raise UsageError(f"synthesize takes settings or their fields, got both: leave {next(iter(fields))!r} out.")
    if examples < 10:
        raise UsageError(f"synthesize makes at least 10 examples, got examples={examples}.")
    chosen = settings or Synthesis.parse(fields, "synthesize")
    source = Source(chosen, frozen(model, device_of(model)), task, seed)
    if chosen.method in LEARNED:
        for step in range(chosen.steps):
            source.maker.make(chosen.batch_size, generator_of("synthesis", seed, 0, step), None)
    made: list[list[Tensor]] = []
    for start in range(0, examples, chosen.batch_size):
        # Whole batches: normalizations of a generator and moments of a batch depend on its size.
        made.append(source.new(chosen.batch_size, generator_of("examples", seed, start)))
    values = [torch.cat(each)[:examples].contiguous() for each in zip(*made, strict=True)]
    signs = signs_of(source.examiner, [one[:LOOKED_AT] for one in values])
    held_out = round(HELD_OUT * examples)
    ours = _batches(source, [one[held_out:] for one in values])
    theirs = _batches(source, [one[:held_out] for one in values])
    given: dict[str, Any] = {"train": ours, "calibration": ours}
    if theirs[0].target is not None and not task.has("validation"):
        given["validation"] = theirs
        if task.metric is None:
            given["metric"] = AGREEMENT
    kept = {split for split in ("train", "calibration") if getattr(task, split) is not None}
    given = {name: value for name, value in given.items() if name not in kept}
    return Synthesized(replace(task, feed=_feed(task.feed), **given), signs)


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
