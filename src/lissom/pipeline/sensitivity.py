"""How much a model suffers when one group of channels is cut: group by group, share by share.

    metric and loss of the model with the k least important channels of one group masked,    k = ceil(ratio · channels)

The least important ones are those of `Prune`'s default criterion. Nothing is fitted again and nothing is trained, so
the figures rank the groups; they do not foretell what a recovered or fine-tuned network reaches. The mask is that of
`graph.masked`: the network computes what the physically smaller one would.

Reference: Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv:1608.08710), section 3.2. Deviation: groups
of coupled channels instead of single layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from lissom.errors import DataError, UsageError
from lissom.functional.selection import SLACK, kept_of
from lissom.graph.channels import Group, listed_names
from lissom.graph.groups import channel_groups
from lissom.graph.masked import Masked
from lissom.graph.resize import Kept, Sizes
from lissom.graph.trace import Trace, trace
from lissom.measure.quality import evaluate
from lissom.measure.records import CutEffect, GroupSensitivity, Sensitivity
from lissom.metrics import as_metric
from lissom.progress import Report
from lissom.target import load_target
from lissom.task import Batch, Task, sliced
from lissom.transforms.pruning import Prune, Study

RATIOS = (0.1, 0.3, 0.5, 0.7)
EXAMPLES = 512

Examples = Literal["validation", "calibration", "train"]
"""Splits that may be looked at. Never the test split."""


def sensitivity(
    model: nn.Module,
    task: Task,
    *,
    ratios: Sequence[float] = RATIOS,
    examples: int = EXAMPLES,
    progress: Report | None = None,
) -> Sensitivity:
    """Metric and loss after each group of channels that may be cut was cut alone. The model is not changed.

    They are taken on the first `examples` examples of the validation split, or else of the calibration or training
    split.

    Raises:
        UsageError: a ratio outside (0, 1).
        DataError: the task has neither a metric nor a loss, or no labelled examples.
    """
    if not ratios or not all(0.0 < ratio < 1.0 for ratio in ratios):
        raise UsageError(f"ratios are shares to cut, in (0, 1), got {tuple(ratios)}. Write ratios=(0.1, 0.5).")
    if progress:
        progress(0.0, "analyze")
    split = _split(task)
    traced = trace(model, task.example)
    batches = list(_batches(task, split, examples, traced.graph.fixed_batch))
    prune = Prune(ratio=0.5, recovery="none")
    study = prune.study(model, traced, task, load_target("onnxruntime"))
    probe = _Probe(traced, task, study, batches)
    layers = {group.name: group.layers for group in channel_groups(traced, study.channels, study.costs)}
    groups = [group for group in study.channels.groups if group.name in study.scores]
    metric, loss = probe.measure({})
    found: list[GroupSensitivity] = []
    for index, group in enumerate(groups):
        if progress:
            progress((index + 1) / (len(groups) + 1), "sensitivity")
        effects = probe.effects(group, sorted(ratios))
        found.append(GroupSensitivity(group=group.name, size=group.size, layers=layers[group.name], effects=effects))
    if progress:
        progress(1.0, "sensitivity")
    return Sensitivity(
        criterion=prune.criterion_for(task),
        split=split,
        examples=sum(batch.size for batch in batches),
        metric_name=as_metric(task.metric).name if task.metric is not None else None,
        metric=metric,
        loss=loss,
        macs=study.costs.macs({}),
        ratios=tuple(sorted(ratios)),
        groups=tuple(found),
    )


class _Probe:
    """The masked model on the same batches again and again."""

    def __init__(self, traced: Trace, task: Task, study: Study, batches: Sequence[Batch]) -> None:
        self._traced, self._study, self._batches = traced, study, batches
        self._names = listed_names(traced)
        self._loss = task.loss
        self._metric = as_metric(task.metric) if task.metric is not None else None

    def effects(self, group: Group, ratios: Sequence[float]) -> tuple[CutEffect, ...]:
        scores = {group.name: self._study.scores[group.name]}
        shares = {ratio: max(group.floor, group.size - math.ceil(ratio * group.size - SLACK)) for ratio in ratios}
        known: dict[int, tuple[float | None, float | None]] = {}
        for kept in shares.values():
            if kept not in known:
                places = np.array(kept_of(scores, {group.name: kept})[group.name], dtype=np.int64)
                known[kept] = self.measure({group.atom: places})
        return tuple(
            CutEffect(
                ratio=ratio,
                kept=kept,
                macs=self._study.costs.macs({group.atom: kept}),
                metric=known[kept][0],
                loss=known[kept][1],
            )
            for ratio, kept in shares.items()
        )

    @torch.no_grad()
    def measure(self, kept: Kept) -> tuple[float | None, float | None]:
        """Metric and loss with only the `kept` channels; None for what the task does not have."""
        runner = Masked(self._traced, Sizes(self._study.channels, kept), self._names)
        total, count = 0.0, 0

        def predict(batch: Batch) -> Any:
            nonlocal total, count
            inputs = pytree.tree_leaves((batch.args, dict(batch.kwargs)))
            made = runner.run(*inputs, enable_io_processing=False)
            outputs = pytree.tree_unflatten(pytree.tree_leaves(made), self._structure)
            if self._loss is not None:
                total += float(self._loss(outputs, batch.target)) * batch.size
                count += batch.size
            return outputs

        if self._metric is None:
            for batch in self._batches:
                predict(batch)
            return None, total / count
        found = evaluate(predict, self._batches, self._metric, split="validation").value
        return found, total / count if count else None

    @property
    def _structure(self) -> pytree.TreeSpec:
        """Of what the model returns."""
        return cast(pytree.TreeSpec, self._traced.program.call_spec.out_spec)


def _split(task: Task) -> Examples:
    if task.metric is None and task.loss is None:
        raise DataError(
            "Sensitivity needs Task(metric=...) or Task(loss=...), and the task has neither: there is nothing that "
            "could suffer. Give one of them."
        )
    splits: tuple[Examples, ...] = ("validation", "calibration", "train")
    for split in splits:
        if task.has(split):
            return split
    raise DataError(
        "Sensitivity needs labelled examples: Task(validation=...), Task(calibration=...) or Task(train=...), and the "
        "task has none of them. The test split is never used to choose."
    )


def _batches(task: Task, split: Examples, limit: int, fixed: int | None) -> Iterator[Batch]:
    """Of a size that the traced model takes; what does not fill one is left out."""
    some = False
    for batch in task.batches(split, limit=limit):
        if batch.target is None:
            raise DataError(
                f"Sensitivity needs labelled examples, and a batch of Task({split}=...) has no target. Give batches "
                "of (input, target)."
            )
        for start in range(0, batch.size, fixed or batch.size):
            piece = batch if fixed is None else sliced(batch, start, start + fixed)
            if fixed is None or piece.size == fixed:
                some = True
                yield piece
    if not some:
        raise DataError(
            f"The model takes batches of exactly {fixed} examples, and no batch of Task({split}=...) holds as many. "
            "Give batches of that size."
        )
