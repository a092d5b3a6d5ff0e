"""Pruning in steps, with training between them: one `Prune` becomes several that together cut what it would.

After step k of n the share s_k of what is to go has gone:

    linear    s_k = k / n
    cubic     s_k = 1 - (1 - k / n)^3              Zhu and Gupta 2017 (arXiv:1710.01878), equation 1
    cosine    s_k = (1 - cos(pi k / n)) / 2

`left` of the model is to stay: 1 - ratio of its channels, or 1 / macs_ratio of its MACs. After step k,
x_k = 1 - s_k (1 - left) stays. A step is relative to the model that it finds, ratio_k = 1 - x_k / x_(k-1) and
macs_ratio_k = x_(k-1) / x_k, so that the product over the steps is what was wished for. `max_ratio` bounds what all
steps take from one group together: step k may take 1 - (1 - max_ratio)^p_k with p_k = log(x_k / x_(k-1)) / log(left);
the p_k add up to 1.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

import pydantic

from lissom.errors import RecipeError
from lissom.settings import Setting
from lissom.transforms.base import Transform
from lissom.transforms.finetuning import Finetune
from lissom.transforms.pruning import Prune

Schedule = Literal["linear", "cubic", "cosine"]
GENTLE = 0.3
"""Largest share of what is left that a step cuts, where the number of steps is not given."""
MOST = 100
"""Steps that are taken without being asked for."""
SLACK = 1e-9


class Progressive(Setting):
    """What `progressive` is given, as a recipe file writes it: `Progressive: {prune: {...}, between: {...}}`."""

    prune: Prune
    between: Finetune
    steps: Annotated[int, pydantic.Field(ge=1)] | None = None
    schedule: Schedule = "linear"
    final: Finetune | None = None

    def expand(self) -> tuple[Transform, ...]:
        """
        Raises:
            RecipeError: so much is to be cut that gentle steps would be too many.
        """
        name, wish = _wish(self.prune)
        left = 1.0 - wish if name == "ratio" else 1.0 / wish
        shares = remaining(left, self.steps or self._gentle(left), self.schedule)
        if len(shares) == 2:
            return self.prune, self.final or self.between
        steps: list[Transform] = []
        for k, (before, after) in enumerate(pairwise(shares), start=1):
            # A difference of logarithms: the quotient of two numbers next to 1 has lost its digits.
            part = (math.log(after) - math.log(before)) / math.log(left) if left < 1.0 else 1.0 / (len(shares) - 1)
            steps.append(
                self.prune.model_copy(
                    update={
                        name: 1.0 - after / before if name == "ratio" else before / after,
                        "max_ratio": 1.0 - (1.0 - self.prune.max_ratio) ** part,
                    }
                )
            )
            last = k == len(shares) - 1
            steps.append(self.final if last and self.final is not None else self.between)
        return tuple(steps)

    def _gentle(self, left: float) -> int:
        """The fewest steps none of which cuts more than `GENTLE` of what is left."""
        for count in range(1, MOST + 1):
            shares = remaining(left, count, self.schedule)
            if all(1.0 - b / a <= GENTLE + SLACK for a, b in pairwise(shares)):
                return count
        name, wish = _wish(self.prune)
        raise RecipeError(
            f"{name}={wish:g} leaves {left:.2%}: with schedule={self.schedule!r}, steps that cut at most {GENTLE:.0%} "
            f"of what is left are more than {MOST}. Give steps=..., or wish for less."
        )


def progressive(
    prune: Prune,
    between: Finetune,
    *,
    steps: int | None = None,
    schedule: Schedule = "linear",
    final: Finetune | None = None,
) -> tuple[Transform, ...]:
    """`prune` in steps with `between` after each: transforms for a `Recipe`.

        Recipe([*progressive(Prune(macs_ratio=2.5), Finetune(epochs=2), final=Finetune(epochs=10)), Quantize()])

    Args:
        prune: all that is to be cut; its other settings hold for every step.
        between: the training after a step.
        steps: None takes the fewest of which none cuts more than 30 % of what is left: of the channels for
            `ratio`, of MACs, parameters or bytes for a budget.
        schedule: how much has gone after which step.
        final: the training after the last step, in place of `between`.

    Raises:
        RecipeError: an argument of another kind, or more than 100 gentle steps; says which and the way out.
    """
    given: dict[str, Any] = {"prune": prune, "between": between, "final": final}
    for name, value in given.items():
        kind = Prune if name == "prune" else Finetune
        if not isinstance(value, kind) and not (name == "final" and value is None):
            raise RecipeError(
                f"progressive({name}=...) is {value!r}, not a {kind.__name__}. Write progressive(Prune(macs_ratio=2), "
                "Finetune(epochs=2))."
            )
    return Progressive.parse({**given, "steps": steps, "schedule": schedule}, "progressive", RecipeError).expand()


def remaining(left: float, steps: int, schedule: Schedule) -> list[float]:
    """1, x_1, ..., x_n = left."""
    return [1.0 - _share(k / steps, schedule) * (1.0 - left) for k in range(steps)] + [left]


def _share(done: float, schedule: Schedule) -> float:
    match schedule:
        case "linear":
            return done
        case "cubic":
            return 1.0 - (1.0 - done) ** 3
        case "cosine":
            return (1.0 - math.cos(math.pi * done)) / 2.0


def _wish(prune: Prune) -> tuple[str, float]:
    names = ("ratio", "macs_ratio", "parameters_ratio", "size_ratio")
    return next((name, float(value)) for name in names if (value := getattr(prune, name)) is not None)
