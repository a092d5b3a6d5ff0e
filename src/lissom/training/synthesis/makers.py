"""The ways to make inputs: noise, optimized inputs, a generator, a generator with a learned start. One interface.

    drawings      the first of each class in turns, of three times as many
    inversion     u <- Adam(u, L(bounded(u)))                                 `updates` steps from noise
    generator     w <- Adam(w, L(bounded(G_w(z)))), z new in every step       its own w goes on from batch to batch
    meta          w', z' <- Adam(w, z; L), `updates` steps;  w <- w + r (w' - w)      Reptile, r = 1 / `updates`

L is `Examiner`. Yin et al. 2020 (arXiv:1912.08795); Chen et al. 2019 (arXiv:1904.01186); Fang et al. 2022
(arXiv:2112.06253), algorithm 1.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lissom.errors import DataError
from lissom.functional.drawing import drawings
from lissom.functional.synthesis import in_turns
from lissom.training.chance import Chance, seed_of
from lissom.training.checkpoint import tensors_of
from lissom.training.optimizer import load_state_, state_of, trainable
from lissom.training.synthesis.examiner import Examiner
from lissom.training.synthesis.form import Form
from lissom.training.synthesis.generator import Generator
from lissom.training.synthesis.settings import LEARNED, Synthesis

CHOICE = 3
"""Drawings to choose one from."""
IMAGE_AXES = 3
BETAS = (0.5, 0.999)
"""Of a generator's Adam, as is usual for those that are trained against a network."""


class Maker(ABC):
    """Makes batches of inputs, and may get better at it with every batch.

    Every draw comes from the generator that is passed: with `state`, a maker goes on as if it had not stopped.
    """

    @abstractmethod
    def make(self, count: int, generator: torch.Generator, student: nn.Module | None) -> list[Tensor]:
        """`(count, *shape)` for every input that is made, without gradients."""

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Those that learn."""
        return ()

    def state(self) -> dict[str, Tensor]:
        """Everything learned so far, by name."""
        return {}

    def load_(self, state: dict[str, Tensor]) -> None:
        """Back from `state`."""
        assert not state, "nothing was learned"


class Noise(Maker):
    """The control."""

    def __init__(self, form: Form, device: torch.device) -> None:
        self.form, self.device = form, device

    def make(self, count: int, generator: torch.Generator, student: nn.Module | None) -> list[Tensor]:
        return [values.to(self.device) for values in self.form.noise(count, generator)]


class Drawn(Maker):
    """Line drawings, of which the teacher sees every class as often as it can be had.

    Raises:
        DataError: other inputs than one of images.
    """

    def __init__(self, examiner: Examiner, device: torch.device) -> None:
        self.examiner, self.device = examiner, device
        shapes = examiner.form.shapes
        if len(shapes) != 1 or len(shapes[0]) != IMAGE_AXES:
            shown = ", ".join(map(str, shapes))
            raise DataError(
                f"method='drawings' makes one input of images (channels, height, width), and the model takes {shown} "
                "for each example. Take method='inversion', which makes inputs of any shape and number."
            )
        self.channels, self.height, self.width = shapes[0]

    def make(self, count: int, generator: torch.Generator, student: nn.Module | None) -> list[Tensor]:
        values = self._draw(CHOICE * count, generator).to(self.device)
        classes = self.examiner.classes(self.examiner.form.batch([values]))
        return [values[:count] if classes is None else values[in_turns(classes)[:count]]]

    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Between the bounds; with mean 0 and variance 1 without. Colours are drawn where there are channels."""
        ink = drawings(count, self.height, self.width, generator)
        if self.channels > 1:
            ink = ink * torch.rand(count, self.channels, 1, 1, generator=generator)
        form = self.examiner.form
        if form.low is not None and form.high is not None:
            return form.low + (form.high - form.low) * ink
        spread, middle = torch.var_mean(ink)
        return (ink - middle) / spread.sqrt().clamp_min(1e-6)


class Inversion(Maker):
    """Every batch is optimized from noise; classes are aimed at evenly."""

    def __init__(self, examiner: Examiner, device: torch.device) -> None:
        self.examiner, self.device = examiner, device

    def make(self, count: int, generator: torch.Generator, student: nn.Module | None) -> list[Tensor]:
        examiner, form = self.examiner, self.examiner.form
        free = [
            torch.randn(count, *shape, generator=generator).to(self.device).requires_grad_() for shape in form.shapes
        ]
        with torch.no_grad():
            logits = examiner.logits(form.batch([form.bounded(one) for one in free]))
        order = torch.randperm(len(logits), generator=generator).to(self.device)
        wanted = order % logits.shape[1]
        optimizer = torch.optim.Adam(free, lr=examiner.weight("learning_rate"))
        for _ in range(int(examiner.weight("updates"))):
            loss = examiner([form.bounded(one) for one in free], wanted, student)
            # Of the inputs alone: nothing is added to gradients of the student.
            for one, slope in zip(free, torch.autograd.grad(_finite(loss), free), strict=True):
                one.grad = slope
            optimizer.step()
        return [form.bounded(one).detach() for one in free]


