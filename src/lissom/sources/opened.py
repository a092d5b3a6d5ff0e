"""What a source is once it is open: a model, and how data is read for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from lissom.data._sets import Labelled
from lissom.sources.pictures import Pictures
from lissom.sources.settings import SourceSettings
from lissom.task import Task


class Classified(Labelled, Protocol):
    """Labelled examples whose classes have names."""

    @property
    def classes(self) -> tuple[str, ...]: ...


class Reader(Protocol):
    """Data of one kind, read for one model."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of files that hold a split."""
        ...

    @property
    def folders(self) -> bool:
        """Whether a folder may hold a split."""
        ...

    def read(
        self, place: Path, split: str | None, task: Task, settings: SourceSettings, classes: tuple[str, ...] | None
    ) -> Classified:
        """The `split` of the folder, or with None all of the folder or file."""
        ...

    def fed(
        self, task: Task, splits: Mapping[str, Classified], settings: SourceSettings
    ) -> tuple[Task, Mapping[str, Iterable[Any]], tuple[str, ...]]:
        """The task with what the data says of its example, batches of each split, and what there is to tell."""
        ...


@dataclass(frozen=True, eq=False)
class Opened:
    """
    Attributes:
        task: of example inputs.
        reader: of the data that `data=` names.
        classes: how the model names its outputs, in their order; empty where it does not.
        notes: what opening it took for granted.
    """

    model: nn.Module
    task: Task
    reader: Reader = field(default_factory=Pictures)
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
