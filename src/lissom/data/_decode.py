"""Image and sound bytes to tensors."""

from __future__ import annotations

import importlib
import io
import wave
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL import Image

Frame = Callable[[Any], NDArray[np.uint8]]
"""From an image of pillow to pixels (c, h, w), in a model's own way of scaling and cutting."""
Size = int | tuple[int, int] | Frame
INSTALL = 'pip install "lissom[data]"'

_GREY = frozenset({"1", "L", "LA", "La"})
_COLOUR = frozenset({"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB"})


def images(sources: Iterable[tuple[str, bytes | Path]], count: int, size: Size | None, channels: int | None) -> Tensor:
    """The decoded `sources` (each: what to call it in an error, where it is) as uint8 `(count, c, h, w)`."""
    try:
        importlib.import_module("PIL.Image")
    except ImportError as missing:
        raise UsageError(f"Reading images needs pillow, which is not installed. {INSTALL}") from missing
    if channels not in (None, 1, 3):
        raise UsageError(f"channels must be 1 (grey) or 3 (colour), got {channels!r}.")
    box = size if size is None or callable(size) else _box(size)

    pixels: NDArray[np.uint8] | None = None
    first = ""
    for number, (name, source) in enumerate(sources):
        array = _image(name, source, box, channels)
        if pixels is None:
            pixels = np.empty((count, *array.shape), dtype=np.uint8)
            first, channels = name, len(array)
        if array.shape != pixels.shape[1:]:
            h, w = array.shape[1:]
            raise DataError(
                f"{name} is {w}x{h} pixels, but {first} is {pixels.shape[3]}x{pixels.shape[2]}. "
                f"Pass size=(height, width) to bring all to one size."
            )
        pixels[number] = array
    if pixels is None:
        raise DataError("There are no images to decode.")
    return torch.as_tensor(pixels)


def _box(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise UsageError(f"size must be pixels above 0, or (height, width) of such, got {size!r}.")
    return height, width


def _image(
    name: str, source: bytes | Path, box: tuple[int, int] | Frame | None, channels: int | None
) -> NDArray[np.uint8]:
    """One image as `(c, h, w)`."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            opened.load()
            image = _in_mode(name, opened, channels)
            if callable(box):
                return box(image)
            if box is not None:
                image = ImageOps.fit(image, (box[1], box[0]), method=Image.Resampling.BILINEAR)
            array = np.asarray(image)
    except UnidentifiedImageError as broken:
        raise DataError(
            f"{name} cannot be decoded as an image: it is in no format that pillow knows. "
            f"Repair it, or take it out of the data."
        ) from broken
    # What pillow's decoders raise on broken bytes: they share no base class below Exception.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as broken:
        raise DataError(
            f"{name} cannot be decoded as an image: {broken}. Repair it, or take it out of the data."
        ) from broken
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _in_mode(name: str, image: Image.Image, channels: int | None) -> Image.Image:
    """Grey or RGB, whichever `channels` asks for; by itself as the image is. Transparency is dropped."""
    if image.mode not in _GREY | _COLOUR:
        raise DataError(
            f"{name} has pixels of mode {image.mode!r}, which do not fit 8 bits. "
            f"Convert the images to 8 bits per channel, or hand tensors of your own to Batches."
        )
    if channels is None:
        channels = 1 if image.mode in _GREY else 3
    elif channels == 1 and image.mode in _COLOUR:
        raise DataError(
            f"{name} is in colour, but one channel is wanted (`channels`, or the first image was grey). "
            f"Pass channels=3 to read grey images as colour."
        )
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        return image
    # A palette may hold its transparency as bytes, which pillow only takes by way of RGBA.
    return image.convert("RGBA").convert(mode) if image.mode in ("P", "PA") else image.convert(mode)


def sound(name: str, source: bytes) -> tuple[NDArray[np.int16], int]:
    """One 16 bit mono WAV as `(t,)` samples, and its rate in Hz."""
    try:
        with wave.open(io.BytesIO(source)) as opened:
            layout = (opened.getnchannels(), 8 * opened.getsampwidth())
            rate_hz, frames = opened.getframerate(), opened.getnframes()
            data = opened.readframes(frames)
    except (wave.Error, EOFError) as broken:
        raise DataError(
            f"{name} cannot be decoded as WAV: {str(broken) or 'it ends too early'}. "
            f"Repair it, or take it out of the data."
        ) from broken
    if layout != (1, 16):
        raise DataError(
            f"{name} has {layout[0]} channel(s) of {layout[1]} bits; only 16 bit mono is read. Convert it first."
        )
    if len(data) != 2 * frames:
        raise DataError(f"{name} is cut off: {len(data) // 2} of {frames} samples are there. Fetch or write it again.")
    return np.frombuffer(data, dtype="<i2").astype(np.int16), rate_hz
