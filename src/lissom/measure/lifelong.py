"""What a lifelong folder holds, as data: tasks, bits, metrics after each task. JSON, no tensors.

`Backbone` is `lifelong.json`, `TaskRecord` is `tasks/0001-name/task.json`, `Row` is `measured/0001-test.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pydantic

from lissom.measure.records import MetricValue
from lissom.settings import Setting

Split = Literal["validation", "test"]
Family = Literal["masks", "drifting"]
"""`masks`: what a task keeps never changes. `drifting`: one set of weights that every new task moves."""


class Axis(Setting):
    """An axis of a tensor that grows with the width: `base` channels with `each` places."""

    axis: int
    base: int
    each: int


class Backbone(Setting):
    """`lifelong.json`: what all tasks of a folder have in common."""

    format: Literal[1] = 1
    lissom: str
    model: str
    """Fingerprint of the model: class, names, shapes and values."""
    original: str
    """sha256 of `original.safetensors`, the model's own values."""
    head: str
    """The module whose output is the model's output; each task has its own."""
    bits: Literal[8, 32]
    """Of a shared weight."""
    seed: int
    grows: dict[str, tuple[Axis, ...]]
    """Tensors of the model that a larger width makes larger."""


class Attempt(Setting):
    """One way of adding a task that was tried: width, share of the weights kept, and what came out."""

    width: float
    share: float
    trained: float | None
    """Metric with all free weights, before the task's own were picked."""
    kept: float | None
    """Metric with what is kept alone, trained again."""


class TaskRecord(Setting):
    """`task.json`: one task, and what it costs. Sizes are those of the files on disk."""

    name: str
    index: int
    """1 for the first."""
    method: str
    settings: dict[str, pydantic.JsonValue]
    family: Family
    seed: int
    width: float
    """Of the hidden channels, 1 for the model as it was given."""
    classes: int
    """Outputs of the task's head."""
    notes: tuple[str, ...]
    """What was adapted, and goals that were missed."""
    metric: MetricValue | None
    """On the validation split, of the model that is handed out."""
    goal: float | None
    goal_met: bool | None
    attempts: tuple[Attempt, ...]
    weights: int
    """Shared weights at this width."""
    own: int
    """Of these, kept by this task."""
    used: int
    """Of these, used by this task: its own, and those of earlier tasks that it picked."""
    free: int
    """Left for tasks to come."""
    mask_bytes: int
    value_bytes: int
    private_bytes: int
    """Head, biases, normalizations, and scales of int8 weights."""
    probes: int
    """Stored inputs that `prove` answers again."""
    weights_sha256: str
    """Of everything that the task's model computes with."""
    outputs_sha256: str
    """Of its outputs on the probes."""
    answered_by: dict[str, str]
    """Processor and versions that gave these outputs."""
    seconds: float
    created: str
    files: dict[str, str]
    """sha256 of every file beside this one."""

    @property
    def mask_bits(self) -> float:
        """Bits on disk of the task's masks, per shared weight."""
        return 8 * self.mask_bytes / self.weights

    @property
    def added_bits(self) -> float:
        """Bits on disk per shared weight of all that the task adds beside the backbone: masks, head, biases, scales."""
        return 8 * (self.mask_bytes + self.private_bytes) / self.weights


class Row(Setting):
    """Metrics of every task that was measured once `after` tasks had been added."""

    after: int
    split: Split
    metrics: dict[str, MetricValue]
    identified: float | None
    """Share of examples whose task was inferred rightly, one at a time; None with a single task."""
    identified_together: float | None
    """Share of batches, each inferred as a whole."""


class TaskProof(Setting):
    """Whether one task's model is still what it was when it was added."""

    name: str
    weights_same: bool
    """Bit for bit."""
    outputs_same: bool
    """On the probes, bit for bit."""
    difference: float
    """Largest difference to the stored outputs, as a share of the largest output."""
    same_machine: bool
    """Same processor and torch as when it was added; others may round differently."""

    @property
    def held(self) -> bool:
        """Weights are the same; and so are outputs, unless another machine rounds them differently."""
        return self.weights_same and (self.outputs_same or (not self.same_machine and self.difference <= ROUNDING))


ROUNDING = 1e-4
"""Of the largest output: what float32 sums in another order may differ by."""


class LifelongRecord(Setting):
    """A folder as a whole: `lissom lifelong list --json`."""

    backbone: Backbone
    tasks: tuple[TaskRecord, ...]
    rows: tuple[Row, ...]
    bytes_on_disk: int
    alone_bytes: int
    """What the tasks would take as models of their own, at the same bits."""

    @property
    def free(self) -> float:
        """Share of the shared weights that no task has; 1 before the first."""
        last = self.tasks[-1] if self.tasks else None
        return last.free / last.weights if last else 1.0

    def matrix(self, split: Split) -> dict[str, dict[str, float | None]]:
        """Rows by the task that was just added, columns by task: the forgetting matrix.

        A cell that was not measured is filled only where it follows: with masks, a task that was measured keeps its
        value, because its weights cannot change.
        """
        return forgetting(self.tasks, self.rows, split)

    def backward_transfer(self, split: Split) -> float | None:
        """(1 / (T - 1)) sum_{j < T} (R_Tj - R_jj): negative is forgetting. None with a cell missing or one task.

        Lopez-Paz and Ranzato 2017 (arXiv:1706.08840), section 2.
        """
        matrix = self.matrix(split)
        names = [task.name for task in self.tasks]
        changes: list[float] = []
        for name in names[:-1]:
            first, last = matrix[name][name], matrix[names[-1]][name]
            if first is None or last is None:
                return None
            changes.append(last - first)
        return sum(changes) / len(changes) if changes else None


def forgetting(
    tasks: tuple[TaskRecord, ...], rows: tuple[Row, ...], split: Split
) -> dict[str, dict[str, float | None]]:
    """See `LifelongRecord.matrix`."""
    measured: Mapping[int, Row] = {row.after: row for row in rows if row.split == split}
    matrix: dict[str, dict[str, float | None]] = {}
    above: dict[str, float | None] = {}
    for task in tasks:
        row: dict[str, float | None] = dict.fromkeys((earlier.name for earlier in tasks[: task.index]), None)
        if split == "validation" and task.metric is not None:
            row[task.name] = task.metric.value
        if task.family == "masks":
            row |= {name: value for name, value in above.items() if value is not None}
        if task.index in measured:
            row |= {name: found.value for name, found in measured[task.index].metrics.items() if name in row}
        matrix[task.name] = above = row
    return matrix
