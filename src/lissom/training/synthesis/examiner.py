"""`Examiner`: what the losses of `lissom.functional.synthesis` say about inputs, by way of a teacher and a student."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lissom.functional import synthesis as losses
from lissom.graph.trace import evaluation
from lissom.task import Batch
from lissom.training.outputs import check_same, output_of, rows_of
from lissom.training.synthesis.form import Form
from lissom.training.synthesis.settings import Synthesis

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Examiner:
    """Losses of inputs. The teacher is frozen and in evaluation mode.

    Attributes:
        normalizations: the teacher's batch normalizations with running statistics.
        last: the layer that is called last; None in an exported graph, which calls no modules.
    """

    def __init__(self, teacher: nn.Module, form: Form, settings: Synthesis, device: torch.device) -> None:
        self.teacher, self.form, self.settings = teacher, form, settings
        self.weight: Callable[[str], float] = settings.chosen
        modules = dict(teacher.named_modules())
        with heard(modules.values()) as found, torch.no_grad():
            zeros = [torch.zeros(2, *shape, device=device) for shape in form.shapes]
            self.logits(form.batch(zeros))
        self.normalizations = [m for m in found if isinstance(m, NORMALIZATIONS) and m.running_mean is not None]
        self.last = next((m for m in reversed(list(found)) if isinstance(m, LAYERS)), None)

    def logits(self, batch: Batch) -> Tensor:
        """The teacher's, `(rows, c)`: rows are examples, tokens or pixels."""
        return rows(self.teacher, batch, "teacher")

    def classes(self, batch: Batch) -> Tensor | None:
        """The likeliest class of every example `(n,)`; None where the output is not `(n, c)` with two classes."""
        with torch.no_grad():
            found = output_of(self.teacher(*batch.args, **batch.kwargs), None, None, "teacher")
        return found.argmax(1) if found.ndim == 2 and found.shape[1] > 1 else None

    def __call__(self, values: list[Tensor], wanted: Tensor | None, student: nn.Module | None) -> Tensor:
        """One number to make small: the sum of `terms` by their weights."""
        terms = self.terms(values, wanted, student)
        return torch.stack([self.weight(name) * term for name, term in terms.items()]).sum()

    def terms(self, values: list[Tensor], wanted: Tensor | None, student: nn.Module | None) -> dict[str, Tensor]:
        """Its parts, by the names of their weights.

        Args:
            values: inputs `(n, *shape)` each, with gradients.
            wanted: classes `(rows,)` that the teacher shall see; None: whatever it finds likeliest.
            student: whose disagreement is sought; None: nobody's.
        """
        batch = self.form.batch(values)
        with heard([*self.normalizations, *([self.last] if self.last else [])]) as inner:
            logits = self.logits(batch)
        terms: dict[str, Tensor] = {}
        if logits.shape[1] > 1:
            fits = wanted is not None and len(wanted) == len(logits)
            terms["confidence"] = losses.confidence(logits, wanted if fits else None)
            terms["balance"] = losses.imbalance(logits)
        if self.last is not None:
            terms["activation"] = losses.activation(inner[self.last])
        if self.normalizations:
            terms["statistics"] = losses.statistics(
                [inner[one] for one in self.normalizations],
                [_filled(one.running_mean) for one in self.normalizations],
                [_filled(one.running_var) for one in self.normalizations],
            )
        terms["roughness"] = torch.stack([losses.roughness(one) for one in values]).mean()
        terms["size"] = torch.stack([losses.size(one) for one in values]).mean()
        if student is not None and self.weight("adversary"):
            with evaluation(student):
                answers = rows(student, batch, "student")
            check_same(answers, logits, "the student", "the teacher")
            terms["adversary"] = -torch.log1p(losses.disagreement(answers, logits))
        return terms


def rows(model: nn.Module, batch: Batch, whose: str) -> Tensor:
    """The logits `(rows, c)` that the model answers."""
    found = output_of(model(*batch.args, **batch.kwargs), None, None, whose)
    found = found[:, None] if found.ndim == 1 else found
    return rows_of(found, found[None], None).student


@contextlib.contextmanager
def heard(modules: Iterable[nn.Module]) -> Generator[dict[nn.Module, Tensor]]:
    """What each module is given in calls inside, in the order of the last call."""
    found: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor) and given[0].is_floating_point():
            found.pop(module, None)
            found[module] = given[0]

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _filled(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
