"""Squares, discs and triangles on noise, stored as YOLO tools store images and boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def draw(folder: Path, count: int, seed: int, size: int = 128) -> None:
    """`count` images with one to four shapes of 10 to 56 pixels, and their labels."""
    chance = np.random.default_rng(seed)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        ground = chance.integers(0, 256, 3)
        noise = np.clip(ground + chance.normal(0, 25, (size, size, 3)), 0, 255).astype(np.uint8)
        image = Image.fromarray(noise)
        pen, rows = ImageDraw.Draw(image), []
        for _ in range(chance.integers(1, 5)):
            kind, side = int(chance.integers(3)), float(chance.uniform(10, 56))
            x, y = chance.uniform(side / 2, size - side / 2, 2)
            colour = tuple(int(v) for v in (ground + 128 + chance.integers(-60, 60, 3)) % 256)
            left, top, right, bottom = x - side / 2, y - side / 2, x + side / 2, y + side / 2
            if kind == 0:
                pen.rectangle((left, top, right, bottom), fill=colour)
            elif kind == 1:
                pen.ellipse((left, top, right, bottom), fill=colour)
            else:
                pen.polygon([(x, top), (left, bottom), (right, bottom)], fill=colour)
            rows.append(f"{kind} {x / size:.5f} {y / size:.5f} {side / size:.5f} {side / size:.5f}\n")
        image.save(folder / "images" / f"{index:05}.png")
        (folder / "labels" / f"{index:05}.txt").write_text("".join(rows))
