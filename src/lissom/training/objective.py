"""What a step minimizes. Distillation, sparsity and the like are objectives and penalties for the one loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.errors import DataError
from lissom.metrics import logits_of
from lissom.task import Batch, Task
from lissom.training.augment import Mixed, class_indices
from lissom.training.settings import Training

Criterion = Callable[[Any, Any], Tensor]
"""`(outputs, batch.target)` -> the task's loss, a tensor of one number: with mixed targets and smoothed labels."""

Penalty = Callable[[nn.Module], Tensor]
"""The model in training -> one number that is added to the loss."""


class Objective(Protocol):
    """Calls `model` (and a teacher, say) on the batch that was drawn, augmented, and returns the mean loss.

    `criterion(outputs, batch.target)` is the task's own loss. The call runs under the loop's autocast; the criterion
    computes in float32.
    """

    def __call__(self, model: nn.Module, batch: Batch, criterion: Criterion) -> Tensor: ...


@dataclass(frozen=True)
class Aim:
    """What one training is after: objective, what is added to it, the teacher "original", where answers are kept."""

    objective: Objective
    penalty: Penalty | None
    original: nn.Module
    answers: Path | None


def supervised(model: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
    """The task's loss and nothing else."""
    return criterion(model(*batch.args, **batch.kwargs), batch.target)


def criterion_of(task: Task, settings: Training) -> Criterion:
    """The task's loss, with `Mixed` targets and label smoothing:

        (1 - e) loss(outputs, target) - e mean_classes(log softmax(logits))

    which for cross-entropy is Szegedy et al. 2016 (arXiv:1512.00567), section 7. Zero with `settings.synthesis`.

    Raises:
        DataError: the task has no loss.
    """
    plain = task.loss
    if settings.synthesis is not None:
        return _nothing
    if plain is None:
        raise DataError(
            "Training needs to know what to minimize, and the task has no loss. Give Task(loss=...) a function "
            "(outputs, targets) -> mean loss, such as torch.nn.functional.cross_entropy."
        )

    def smooth(outputs: Any, target: Any) -> Tensor:
        loss = plain(outputs, target)
        if not settings.label_smoothing:
            return loss
        logits = logits_of(outputs)
        class_indices(target, logits.shape[0], "label_smoothing")
        if logits.ndim != 2:
            raise DataError(
                f"label_smoothing needs logits of shape (batch, classes), got {tuple(logits.shape)}. Set it to 0, or "
                "smooth in Task(loss=...)."
            )
        spread = -F.log_softmax(logits, 1).mean()
        return torch.lerp(loss, spread, settings.label_smoothing)

    def criterion(outputs: Any, target: Any) -> Tensor:
        outputs = pytree.tree_map(_single, outputs)
        device = next((o.device.type for o in pytree.tree_leaves(outputs) if isinstance(o, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            if isinstance(target, Mixed):
                return torch.lerp(smooth(outputs, target.second), smooth(outputs, target.first), target.share)
            return smooth(outputs, target)

    return criterion


def _nothing(outputs: Any, target: Any) -> Tensor:
    """Made up inputs have no true answers."""
    return torch.zeros((), device=next(o.device for o in pytree.tree_leaves(outputs) if isinstance(o, Tensor)))


def _single(leaf: Any) -> Any:
    """bfloat16 outputs of autocast as float32."""
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16) else leaf


def one_number(value: object, what: str) -> Tensor:
    """
    Raises:
        DataError: `value` is not a tensor of one number; `what` names it.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise DataError(
            f"The {what} must be one number, a tensor of shape (), got {shown}. Average over the batch before you "
            "return it."
        )
    return value.reshape(())


def checked(loss: object) -> Tensor:
    """
    Raises:
        DataError: not one number, or one that no parameter can change.
    """
    value = one_number(loss, "loss")
    if not value.requires_grad:
        raise DataError(
            "The loss does not depend on any trainable parameter. Check that the model's outputs are not detached and "
            "that its parameters require gradients."
        )
    return value
