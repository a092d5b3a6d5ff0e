"""Labelled images for a model of images: as it wants them scaled, cut and normalized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lissom.data import Batches, Images, image_folder, parquet
from lissom.data._decode import Frame
from lissom.data._sets import Labelled
from lissom.errors import UsageError
from lissom.sources.settings import SourceSettings
from lissom.task import Task


@dataclass(frozen=True)
class Pictures:
    """What a model expects: images of its size, `(pixels in [0, 1] - mean) / std`.

    Attributes:
        frame: scales and cuts an image; None scales it to cover the model's size and cuts out the middle.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    frame: Frame | None = None
    suffixes: tuple[str, ...] = (".parquet",)
    folders: bool = True

    def read(
        self, place: Path, split: str | None, task: Task, settings: SourceSettings, classes: tuple[str, ...] | None
    ) -> Images:
        """
        Raises:
            UsageError: a model of other inputs than images, a size that it does not take.
            DataError: an image that cannot be read.
        """
        if place.is_file():
            raise UsageError(f"data={place} is a file; images are read from a folder. Pass the folder it is in.")
        channels, size = _image_shape(task, settings)
        frame = self.frame or size
        if split is not None and any(place.glob("*.parquet")):
            return parquet(
                place, split, image=settings.image, label=settings.label, classes=classes,
                size=frame, channels=channels, limit=settings.limit,
            )  # fmt: skip
        root = place if split is None else place / split
        return image_folder(root, classes=classes, size=frame, channels=channels, limit=settings.limit)

    def fed(
        self, task: Task, splits: Mapping[str, Labelled], settings: SourceSettings
    ) -> tuple[Task, Mapping[str, Iterable[Any]], tuple[str, ...]]:
        mean, std = settings.mean or self.mean, settings.std or self.std
        batches = {
            name: Batches(
                cast(Images, images),
                settings.batch,
                mean=_numbers(mean),
                std=_numbers(std),
                shuffle=name == "train",
                seed=settings.seed,
            )
            for name, images in splits.items()
        }
        return task, batches, ()


def _numbers(values: tuple[float, ...]) -> float | tuple[float, ...]:
    return values[0] if len(values) == 1 else values


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
