"""What may be done to a model, and how much of it: the candidates of a search, as data.

A `Space` is another type than the settings of transforms: it holds the values that each dimension may take, the first
of which changes nothing. A `Point` holds one value of each and stands for one `Recipe`. Values are few, so that two
searchers, or two processes, that mean the same candidate name the same recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Annotated, Literal, Self, cast

import pydantic

from lissom.progression import progressive
from lissom.recipe import Recipe
from lissom.settings import Setting
from lissom.transforms.base import Transform
from lissom.transforms.finetuning import Finetune
from lissom.transforms.folding import Fold
from lissom.transforms.lowrank import Factorize
from lissom.transforms.pruning import Prune, PruneDepth
from lissom.transforms.quantization import Quantize

Precision = Literal["float32", "float16", "int8", "dynamic", "int4"]
Dimension = Literal["precision", "depth", "prune", "rank"]
DIMENSIONS: tuple[Dimension, ...] = ("precision", "depth", "prune", "rank")
"""What searchers vary. Epochs are not among them: a candidate is judged after few, and the best few get more."""
EPOCHS_A_STEP = 3
"""Of training after each of several cuts."""
GENTLE = 0.3
"""Largest share of the MACs that one cut takes where there is training enough for several."""

Times = Annotated[float, pydantic.Field(ge=1.0, allow_inf_nan=False)]
Share = Annotated[float, pydantic.Field(ge=0.0, lt=1.0)]
Count = Annotated[int, pydantic.Field(ge=0)]


class Point(Setting):
    """One candidate."""

    precision: Precision = "float32"
    depth: Share = 0.0
    """Share of the residual blocks that is taken out."""
    prune: Times = 1.0
    """MACs before / after, by channels that are cut."""
    rank: Times = 1.0
    """MACs before / after, by layers that are split."""
    epochs: Count = 0
    """Of training afterwards."""

    def with_(self, **changed: object) -> Point:
        return Point.model_validate({**self.model_dump(), **changed})


class Space(Setting):
    """The values of each dimension, mildest first. A dimension with one value is closed."""

    precision: tuple[Precision, ...] = ("float32",)
    depth: tuple[Share, ...] = (0.0,)
    prune: tuple[Times, ...] = (1.0,)
    rank: tuple[Times, ...] = (1.0,)
    epochs: tuple[Count, ...] = (0,)
    teacher: Literal["original"] | None = None
    """Whose answers the training learns from."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    closed: dict[str, str] = pydantic.Field(default_factory=dict[str, str])
    """Why a dimension, or a value of it, is not open."""

    @pydantic.model_validator(mode="after")
    def _begin_with_nothing(self) -> Self:
        for name in (*DIMENSIONS, "epochs"):
            values, neutral = self.values(name), getattr(Point(), name)
            if not values or values[0] != neutral:
                raise ValueError(
                    f"{name} must begin with {neutral!r}, which changes nothing, got {values!r}; every search starts "
                    "at the model as it is"
                )
            ordered = values if name == "precision" else tuple(sorted(values))
            if len(set(values)) != len(values) or values != ordered:
                raise ValueError(f"{name} must rise without repetition, got {values!r}")
        return self

    def values(self, name: str) -> tuple[float | str, ...]:
        return cast("tuple[float | str, ...]", getattr(self, name))

    @property
    def open(self) -> tuple[Dimension, ...]:
        """Dimensions with something to choose."""
        return tuple(name for name in DIMENSIONS if len(self.values(name)) > 1)

    @property
    def size(self) -> int:
        """How many points there are at one number of epochs."""
        return prod(len(self.values(name)) for name in DIMENSIONS)

    def points(self) -> Iterator[Point]:
        """All of them, without training."""
        for values in product(*(self.values(name) for name in DIMENSIONS)):
            yield Point.model_validate(dict(zip(DIMENSIONS, values, strict=True)))

    def levels(self, point: Point) -> tuple[int, ...]:
        """Place of the point's value in each dimension."""
        return tuple(self.values(name).index(getattr(point, name)) for name in DIMENSIONS)

    def at(self, levels: Sequence[int]) -> Point:
        """The point at these places, without training."""
        chosen = {name: self.values(name)[level] for name, level in zip(DIMENSIONS, levels, strict=True)}
        return Point.model_validate(chosen)

    def recipe(self, point: Point) -> Recipe:
        """Blocks, channels, ranks, training, folding, rounding: in this order.

        With training enough, channels are cut in steps of at most 30 % of the MACs, with three epochs after each; what
        is left of the epochs comes at the end.
        """
        steps: list[Transform] = []
        if point.depth > 0.0:
            steps.append(PruneDepth(ratio=point.depth))
        train = self._training(point.epochs)
        cut = [Prune(macs_ratio=point.prune)] if point.prune > 1.0 else []
        split = [Factorize(macs_ratio=point.rank)] if point.rank > 1.0 else []
        count = min(_gentle(point.prune), point.epochs // EPOCHS_A_STEP)
        if cut and train and count > 1:
            between = self._training(EPOCHS_A_STEP)
            final = self._training(point.epochs - EPOCHS_A_STEP * (count - 1))
            assert between is not None
            gradual = progressive(cut[0], between, steps=count, final=final)
            steps += [*gradual[:-1], *split, gradual[-1]]
        else:
            steps += [*cut, *split, *([train] if train else [])]
        steps.append(Fold())
        match point.precision:
            case "int8":
                steps.append(Quantize())
            case "dynamic":
                steps.append(Quantize(mode="dynamic"))
            case "int4":
                steps.append(Quantize(weight_bits=4))
            case "float16":
                steps.append(Quantize(precision=16))
            case "float32":
                pass
        return Recipe(steps)

    def _training(self, epochs: int) -> Finetune | None:
        if not epochs:
            return None
        return Finetune(epochs=epochs, optimizer=self.optimizer, teacher=self.teacher)


def _gentle(ratio: float) -> int:
    """The fewest equal steps none of which takes more than `GENTLE` of what it finds."""
    count = 1
    while 1.0 - ratio ** (-1.0 / count) > GENTLE + 1e-9:
        count += 1
    return count
