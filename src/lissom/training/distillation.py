"""`Distillation`: an objective for the one loop in which a student learns from a teacher's answers and inner values.

    loss = (1 - share) task loss + share sum_i weight_i loss_i(student, teacher)

Models are taken as they are: inner values are read by hooks that live for one call. Regressors between maps of
different widths are trained along and are no part of the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import DataError, RecipeError
from lissom.functional import distillation
from lissom.graph.trace import evaluation
from lissom.task import Batch, Task
from lissom.training.answers import Notebook
from lissom.training.augment import Mixed
from lissom.training.chance import Chance, seed_of
from lissom.training.epochs import epoch_of
from lissom.training.history import Lesson, Pace
from lissom.training.losses import KL, Boxes, FeatureLoss, OutputLoss, alike
from lissom.training.objective import Criterion
from lissom.training.outputs import check_same, classes_of, output_of, rows_of
from lissom.training.pace import called, computed, device_of, order_
from lissom.training.regressors import Maps
from lissom.training.settings import Training
from lissom.training.taps import Place, check_called, check_tappable, chosen, places_of, tapped
from lissom.training.teacher import OWN, Teacher, identity, teachers_of

Pairs = Sequence[tuple[Place, Place]]


@dataclass(eq=False)
class Distillation:
    """An `Objective`. `parts` are the losses of its last call, unweighted, by name."""

    share: float
    temperature: float | None
    teachers: dict[str, Teacher]
    outputs: dict[str, OutputLoss]
    inner: dict[str, tuple[FeatureLoss, Pairs]]
    regressors: nn.ModuleDict
    """Trained with the student."""
    of: str
    """Hash of teachers, losses and taps."""
    asked: str
    """Hash of what the answers of the teachers depend on."""
    keeps: bool = False
    """Whether the teachers' answers are kept."""
    own: nn.Module | None = None
    """The teacher "self"."""
    notebook: Notebook | None = None
    called: dict[str, nn.Module] = field(default_factory=dict[str, nn.Module])
    """Of the teachers that are modules, what is called in their place."""
    moment: tuple[int, int] = (0, 0)
    """View and step."""
    parts: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __call__(self, model: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        with tapped(model, self._taps(0)) as own:
            outputs = model(*batch.args, **batch.kwargs)
        answers, given = self.taught(batch)
        task = criterion(outputs, batch.target)
        with torch.autocast(batch_device(batch).type, enabled=False):
            losses = {name: self.output_loss(loss, outputs, answers, batch) for name, loss in self.outputs.items()}
            check_called(own, self._taps(0), "student")
            for name, (loss, pairs) in self.inner.items():
                losses[name] = loss.of(self._maps(name, pairs, own, given))
            weighted = [self._settings(name).weight * loss for name, loss in losses.items()]
            total = (1 - self.share) * task + self.share * torch.stack(weighted).sum()
        self.parts = {"task": task.detach(), **{name: loss.detach() for name, loss in losses.items()}}
        return total

    def begin(self, student: nn.Module, pace: Pace, folder: Path | None, part: str) -> None:
        """From here on answers are kept, if they are to be.

        Those in `folder` are used if they are of the same teachers and data, whichever student they were for; `part`
        names the share of each batch that is asked for here.
        """
        for name, teacher in self.teachers.items():
            if isinstance(teacher, nn.Module):
                order_(teacher, torch.channels_last if pace.channels_last else torch.contiguous_format)
                # That the student could be compiled says as much of a teacher of its class, and nothing of another.
                self.called[name] = called(teacher, pace) if type(teacher) is type(student) else teacher
        if self.keeps:
            how = f"{pace.precision} {pace.channels_last}{' compiled' if pace.compiled_for else ''}"
            of = _hashed(f"{self.asked} {how}")
            self.notebook = Notebook(folder / f"{of}-{part}" if folder else None, of)

    def close(self) -> None:
        if self.notebook:
            self.notebook.close()

    def record(self) -> Lesson:
        kept = self.notebook
        return Lesson(
            teachers=tuple(self.everyone()),
            share=self.share,
            taps=self.tap_names,
            kept=kept.kept if kept else 0,
            replaced=kept.replaced if kept else 0,
            kept_bytes=kept.size_bytes if kept else 0,
        )

    def at(self, view: int, step: int) -> None:
        """Which step comes next."""
        self.moment = (view, step)

    @property
    def wanted(self) -> list[str | None]:
        """Names of the outputs that are asked for."""
        return list(dict.fromkeys(name for loss in self.outputs.values() for name in loss.reads))

    @property
    def tap_names(self) -> dict[str, dict[str, str]]:
        """Loss -> student's module -> teacher's."""
        return {name: {s.name: t.name for s, t in pairs} for name, (_, pairs) in self.inner.items()}

    def _settings(self, name: str) -> OutputLoss | FeatureLoss:
        return self.outputs[name] if name in self.outputs else self.inner[name][0]

    def _taps(self, side: int) -> list[str]:
        return list(dict.fromkeys(pair[side].name for _, pairs in self.inner.values() for pair in pairs))

    def everyone(self) -> dict[str, Teacher]:
        return self.teachers if self.own is None else {**self.teachers, OWN: self.own}

    def taught(self, batch: Batch) -> tuple[dict[str | None, Tensor], dict[str, Tensor]]:
        """Answers `(k, ...)` of k teachers by name of the output, and inner values of the one that is tapped."""
        wanted = self.wanted
        values: dict[str, Tensor] = {}

        def ask() -> list[Tensor]:
            each = [self._answer(name, teacher, batch, wanted, values) for name, teacher in self.everyone().items()]
            for others in each[1:]:
                for left, right in zip(each[0], others, strict=True):
                    check_same(left, right, "one teacher", "another")
            return [torch.stack(found) for found in zip(*each, strict=True)]

        with torch.no_grad():
            found = self.notebook.answers(*self.moment, batch, ask) if self.notebook else ask()
        return dict(zip(wanted, found, strict=True)), values

    def _answer(
        self, name: str, teacher: Teacher, batch: Batch, wanted: Sequence[str | None], values: dict[str, Tensor]
    ) -> list[Tensor]:
        if not isinstance(teacher, nn.Module):
            outputs = teacher(*batch.args, **batch.kwargs)
        else:
            taps = self._taps(1)
            with evaluation(teacher), tapped(teacher, taps) as found:
                outputs = self.called.get(name, teacher)(*batch.args, **batch.kwargs)
            check_called(found, taps, "teacher")
            values.update(found)
        device = batch_device(batch)
        return [output_of(outputs, one, batch.target, f"teacher ({name})").to(device) for one in wanted]

    def output_loss(self, loss: OutputLoss, outputs: Any, answers: Mapping[str | None, Tensor], batch: Batch) -> Tensor:
        teachers, target = answers[loss.output], batch.target
        student = output_of(outputs, loss.output, target, "student")
        check_same(student, teachers[0], "the student", "the teacher")
        heat = loss.heat(self.temperature)
        if isinstance(loss, Boxes):
            return loss.of(student, loss.pooled(teachers), sure_of(loss, teachers, answers[loss.scores]), heat)
        if not loss.classes:
            return loss.of(student, loss.pooled(teachers), None, heat)
        rows = rows_of(student, teachers, target)
        if not len(rows.student):
            return rows.student.sum()  # padding and nothing else
        if rows.student.shape[1] < 2:
            raise DataError(
                f"{loss.kind} compares distributions over classes, and the output of shape {tuple(student.shape)} has "
                "one. Use losses=['bernoulli'] for one that is yes or no, ['squared'] for a quantity."
            )
        taught = loss.pooled(rows.teachers)
        if not loss.labelled:
            return loss.of(rows.student, taught, None, heat)
        if rows.classes is None:
            raise DataError(
                f"{loss.kind} needs the true classes, integers in the shape of the outputs {tuple(student.shape)} "
                "without their classes. Use 'kl', or let Task(feed=...) return such targets."
            )
        first = loss.of(rows.student, taught, rows.classes, heat)
        if rows.others is None or not isinstance(target, Mixed):
            return first
        return torch.lerp(loss.of(rows.student, taught, rows.others, heat), first, target.share)

    def _maps(self, name: str, pairs: Pairs, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[Maps]:
        taps = [alike(own[student.name], given[teacher.name]) for student, teacher in pairs]
        return self.regressors[name](taps) if name in self.regressors else taps


def distillation_of(
    student: nn.Module, original: nn.Module, task: Task, settings: Training, *, seed: int, average: nn.Module | None
) -> Distillation:
    """What the settings say, with everything checked on the first training batch.

    Args:
        original: the teacher "original".
        average: the teacher "self"; None where the student's weights will do, as they are at the start.

    Raises:
        DataError: no such teacher, outputs that cannot be compared, no class targets for the default loss.
        RecipeError: taps that match nothing or whose values cannot be compared.
    """
    device = device_of(student)
    teachers = teachers_of(settings, original, task, device)
    first = computed(next(epoch_of(task, seed, 0)), device, Pace(precision="float32", channels_last=False))
    losses = _numbered(settings.losses or (_usual(first.target),))
    own = (average or student) if OWN in settings.teachers else None
    made = Distillation(
        share=settings.taught,
        temperature=settings.temperature,
        teachers=teachers,
        outputs={name: loss for name, loss in losses.items() if isinstance(loss, OutputLoss)},
        inner={},
        regressors=nn.ModuleDict(),
        of="",
        asked="",
        keeps=settings.views is not None,
        own=own,
    )
    with Chance(seed_of("distillation", seed))():
        _check_outputs(student, made, first)
        inner = {name: loss for name, loss in losses.items() if isinstance(loss, FeatureLoss)}
        if inner:
            _tap(student, made, inner, first)
    taught_by = identity(teachers, task)
    made.of = _hashed(f"{taught_by} {sorted(losses)} {made.tap_names}")
    made.asked = _hashed(f"{taught_by} {made.wanted} {seed} {settings.augmentation}")
    return made


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def batch_device(batch: Batch) -> torch.device:
    return next((tensor.device for tensor in batch.tensors()), torch.device("cpu"))


def sure_of(loss: Boxes, boxes: Tensor, scores: Tensor) -> Tensor:
    """How sure teachers are of each box, a mean of theirs: `(k, b, n, 4)`, `(k, b, n, c)` -> `(b, n)`.

    Raises:
        DataError: no boxes, no scores of them, or no such class.
    """
    if boxes.shape[-1] != 4 or scores.shape[:-1] != boxes.shape[:-1]:
        raise DataError(
            f"boxes needs an output (examples, boxes, 4) and scores (examples, boxes, classes), and {loss.output!r} is "
            f"of shape {tuple(boxes.shape[1:])}, {loss.scores!r} of {tuple(scores.shape[1:])}. Name others, or "
            "compare raw heads with 'squared' and 'bernoulli'."
        )
    count = scores.shape[-1]
    if loss.background is not None and not -count <= loss.background < count:
        raise DataError(
            f"boxes: background={loss.background}, and {loss.scores!r} has {count} classes. Give its index."
        )
    return distillation.certainty(scores, loss.background).mean(0)


def _usual(target: Any) -> KL:
    if classes_of(target) is None:
        shown = (
            f"{target.dtype} of shape {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
        )
        raise DataError(
            f"Distillation compares probabilities of classes where nothing is said, and the targets are {shown}. Say "
            "what the outputs are: losses=['kl'] for logits of classes, ['bernoulli'] for several labels at once, "
            "['squared'] for quantities."
        )
    return KL()


def _numbered(losses: Sequence[Any]) -> dict[str, Any]:
    """By kind; the second of a kind is `kl 2`."""
    named: dict[str, Any] = {}
    for loss in losses:
        same = sum(name.split(" ")[0] == loss.kind for name in named)
        named[f"{loss.kind} {same + 1}" if same else loss.kind] = loss
    return named


def _check_outputs(student: nn.Module, made: Distillation, batch: Batch) -> None:
    """The losses of outputs once, before anything is trained."""
    with torch.no_grad(), evaluation(student):
        outputs = student(*batch.args, **batch.kwargs)
        answers, _ = made.taught(batch)
        for loss in made.outputs.values():
            made.output_loss(loss, outputs, answers, batch)


def _tap(student: nn.Module, made: Distillation, inner: Mapping[str, FeatureLoss], batch: Batch) -> None:
    (teacher,) = made.everyone().values()
    kind = next(iter(inner.values())).kind
    if not isinstance(teacher, nn.Module):
        raise RecipeError(
            f"{kind} compares inner values, and the teacher is a function without modules. Use losses of outputs, or a "
            "torch module as the teacher."
        )
    check_tappable(student, kind)
    check_tappable(teacher, kind)

    def call(model: nn.Module) -> None:
        model(*batch.args, **batch.kwargs)

    ours, theirs = places_of(student, call), places_of(teacher, call)
    for name, loss in inner.items():
        pairs = chosen(loss.taps, loss.kind, ours, theirs)
        for pair in pairs:
            _check_pair(loss, pair)
        learned = loss.learned([(_width(student), _width(teacher)) for student, teacher in pairs])
        if learned is not None:
            made.regressors[name] = learned
        made.inner[name] = (loss, pairs)
        if loss.kind == "flow" and len(pairs) < 2:
            raise RecipeError(f"flow goes from one tap to the next, and there is one: {pairs[0][0].name!r}. Give two.")
    made.regressors.to(batch_device(batch))


def _check_pair(loss: FeatureLoss, pair: tuple[Place, Place]) -> None:
    ours, theirs = pair
    shown = f"{ours.name!r} {ours.shape} of the student and {theirs.name!r} {theirs.shape} of the teacher"
    if len(ours.shape) != len(theirs.shape) or ours.shape[0] != theirs.shape[0]:
        raise RecipeError(f"{loss.kind} cannot compare {shown}. Tap values with the same axes.")
    if ours.resolution != theirs.resolution and len(ours.shape) != 4:
        raise RecipeError(f"{loss.kind} cannot compare {shown}: only images are brought to one resolution.")
    if loss.places and len(ours.shape) < 3:
        raise RecipeError(f"{loss.kind} compares positions, and {shown} have none. Tap maps, or use 'hint'.")
    if loss.equal and _width(ours) != _width(theirs):
        raise RecipeError(
            f"{loss.kind} compares channel by channel, and {shown} have {_width(ours)} and {_width(theirs)}. Use "
            "'hint', which learns a regressor between them, or 'selectivity'."
        )


def _width(place: Place) -> int:
    return place.shape[2] if len(place.shape) == 3 else place.shape[1]
