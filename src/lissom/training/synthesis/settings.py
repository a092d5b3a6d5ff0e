"""`Synthesis`: how inputs are made up for a teacher without data, as frozen data.

One set of losses (`lissom.functional.synthesis`) and four ways to make inputs that make them small; a method is a
way and a set of weights.

    noise           normal noise, or uniform between the bounds: the control
    drawings        strokes at random (`lissom.functional.drawing`), as many of each class as there are
    inversion       the inputs themselves are optimized.    DeepInversion, Yin et al. 2020 (arXiv:1912.08795)
    generator       a network that makes them from noise, one step a batch.    DAFL, Chen et al. 2019 (arXiv:1904.01186)
    adversarial     the same, drawn to where the student disagrees.    DFAD, Fang et al. 2019 (arXiv:1912.11006)
    meta            a few steps from a start that has learned to be a good one, and a memory of what was made.
                    Fast meta-synthesis, Fang et al. 2022 (arXiv:2112.06253); the memory is CMI's (arXiv:2105.08584)
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import pydantic

from lissom.settings import Setting

Method = Literal["noise", "drawings", "inversion", "generator", "adversarial", "meta"]
Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Bound = Annotated[float, pydantic.Field(allow_inf_nan=False)]


class Preset(NamedTuple):
    """What a method does where the settings say nothing."""

    learning_rate: float = 2e-3
    updates: int = 1
    memory: int = 0
    replays: int = 0
    confidence: float = 1.0
    balance: float = 5.0
    activation: float = 0.1
    statistics: float = 1.0
    roughness: float = 1.0
    size: float = 0.0
    adversary: float = 0.0


PRESETS: dict[Method, Preset] = {
    "noise": Preset(updates=0),
    "drawings": Preset(updates=0, memory=8192, replays=9),
    # Balance is not weighed: the classes that it aims at are chosen evenly.
    "inversion": Preset(
        0.1, 200, memory=4096, replays=15, balance=0.0, activation=0.0, roughness=0.05, size=0.01, adversary=0.0
    ),
    "generator": Preset(),
    "adversarial": Preset(memory=8192, replays=2, adversary=1.0),
    "meta": Preset(5e-3, 5, memory=8192, replays=9),
}
WEIGHTS = ("confidence", "balance", "activation", "statistics", "roughness", "size", "adversary")
LEARNED = ("generator", "adversarial", "meta")
"""Methods with a generator."""
DRAWN = ("noise", "drawings")
"""Methods that optimize nothing."""


class Synthesis(Setting):
    """How inputs are made where there are none. None stands for what the method is usually given.

    Attributes:
        method: "noise", "drawings", "inversion", "generator", "adversarial" or "meta".
        batch_size: examples made together.
        low, high: bounds of valid inputs, in the units that the model is given; both or neither. None: inputs are
            taken to be normalized to mean 0 and variance 1.
        steps: batches in an epoch of a training.
        learning_rate: of the generator, or of the inputs themselves; Adam.
        updates: steps of optimization for one batch.
        memory: examples that are kept to be shown again; 0: none.
        replays: batches drawn from the memory after each new one.
        warp: of images from the memory: largest entry that is added to the affine map of the coordinates (rotation,
            scale, shear, and shift in halves of the image), drawn anew each time; 0: they are shown as they are.
        latent: numbers that a generator makes an example from.
        width: channels of a generator at full resolution.
        confidence, balance, activation, statistics, roughness, size: weights of the losses in
            `lissom.functional.synthesis` ("balance" weighs the imbalance).
        adversary: weight of the student's disagreement, which is made large.
    """

    method: Method = "inversion"
    batch_size: Annotated[int, pydantic.Field(ge=2)] = 128
    low: Bound | None = None
    high: Bound | None = None
    steps: Annotated[int, pydantic.Field(ge=1)] = 100
    learning_rate: Positive | None = None
    updates: Annotated[int, pydantic.Field(ge=1)] | None = None
    memory: Annotated[int, pydantic.Field(ge=0)] | None = None
    replays: Annotated[int, pydantic.Field(ge=0)] | None = None
    warp: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    latent: Annotated[int, pydantic.Field(ge=1)] = 64
    width: Annotated[int, pydantic.Field(ge=1)] = 16
    confidence: NotNegative | None = None
    balance: NotNegative | None = None
    activation: NotNegative | None = None
    statistics: NotNegative | None = None
    roughness: NotNegative | None = None
    size: NotNegative | None = None
    adversary: NotNegative | None = None

    @pydantic.model_validator(mode="after")
    def _sound(self) -> Synthesis:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"low and high are given together, got low={self.low}, high={self.high}")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low must be below high, got low={self.low:g}, high={self.high:g}")
        if self.method in DRAWN:
            optimized = [n for n in ("learning_rate", "updates", *WEIGHTS) if getattr(self, n) is not None]
            if optimized:
                raise ValueError(
                    f"method={self.method!r} optimizes nothing: leave {optimized[0]} out, or take another method"
                )
        if 0 < self.chosen("memory") < self.batch_size:
            raise ValueError(
                f"a memory holds at least one batch, got memory={self.chosen('memory')} and batch_size="
                f"{self.batch_size}. Set memory=0, or more"
            )
        if self.chosen("replays") and not self.chosen("memory"):
            raise ValueError(f"replays={self.replays} come from the memory, and there is none. Set memory")
        if self.warp and not self.chosen("replays"):
            raise ValueError(f"warp={self.warp:g} moves replayed images, and there are none. Set replays, or warp=0")
        return self

    def chosen(self, name: str) -> Any:
        """The setting `name`, the method's own where none is given."""
        given = getattr(self, name)
        return getattr(PRESETS[self.method], name) if given is None else given

    def effective(self) -> dict[str, Any]:
        """All settings, the method's own where none is given; bounds only where there are some."""
        own = {name: self.chosen(name) for name in Preset._fields}
        given = self.model_dump(mode="json", exclude_none=True)
        return {**given, **(own if self.method not in DRAWN else {name: own[name] for name in ("memory", "replays")})}
