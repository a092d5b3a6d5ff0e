"""What a student's outputs cost beside a teacher's. Pure functions; rows are examples or tokens.

Symbols: z student's logits, t teacher's, both `(n, c)`; T temperature; q = softmax(z / T), p = softmax(t / T);
KL(p, q) = sum_c p (log p - log q). Every loss is a mean over the n rows and zero where student and teacher agree.

    kl              T^2 KL(p, q)                            Hinton et al. 2015 (arXiv:1503.02531), section 2
    decoupled       T^2 (alpha TCKD + beta NCKD)            Zhao et al. 2022 (arXiv:2203.08679), equation 7
    standardized    T^2 KL of z-scores of the logits        Sun et al. 2024 (arXiv:2403.01427), section 4
    correlation     T^2 (inter (1 - r_rows) + intra (1 - r_columns))   Huang et al. 2022 (arXiv:2205.10536), equation 10
    top_k           T^2 KL over the teacher's k likeliest classes and one class of all others
    bernoulli       T^2 KL, each output a class of its own
    squared         (z - t)^2
    boxes           sum_i w_i (1 - GIoU(s_i, b_i)) / sum_i w_i        GIoU: Rezatofighi et al. 2019 (arXiv:1902.09630)

s_i and b_i are a student's and a teacher's box at the same place, w_i how sure the teacher is that something is there.
The gradient of `kl` is T (q - p) / n. For logits of mean zero that are small against T it tends to (z - t) / (n c):
T^2 makes its scale independent of T. A mean over classes as well, the `reduction="mean"` of torch's `kl_div`, would be
c times too small.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TINY_SPREAD = 1e-8
"""Variance of a row of logits below which it counts as constant."""
TINY_NORM = 1e-4
"""Norm of deviations from the mean below which probabilities count as constant."""


def divergence(wanted: Tensor, got: Tensor) -> Tensor:
    """Mean over the rows of KL between two distributions `(n, c)`, given as logarithms; their zeros count nothing."""
    p = wanted.exp()
    return torch.where(p > 0, p * (wanted - got), 0.0).sum(1).mean()


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p, q)."""
    return temperature**2 * divergence(_soft(teacher, temperature), _soft(student, temperature))


