"""How a task is added: one frozen setting for each method."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pydantic

from lissom.errors import UsageError, nearest
from lissom.measure.lifelong import Family
from lissom.settings import Setting
from lissom.training.settings import NotNegative, Positive, Training

Share = Annotated[float, pydantic.Field(gt=0, lt=1)]


def _usual(epochs: int) -> Training:
    """Plain float32: an addition that is repeated ends with the same bits on the same machine."""
    return Training(epochs=epochs, optimizer="adamw", learning_rate=1e-3, precision="float32", channels_last=False)


class Method(Setting):
    """Base of all methods.

    Attributes:
        training: how the task is learned.
        classes: outputs of the task's head; None: as many as the model's own, more where the targets need them.
    """

    family: ClassVar[Family]
    training: Training = _usual(5)
    classes: Annotated[int, pydantic.Field(ge=1)] | None = None


class Pack(Method):
    """PackNet: train the free weights beside all frozen ones, keep the largest, freeze them.

    Attributes:
        share: of the weights of every layer, what this task may keep.
        retraining: training of what is kept, after the rest of the free weights was set to zero.
        start: where free weights begin: "zero", or "original", the values of the model as it was given. The first
            task always begins from the original.
    """

    family: ClassVar[Family] = "masks"
    share: Share = 0.1
    retraining: Training = _usual(3)
    start: Literal["zero", "original"] = "zero"

    @pydantic.model_validator(mode="after")
    def _by_magnitude(self) -> Pack:
        for name, training in (("training", self.training), ("retraining", self.retraining)):
            if training.regularizer is not None:
                raise ValueError(
                    f"{name}.regularizer={training.regularizer!r} makes whole channels small, and a task keeps single "
                    "weights by their size. Leave the regularizer out"
                )
        return self


class Grow(Pack):
    """Compacting, picking, growing: learn which old weights help, keep few new ones, widen if the goal is missed.

    Attributes:
        goal: metric on the validation split that the task has to reach; None: nothing is compacted or grown for it.
        compactions: times that the share is halved for as long as the goal is still met.
        step: factor of the width from one attempt to the next.
        largest: width that is not exceeded; 1: never grow.
    """

    goal: float | None = None
    compactions: Annotated[int, pydantic.Field(ge=0)] = 2
    step: Annotated[float, pydantic.Field(gt=1)] = 1.25
    largest: Annotated[float, pydantic.Field(ge=1)] = 2.0

    @pydantic.model_validator(mode="after")
    def _has_use(self) -> Grow:
        if self.goal is None and "compactions" in self.model_fields_set and self.compactions:
            raise ValueError(
                f"compactions={self.compactions} keeps fewer weights while the goal is met, and there is no goal. Set "
                "goal, or leave compactions out"
            )
        return self


class LwF(Method):
    """Learning without forgetting: answer the new inputs under the old heads as before (`lissom.lifelong.drifting`).

    Attributes:
        strength: weight of the old answers, for each old task.
        temperature: of the softmax that both are compared at.
    """

    family: ClassVar[Family] = "drifting"
    strength: NotNegative = 1.0
    temperature: Positive = 2.0


class EWC(Method):
    """Elastic weight consolidation: hold the weights that earlier tasks need (`lissom.functional.consolidation`).

    Attributes:
        strength: lambda; 0 is plain training one after the other, which forgets.
        samples: training examples that the Fisher information is taken over.
    """

    family: ClassVar[Family] = "drifting"
    strength: NotNegative = 1000.0
    samples: Annotated[int, pydantic.Field(ge=1)] = 256


class ProgressAndCompress(EWC):
    """Learn the task in a free copy, then distil that into the shared weights under online EWC.

    Attributes:
        compressing: training of the shared weights.
        fading: gamma, what remains of the earlier tasks' Fisher information with each new one.
        temperature: of the distillation.
    """

    compressing: Training = _usual(5)
    fading: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.95
    temperature: Positive = 2.0


METHODS: dict[str, type[Method]] = {
    "pack": Pack,
    "grow": Grow,
    "lwf": LwF,
    "ewc": EWC,
    "progress": ProgressAndCompress,
}


def name_of(settings: Method) -> str:
    """The name of the method: a key of `METHODS`."""
    return next(name for name, kind in METHODS.items() if kind is type(settings))


def parse(data: object, where: str) -> Method:
    """The settings in `{"method": "pack", "share": 0.1, ...}`.

    Raises:
        UsageError: no mapping, an unknown method or field.
    """
    if not isinstance(data, dict) or "method" not in data:
        raise UsageError(
            f"{where}: expected the fields of a method and its name, such as {{method: pack, share: 0.1}}."
        )
    fields = {str(key): value for key, value in data.items() if key != "method"}
    name = str(data["method"])
    if name not in METHODS:
        raise UsageError(f"{where}: unknown method {name!r}. {nearest(name, METHODS)}")
    return METHODS[name].parse(fields, f"{where}: {name}")
