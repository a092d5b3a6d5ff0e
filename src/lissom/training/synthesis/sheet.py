"""A contact sheet: made up images side by side in one small PNG, so that whoever reads a report sees them."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lissom.functional.synthesis import in_turns
from lissom.training.synthesis.examiner import Examiner

MOST, ACROSS = 40, 10
"""Images on a sheet, and in a row of it."""
SIDE = 32
"""Pixels of an image on it, at most: larger ones are averaged down."""
GAP = 2
COLOURS = {1: 0, 3: 2}
"""Channels of an image to the colour type of a PNG: grey, red green blue."""


class Sheet(NamedTuple):
    uri: str
    classes: tuple[int, ...]
    """That the teacher finds likeliest, image by image; empty where it has none."""


def sheet_of(examiner: Examiner, values: list[Tensor]) -> Sheet | None:
    """Of the first input whose examples are grey or coloured images; None without one. Sorted by class."""
    images = next((one for one in values if one.ndim == 4 and one.shape[1] in COLOURS), None)
    if images is None:
        return None
    classes = examiner.classes(examiner.form.batch(values))
    order = torch.arange(len(images)) if classes is None else in_turns(classes.cpu())
    chosen = order[:MOST]
    if classes is not None:
        chosen = chosen[classes.cpu()[chosen].argsort(stable=True)]
    pixels = _pixels(images.cpu()[chosen])
    uri = "data:image/png;base64," + base64.b64encode(png(_joined(pixels))).decode()
    return Sheet(uri, () if classes is None else tuple(classes.cpu()[chosen].tolist()))


def png(pixels: Tensor) -> bytes:
    """Bytes `(height, width, 1 or 3)` as a PNG file (ISO/IEC 15948), rows unfiltered."""
    height, width, channels = pixels.shape
    rows = pixels.contiguous().view(height, -1).numpy()
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, COLOURS[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def _pixels(images: Tensor) -> Tensor:
    """`(n, c, h, w)` of any range as bytes: each image from its darkest to its brightest value."""
    longest = max(images.shape[2:])
    if longest > SIDE:
        height, width = (max(1, round(side * SIDE / longest)) for side in images.shape[2:])
        images = F.adaptive_avg_pool2d(images, (height, width))
    flat = images.flatten(1)
    low, high = flat.amin(1)[:, None, None, None], flat.amax(1)[:, None, None, None]
    return (255 * (images - low) / (high - low).clamp_min(1e-12)).round().to(torch.uint8)


def _joined(pixels: Tensor) -> Tensor:
    """`(n, c, h, w)` in rows on white, `(height, width, c)`."""
    count, channels, height, width = pixels.shape
    across = min(ACROSS, count)
    down = math.ceil(count / across)
    page = torch.full((down * (height + GAP) - GAP, across * (width + GAP) - GAP, channels), 255, dtype=torch.uint8)
    for index in range(count):
        top, left = index // across * (height + GAP), index % across * (width + GAP)
        page[top : top + height, left : left + width] = pixels[index].permute(1, 2, 0)
    return page
