"""What distillation can compare, as frozen data: one class for each loss of `lissom.functional`.

A loss of outputs has a `temperature` (where it has one at all) and may name the `output` that it reads; a loss of inner
values has `taps`. `weight` multiplies it: 1 by default for all, since all of them are on one scale.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, cast

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.errors import nearest
from lissom.functional import distillation, features
from lissom.settings import Setting
from lissom.training.regressors import Fusion, Maps, Pointwise, Widths

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
Pairs = Annotated[dict[str, str], pydantic.Field(min_length=1)]


class OutputLoss(Setting):
    """Compares rows of outputs.

    Attributes:
        weight: factor of this loss.
        output: name of the output (`"logits"`, `"0"`, `"heads.1"`); None: found by its shape.
    """

    kind: str
    usual: ClassVar[float] = 4.0
    """Temperature where none is given."""
    labelled: ClassVar[bool] = False
    """Whether it needs the true classes."""
    classes: ClassVar[bool] = True
    """Whether the rows are distributions over classes: one per example, token or pixel."""
    weight: Positive = 1.0
    output: str | None = None

    @property
    def reads(self) -> tuple[str | None, ...]:
        """The teachers' outputs that it needs."""
        return (self.output,)

    def heat(self, given: float | None) -> float:
        """The temperature: its own, that of the training, or the usual one."""
        own: float | None = getattr(self, "temperature", None)
        return own if own is not None else given if given is not None else self.usual

    def pooled(self, teachers: Tensor) -> Tensor:
        """Answers `(k, n, c)` of k teachers as those of one."""
        return teachers[0] if len(teachers) == 1 else distillation.mean_probabilities(teachers)

    @abstractmethod
    def of(self, student: Tensor, teacher: Tensor, target: Any, temperature: float) -> Tensor:
        """One number from rows `(n, c)`; `target` is class indices `(n,)`, None where it is not `labelled`."""


class KL(OutputLoss):
    """Hinton's: what the teacher thinks of all classes."""

    kind: Literal["kl"] = "kl"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    temperature: Positive | None = None

    def of(self, student: Tensor, teacher: Tensor, target: Any, temperature: float) -> Tensor:
        return distillation.kl(student, teacher, temperature)


class Decoupled(OutputLoss):
    """KL in two parts, the true class (`alpha`) and the others among themselves (`beta`). Needs class targets."""

    kind: Literal["decoupled"] = "decoupled"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    labelled: ClassVar[bool] = True
    temperature: Positive | None = None
    alpha: Positive = 1.0
    beta: Positive = 8.0

    def of(self, student: Tensor, teacher: Tensor, target: Any, temperature: float) -> Tensor:
        return distillation.decoupled(student, teacher, target, temperature, self.alpha, self.beta)


class Standardized(OutputLoss):
    """KL of logits brought to mean 0 and variance 1: a small student need not reach the teacher's size of logits."""

    kind: Literal["standardized"] = "standardized"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    usual: ClassVar[float] = 2.0
    temperature: Positive | None = None

    def of(self, student: Tensor, teacher: Tensor, target: Any, temperature: float) -> Tensor:
        return distillation.standardized(student, teacher, temperature)


class Correlation(OutputLoss):
    """DIST: correlation of probabilities over the classes (`inter`) and over the examples of a batch (`intra`)."""

    kind: Literal["correlation"] = "correlation"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    usual: ClassVar[float] = 1.0
    temperature: Positive | None = None
    inter: Positive = 1.0
    intra: Positive = 1.0

    def of(self, student: Tensor, teacher: Tensor, target: Any, temperature: float) -> Tensor:
        return distillation.correlation(student, teacher, temperature, self.inter, self.intra)


class TopK(OutputLoss):
    """KL over the teacher's `k` likeliest classes and all others as one: for large vocabularies."""

    kind: Literal["top_k"] = "top_k"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    temperature: Positive | None = None
    k: Annotated[int, pydantic.Field(ge=1)] = 64

    def of(self, student: Tensor, teacher: Tensor, target: Any, temperature: float) -> Tensor:
        return distillation.top_k(student, teacher, temperature, self.k)


