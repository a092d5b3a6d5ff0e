"""`finetune`: the one training loop.

Warm-up then cosine, augmentation, clipping, averaged weights; bfloat16, channels-last and compiled where measured
faster. It can be killed at any point: called again with the same folder it ends with the same weights, bit for bit on
one process. Under `torchrun` the same call trains on several processes (`distributed`).
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from lissom.errors import DataError
from lissom.graph.trace import evaluation, quiet, trace
from lissom.measure.quality import evaluate
from lissom.metrics import Metric, as_metric
from lissom.task import Batch, Task
from lissom.training import checkpoint as checkpoints
from lissom.training.augment import augmented
from lissom.training.chance import Chance, generator_of, seed_of
from lissom.training.checkpoint import Checkpoint, Standing
from lissom.training.checks import check
from lissom.training.crew import offer
from lissom.training.distillation import Distillation, distillation_of
from lissom.training.distributed import Team, joined
from lissom.training.epochs import epoch_of, refuse_divided, steps_of
from lissom.training.history import Epoch, History, Pace, best_of, in_rounds, is_over
from lissom.training.objective import Aim, Objective, Penalty, checked, criterion_of, one_number, supervised
from lissom.training.optimizer import average_, load_state_, optimizer_of, state_of, trainable
from lissom.training.pace import autocast, called, compiled, computed, device_of, order_, pace_of, train_mode_
from lissom.training.regularization import Regularizer, regularizer_of
from lissom.training.schedule import learning_rate
from lissom.training.settings import Training
from lissom.training.synthesis.source import source_of
from lissom.training.zeros import hold_, masks_of

SAVE_SECONDS = 60.0
"""A checkpoint is written at the end of every epoch, and inside one when the last is this old."""


class Trained(NamedTuple):
    """A new model, and how it came to be."""

    model: nn.Module
    history: History


def _ignore(_: float) -> None:
    pass


def finetune(  # noqa: PLR0913  one argument for each thing that can be exchanged
    model: nn.Module,
    task: Task,
    settings: Training,
    *,
    folder: Path | None = None,
    tick: Callable[[float], None] = _ignore,
    seed: int = 0,
    objective: Objective = supervised,
    penalty: Penalty | None = None,
    original: nn.Module | None = None,
    answers: Path | None = None,
) -> Trained:
    """A trained copy of `model`; the model, its mode and every global generator stay as they are.

    An exported graph (`torch.fx.GraphModule`) is trained as it computes, with its normalizations frozen.

    Args:
        folder: place of the checkpoint; None keeps none.
        tick: told the share of the steps that are done, in (0, 1].
        seed: with the settings, decides every draw.
        objective: what a step minimizes; the task's loss by default.
        penalty: added to it, a function of the model in training; so is that of `settings.regularizer`.
        original: the teacher "original"; `model` as it is now if none is given.
        answers: where those of the teachers are kept (`settings.views`), for other trainings too; None: in `folder`.

    Raises:
        RecipeError: a regularizer, and no channel of the model can be cut; inner values of a teacher that cannot be
            compared; an objective and a teacher.
        DataError: no training data or loss, data that do not fit the settings, a loss that is not finite, `patience`
            without validation data and metric, or a teacher whose outputs cannot be compared.
        RunFolderError: the folder cannot be written.
    """
    check(model, task, settings, objective)
    job = {"model": model, "task": task, "settings": settings, "folder": folder, "seed": seed, "answers": answers}
    with joined(device_of(model)) as team:
        offer(team, {**job, "objective": objective, "penalty": penalty, "original": original})
        trained: list[Trained] = []
        rounds = settings.rounds or 1
        for each in range(rounds):
            teacher = trained[-1].model if trained else original or model
            own = folder / f"round-{each + 1}" if folder and rounds > 1 else folder
            run = _Run(
                model,
                task,
                settings.model_copy(update={"rounds": None, **({"teacher": "original"} if trained else {})}),
                Aim(objective, penalty, teacher, answers or (own / "answers" if own else None)),
                own,
                seed_of("round", seed, each) if trained else seed,
                team,
            )
            try:
                trained.append(run.carry_out(lambda share, before=each: tick((before + share) / rounds)))
            finally:
                if run.lesson:
                    run.lesson.close()
    return Trained(trained[-1].model, in_rounds([one.history for one in trained]))


class _Run:
    """One training: the model in training, its optimizer, and where it stands."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        settings: Training,
        aim: Aim,
        folder: Path | None,
        seed: int,
        team: Team,
    ) -> None:
        self.task, self.settings, self.aim = task, settings, aim
        self.folder, self.seed, self.team = folder, seed, team
        refuse_divided(task, team.size)
        self.metric: Metric | None = (
            as_metric(task.metric) if task.metric is not None and task.has("validation") else None
        )
        self.criterion = criterion_of(task, settings)
        self.device = device_of(model)
        self.source = source_of(aim.original, task, settings, seed=seed, device=self.device)
        self.sketch = self.source.sketch(task) if self.source else task
        self.steps = self.source.steps if self.source else steps_of(task, seed)
        with quiet():
            self.model = copy.deepcopy(model)
        team.align_(self.model)
        self.modes = [(module, module.training) for module in self.model.modules()]
        with quiet():
            self.average = copy.deepcopy(self.model) if settings.ema else None
        self.best: dict[str, Tensor] = {}

        self.regularizer = self._regularizer()
        self.lesson = self._lesson()
        self.objective = self.lesson or aim.objective

        of = checkpoints.identity(self.model, settings, seed, self.steps, self.lesson.of if self.lesson else "")
        held = checkpoints.parse(team.from_first(lambda: checkpoints.read(folder) if folder else b""), of)
        pace = held.standing.pace if held else self._pace()
        self.standing = held.standing if held else Standing(of=of, pace=pace)
        order_(self.model, torch.channels_last if pace.channels_last else torch.contiguous_format)
        self.called = called(self.model, pace)
        self.along = self.lesson.regressors if self.lesson else nn.ModuleDict()
        self.optimizer = optimizer_of(self.model, settings, self.along)
        self.parameters = trainable(self.model)
        # Of the weights at the start, whatever the checkpoint holds.
        self.zeros = masks_of(self.parameters.values()) if settings.keep_zeros else []
        # No name of a module has a slash.
        self.parameters |= {f"along/{name}": parameter for name, parameter in trainable(self.along).items()}
        if self.lesson:
            self.lesson.begin(self.model, pace, aim.answers, f"{team.rank}-of-{team.size}")
        if self.source:
            self.source.begin(pace)
        if held:
            self._load(held)
        self.saved = time.monotonic()

    def _regularizer(self) -> Regularizer | None:
        """Of the weights at the start, whatever the checkpoint holds."""
        if self.settings.regularizer is None:
            return None
        example = computed(self.task.example, self.device, Pace(precision="float32", channels_last=False))
        return regularizer_of(self.model, trace(self.model, example), self.settings, self._total)

    def _lesson(self) -> Distillation | None:
        if not self.settings.teachers:
            return None
        return distillation_of(
            self.model, self.aim.original, self.sketch, self.settings, seed=self.seed, average=self.average
        )

    def _pace(self) -> Pace:
        def measure() -> bytes:
            every = (self.model, self.sketch, self.settings, self.objective)
            pace = pace_of(*every, folder=self.folder, seed=self.seed)
            # Not with hooks in the backward pass (a team's), nor for objectives that may look into the model.
            if self.team.size == 1 and (self.lesson or self.aim.objective is supervised):
                pace = compiled(pace, *every, steps=self._total, seed=self.seed)
            return pace.model_dump_json().encode()

        return Pace.model_validate_json(self.team.from_first(measure))

    def _load(self, held: Checkpoint) -> None:
        self.model.load_state_dict(held.part("model"))
        if self.average is not None:
            self.average.load_state_dict(held.part("average"))
        self.best = held.part("best")
        self.along.load_state_dict(held.part("along"))
        load_state_(self.optimizer, self.parameters, held.part("optimizer"))
        if self.source:
            self.source.load_(held.part("synthesis"))

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.folder is None or not self.team.first:
            return
        parts = {
            "model": checkpoints.tensors_of(self.model),
            "average": checkpoints.tensors_of(self.average) if self.average is not None else {},
            "best": self.best,
            "along": checkpoints.tensors_of(self.along),
            "optimizer": state_of(self.optimizer, self.parameters),
            "synthesis": self.source.state() if self.source else {},
        }
        tensors = {f"{part}/{name}": value for part, held in parts.items() for name, value in held.items()}
        checkpoints.save(self.folder, Checkpoint(self.standing, tensors))

    def carry_out(self, tick: Callable[[float], None]) -> Trained:
        settings = self.settings
        train_mode_(self.model)
        while not is_over(self.standing.epochs, settings.epochs, settings.patience):
            self._epoch(tick)
        tick(1.0)
        return Trained(self._finished(), self._history())

    def _epoch(self, tick: Callable[[float], None]) -> None:
        epoch, done = len(self.standing.epochs), self.standing.step
        started, before = time.perf_counter(), self.standing.seconds
        view = self._view(epoch)
        for step, batch in self._batches(epoch, view, done):
            rate = learning_rate(epoch * self.steps + step, self._total, self.settings.rate, self.settings.warmup)
            loss, parts = self._step(batch, epoch, step, rate)
            now = self.standing
            self.standing = now.model_copy(
                update={
                    "step": step + 1,
                    "loss": now.loss + loss * batch.size,
                    "parts": {name: now.parts.get(name, 0.0) + part * batch.size for name, part in parts.items()},
                    "examples": now.examples + batch.size,
                    "seconds": before + time.perf_counter() - started,
                    "learning_rate": rate,
                }
            )
            tick(min((epoch * self.steps + step + 1) / self._total, 1.0))
            if time.monotonic() - self.saved >= SAVE_SECONDS:
                self._save()
        self._check_weights(epoch)
        metric = self._validate(epoch)
        now = self.standing
        ended = Epoch(
            loss=now.loss / now.examples,
            learning_rate=now.learning_rate,
            metric=metric,
            seconds=before + time.perf_counter() - started,
            parts={name: part / now.examples for name, part in now.parts.items()},
            synthesis=self.source.point(self._wanted) if self.source else None,
        )
        epochs = (*now.epochs, ended)
        self.standing = Standing(of=now.of, pace=now.pace, epochs=epochs)
        if self.settings.patience is not None and best_of(epochs) == epoch:
            self.best = {k: v.detach().clone() for k, v in checkpoints.tensors_of(self._wanted).items()}
        self._save()

    def _batches(self, epoch: int, view: int, done: int) -> Iterator[tuple[int, Batch]]:
        """With their numbers, without those that a killed process has `done`."""
        if self.source:
            made = self.source.batches(epoch, done, self.model, labels=self.settings.labelled)
            return enumerate(made, done)
        return itertools.islice(enumerate(epoch_of(self.task, self.seed, view)), done, None)

    @property
    def _total(self) -> int:
        return self.settings.epochs * self.steps

    @property
    def _wanted(self) -> nn.Module:
        """The weights that are judged and handed out."""
        return self.model if self.average is None else self.average

    def _view(self, epoch: int) -> int:
        """The epoch whose order and augmentation this one has."""
        return epoch if self.settings.views is None else epoch % self.settings.views

    def _step(self, batch: Batch, epoch: int, step: int, rate: float) -> tuple[float, dict[str, float]]:
        """The loss, and what it is made of."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        view = self._view(epoch)
        batch = augmented(batch, self.settings, generator_of("augment", self.seed, view, step))
        mine, share = self.team.part(batch)
        mine = computed(mine, self.device, self.standing.pace)
        self.optimizer.zero_grad(set_to_none=True)
        if self.lesson:
            self.lesson.at(view, step)
        with Chance(seed_of("step", self.seed, epoch, step, self.team.rank))(), self.team.together(batch):
            with autocast(self.device, self.standing.pace):
                loss = checked(self.objective(self.called, mine, self.criterion))
            if self.aim.penalty is not None:
                loss = loss + one_number(self.aim.penalty(self.model), "penalty")
            if self.regularizer is not None:
                loss = loss + self.regularizer(self.model, epoch * self.steps + step)
            (loss * share).backward()
        parts = self.lesson.parts if self.lesson else {}
        losses = torch.stack([loss.detach(), *parts.values()]) * share
        total, *made_of = self.team.sum_(self.parameters.values(), losses).tolist()
        if not math.isfinite(total):
            self._diverged(f"the loss is {total}", epoch, step, rate)
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip_norm)
        self.optimizer.step()
        hold_(self.zeros)
        if self.average is not None and self.settings.ema is not None:
            average_(self.average, self.model, self.settings.ema)
        return total, dict(zip(parts, made_of, strict=True))

    def _check_weights(self, epoch: int) -> None:
        for name, parameter in self.parameters.items():
            if not bool(parameter.isfinite().all()):
                now = self.standing
                self._diverged(f"the parameter {name!r} is not finite", epoch, now.step - 1, now.learning_rate)

    def _diverged(self, what: str, epoch: int, step: int, rate: float) -> None:
        raise DataError(
            f"Training diverged: {what} at epoch {epoch + 1}, step {step + 1} of {self.steps}, learning rate "
            f"{rate:.3g}. Lower learning_rate (now {self.settings.rate:.3g}), set clip_norm, or check the targets "
            "for NaN."
        )

    def _validate(self, epoch: int) -> float | None:
        metric = self.metric
        if metric is None:
            return None
        model = self._wanted
        pace = Pace(precision="float32", channels_last=self.standing.pace.channels_last)

        def predict(batch: Batch) -> Any:
            batch = computed(batch, self.device, pace)
            with torch.no_grad():
                return model(*batch.args, **batch.kwargs)

        def value() -> bytes:
            # The loader may draw from global generators (a DataLoader does at every pass).
            with evaluation(model), Chance(seed_of("validation", self.seed, epoch))():
                found = evaluate(predict, self.task.batches("validation"), metric, split="validation")
            return repr(found.value).encode()

        return float(self.team.from_first(value))

    def _finished(self) -> nn.Module:
        self.model.zero_grad(set_to_none=True)
        wanted = self.best or checkpoints.tensors_of(self._wanted)
        if self.best or self.average is not None:
            self.model.load_state_dict(wanted)
        order_(self.model, torch.contiguous_format)
        if not isinstance(self.model, GraphModule):
            self.model.train(self.modes[0][1])  # its own train() may do more than set the flag
        for module, mode in self.modes:
            module.training = mode
        return self.model

    def _history(self) -> History:
        epochs = self.standing.epochs
        chosen = best_of(epochs) if self.settings.patience is not None else len(epochs) - 1
        return History(
            pace=self.standing.pace,
            metric_name=self.metric.name if self.metric else None,
            epochs=epochs,
            chosen=chosen,
            lesson=self.lesson.record() if self.lesson else None,
            synthesis=self.source.taught(epochs) if self.source else None,
        )
