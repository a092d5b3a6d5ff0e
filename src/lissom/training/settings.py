"""`Training`: everything that decides how the one loop trains, as frozen data."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from lissom.settings import Setting

RATES = {"sgd": 0.01, "adamw": 3e-4}
"""Learning rates of a fine-tuning that was not told one."""

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]


class Training(Setting):
    """How a model is trained; fine-tuning defaults.

    Attributes:
        epochs: passes over `Task.train`.
        learning_rate: the largest, after the warm-up; None: 0.01 for sgd, 0.0003 for adamw.
        optimizer: "sgd" (Nesterov) or "adamw".
        momentum: of sgd.
        weight_decay: not on biases, parameters of normalizations and other vectors.
        warmup: share of all steps in which the rate rises linearly; afterwards it falls along a cosine.
        clip_norm: largest L2 norm of all gradients together; None: not clipped.
        ema: decay per step of the averaged weights that are handed out; None: the weights themselves.
        label_smoothing: share of a target spread evenly over all classes.
        mixup, cutmix: α of the Beta distribution that mixes two examples; 0: off. With both, a coin decides
            for each batch.
        crop: zeros put around an image, in pixels, before a random piece of its own size is taken.
        flip: mirror half of the images.
        patience: epochs without a better validation metric after which training ends; the weights of the best
            one are handed out. None: all epochs, and the last one counts.
        precision: "auto" measures whether bfloat16 autocast is faster.
        channels_last: "auto" measures whether that memory order is faster.
    """

    epochs: Annotated[int, pydantic.Field(ge=1)] = 10
    learning_rate: Positive | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.9
    weight_decay: NotNegative = 1e-4
    warmup: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.05
    clip_norm: Positive | None = None
    ema: Annotated[float, pydantic.Field(gt=0, lt=1)] | None = None
    label_smoothing: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    crop: Annotated[int, pydantic.Field(ge=0)] = 0
    flip: bool = False
    patience: Annotated[int, pydantic.Field(ge=1)] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"

    @property
    def rate(self) -> float:
        """The largest learning rate."""
        return RATES[self.optimizer] if self.learning_rate is None else self.learning_rate
