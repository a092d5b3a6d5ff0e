"""Are made up inputs any good? Signs of collapse, and how far a student agrees with its teacher on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lissom.functional import distillation
from lissom.functional import synthesis as measures
from lissom.graph.trace import evaluation
from lissom.measure.synthesis import Signs, SynthesisPoint
from lissom.training.outputs import check_same
from lissom.training.synthesis.examiner import Examiner, rows

NARROW, ALIKE = 0.5, 0.05
"""Balance and spread below which inputs are called collapsed: a few classes, one example with small changes."""
LOOKED_AT = 512
"""Examples that signs are taken from: distances of all pairs."""


def signs_of(examiner: Examiner, values: list[Tensor]) -> Signs:
    """What `(n, *shape)` inputs look like, and whether they have collapsed."""
    with torch.no_grad():
        logits = examiner.logits(examiner.form.batch(values))
    return _signs(examiner, values, logits)


def point_of(examiner: Examiner, values: list[Tensor], student: nn.Module | None) -> SynthesisPoint:
    """Signs, losses and, where there is one, what the student says of the same inputs.

    agreement = mean_n [argmax_c z = argmax_c t];  entropy = mean_n H(softmax(z)) / log c
    """
    batch = examiner.form.batch(values)
    with torch.no_grad():
        logits = examiner.logits(batch)
        losses = {name: float(term) for name, term in examiner.terms(values, None, None).items()}
        agreement = entropy = None
        if student is not None and logits.shape[1] > 1:
            with evaluation(student):
                answers = rows(student, batch, "student")
            check_same(answers, logits, "the student", "the teacher")
            agreement = float(distillation.agreement(answers, logits).double().mean())
            entropy = float(torch.special.entr(answers.softmax(1)).sum(1).mean()) / math.log(logits.shape[1])
    return SynthesisPoint(
        **_signs(examiner, values, logits).model_dump(), losses=losses, agreement=agreement, entropy=entropy
    )


def _signs(examiner: Examiner, values: list[Tensor], logits: Tensor) -> Signs:
    classes = logits.shape[1] > 1
    balance = measures.balance(logits.argmax(1), logits.shape[1]) if classes else None
    spread = min(measures.spread(one) for one in values)
    reason = None
    if balance is not None and balance < NARROW:
        reason = f"few classes: balance {balance:.2f}, below {NARROW}"
    elif spread < ALIKE:
        reason = f"examples are nearly the same: spread {spread:.3f}, below {ALIKE}"
    return Signs(
        examples=len(values[0]),
        confidence=float(logits.softmax(1).amax(1).mean()) if classes else None,
        balance=balance,
        spread=spread,
        normalizations=len(examiner.normalizations),
        collapsed=reason,
    )
