"""A network whose latency follows a known law, layer by layer: what a profiler would say of every candidate."""

from __future__ import annotations

import functools
import math

import numpy as np

from lissom.recipe import Recipe
from lissom.search import LayerTime, Measurement, Point, Space, Timed

STEP = 8
SPACE = Space(
    precision=("float32", "float16", "int8"),
    depth=(0.0, 0.125, 0.25, 0.5),
    prune=(1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0),
    rank=(1.0, 1.25, 1.6, 2.0, 3.0),
)
SPEED = {"float32": 1.0, "float16": 1.02, "int8": 0.45}
BLOCKS = 8
"""Of two layers each; the later ones are wider, and smaller in space."""
REST = 0.05


def _up(channels: int) -> int:
    return STEP * math.ceil(channels / STEP)


def law(inputs: int, outputs: int, positions: int, precision: str) -> float:
    """Milliseconds: a call, the memory that is written, the products, in whole multiples of channels."""
    return 0.01 + 2e-6 * positions * _up(outputs) + 2e-7 * SPEED[precision] * positions * _up(inputs) * _up(outputs)


def layers(point: Point) -> tuple[LayerTime, ...]:
    gone = set(range(BLOCKS))
    gone = set(sorted(gone, key=lambda b: (b * 5) % BLOCKS)[: round(point.depth * BLOCKS)])
    found: list[LayerTime] = []
    for block in range(BLOCKS):
        width, positions = (32 << block // 3), (256 >> 2 * (block // 3))
        if block in gone:
            continue
        for place in range(2):
            # Some layers give more than others, so that no single share is right for all.
            exponent = 0.5 + 0.2 * math.sin(3.0 * block + place)
            inputs = max(1, round(width * point.prune ** -(1.0 - exponent)))
            outputs = max(1, round(width * point.prune**-exponent))
            name = f"blocks.{block}.conv{place}"
            if point.rank > 1.0 and (block + place) % 2:
                inner = max(1, round(inputs * outputs / (inputs + outputs) / point.rank))
                found.append(_layer(f"{name}.0", inputs, inner, positions, point.precision))
                found.append(_layer(f"{name}.1", inner, outputs, positions, point.precision))
            else:
                found.append(_layer(name, inputs, outputs, positions, point.precision))
    return tuple(found)


def _layer(name: str, inputs: int, outputs: int, positions: int, precision: str) -> LayerTime:
    ms = law(inputs, outputs, positions, precision)
    return LayerTime(name=name, inputs=inputs, outputs=outputs, macs=positions * inputs * outputs, ms=ms)


def whole(point: Point) -> float:
    """Milliseconds: what layers hide from the profiler is in it, a cache that a narrow network fits into."""
    found = layers(point)
    fits = 1.0 - 0.1 / (1.0 + sum(one.outputs for one in found) / 300.0)
    return REST + fits * sum(one.ms for one in found)


ORIGINAL = Measurement(
    metric=0.9, examples=1000, latency_ms=whole(Point()), latency_ratio=1.0, latency_low=1.0, latency_high=1.0,
    size_bytes=1_000_000, macs=sum(one.macs for one in layers(Point())), parameters=250_000, layers=layers(Point()),
)  # fmt: skip


def timed(point: Point, *, noise: float = 0.0, clock: float = 1.0, seed: int = 0) -> Timed:
    """With `noise`, relative, on every time; `clock`: how many times slower the machine is at the moment."""
    random = np.random.default_rng([seed, *(int(1000 * x) for x in (point.prune, point.rank, point.depth))])

    def taken(ms: float) -> float:
        return ms * clock * math.exp(noise * random.normal())

    latency = taken(whole(point))
    made = tuple(one.model_copy(update={"ms": taken(one.ms)}) for one in layers(point))
    return Timed(latency_ms=latency, latency_ratio=clock * ORIGINAL.latency_ms / latency, layers=made)


def measured(point: Point, **how: float) -> Measurement:
    one = timed(point, **how)
    return ORIGINAL.model_copy(
        update={
            "metric": 0.9 - 0.01 * (point.prune - 1.0) - 0.02 * (point.rank - 1.0) - 0.1 * point.depth,
            "latency_ms": one.latency_ms,
            "latency_ratio": one.latency_ratio,
            "layers": one.layers,
            "macs": sum(layer.macs for layer in one.layers),
        }
    )


@functools.cache
def _points() -> dict[str, Point]:
    return {SPACE.recipe(p).id: p for p in SPACE.points()}


def point_of(recipe: Recipe) -> Point:
    """Read back from the recipe that the space made."""
    return _points()[recipe.id]
