"""The sandwich rule: at every step the largest subnet, the smallest and a few at random, on the same batch.

    loss = L(f_largest, y) + KL(p_largest, p_smallest) + sum over the random ones KL(p_largest, p_random)

p are softmax probabilities; no gradient flows into p_largest inside a KL ("in-place distillation"). Without
distillation, every term is L. Yu and Huang 2019, "Universally Slimmable Networks" (arXiv:1903.05134), sections 3.1 and
3.2; the sum of the losses has the sum of the gradients, which they accumulate one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from lissom.errors import DataError
from lissom.functional.distillation import kl
from lissom.metrics import logits_of
from lissom.task import Batch
from lissom.training.objective import Criterion
from lissom.transforms.architecture.programs import Programs, tensors_of
from lissom.transforms.architecture.space import Subnet


@dataclass(frozen=True, eq=False)
class Sandwich:
    """An `Objective` for the one loop. The loop seeds torch's generator for every step, which draws the subnets."""

    programs: Programs
    random: int
    distill: bool

    def drawn(self) -> list[Subnet]:
        space = self.programs.space
        return [space.smallest, *(space.drawn() for _ in range(self.random))]

    def __call__(self, model: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        subnets = self.drawn()
        outputs = model(*batch.args, **batch.kwargs)
        loss = criterion(outputs, batch.target)
        taught = _logits(outputs).detach() if self.distill else None
        tensors = tensors_of(model)
        for subnet in subnets:
            made = self.programs.of(subnet).run(tensors, batch, "batch")
            loss = loss + (criterion(made, batch.target) if taught is None else kl(_logits(made), taught, 1.0))
        return loss


def _logits(outputs: object) -> Tensor:
    """(batch, classes) in float32."""
    found = logits_of(outputs)
    if found.ndim != 2:
        raise DataError(
            f"In-place distillation needs logits of shape (batch, classes), got {tuple(found.shape)}. Set "
            "Supernet(distill=False): every subnet then learns from the task's loss."
        )
    return found.float()
