"""How good the teachers are and how far the student answers as they do, on the validation split."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from lissom.functional import distillation, features
from lissom.graph.trace import evaluation
from lissom.measure.quality import evaluate
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
PLAIN = Pace(precision="float32", channels_last=False)


def compared(model: nn.Module, task: Task, settings: Training, original: nn.Module) -> dict[str, JsonValue]:
    """`teacher_metric` by teacher, and `agreement`, the share of examples with the teachers' likeliest class.

    For outputs that are no classes `unexplained`: |student - teacher|^2 / |teacher|^2, a mean over the examples. What
    cannot be had is left out: without validation data, without a metric, with the teacher "self".
    """
    device = device_of(model)
    teachers = teachers_of(settings, original, task, device)
    if not task.has("validation") or not teachers:
        return {}

    def answer(teacher: Teacher, batch: Batch) -> Any:
        batch = computed(batch, device, PLAIN)
        with torch.no_grad():
            return teacher(*batch.args, **batch.kwargs)

    found: dict[str, JsonValue] = {}
    if task.metric is not None:
        metric = as_metric(task.metric)
        found["teacher_metric"] = {
            name: evaluate(
                lambda batch, one=teacher: answer(one, batch),
                task.batches("validation", limit=EXAMPLES),
                metric,
                split="validation",
            ).value
            for name, teacher in teachers.items()
        }
    loss = next((one for one in settings.losses or (KL(),) if isinstance(one, OutputLoss)), None)
    if loss is None:
        return found
    scores: list[Tensor] = []
    with evaluation(model):
        for batch in task.batches("validation", limit=EXAMPLES):
            student, *others = (
                output_of(answer(one, batch), loss.output, batch.target, "model").cpu()
                for one in (model, *teachers.values())
            )
            check_same(student, others[0], "the student", "the teacher")
            scores.append(_scores(loss, student, torch.stack(others), batch.target))
    found["agreement" if loss.classes else "unexplained"] = float(torch.cat(scores).mean())
    return found


def _scores(loss: OutputLoss, student: Tensor, teachers: Tensor, target: Any) -> Tensor:
    if loss.classes:
        rows = rows_of(student, teachers, target)
        return distillation.agreement(rows.student, loss.pooled(rows.teachers))
    taught = loss.pooled(teachers)
    return torch.stack([features.hint(s[None], t[None]) for s, t in zip(student, taught, strict=True)])
