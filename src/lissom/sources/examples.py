"""Labelled images for a classifier: from a folder to the splits of a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.data import Batches, Images, image_folder, parquet, split
from lissom.data._folders import existing_folder
from lissom.errors import DataError, UsageError, nearest
from lissom.graph.trace import evaluation
from lissom.metrics import accuracy, logits_of
from lissom.sources.settings import SourceSettings
from lissom.task import SPLITS, Task

SPLIT_NAMES = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""What folders and files call each split."""
SHARE = 0.1
"""Of the training data, where a split is missing."""


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects: images of this size, `(pixels in [0, 1] - mean) / std`."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


def with_data(model: nn.Module, task: Task, settings: SourceSettings, expected: Preprocessing) -> Task:
    """The task with the splits of `settings.data`, cross-entropy and accuracy; the same task without data.

    Raises:
        UsageError: no such folder, or one without images.
        DataError: images or classes that do not fit the model.
    """
    given = settings.data
    if given is None:
        return task
    if isinstance(given, (str, Path)):
        splits = _read(existing_folder(given), task, settings, expected)
        _check_classes(model, task, splits)
        batches: Mapping[str, Iterable[Any]] = {
            name: Batches(
                images,
                settings.batch,
                mean=_numbers(settings.mean or expected.mean),
                std=_numbers(settings.std or expected.std),
                shuffle=name == "train",
                seed=settings.seed,
            )
            for name, images in splits.items()
        }
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


def _numbers(values: tuple[float, ...]) -> float | tuple[float, ...]:
    return values[0] if len(values) == 1 else values


def _read(folder: Path, task: Task, settings: SourceSettings, expected: Preprocessing) -> dict[str, Images]:
    """Splits as they are on disk; a missing validation split is drawn from the training data, then a missing test."""
    channels, size = _image_shape(task, settings)
    parts = _splits(folder, settings, size, channels)
    for name in ("validation", "test"):
        if name not in parts and "train" in parts and len(parts["train"]) >= 1 / SHARE:
            parts["train"], parts[name] = split(parts["train"], SHARE, settings.seed)
    return parts


def _splits(folder: Path, settings: SourceSettings, size: tuple[int, int], channels: int) -> dict[str, Images]:
    files = sorted(folder.glob("*.parquet"))
    if files:
        names = {path.name.removesuffix(".parquet").split("-")[0] for path in files}
    else:
        names = {path.name for path in folder.iterdir() if path.is_dir()}

    def read(name: str, classes: tuple[str, ...] | None) -> Images:
        if files:
            return parquet(
                folder, name, image=settings.image, label=settings.label, classes=classes,
                size=size, channels=channels, limit=settings.limit,
            )  # fmt: skip
        return image_folder(folder / name, classes=classes, size=size, channels=channels, limit=settings.limit)

    found: dict[str, Images] = {}
    for kind, known in SPLIT_NAMES.items():
        name = next((one for one in known if one in names), None)
        if name is not None:
            classes = next(iter(found.values())).classes if found else None
            found[kind] = read(name, classes)
    if found:
        return found
    if files:
        raise UsageError(
            f"{folder} has parquet files of the splits {', '.join(sorted(names))}; expected are "
            f"{', '.join(SPLIT_NAMES)}. Rename them, for example to train.parquet."
        )
    return {"train": image_folder(folder, size=size, channels=channels, limit=settings.limit)}


def _image_shape(task: Task, settings: SourceSettings) -> tuple[int, tuple[int, int]]:
    """Channels and `(height, width)` of the model's only input, which may say otherwise than the settings."""
    inputs = task.example.tensors()
    shape = tuple(inputs[0].shape)
    if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (1, 3) or not inputs[0].is_floating_point():
        raise UsageError(
            f"data={settings.data!s} is read as images (n, channels, height, width) with 1 or 3 channels, but the "
            f"model takes {' and '.join(str(tuple(one.shape)) for one in inputs)}. Write a project file for it."
        )
    wanted = settings.size
    if wanted is not None and wanted != shape[2:]:
        raise UsageError(
            f"size={wanted[0]}x{wanted[1]} does not fit the model, which takes {shape[2]}x{shape[3]}. Leave size out."
        )
    return shape[1], (shape[2], shape[3])


def _check_classes(model: nn.Module, task: Task, splits: Mapping[str, Images]) -> None:
    with torch.no_grad(), evaluation(model):
        logits = logits_of(model(*task.example.args, **task.example.kwargs))
    if logits.ndim != 2:
        raise DataError(
            f"The model answers with {tuple(logits.shape)}, labels need (batch, classes). Write a project file for it."
        )
    count = logits.shape[1]
    for name, images in splits.items():
        classes = images.classes
        # Labels that are bare numbers may leave the last classes out; names number themselves.
        numbered = classes == tuple(str(number) for number in range(len(classes)))
        if len(classes) > count or (len(classes) < count and not numbered):
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
