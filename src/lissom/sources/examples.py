"""Labelled data for a classifier: from a folder to the splits of a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.data import split
from lissom.data._folders import existing_folder
from lissom.errors import DataError, UsageError, nearest
from lissom.graph.trace import evaluation
from lissom.metrics import accuracy, logits_of
from lissom.sources.classes import matched, numbered
from lissom.sources.opened import Classified, Opened, Reader
from lissom.sources.settings import SourceSettings
from lissom.task import SPLITS, Task

SPLIT_NAMES = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""What folders and files call each split."""
SHARE = 0.1
"""Of the training data, where a split is missing."""


def with_data(opened: Opened, settings: SourceSettings) -> Task:
    """The task with the splits of `settings.data`, cross-entropy and accuracy; the same task without data.

    Raises:
        UsageError: no such folder, or one without data of the model's kind.
        DataError: data or classes that do not fit the model.
    """
    given, task = settings.data, replace(opened.task, classes=opened.classes, notes=opened.notes)
    if given is None:
        return task
    if isinstance(given, (str, Path)):
        place = Path(given)
        splits = _read(place if place.is_file() else existing_folder(place), opened, settings)
        splits, said = _as_the_model_counts(splits, opened.classes)
        task, batches, more = opened.reader.fed(task, splits, settings)
        _check_classes(opened.model, task, splits)
        classes = next(iter(splits.values())).classes
        named = opened.classes or (() if numbered(classes) else classes)
        task = replace(task, classes=named, notes=(*task.notes, said, *more))
    else:
        batches = _given(given)
    made = replace(task, **cast(dict[str, Any], batches), loss=cross_entropy, metric=accuracy)
    _check_shapes(made)
    return made


def cross_entropy(outputs: object, targets: Tensor) -> Tensor:
    """Of the logits (batch, classes), the mean over the batch."""
    return F.cross_entropy(logits_of(outputs), targets)


def _given(data: object) -> Mapping[str, Iterable[Any]]:
    if isinstance(data, Mapping):
        splits = cast(Mapping[str, Iterable[Any]], data)
        for name in splits:
            if name not in SPLITS:
                raise UsageError(f"data has a split {name!r}. {nearest(str(name), SPLITS)}")
        return splits
    if isinstance(data, Iterable):
        held = cast(Iterable[Any], data)
        return {"calibration": held, "validation": held}
    raise UsageError(
        f"data must be a folder, an iterable of batches, or a mapping of splits to them, got {type(data).__name__}."
    )


def _read(place: Path, opened: Opened, settings: SourceSettings) -> dict[str, Classified]:
    """Splits as they are on disk; a missing validation split is drawn from the training data, then a missing test."""
    parts = _splits(place, opened, settings)
    for name in ("validation", "test"):
        if name not in parts and "train" in parts and len(parts["train"]) >= 1 / SHARE:
            parts["train"], parts[name] = split(parts["train"], SHARE, settings.seed)
    return parts


def _splits(place: Path, opened: Opened, settings: SourceSettings) -> dict[str, Classified]:
    reader = opened.reader
    names, files = _names(place, reader)
    found: dict[str, Classified] = {}
    for kind, known in SPLIT_NAMES.items():
        name = next((one for one in known if one in names), None)
        if name is not None:
            classes = next(iter(found.values())).classes if found else None
            found[kind] = reader.read(place, name, opened.task, settings, classes)
    if found:
        return found
    if files:
        raise UsageError(
            f"{place} has {'parquet ' if files == {'.parquet'} else ''}files of the splits "
            f"{', '.join(sorted(names))}; expected are {', '.join(SPLIT_NAMES)}. Rename them, for example to "
            f"train{min(files)}."
        )
    return {"train": reader.read(place, None, opened.task, settings, None)}


def _names(place: Path, reader: Reader) -> tuple[set[str], set[str]]:
    """Names of what may be splits, and the suffixes of those that are files."""
    inside = list(place.iterdir()) if place.is_dir() else []
    files = [path for path in inside if path.suffix in reader.suffixes and path.is_file()]
    if files:
        return {path.stem.split("-")[0] for path in files}, {path.suffix for path in files}
    return {path.name for path in inside if path.is_dir() and reader.folders}, set()


def _as_the_model_counts(
    splits: Mapping[str, Classified], model: Sequence[str]
) -> tuple[Mapping[str, Classified], str]:
    """Labels as numbers of the model's outputs, and what that rests on."""
    places, said = matched(next(iter(splits.values())).classes, model)
    if places is None:
        return splits, said
    number = torch.tensor(places)
    return {
        name: replace(cast(Any, data), labels=number[data.labels], classes=tuple(model))
        for name, data in splits.items()
    }, said


def _check_classes(model: nn.Module, task: Task, splits: Mapping[str, Classified]) -> None:
    with torch.no_grad(), evaluation(model):
        logits = logits_of(model(*task.example.args, **task.example.kwargs))
    if logits.ndim != 2:
        raise DataError(
            f"The model answers with {tuple(logits.shape)}, labels need (batch, classes). Write a project file for it."
        )
    count = logits.shape[1]
    for name, data in splits.items():
        classes = data.classes
        # Labels that are bare numbers may leave the last classes out; names number themselves.
        if len(classes) > count or (len(classes) < count and not numbered(classes)):
            raise DataError(
                f"The model has {count} classes, the {name} data {len(classes)} ({', '.join(classes[:5])}"
                f"{', ...' if len(classes) > 5 else ''}). Give the data that the model was trained for."
            )


def _check_shapes(task: Task) -> None:
    """
    Raises:
        DataError: a batch whose inputs, apart from the batch axis, are not shaped as the example's.
    """
    wanted = [tuple(one.shape[1:]) for one in task.example.tensors()]
    for name in SPLITS:
        if task.has(name):
            found = [tuple(one.shape[1:]) for one in next(task.batches(name)).tensors()]
            if found != wanted:
                raise DataError(
                    f"A batch of the {name} data holds inputs of {found} without the batch axis, the model takes "
                    f"{wanted}. Give data of that shape, or the example's shape (shape=1x3x224x224)."
                )