def decoupled(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """KL split at the true class `target`, `(n,)` integers, with weights of its own for each part.

    TCKD is KL between (p_target, 1 - p_target) of both; NCKD is KL between both distributions over the other classes.
    KL = TCKD + (1 - p_target) NCKD: where the teacher is sure, KL hardly shows the student the other classes.
    """
    (sure, others), (sure_student, others_student) = _split(teacher, target, temperature), _split(
        student, target, temperature
    )  # fmt: skip
    tckd, nckd = divergence(sure, sure_student), divergence(others, others_student)
    return temperature**2 * (alpha * tckd + beta * nckd)


def standardized(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL of logits that have mean 0 and variance 1 in each row: shift and scale of the student are its own."""
    return kl(_scores(student), _scores(teacher), temperature)


def correlation(student: Tensor, teacher: Tensor, temperature: float, inter: float, intra: float) -> Tensor:
    """Pearson's distance 1 - r between probabilities: of one example over the classes, of one class over the rows.

    Computed as half the squared distance of centred unit vectors, which is the same, and zero for equal constants.
    """
    q, p = torch.softmax(student / temperature, 1), torch.softmax(teacher / temperature, 1)
    return temperature**2 * (inter * _pearson_distance(q, p, 1) + intra * _pearson_distance(q, p, 0))


def top_k(student: Tensor, teacher: Tensor, temperature: float, k: int) -> Tensor:
    """KL over k + 1 classes: never above `kl` (merging classes loses information), equal to it for k >= c - 1."""
    k = min(k, teacher.shape[1] - 1)
    best = teacher.topk(k, 1).indices
    return temperature**2 * divergence(_merged(teacher, best, temperature), _merged(student, best, temperature))


def bernoulli(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Several labels at once: KL of each output's sigmoid; a mean over the outputs too, as binary cross-entropy is."""
    z, t = student / temperature, teacher / temperature
    yes, no = F.logsigmoid(t), F.logsigmoid(-t)
    each = yes.exp() * (yes - F.logsigmoid(z)) + no.exp() * (no - F.logsigmoid(-z))
    return temperature**2 * each.mean()


def squared(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error, in the square of the output's unit."""
    return (student - teacher).square().mean()


def boxes(student: Tensor, teacher: Tensor, certainty: Tensor) -> Tensor:
    """Boxes `(n, 4)` by their corners, x1, y1, x2, y2, in any unit; `certainty` `(n,)`, not negative. At most 2."""
    return (certainty * (1 - generalized_iou(student, teacher))).sum() / certainty.sum().clamp_min(TINY_NORM)


def generalized_iou(left: Tensor, right: Tensor) -> Tensor:
    """`(n, 4)` corners twice -> `(n,)`: IoU minus the share of the smallest box around both that neither covers.

    1 for the same box, at least -1. A box whose corners are the wrong way round has no area.
    """
    low, high = torch.maximum(left[:, :2], right[:, :2]), torch.minimum(left[:, 2:], right[:, 2:])
    outer = torch.maximum(left[:, 2:], right[:, 2:]) - torch.minimum(left[:, :2], right[:, :2])
    both, around = (high - low).clamp_min(0).prod(1), outer.clamp_min(0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).clamp_min(0).prod(1) for box in (left, right)]
    either = areas[0] + areas[1] - both
    return _share(both, either) - _share(around - either, around)


def corners(centres: Tensor) -> Tensor:
    """`(..., 4)` centre x, centre y, width, height -> x1, y1, x2, y2."""
    middle, half = centres[..., :2], centres[..., 2:] / 2
    return torch.cat([middle - half, middle + half], -1)


def certainty(scores: Tensor, background: int | None) -> Tensor:
    """Logits `(..., c)` -> `(...)`: the largest sigmoid; with a class `background`, one minus its softmax."""
    if background is None:
        return scores.sigmoid().amax(-1)
    return 1 - scores.softmax(-1)[..., background]


def mean_probabilities(teachers: Tensor) -> Tensor:
    """Logits `(k, n, c)` of k teachers -> `(n, c)`, those of the mean of their probabilities."""
    return torch.log_softmax(teachers, 2).logsumexp(0) - torch.tensor(float(len(teachers))).log()


def mean_chances(teachers: Tensor) -> Tensor:
    """Logits `(k, ...)` -> `(...)`, those of the mean of their sigmoids."""
    return F.logsigmoid(teachers).logsumexp(0) - F.logsigmoid(-teachers).logsumexp(0)


def agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """`(n,)` 1 where both find the same class likeliest."""
    return (student.argmax(1) == teacher.argmax(1)).to(torch.float64)


def _soft(logits: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(logits / temperature, 1)


def _split(logits: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Logarithms: `(n, 2)` of the target and of all others, `(n, c - 1)` of each other given that it is one."""
    scaled = logits / temperature
    is_target = F.one_hot(target, scaled.shape[1]).bool()
    of_target, rest = scaled[is_target], scaled[~is_target].view(len(scaled), -1)
    total, others = scaled.logsumexp(1), rest.logsumexp(1)
    return torch.stack([of_target - total, others - total], 1), rest - others[:, None]


def _scores(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + TINY_SPREAD)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """0 of nothing."""
    return part / torch.where(whole > 0, whole, 1.0)


def _pearson_distance(left: Tensor, right: Tensor, axis: int) -> Tensor:
    return 0.5 * (_direction(left, axis) - _direction(right, axis)).square().sum(axis).mean()


def _direction(values: Tensor, axis: int) -> Tensor:
    centred = values - values.mean(axis, keepdim=True)
    return centred * torch.rsqrt(centred.square().sum(axis, keepdim=True) + TINY_NORM**2)


def _merged(logits: Tensor, best: Tensor, temperature: float) -> Tensor:
    """Logarithms `(n, k + 1)`: of the classes `best`, and of all others together."""
    scaled = logits / temperature
    others = scaled.scatter(1, best, float("-inf")).logsumexp(1, keepdim=True)
    return torch.cat([scaled.gather(1, best), others], 1) - scaled.logsumexp(1, keepdim=True)
