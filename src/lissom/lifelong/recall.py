"""Tasks read back from their files: the backbone after some of them, models, probes, answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lissom.errors import RunFolderError
from lissom.inputs import load_example
from lissom.lifelong.anatomy import Anatomy
from lissom.lifelong.backbone import Addition, Backbone, read
from lissom.lifelong.ground import load_
from lissom.lifelong.store import ANSWERS, PRIVATE, PROBE, SHARED, Store
from lissom.measure.lifelong import TaskRecord
from lissom.task import Batch


class Recall:
    """What a folder's files say, given the model that they are values of."""

    def __init__(self, store: Store, anatomy: Anatomy) -> None:
        self.store, self.anatomy = store, anatomy

    def backbone(self, tasks: Sequence[TaskRecord]) -> Backbone:
        """All shared weights after these tasks, which have to be the first ones."""
        axes = self.anatomy.shared("masks")
        state = Backbone.empty(self.anatomy.shapes(1.0, "masks"), axes, int8=self.store.backbone.bits == 8)
        for task in tasks:
            state = self._next(state, task)
        return state

    def _next(self, before: Backbone, task: TaskRecord) -> Backbone:
        try:
            return self.following(before, self.store.addition(task), task.width, task.method)
        except (ValueError, KeyError) as wrong:
            raise RunFolderError(f"{self.store.place(task)} is damaged: {wrong}. Copy the folder again.") from wrong

    def models(self, wanted: Sequence[TaskRecord]) -> dict[str, nn.Module]:
        """Models of these tasks, by name, in evaluation mode."""
        tasks = self.store.tasks()
        names = {task.name for task in wanted}
        found: dict[str, nn.Module] = {}
        if not names:
            return found
        drifting = tasks[0].family == "drifting"
        shared: dict[str, Tensor] = self.store.tensors(tasks[-1], SHARED) if drifting else {}
        state: Any = None if drifting else self.backbone(())
        for task in tasks:
            if not drifting:
                state = self._next(state, task)
                shared = state.state() if task.name in names else {}
            if task.name in names:
                made = self.anatomy.build(task.width, task.classes)
                found[task.name] = load_(made, {**shared, **self.store.tensors(task, PRIVATE)}).eval()
        return found

    def probe(self, task: TaskRecord) -> Batch:
        self.store.tensors(task, PROBE)
        return load_example(self.store.place(task) / PROBE)

    def answers(self, task: TaskRecord) -> list[Tensor]:
        """Outputs on the probes when the task was added."""
        held = self.store.tensors(task, ANSWERS)
        return [held[name] for name in sorted(held)]

    def following(self, before: Backbone, addition: Addition, width: float, method: str) -> Backbone:
        """The backbone with one more task.

        Raises:
            ValueError, KeyError: the bytes are not those of a task that follows.
        """
        wide = before.at(self.anatomy.shapes(width, "masks"))
        return read(wide, addition, picks=method == "grow" and before.tasks > 0)
