"""`Source`: an endless training set that is made while it is read, with a memory and a look at itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lissom.errors import DataError
from lissom.functional.synthesis import warped
from lissom.measure.synthesis import SynthesisPoint, SynthesisRecord
from lissom.task import Batch, Task, default_feed
from lissom.training.chance import generator_of
from lissom.training.history import Epoch, Pace
from lissom.training.pace import device_of, order_
from lissom.training.settings import Training
from lissom.training.synthesis.examiner import Examiner
from lissom.training.synthesis.form import form_of
from lissom.training.synthesis.makers import maker_of
from lissom.training.synthesis.settings import LEARNED, Synthesis
from lissom.training.synthesis.sheet import sheet_of
from lissom.training.synthesis.signs import LOOKED_AT, point_of, signs_of
from lissom.training.teacher import teachers_of

IMAGE_AXES = 3


class Source:
    """Batches for one training, each labelled with the class that the teacher finds likeliest.

    Raises:
        DataError: inputs that cannot be made.
    """

    def __init__(self, settings: Synthesis, teacher: nn.Module, task: Task, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.device = device_of(teacher)
        self.form = form_of(task.example, settings.low, settings.high)
        self.examiner = Examiner(teacher, self.form, settings, self.device)
        self.maker = maker_of(settings, self.examiner, seed, self.device)
        self.most, self.replays = int(settings.chosen("memory")), int(settings.chosen("replays"))
        flat = [shape for shape in self.form.shapes if len(shape) != IMAGE_AXES]
        if settings.warp and flat:
            raise DataError(
                f"warp={settings.warp:g} moves images (channels, height, width), and an input has the shape {flat[0]} "
                "for each example. Set warp=0."
            )
        _refuse_blind(settings, self.examiner)
        self.memory: list[Tensor] = []
        self.held_out: list[Tensor] = []
        """Never shown; without a generator they are the same ones throughout."""
        self.made = 0
        """Examples made so far; the memory is written in turns."""

    @property
    def steps(self) -> int:
        return self.settings.steps

    def begin(self, pace: Pace) -> None:
        """From here on teacher and generator compute in that memory order."""
        for module in (self.examiner.teacher, *self.maker.modules):
            order_(module, torch.channels_last if pace.channels_last else torch.contiguous_format)

    def batches(self, epoch: int, done: int, student: nn.Module | None, *, labels: bool = True) -> Iterator[Batch]:
        """What is left of an epoch of which `done` batches were read. The student is looked at, not changed.

        Without `labels` there are no targets: a pass of the teacher less, where only its whole answers are learned.
        """
        for step in range(done, self.steps):
            chance = generator_of("synthesis", self.seed, epoch, step)
            if self.memory and step % (1 + self.replays):
                values = [self._moved(one, chance) for one in self._remembered(chance)]
            else:
                values = self.new(self.settings.batch_size, chance, student)
            yield self.labelled(values) if labels else self.form.batch(values)

    def new(self, count: int, chance: torch.Generator, student: nn.Module | None = None) -> list[Tensor]:
        """Inputs that were never shown, remembered from here on."""
        values = self.maker.make(count, chance, student)
        if self.most:
            self._remember(values)
        self.made += count
        return values

    def labelled(self, values: list[Tensor]) -> Batch:
        batch = self.form.batch(values)
        return Batch(batch.args, batch.kwargs, self.examiner.classes(batch))

    def sketch(self, task: Task) -> Task:
        """The task with two batches of noise as training data: for what looks at shapes and times alone."""
        count = self.settings.batch_size
        drawn = [self.form.noise(count, generator_of("sketch", self.seed, index)) for index in range(2)]
        batches = [self.labelled([values.to(self.device) for values in one]) for one in drawn]
        return replace(task, train=batches, feed=default_feed)

    def shown(self) -> list[Tensor]:
        """Some of what is remembered; without a memory, new inputs."""
        chance = generator_of("signs", self.seed)
        return self._remembered(chance, LOOKED_AT) if self.memory else self._unseen(chance)

    def taught(self, epochs: Sequence[Epoch]) -> SynthesisRecord:
        """What a training of these epochs was shown."""
        points = [epoch.synthesis for epoch in epochs if epoch.synthesis is not None]
        return self.record(self.shown(), ("train",), self.made, points)

    def record(
        self,
        values: list[Tensor],
        splits: Sequence[str],
        examples: int,
        history: Sequence[SynthesisPoint],
    ) -> SynthesisRecord:
        """What became of it, with signs and pictures of `values`."""
        sheet = sheet_of(self.examiner, values)
        return SynthesisRecord(
            settings=self.settings.effective(),
            splits=tuple(splits),
            examples=examples,
            signs=signs_of(self.examiner, values),
            history=tuple(history),
            sheet=sheet.uri if sheet else None,
            sheet_classes=sheet.classes if sheet else (),
        )

    def point(self, student: nn.Module) -> SynthesisPoint:
        """How it stands, on inputs that are held out: not shown, not remembered, not learned from."""
        values = self.held_out or self._unseen(generator_of("held out", self.seed))
        if self.settings.method not in LEARNED:
            self.held_out = values
        return point_of(self.examiner, values, student)

    def state(self) -> dict[str, Tensor]:
        held = min(self.made, self.most)
        kept = {f"memory/{index}": one[:held] for index, one in enumerate(self.memory)}
        learned = {f"maker/{name}": one for name, one in self.maker.state().items()}
        return {**learned, **kept, "made": torch.tensor(self.made)}

    def load_(self, state: dict[str, Tensor]) -> None:
        """Back from `state`."""
        self.made = int(state["made"])
        kept = [state[f"memory/{index}"] for index in range(len(self.form.shapes)) if f"memory/{index}" in state]
        self.memory = [one.new_zeros(self.most, *one.shape[1:], device=self.device) for one in kept]
        for place, one in zip(self.memory, kept, strict=True):
            place[: len(one)] = one
        learned = {name.removeprefix("maker/"): one for name, one in state.items() if name.startswith("maker/")}
        self.maker.load_(learned)

    def _moved(self, images: Tensor, chance: torch.Generator) -> Tensor:
        reach = self.settings.warp
        if not reach:
            return images
        moves = reach * (2 * torch.rand(len(images), 2, 3, generator=chance) - 1)
        return warped(images, moves.to(images))

    def _unseen(self, chance: torch.Generator) -> list[Tensor]:
        held = self.maker.state()
        held = {name: value.clone() for name, value in held.items()}
        values = self.maker.make(min(self.settings.batch_size, LOOKED_AT), chance, None)
        self.maker.load_(held)
        return values

    def _remember(self, values: list[Tensor]) -> None:
        count = len(values[0])
        if not self.memory:
            self.memory = [one.new_zeros(self.most, *one.shape[1:]) for one in values]
        places = (torch.arange(count, device=self.device) + self.made) % self.most
        for kept, one in zip(self.memory, values, strict=True):
            kept[places] = one

    def _remembered(self, chance: torch.Generator, count: int | None = None) -> list[Tensor]:
        held = min(self.made, self.most)
        drawn = torch.randint(held, (count or self.settings.batch_size,), generator=chance).to(self.device)
        return [one[drawn] for one in self.memory]


def source_of(original: nn.Module, task: Task, settings: Training, *, seed: int, device: torch.device) -> Source | None:
    """What a training without data reads; None for one with data.

    Raises:
        DataError: inputs that cannot be made, no such teacher, or one without gradients.
    """
    if settings.synthesis is None:
        return None
    teachers = list(teachers_of(settings, original, task, device).values())
    if len(teachers) != 1 or not isinstance(teachers[0], nn.Module):
        shown = "a function" if len(teachers) == 1 else f"{len(teachers)} of them"
        raise DataError(
            f"Inputs are made up along the gradients of one teacher that is a torch module, and Task(teacher=...) is "
            f"{shown}. Give one module, or set teacher='original'."
        )
    return Source(settings.synthesis, teachers[0], task, seed)


def _refuse_blind(settings: Synthesis, examiner: Examiner) -> None:
    """
    Raises:
        DataError: statistics are to be met, and the teacher keeps none.
    """
    aimed = settings.chosen("statistics") if settings.method == "inversion" else settings.statistics
    if aimed and not examiner.normalizations:
        raise DataError(
            f"method={settings.method!r} with statistics={aimed:g} aims at the statistics of the data that batch "
            "normalizations keep, and the teacher has none with running statistics (an exported graph hides its own). "
            "Take method='generator' where the inputs are images or sounds, set statistics=0 for inputs that only look "
            "certain to the teacher, or give real data."
        )
