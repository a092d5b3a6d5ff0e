"""Methods without rehearsal that let one set of weights drift: nothing of old data is kept, and old tasks may suffer.

    lwf        loss(new) + lambda sum_k T^2 KL(old head k before || old head k now) on the new inputs
               Li and Hoiem 2016 (arXiv:1606.09282), section 3
    ewc        loss(new) + lambda / 2 sum_i F_i (w_i - w*_i)^2                `functional.consolidation`
    progress   1. loss(new) in a free copy   2. T^2 KL(copy || shared weights) + online EWC penalty
               Schwarz et al. 2018 (arXiv:1805.06370), section 3

All trainable parameters but the head are shared; statistics of normalizations are each task's own. Deviations: old
heads are not trained on (lwf) and there is no warm-up of the new head; the free copy begins at the shared weights and
has no lateral connections (progress), whose head is the new task's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lissom.errors import DataError
from lissom.functional import consolidation
from lissom.functional.distillation import kl
from lissom.graph.trace import evaluation
from lissom.lifelong.ground import Ground, Made, load_
from lissom.lifelong.masking import private_of
from lissom.lifelong.settings import EWC, LwF, Method, ProgressAndCompress
from lissom.metrics import logits_of
from lissom.task import Batch, sliced
from lissom.training.agreement import PLAIN
from lissom.training.chance import generator_of
from lissom.training.objective import Criterion, Penalty
from lissom.training.pace import computed, device_of

FISHER, PULL = "fisher/", "pull/"


def drift(
    ground: Ground,
    settings: Method,
    shared: Mapping[str, Tensor],
    memory: Mapping[str, Tensor],
    old: Sequence[nn.Module],
) -> Made:
    """The task, and the shared weights that it moved.

    Args:
        shared: the shared weights before; empty for the first task.
        memory: `fisher/NAME` and `pull/NAME` before.
        old: the models of the earlier tasks, at the shared weights before.
    """
    names = ground.anatomy.shared("drifting")
    start = load_(ground.anatomy.build(1.0, ground.classes), dict(shared))
    fisher, pull = _part(memory, FISHER), _part(memory, PULL)
    if isinstance(settings, LwF):
        objective = _remembering(ground.anatomy.head, old, settings.strength, settings.temperature)
        made = ground.train(start, settings.training, "training", objective=objective)
    elif isinstance(settings, ProgressAndCompress):
        active = ground.train(start, settings.training, "progress")
        objective = _copying(active, settings.temperature)
        made = ground.train(
            start, settings.compressing, "compress", objective=objective, penalty=_held(fisher, pull, settings.strength)
        )
    else:
        assert isinstance(settings, EWC)
        made = ground.train(start, settings.training, "training", penalty=_held(fisher, pull, settings.strength))
    weights = {name: made.get_parameter(name).detach().cpu().clone() for name in names}
    if isinstance(settings, EWC) and settings.strength:
        found = fisher_of(ground, made, names, settings.samples)
        if isinstance(settings, ProgressAndCompress):
            fisher, pull = consolidation.faded(fisher, found, weights, settings.fading)
        else:
            fisher, pull = consolidation.summed(fisher, pull, found, weights)
    private = private_of(made, names)
    total = sum(weight.numel() for weight in weights.values())
    return Made(
        model=load_(ground.anatomy.build(1.0, ground.classes), {**weights, **private}),
        metric=ground.metric(made),
        width=1.0,
        private=private,
        attempts=(),
        goal=None,
        weights=total,
        own=total,
        used=total,
        free=total,
        shared=weights,
        memory={
            **{FISHER + name: value for name, value in fisher.items()},
            **{PULL + name: value for name, value in pull.items()},
        },
    )


def fisher_of(ground: Ground, model: nn.Module, names: Mapping[str, int], samples: int) -> dict[str, Tensor]:
    """Diagonal of the Fisher information at `model`: mean square of single examples' gradients, answers drawn from it.

    Raises:
        DataError: the outputs are no logits of classes.
    """
    parameters = [model.get_parameter(name) for name in names]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    generator = generator_of("fisher", ground.seed, ground.index)
    count = 0
    with evaluation(model):
        for batch in ground.task.batches("train", limit=samples):
            for row in range(batch.size):
                one = computed(sliced(batch, row, row + 1), device_of(model), PLAIN)
                logits = logits_of(model(*one.args, **one.kwargs))
                if logits.ndim != 2:
                    raise DataError(
                        f"The Fisher information needs logits of shape (batch, classes), got {tuple(logits.shape)}. "
                        "Use LwF, Pack or Grow for such a task."
                    )
                chances = logits.detach().softmax(1).cpu()
                answer = int(torch.multinomial(chances, 1, generator=generator))
                found = torch.autograd.grad(logits.log_softmax(1)[0, answer], parameters)
                for total, gradient in zip(sums, found, strict=True):
                    total += gradient.square()
                count += 1
    return {name: (total / count).cpu() for name, total in zip(names, sums, strict=True)}


def _held(fisher: Mapping[str, Tensor], pull: Mapping[str, Tensor], strength: float) -> Penalty | None:
    if not fisher or not strength:
        return None

    def penalty(model: nn.Module) -> Tensor:
        weights = {name: model.get_parameter(name) for name in fisher}
        device = next(iter(weights.values())).device
        there = [{name: value.to(device) for name, value in part.items()} for part in (fisher, pull)]
        return strength * consolidation.penalty(weights, *there)

    return penalty


def _remembering(head: str, old: Sequence[nn.Module], strength: float, temperature: float) -> Any:
    """The task's loss, and how far the old heads' answers have moved, each head on the features of one forward pass."""

    def objective(model: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        with _entering(model, head) as features:
            loss = criterion(model(*batch.args, **batch.kwargs), batch.target)
        for one in old:
            module = one.get_submodule(head)
            wanted = _answers(one, head, batch)
            held = {name: value.detach() for name, value in module.named_parameters()}
            got = functional_call(module, held, (features[-1],))
            loss = loss + strength * kl(_rows(got), _rows(wanted), temperature)
        return loss

    return objective


@torch.no_grad()
def _answers(model: nn.Module, head: str, batch: Batch) -> Tensor:
    """What the head of an old model makes of a batch, in evaluation mode."""
    found: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, made: Tensor) -> None:
        found.append(made)

    handle = model.get_submodule(head).register_forward_hook(hook)
    try:
        with evaluation(model):
            model(*batch.args, **batch.kwargs)
    finally:
        handle.remove()
    return found[-1]


@contextlib.contextmanager
def _entering(model: nn.Module, head: str) -> Generator[list[Tensor]]:
    """What the head is given inside the block."""
    found: list[Tensor] = []

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])

    handle = model.get_submodule(head).register_forward_pre_hook(hook)
    try:
        yield found
    finally:
        handle.remove()


def _copying(active: nn.Module, temperature: float) -> Any:
    """Distillation of the free copy into the shared weights; the targets are not read."""

    def objective(model: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        with torch.no_grad(), evaluation(active):
            wanted = active(*batch.args, **batch.kwargs)
        got = model(*batch.args, **batch.kwargs)
        return kl(_rows(logits_of(got)), _rows(logits_of(wanted)), temperature)

    return objective


def _rows(logits: Tensor) -> Tensor:
    """(rows, classes): classes are the last axis of a linear head, the second of a convolution."""
    return logits if logits.ndim == 2 else logits.movedim(1, -1).flatten(0, -2)


def _part(memory: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in memory.items() if name.startswith(prefix)}
