"""How good student, teachers and a control without a teacher are on the validation split, and where they differ."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lissom.functional import distillation, features
from lissom.functional.confidence import calibration_error
from lissom.graph.trace import evaluation
from lissom.measure.quality import evaluate
from lissom.measure.records import AnswererRecord, ClassRecord, ComparisonRecord
from lissom.metrics import as_metric
from lissom.task import Batch, Task
from lissom.training.history import Pace
from lissom.training.losses import KL, OutputLoss
from lissom.training.outputs import check_same, output_of, rows_of
from lissom.training.pace import computed, device_of
from lissom.training.settings import Training
from lissom.training.teacher import Teacher, teachers_of

EXAMPLES = 1000
"""At most so many, the first of the split: as many as steps of a recipe are judged on."""
CLASSES = 100
"""Those in which student and teacher differ most, at most."""
PLAIN = Pace(precision="float32", channels_last=False)
STUDENT, CONTROL = "student", "without a teacher"


def compared(
    model: nn.Module, task: Task, settings: Training, original: nn.Module, control: nn.Module | None = None
) -> ComparisonRecord | None:
    """Student, teachers and, if there is one, the control on the first examples; None without validation data.

    What cannot be had is left out: the metric without one, classes and calibration where outputs or targets are none,
    the teacher "self", which is the student.
    """
    if not task.has("validation"):
        return None
    device = device_of(model)
    teachers = teachers_of(settings, original, task, device)
    asked: dict[str, Teacher] = {STUDENT: model, **teachers, **({CONTROL: control} if control is not None else {})}

    def answer(one: Teacher, batch: Batch) -> Any:
        batch = computed(batch, device, PLAIN)
        with torch.no_grad():
            return one(*batch.args, **batch.kwargs)

    with contextlib.ExitStack() as stack:
        for one in (model, control):
            if one is not None:
                stack.enter_context(evaluation(one))
        metrics = _metrics(task, asked, answer)
        loss = next((one for one in settings.losses or (KL(),) if isinstance(one, OutputLoss)), None)
        found = _Found(list(asked), len(teachers))
        if loss is not None:
            for batch in task.batches("validation", limit=EXAMPLES):
                found.add(loss, {name: answer(one, batch) for name, one in asked.items()}, batch.target)
    return ComparisonRecord(
        metric_name=as_metric(task.metric).name if task.metric is not None else None,
        answerers=tuple(
            AnswererRecord(
                name=name,
                metric=metrics.get(name),
                calibration_error=found.calibration(name),
                agreement=found.agreement(name),
            )
            for name in asked
        ),
        classes=found.classes(),
        **{found.what: found.score} if found.score is not None else {},
    )


def _metrics(task: Task, asked: Mapping[str, Teacher], answer: Any) -> dict[str, float]:
    if task.metric is None:
        return {}
    metric = as_metric(task.metric)
    return {
        name: evaluate(
            lambda batch, one=one: answer(one, batch),
            task.batches("validation", limit=EXAMPLES),
            metric,
            split="validation",
        ).value
        for name, one in asked.items()
    }


class _Found:
    """Answers row by row, gathered over batches. `names`: the student's first, then those of `teachers` teachers."""

    def __init__(self, names: list[str], teachers: int) -> None:
        self.names, self.teachers = names, teachers
        self.what = "agreement"
        self._scores: list[Tensor] = []
        self._agreed: list[Tensor] = []
        self._sure: list[Tensor] = []
        self._said: list[Tensor] = []
        self._true: list[Tensor] = []

    def add(self, loss: OutputLoss, outputs: Mapping[str, Any], target: Any) -> None:
        student, *others = (output_of(outputs[name], loss.output, target, name).cpu() for name in self.names)
        for other, name in zip(others, self.names[1:], strict=True):
            check_same(student, other, "the student", name)
        every = torch.stack([student, *others])
        if not loss.classes:
            self.what = "unexplained"
            if self.teachers:
                taught = loss.pooled(every[1 : 1 + self.teachers])
                self._scores += [features.hint(s[None], t[None])[None] for s, t in zip(student, taught, strict=True)]
            return
        rows = rows_of(student, every, target)
        if self.teachers:
            taught = loss.pooled(rows.teachers[1 : 1 + self.teachers])
            self._scores.append(distillation.agreement(rows.student, taught))
            self._agreed.append(torch.stack([distillation.agreement(one, taught) for one in rows.teachers]))
        if rows.classes is not None:
            sure, said = rows.teachers.softmax(2).max(2)
            self._sure.append(sure)
            self._said.append(said)
            self._true.append(rows.classes.cpu())

    @property
    def score(self) -> float | None:
        return float(torch.cat(self._scores).double().mean()) if self._scores else None

    def calibration(self, name: str) -> float | None:
        if not self._true:
            return None
        index, true = self.names.index(name), torch.cat(self._true)
        return calibration_error(torch.cat(self._sure, 1)[index], torch.cat(self._said, 1)[index] == true)

    def agreement(self, name: str) -> float | None:
        if not self._agreed:
            return None
        return float(torch.cat(self._agreed, 1)[self.names.index(name)].mean())

    def classes(self) -> tuple[ClassRecord, ...]:
        """Those in which the student differs most from the next in line first."""
        if not self._true:
            return ()
        true, right = torch.cat(self._true), torch.cat(self._said, 1) == torch.cat(self._true)
        found = [
            ClassRecord(
                label=label,
                examples=int((true == label).sum()),
                right=tuple(right[:, true == label].double().mean(1).tolist()),
            )
            for label in true.unique().tolist()
        ]
        return tuple(sorted(found, key=_difference, reverse=True)[:CLASSES])


def _difference(one: ClassRecord) -> float:
    return abs(one.right[0] - one.right[1]) if len(one.right) > 1 else 0.0
