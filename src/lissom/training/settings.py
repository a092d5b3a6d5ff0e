"""`Training`: everything that decides how the one loop trains, as frozen data."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast, get_args

import pydantic

from lissom.errors import nearest
from lissom.settings import Setting
from lissom.training.losses import FeatureLoss, Loss, OutputLoss
from lissom.training.synthesis.settings import Synthesis

RATES = {"sgd": 0.01, "adamw": 3e-4}
"""Learning rates of a fine-tuning that was not told one."""

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Kind = Literal["slimming", "group_lasso", "growing"]

STRENGTHS: dict[Kind, float] = {"slimming": 1e-3, "group_lasso": 1e-4, "growing": 1.0}
"""Strengths of a regularizer that was not told one."""


TeacherName = Literal["original", "task", "self"]
SHARE = 0.9
"""Of distillation in the loss, where none is given."""


def _unset(value: object) -> bool:
    return value is None


def _left_open(value: object) -> bool:
    return value == "auto"


def named_teacher(value: object) -> object:
    """A list as it is; a name that does not exist, or a model, is refused with the way out."""
    for one in cast("list[object]", value) if isinstance(value, (list, tuple)) else [value]:
        if callable(one):
            raise ValueError(
                f"a teacher in a recipe is a name, since recipes are plain data, and not {type(one).__name__}. Give "
                "the model to Task(teacher=...) and write teacher='task'"
            )
        if isinstance(one, str) and one not in get_args(TeacherName):
            raise ValueError(f"unknown teacher {one!r}. {nearest(one, get_args(TeacherName))}")
    return value


def _synthesis(value: object) -> object:
    """`"generator"` for `{"method": "generator"}`."""
    return {"method": value} if isinstance(value, str) else value


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
        compile: through `torch.compile`. "auto" tries it where training takes ten minutes or more, and measures.
        keep_zeros: weights that `Sparsify` has set to zero stay zero: in a matrix or kernel that is partly zero.
        regularizer: makes whole channels small, for a `Prune` that follows. "slimming": L1 on the scales of
            normalizations; "group_lasso": the norm of everything that is cut with a channel; "growing": weight decay
            that grows, on the channels that are to be cut. Only channels that can be cut are pulled.
        strength: of the regularizer; "growing" ends at it. None: 0.001 (slimming), 0.0001 (group_lasso), 1 (growing).
        ratio: share of the channels that are to be cut; for "growing" alone.
        teacher: whose answers the model learns beside the targets. "original": the model that the recipe was given;
            "task": `Task.teacher`; "self": its own averaged weights. Several: the mean of their probabilities.
        temperature: of the losses that have one and do not set their own; None: 4 for most.
        losses: what is compared, of `lissom.training.losses`; None: "kl", which needs targets that are classes.
        share: of the losses with the teacher in the loss, the task's own has the rest. None: 0.9.
        views: passes that differ in order and augmentation, used in turns; the teacher answers each once. None: every
            pass is another one, and the teacher answers every time.
        rounds: generations, each trained from the same start; all but the first learn from the one before. None: one.
        synthesis: inputs are made up for the teacher, and `Task.train` is not read; `share` is 1, since made up
            inputs have no true answers. None: real data.
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
    keep_zeros: bool = True
    # Left out of JSON where they are not set: recipes without them keep their ids.
    compile: Annotated[bool | Literal["auto"], pydantic.Field(exclude_if=_left_open)] = "auto"
    regularizer: Annotated[Kind | None, pydantic.Field(exclude_if=_unset)] = None
    strength: Annotated[Positive | None, pydantic.Field(exclude_if=_unset)] = None
    ratio: Annotated[float | None, pydantic.Field(gt=0, lt=1, exclude_if=_unset)] = None
    teacher: Annotated[
        TeacherName | tuple[TeacherName, ...] | None,
        pydantic.BeforeValidator(named_teacher),
        pydantic.Field(exclude_if=_unset),
    ] = None
    temperature: Annotated[Positive | None, pydantic.Field(exclude_if=_unset)] = None
    losses: Annotated[tuple[Loss, ...] | None, pydantic.Field(min_length=1, exclude_if=_unset)] = None
    share: Annotated[float | None, pydantic.Field(gt=0, le=1, exclude_if=_unset)] = None
    views: Annotated[int | None, pydantic.Field(ge=1, exclude_if=_unset)] = None
    rounds: Annotated[int | None, pydantic.Field(ge=1, exclude_if=_unset)] = None
    synthesis: Annotated[Synthesis | None, pydantic.BeforeValidator(_synthesis), pydantic.Field(exclude_if=_unset)] = (
        None
    )

    @pydantic.model_validator(mode="after")
    def _whole_regularizer(self) -> Training:
        if self.regularizer is None and self.strength is not None:
            raise ValueError(
                f"strength={self.strength:g} is of a regularizer, and there is none. Add regularizer='group_lasso', "
                "or leave strength out"
            )
        if self.ratio is not None and self.regularizer != "growing":
            raise ValueError(
                f"ratio={self.ratio:g} is for regularizer='growing', got {self.regularizer!r}: only that one has to "
                "know beforehand how many channels will be cut. Leave ratio out"
            )
        if self.regularizer == "growing" and self.ratio is None:
            raise ValueError(
                "regularizer='growing' pulls at the channels that are to be cut and has to know how many: give ratio, "
                "such as the ratio of the Prune that follows"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _whole_distillation(self) -> Training:
        if not self.teachers:
            for name in ("temperature", "losses", "share", "views", "rounds"):
                value: Any = getattr(self, name)
                if value is not None:
                    raise ValueError(
                        f"{name} is of a distillation, and there is no teacher. Add teacher='original', or leave "
                        f"{name} out"
                    )
            return self
        if "self" in self.teachers and self.ema is None:
            raise ValueError("teacher='self' is the averaged weights, and there are none. Set ema, such as ema=0.999")
        if "self" in self.teachers and self.rounds is not None:
            raise ValueError(
                f"rounds={self.rounds} learns from the generation before, teacher='self' from this one. Leave one out"
            )
        inner = self.inner
        if inner and self.compile is True:
            raise ValueError(
                f"compile=True, and {inner[0]} reads inner values, which a compiled model does not have. Leave one out"
            )
        if inner and len(self.teachers) > 1:
            raise ValueError(
                f"{inner[0]} compares inner values with those of one teacher, and there are {len(self.teachers)}. "
                "Leave one, or use losses of outputs"
            )
        if self.views is not None and (inner or "self" in self.teachers):
            what = f"the inner values that {inner[0]} compares" if inner else "teacher='self', which changes"
            raise ValueError(f"views={self.views} keeps answers of outputs, not {what}. Leave views out")
        return self

    @pydantic.model_validator(mode="after")
    def _whole_synthesis(self) -> Training:
        if self.synthesis is None:
            return self
        if len(self.teachers) != 1 or "self" in self.teachers:
            raise ValueError(
                f"inputs are made up for one teacher, 'original' or 'task', got teacher={self.teacher!r}. Set "
                "teacher='original', or leave synthesis out"
            )
        if self.share not in (None, 1.0):
            raise ValueError(
                f"share={self.share:g} leaves the rest to the task's loss, and made up inputs have no true answers. "
                "Leave share out, or synthesis"
            )
        if self.views is not None:
            raise ValueError(
                f"views={self.views} keeps answers to inputs that come again, and made up inputs change with every "
                "pass. Leave views out, or synthesis"
            )
        return self

    @property
    def teachers(self) -> tuple[TeacherName, ...]:
        """Their names; none without distillation."""
        if self.teacher is None:
            return ()
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher

    @property
    def inner(self) -> tuple[str, ...]:
        """Kinds of the losses that compare inner values."""
        return tuple(loss.kind for loss in self.losses or () if isinstance(loss, FeatureLoss))

    def alone(self) -> Training:
        """The same without a teacher."""
        return self.model_copy(update=dict.fromkeys(("teacher", "temperature", "losses", "share", "views", "rounds")))

    @property
    def labelled(self) -> bool:
        """Whether anything here reads the class of an example."""
        mixed = bool(self.mixup or self.cutmix)
        return mixed or any(isinstance(loss, OutputLoss) and loss.labelled for loss in self.losses or ())

    @property
    def augmentation(self) -> tuple[float, ...]:
        """What an input of a view depends on, beside the data and the seed."""
        return (self.crop, self.flip, self.mixup, self.cutmix)

    @property
    def taught(self) -> float:
        """The share of the teacher in the loss."""
        usual = SHARE if self.synthesis is None else 1.0
        return usual if self.share is None else self.share

    @property
    def pull(self) -> float:
        """The regularizer's strength; 0 without one."""
        if self.regularizer is None:
            return 0.0
        return STRENGTHS[self.regularizer] if self.strength is None else self.strength

    @property
    def rate(self) -> float:
        """The largest learning rate."""
        return RATES[self.optimizer] if self.learning_rate is None else self.learning_rate
