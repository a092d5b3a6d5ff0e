"""`Lifelong`: one backbone, many tasks, a folder on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, cast

from torch import Tensor, nn

from lissom._version import __version__
from lissom.errors import RunFolderError, UsageError
from lissom.graph.trace import trace
from lissom.lifelong import anatomy as anatomies
from lissom.lifelong.anatomy import Anatomy
from lissom.lifelong.drifting import drift
from lissom.lifelong.ground import Ground, Made, check_inputs, classes_of, load_, metric_of
from lissom.lifelong.identity import By, doubts
from lissom.lifelong.keeping import keep
from lissom.lifelong.packing import grow, pack
from lissom.lifelong.proving import proof_of
from lissom.lifelong.recall import Recall
from lissom.lifelong.settings import Grow, Method, Pack, name_of
from lissom.lifelong.store import (
    MEMORY,
    SHARED,
    Intent,
    Store,
    check_name,
)
from lissom.measure import lifelong as records
from lissom.measure.lifelong import LifelongRecord, Row, Split, TaskProof, TaskRecord
from lissom.measure.records import MetricValue
from lissom.runfolder import fingerprint
from lissom.task import Batch, Task

Progress = Callable[[float, str], None]


class Inferred(NamedTuple):
    """The surest task for each example, and how much every task doubts: (tasks, examples), in the order of `tasks`."""

    tasks: tuple[str, ...]
    names: tuple[str, ...]
    doubts: Tensor


class Proof(NamedTuple):
    """Of each task, whether it still is what it was when it was added."""

    tasks: tuple[TaskProof, ...]

    @property
    def held(self) -> bool:
        return all(task.held for task in self.tasks)


class Lifelong:
    """One backbone that learns one task after the other.

    Made by `create` and `open`. A task is added by a method of `lissom.lifelong`: with `Pack` and `Grow`, adding one
    never changes a bit of the others' outputs; `LwF`, `EWC` and `ProgressAndCompress` move the weights of all.
    """

    def __init__(self, store: Store, anatomy: Anatomy) -> None:
        self._store, self._anatomy, self._recall = store, anatomy, Recall(store, anatomy)

    @classmethod
    def create(
        cls,
        model: nn.Module,
        folder: str | Path,
        task: Task,
        *,
        bits: Literal[8, 32] = 32,
        head: str | None = None,
        seed: int = 0,
    ) -> Lifelong:
        """A new folder without tasks.

        Args:
            model: what all tasks begin with; it stays as it is.
            folder: a new or empty folder.
            task: of it, the example inputs are used.
            bits: of a shared weight. 8: int8, one scale a channel, frozen with the channel's first weights.
            head: the module that makes the output; found on the traced model if it is not given.
            seed: of everything random.

        Raises:
            UsageError: weights that cannot be shared, or no head.
            ExportError: the model cannot be traced.
            RunFolderError: the folder holds something.
        """
        if cast(object, bits) not in (8, 32):
            raise UsageError(f"bits={bits!r}: a shared weight has 8 bits (int8) or 32 (float32).")
        anatomies.check_plain(model)
        traced = trace(model, task.example)
        head = anatomies.head_of(model, traced.graph, head)
        anatomies.shared_of(model, head, "masks")
        backbone = records.Backbone(
            lissom=__version__,
            model=fingerprint(model),
            original="",
            head=head,
            bits=bits,
            seed=seed,
            grows=anatomies.grows(model, traced),
        )
        state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
        store = Store.create(Path(folder), backbone, state)
        return cls.open(store.folder, model)

    @classmethod
    def open(cls, folder: str | Path, model: nn.Module) -> Lifelong:
        """A folder that is there.

        Args:
            folder: made by `create`.
            model: of the class and shapes that the folder was made from; its values are not used.

        Raises:
            RunFolderError: no such folder, damaged, or of another model.
        """
        anatomies.check_plain(model)
        store = Store(Path(folder))
        original = store.original()
        own = {name: tuple(v.shape) for name, v in model.state_dict().items() if isinstance(v, Tensor)}
        held = {name: tuple(value.shape) for name, value in original.items()}
        if own != held:
            wrong = sorted(name for name in own.keys() | held.keys() if own.get(name) != held.get(name))[0]
            raise RunFolderError(
                f"{folder} is of another model: {wrong!r} has the shape {held.get(wrong, 'none')} there and "
                f"{own.get(wrong, 'none')} in this one. Give the model that it was created with."
            )
        template = Anatomy(model, store.backbone.head, store.backbone.grows, store.backbone.seed)
        made = load_(template.build(1.0, template.classes), original)
        return cls(store, replace(template, model=made))

    @property
    def folder(self) -> Path:
        return self._store.folder

    @property
    def tasks(self) -> tuple[TaskRecord, ...]:
        """In the order in which they were added."""
        return self._store.tasks()

    @property
    def record(self) -> LifelongRecord:
        """Everything that is known about the folder, as data."""
        return self._store.record

    def add(
        self,
        name: str,
        task: Task,
        settings: Method | None = None,
        *,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> TaskRecord:
        """Learn a task. Killed at any point, the earlier tasks are untouched and the same call goes on.

        Args:
            name: of the task's folder.
            task: with training data and a loss; validation data and a metric tell how good it is.
            settings: a method; None: `Pack()`.
            seed: None: the folder's.
            progress: told the share of a training that is done, and which one.

        Raises:
            UsageError: a name that is taken, a method of another family, inputs that do not fit, a full backbone.
            DataError: no training data or loss, or data that do not fit.
            RunFolderError: the folder is in use, or holds another addition that was not finished.
            VerificationError: what was stored does not compute what was trained.
        """
        settings = Pack() if settings is None else settings
        seed = self._store.backbone.seed if seed is None else seed
        check_name(name)
        with self._store.locked():
            self._store.tidy()
            tasks = self.tasks
            self._check_new(name, settings, tasks)
            self._check_inputs(name, task, tasks)
            classes, notes = classes_of(task, name, settings.classes, self._anatomy.classes)
            intent = Intent(
                name=name,
                index=len(tasks) + 1,
                method=name_of(settings),
                settings=settings.model_dump(mode="json"),
                seed=seed,
            )
            folder = self._store.adding(intent)
            started = time.monotonic()
            ground = Ground(
                self._anatomy, name, task, classes, intent.index, folder, seed, progress or (lambda _share, _what: None)
            )
            try:
                made = self._learn(ground, settings, tasks)
            except BaseException:
                self._store.abandon()
                raise
            return keep(self._recall, intent, ground, made, notes, time.monotonic() - started)

    def model(self, name: str) -> nn.Module:
        """The task's model: a plain module in evaluation mode, to be compressed and exported like any other.

        Raises:
            UsageError: there is no such task.
            RunFolderError: a file is missing, truncated or altered.
        """
        return self._recall.models((self._store.task(name),))[name]

    def prove(self) -> Proof:
        """Every task's weights and answers to its probes beside what was recorded when it was added.

        Raises:
            RunFolderError: a file is missing, truncated or altered.
        """
        models = self._recall.models(self.tasks)
        return Proof(
            tuple(
                proof_of(task, models[task.name], self._recall.probe(task), self._recall.answers(task))
                for task in self.tasks
            )
        )

    def infer(self, inputs: Batch | Tensor, *, by: By = "entropy", together: bool = False) -> Inferred:
        """The task of each example, by how sure the tasks' models are (`lissom.lifelong.identity`).

        Args:
            inputs: a batch, or the only input tensor.
            by: what is compared.
            together: all examples are of one task.

        Raises:
            UsageError: no task takes inputs of this shape.
            DataError: a task's outputs are no logits.
        """
        batch = Batch((inputs,)) if isinstance(inputs, Tensor) else inputs
        fitting = [task for task in self.tasks if _shapes(self._recall.probe(task)) == _shapes(batch)]
        if not fitting:
            raise UsageError(
                f"No task in {self.folder} takes inputs of the shapes {_shapes(batch)}, without the batch."
            )
        return _surest(doubts(self._recall.models(fitting), batch, by), tuple(task.name for task in fitting), together)

    def measure(self, tasks: Mapping[str, Task], *, split: Split = "test", by: By | None = "entropy") -> Row:
        """The metric of each of these tasks as its model is now, and how often the task is inferred rightly.

        The row is kept in the folder: rows after each addition make the forgetting matrix.

        Args:
            tasks: by name.
            split: whose metric.
            by: how the task is inferred, as in `infer`; None: it is not.

        Raises:
            UsageError: an unknown task, or one without metric or data.
        """
        known = [self._store.task(name) for name in tasks]
        models = self._recall.models(self.tasks)
        metrics: dict[str, MetricValue] = {}
        for name, task in tasks.items():
            found = metric_of(models[name], task, split)
            if found is None:
                raise UsageError(
                    f"The task {name!r} has no metric or no {split} data. Give Task(metric=..., {split}=...)."
                )
            metrics[name] = found
        alone, together = self._identified(tasks, models, split, by) if by and len(known) > 1 else (None, None)
        row = Row(after=len(models), split=split, metrics=metrics, identified=alone, identified_together=together)
        self._store.keep_row(row)
        return row

    def _identified(
        self, tasks: Mapping[str, Task], models: Mapping[str, nn.Module], split: Split, by: By
    ) -> tuple[float, float]:
        """Shares of examples and of batches whose task, among `tasks`, is found."""
        right, count, batches, whole = 0, 0, 0, 0
        chosen = {name: models[name] for name in tasks}
        names = tuple(chosen)
        for name, task in tasks.items():
            for batch in task.batches(split):
                found = doubts(chosen, batch, by)
                right += sum(one == name for one in _surest(found, names, together=False).names)
                whole += _surest(found, names, together=True).names[0] == name
                count, batches = count + batch.size, batches + 1
        return right / count, whole / batches

    def _check_new(self, name: str, settings: Method, tasks: Sequence[TaskRecord]) -> None:
        if any(task.name == name for task in tasks):
            raise UsageError(
                f"The task {name!r} is in {self.folder} already, and what a task has never changes. Choose another "
                "name."
            )
        other = next((task for task in tasks if task.family != settings.family), None)
        if other is not None:
            raise UsageError(
                f"{type(settings).__name__} cannot follow {other.method!r} ({other.name}): masks hold weights that "
                "must not move, and the other methods move all of them. Use another folder."
            )
        if settings.family == "drifting" and self._store.backbone.bits == 8:
            raise UsageError(
                f"{type(settings).__name__} moves all weights with every task, so they cannot be int8 from the start. "
                "Create the folder with bits=32 and quantize each task's model, or use Pack or Grow."
            )

    def _check_inputs(self, name: str, task: Task, tasks: Sequence[TaskRecord]) -> None:
        known = self._recall.probe(tasks[0]) if tasks else None
        check_inputs(self._anatomy.build(1.0, self._anatomy.classes), task, name, known)

    def _learn(self, ground: Ground, settings: Method, tasks: Sequence[TaskRecord]) -> Made:
        if isinstance(settings, Pack):
            before, width = self._recall.backbone(tasks), tasks[-1].width if tasks else 1.0
            if isinstance(settings, Grow):
                return grow(ground, settings, before, width)
            return pack(ground, settings, before, width)
        last = tasks[-1] if tasks else None
        shared = self._store.tensors(last, SHARED) if last else {}
        memory = self._store.tensors(last, MEMORY) if last else {}
        return drift(ground, settings, shared, memory, list(self._recall.models(tasks).values()))


def _surest(found: Tensor, names: tuple[str, ...], together: bool) -> Inferred:
    best = found.mean(1, keepdim=True).argmin(0).expand(found.shape[1]) if together else found.argmin(0)
    return Inferred(names, tuple(names[at] for at in best.tolist()), found)


def _shapes(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape[1:]) for tensor in batch.tensors()]