class Bernoulli(OutputLoss):
    """KL of each sigmoid: several labels at once."""

    kind: Literal["bernoulli"] = "bernoulli"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    usual: ClassVar[float] = 1.0
    classes: ClassVar[bool] = False
    temperature: Positive | None = None

    def pooled(self, teachers: Tensor) -> Tensor:
        return teachers[0] if len(teachers) == 1 else distillation.mean_chances(teachers)

    def of(self, student: Tensor, teacher: Tensor, target: Any, temperature: float) -> Tensor:
        return distillation.bernoulli(student, teacher, temperature)


class Squared(OutputLoss):
    """Mean squared error: regression, or logits as they are."""

    kind: Literal["squared"] = "squared"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    classes: ClassVar[bool] = False

    def pooled(self, teachers: Tensor) -> Tensor:
        return teachers.mean(0)

    def of(self, student: Tensor, teacher: Tensor, target: Any, temperature: float) -> Tensor:
        return distillation.squared(student, teacher)


class Boxes(OutputLoss):
    """Detected boxes, each weighed by how sure the teacher is of it. Both models answer box for box.

    Attributes:
        output: name of the boxes, `(b, n, 4)`.
        scores: name of the teacher's logits of classes, `(b, n, c)`.
        layout: "corners", x1 y1 x2 y2, or "centres", centre x, centre y, width, height.
        background: index of the class that means nothing is there, where scores are of a softmax (-1: the last); None
            where each class has a sigmoid of its own.
    """

    kind: Literal["boxes"] = "boxes"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    classes: ClassVar[bool] = False
    output: str  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]  frozen
    scores: str
    layout: Literal["corners", "centres"] = "corners"
    background: int | None = None

    @property
    def reads(self) -> tuple[str | None, ...]:
        return self.output, self.scores

    def pooled(self, teachers: Tensor) -> Tensor:
        return teachers.mean(0)

    def of(self, student: Tensor, teacher: Tensor, target: Any, temperature: float) -> Tensor:
        """`target`: how sure the teacher is, in the shape of the boxes without their last axis."""
        sides = (student, teacher) if self.layout == "corners" else map(distillation.corners, (student, teacher))
        left, right = (side.reshape(-1, 4) for side in sides)
        return distillation.boxes(left, right, target.reshape(-1))


def flat(values: Tensor) -> Tensor:
    """`(n, c, positions)`."""
    return values.flatten(2) if values.ndim > 2 else values[:, :, None]


def alike(left: Tensor, right: Tensor) -> Maps:
    """Both at the smaller resolution of images `(n, c, h, w)`; others as they are."""
    if left.ndim == right.ndim == 4 and left.shape[2:] != right.shape[2:]:
        size = (min(left.shape[2], right.shape[2]), min(left.shape[3], right.shape[3]))
        return F.adaptive_avg_pool2d(left, size), F.adaptive_avg_pool2d(right, size)
    return left, right


def _mean(loss: Callable[[Tensor, Tensor], Tensor], taps: Sequence[Maps]) -> Tensor:
    return torch.stack([loss(flat(student), flat(teacher)) for student, teacher in taps]).mean()


class FeatureLoss(Setting):
    """Compares inner values, tapped by module name.

    Attributes:
        weight: factor of this loss.
        taps: "auto"; names or patterns that are the same in both models; or student's name to teacher's.
    """

    kind: str
    places: ClassVar[bool] = True
    """Whether it looks at positions: vectors have none."""
    equal: ClassVar[bool] = False
    """Whether student and teacher need the same number of channels at a tap."""
    weight: Positive = 1.0
    taps: Literal["auto"] | Names | Pairs = "auto"

    def learned(self, widths: Widths) -> nn.Module | None:
        """A new regressor for taps of these widths, trained with the student; None where none is needed."""
        return None

    @abstractmethod
    def of(self, taps: Sequence[Maps]) -> Tensor:
        """One number, a mean over the taps."""


