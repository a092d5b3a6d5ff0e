"""What has to be there before a training can begin."""

from __future__ import annotations

from torch import nn

from lissom.errors import DataError, RecipeError
from lissom.task import Task
from lissom.training.objective import Objective, criterion_of, supervised
from lissom.training.optimizer import trainable
from lissom.training.settings import Training


def check(model: nn.Module, task: Task, settings: Training, objective: Objective = supervised) -> None:
    """
    Raises:
        DataError: something without which training cannot begin is missing.
        RecipeError: a teacher, or `compile=True`, and an objective that is not the task's loss.
    """
    if objective is not supervised:
        if settings.teachers:
            raise RecipeError(
                f"teacher={settings.teacher!r} and an objective both say what a step minimizes. Leave one of them out."
            )
        if settings.compile is True:
            raise RecipeError(
                "compile=True, and what this training minimizes looks into the model, which is then not compiled. "
                "Leave compile out."
            )
    if settings.synthesis is None and not task.has("train"):
        raise DataError(
            "Training needs training data, and the task has none. Give Task(train=...), or let inputs be made up for a "
            "teacher: synthesis='inversion', teacher='original', or --data-free inversion for a whole recipe."
        )
    criterion_of(task, settings)
    if not trainable(model):
        raise DataError(
            "There is nothing to train: no parameter of the model requires gradients. Call "
            "model.requires_grad_(True), or leave training out."
        )
    if settings.patience is not None and (task.metric is None or not task.has("validation")):
        lacking = "a metric" if task.metric is None else "validation data"
        raise DataError(
            f"patience={settings.patience} stops by the validation metric, and the task has no {lacking}. Give "
            "Task(validation=..., metric=...), or set patience to None."
        )
