"""Which task an input is of, when nobody says so: the task whose model is surest.

    entropy      the smallest -sum_c p_c log p_c / log(classes), p = softmax of the task's outputs
    confidence   the largest max_c p_c, between what chance gives and 1: (max p - 1 / classes) / (1 - 1 / classes)

Both are on [0, 1] whatever the number of classes. A batch that is known to be of one task is decided as a whole, by the
mean. Entropy of heads: von Oswald et al. 2020 (arXiv:1906.00695), section 2; Wortsman et al. 2020 (arXiv:2006.14769)
find tasks by it among thousands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from lissom.errors import DataError
from lissom.graph.trace import evaluation
from lissom.metrics import logits_of
from lissom.task import Batch
from lissom.training.agreement import PLAIN
from lissom.training.pace import computed, device_of

By = Literal["entropy", "confidence"]


def doubt(logits: Tensor, by: By) -> Tensor:
    """(examples,), 0 for a sure answer and 1 for none at all. A single class is always sure."""
    rows = logits.movedim(1, -1).flatten(1, -2) if logits.ndim > 2 else logits.unsqueeze(1)
    classes = rows.shape[-1]
    if classes == 1:
        return torch.zeros(len(rows))
    logs = rows.double().log_softmax(-1)
    if by == "entropy":
        found = -(logs.exp() * logs).sum(-1) / math.log(classes)
    else:
        found = (1.0 - logs.exp().amax(-1)) / (1.0 - 1.0 / classes)
    return found.mean(1).float()


@torch.no_grad()
def doubts(models: Mapping[str, nn.Module], batch: Batch, by: By) -> Tensor:
    """(tasks, examples), in the order of `models`.

    Raises:
        DataError: outputs that are no logits of classes for each example.
    """
    found: list[Tensor] = []
    for name, model in models.items():
        given = computed(batch, device_of(model), PLAIN)
        with evaluation(model):
            logits = logits_of(model(*given.args, **given.kwargs))
        if logits.ndim < 2 or logits.shape[0] != batch.size:
            raise DataError(
                f"The task {name!r} is inferred by its logits of shape (batch, classes, ...), got "
                f"{tuple(logits.shape)}. Name the task instead: Lifelong.model(name)."
            )
        found.append(doubt(logits.cpu(), by))
    return torch.stack(found)