class Generated(Maker):
    """A generator; with `meta`, a start from which each batch's own generator is a few steps away."""

    def __init__(self, examiner: Examiner, settings: Synthesis, seed: int, device: torch.device) -> None:
        self.examiner, self.device = examiner, device
        self.meta = settings.method == "meta"
        self.updates, self.rate = int(settings.chosen("updates")), float(settings.chosen("learning_rate"))
        self.latent = settings.latent
        form = examiner.form
        if len(form.shapes) != 1:
            raise DataError(
                f"A generator makes one input, and the model takes {len(form.shapes)}. Take method='inversion', which "
                "makes any number."
            )
        with Chance(seed_of("generator", seed))():
            made = Generator(form.shapes[0], settings.latent, settings.width, bounded=form.low is not None)
        self.network = made.to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.rate, betas=BETAS)

    def make(self, count: int, generator: torch.Generator, student: nn.Module | None) -> list[Tensor]:
        return self._quickly(count, generator, student) if self.meta else self._next(count, generator, student)

    def _next(self, count: int, generator: torch.Generator, student: nn.Module | None) -> list[Tensor]:
        made: list[Tensor] = []
        for _ in range(self.updates):
            noise = torch.randn(count, self.latent, generator=generator).to(self.device)
            made = self._step(self.network, noise, [*self.network.parameters()], self.optimizer, student)
        return made

    def _quickly(self, count: int, generator: torch.Generator, student: nn.Module | None) -> list[Tensor]:
        fast = copy.deepcopy(self.network)
        noise = torch.randn(count, self.latent, generator=generator).to(self.device).requires_grad_()
        moved = [noise, *fast.parameters()]
        optimizer = torch.optim.Adam(moved, lr=self.rate, betas=BETAS)
        for _ in range(self.updates):
            self._step(fast, noise, moved, optimizer, student)
        with torch.no_grad():
            made = [self.examiner.form.bounded(fast(noise))]
            for slow, quick in zip(self.network.parameters(), fast.parameters(), strict=True):
                slow.lerp_(quick, 1.0 / self.updates)
            for kept, seen in zip(self.network.buffers(), fast.buffers(), strict=True):
                kept.copy_(seen)
        return made

    def _step(
        self,
        network: nn.Module,
        noise: Tensor,
        moved: list[Tensor],
        optimizer: torch.optim.Optimizer,
        student: nn.Module | None,
    ) -> list[Tensor]:
        values = [self.examiner.form.bounded(network(noise))]
        loss = self.examiner(values, None, student)
        for one, slope in zip(moved, torch.autograd.grad(_finite(loss), moved), strict=True):
            one.grad = slope
        optimizer.step()
        return [one.detach() for one in values]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.network,)

    def state(self) -> dict[str, Tensor]:
        learned = {f"network/{name}": value for name, value in tensors_of(self.network).items()}
        moments = state_of(self.optimizer, trainable(self.network))
        return learned | {f"optimizer/{name}": value for name, value in moments.items()}

    def load_(self, state: dict[str, Tensor]) -> None:
        self.network.load_state_dict(_part(state, "network/"))
        load_state_(self.optimizer, trainable(self.network), _part(state, "optimizer/"))


def maker_of(settings: Synthesis, examiner: Examiner, seed: int, device: torch.device) -> Maker:
    """
    Raises:
        DataError: a generator or drawings, and inputs of a kind that they do not make.
    """
    if settings.method == "noise":
        return Noise(examiner.form, device)
    if settings.method == "drawings":
        return Drawn(examiner, device)
    if settings.method in LEARNED:
        return Generated(examiner, settings, seed, device)
    return Inversion(examiner, device)


def _part(state: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name.removeprefix(head): value for name, value in state.items() if name.startswith(head)}


def _finite(loss: Tensor) -> Tensor:
    if not bool(loss.isfinite()):
        raise DataError(
            f"Synthesis diverged: its loss is {float(loss)}. Lower learning_rate, give low and high, or set the weight "
            "of the loss that grows to 0."
        )
    return loss