class Hint(FeatureLoss):
    """FitNets: the values themselves, through a linear regressor where the widths differ."""

    kind: Literal["hint"] = "hint"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    places: ClassVar[bool] = False

    def learned(self, widths: Widths) -> nn.Module | None:
        return Pointwise(widths) if any(student != teacher for student, teacher in widths) else None

    def of(self, taps: Sequence[Maps]) -> Tensor:
        return _mean(features.hint, taps)


class Attention(FeatureLoss):
    """Where the energy is."""

    kind: Literal["attention"] = "attention"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen

    def of(self, taps: Sequence[Maps]) -> Tensor:
        return _mean(features.attention, taps)


class Selectivity(FeatureLoss):
    """NST: the set of patterns that the channels answer to."""

    kind: Literal["selectivity"] = "selectivity"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen

    def of(self, taps: Sequence[Maps]) -> Tensor:
        return _mean(features.selectivity, taps)


class Flow(FeatureLoss):
    """FSP: products of channels between one tap and the next. Equal widths."""

    kind: Literal["flow"] = "flow"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    equal: ClassVar[bool] = True

    def of(self, taps: Sequence[Maps]) -> Tensor:
        found: list[Tensor] = []
        for (student, teacher), (next_student, next_teacher) in pairwise(taps):
            before, after = alike(student, next_student), alike(teacher, next_teacher)
            found.append(features.flow((flat(before[0]), flat(before[1])), (flat(after[0]), flat(after[1]))))
        return torch.stack(found).mean()


class Review(FeatureLoss):
    """Maps of the student, fused from deep to shallow by a regressor, at four scales beside the teacher's."""

    kind: Literal["review"] = "review"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen

    def learned(self, widths: Widths) -> nn.Module | None:
        return Fusion(widths)

    def of(self, taps: Sequence[Maps]) -> Tensor:
        return torch.stack([features.context(student, teacher) for student, teacher in taps]).mean()


class Similarity(FeatureLoss):
    """Which examples of a batch look alike."""

    kind: Literal["similarity"] = "similarity"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    places: ClassVar[bool] = False

    def of(self, taps: Sequence[Maps]) -> Tensor:
        return _mean(features.similarity, taps)


class Relational(FeatureLoss):
    """RKD: distances between the examples of a batch, and angles between three of them."""

    kind: Literal["relational"] = "relational"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    places: ClassVar[bool] = False
    distance: Positive = 1.0
    angle: Positive = 2.0

    def of(self, taps: Sequence[Maps]) -> Tensor:
        return self.distance * _mean(features.distances, taps) + self.angle * _mean(features.angles, taps)


Kinds = (
    KL | Decoupled | Standardized | Correlation | TopK | Bernoulli | Squared | Boxes
    | Hint | Attention | Selectivity | Flow | Review | Similarity | Relational
)  # fmt: skip
KINDS: tuple[str, ...] = (
    "kl", "decoupled", "standardized", "correlation", "top_k", "bernoulli", "squared", "boxes",
    "hint", "attention", "selectivity", "flow", "review", "similarity", "relational",
)  # fmt: skip


def _named(value: object) -> object:
    """`"kl"` for `{"kind": "kl"}`; a kind that does not exist is refused with the nearest."""
    if isinstance(value, str):
        value = {"kind": value}
    if isinstance(value, Mapping):
        kind = cast(Mapping[str, object], value).get("kind")
        if kind not in KINDS:
            raise ValueError(f"unknown loss {kind!r}. {nearest(str(kind), KINDS)}")
    return value


Loss = Annotated[
    Annotated[Kinds, pydantic.Field(discriminator="kind")],
    pydantic.BeforeValidator(_named),
]
