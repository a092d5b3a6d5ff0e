"""What `--set` takes for models that are no project file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pydantic

from lissom.errors import UsageError
from lissom.settings import Setting


class SourceSettings(Setting):
    """From the command line all of it is text: `size=224`, `mean=0.485,0.456,0.406`."""

    data: Any = None
    """A folder of images, tables of texts or parquet files; from Python also batches, or a mapping of splits."""
    weights: str | Path | None = None
    """Of a timm model: a file of safetensors, or `random` for none; by itself those that timm downloads."""
    size: tuple[int, int] | None = None
    """Height and width that images are scaled and cut to: `224` or `224x192`. By itself what the model takes."""
    mean: tuple[float, ...] | None = None
    """Subtracted from pixels in [0, 1]: one number, or one per channel."""
    std: tuple[float, ...] | None = None
    """What pixels are divided by after that."""
    shape: str | None = None
    """Shape of the example where the file leaves sizes free: `1x3x224x224`, or `NAME:1x8,NAME:1x8`."""
    batch: int = pydantic.Field(default=32, ge=1)
    """Examples in a batch of the data."""
    limit: int | None = pydantic.Field(default=None, ge=1)
    """At most so many examples of each split, spread evenly."""
    seed: int = 0
    """Of the split of data that comes in one piece, and of the order of training data."""
    image: str = "image"
    """Parquet column of the images."""
    label: str = "label"
    """Column of the labels."""
    text: str = "text"
    """Column of the texts."""
    length: int | None = pydantic.Field(default=None, ge=1)
    """Tokens that every text is padded or cut to; by itself the longest found that the model takes."""

    def refuse(self, given: str, *names: str) -> None:
        """
        Raises:
            UsageError: one of these is set, and means nothing for the source `given`.
        """
        for name in names:
            if name in self.model_fields_set:
                raise UsageError(f"{name}={getattr(self, name)} means nothing for {given}. Leave it out.")

    @pydantic.field_validator("size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        if isinstance(value, int):
            return value, value
        if isinstance(value, str):
            if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})?", value):
                raise ValueError("a size is 224, or 224x192 (height x width)")
            sides = [int(side) for side in value.split("x")]
            return sides[0], sides[-1]
        return value

    @pydantic.field_validator("mean", "std", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        if isinstance(value, (int, float)):
            return (value,)
        return tuple(value.split(",")) if isinstance(value, str) else value

    @pydantic.field_validator("std")
    @classmethod
    def _positive(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and min(value) <= 0:
            raise ValueError("std must be above 0")
        return value
