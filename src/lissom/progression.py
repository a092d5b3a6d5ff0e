"""Pruning, or factorizing, in steps with training between them: one `Prune` becomes several that together cut what it
would; one `Factorize` several whose ranks fall to what it would choose.

After step k of n the share s_k of what is to go has gone:

    linear    s_k = k / n
    cubic     s_k = 1 - (1 - k / n)^3              Zhu and Gupta 2017 (arXiv:1710.01878), equation 1
    cosine    s_k = (1 - cos(pi k / n)) / 2

`left` of the model is to stay: 1 - ratio of its channels, or 1 / macs_ratio of its MACs. After step k,
x_k = 1 - s_k (1 - left) stays. A step is relative to the model that it finds, ratio_k = 1 - x_k / x_(k-1) and
macs_ratio_k = x_(k-1) / x_k, so that the product over the steps is what was wished for. `max_ratio` bounds what all
steps take from one group together: step k may take 1 - (1 - max_ratio)^p_k with p_k = log(x_k / x_(k-1)) / log(left);
the p_k add up to 1.

A step of `Factorize` merges the layers that steps before it have split and splits them anew (`lowrank.merging`): its
wish is relative to the merged model, ratio_k = 1 - x_k and macs_ratio_k = 1 / x_k.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

import pydantic

from lissom.errors import RecipeError
from lissom.settings import Setting, only_wish
from lissom.transforms.base import Transform
from lissom.transforms.finetuning import Finetune
from lissom.transforms.lowrank import Factorize
from lissom.transforms.pruning import Prune

Schedule = Literal["linear", "cubic", "cosine"]
GENTLE = 0.3
"""Largest share of what is left that a step cuts, where the number of steps is not given."""
MOST = 100
"""Steps that are taken without being asked for."""
SLACK = 1e-9


class Progressive(Setting):
    """What `progressive` is given, as a recipe file writes it: `Progressive: {prune: {...}, between: {...}}`, or
    `factorize` in place of `prune`."""

    prune: Prune | None = None
    factorize: Factorize | None = None
    between: Finetune
    steps: Annotated[int, pydantic.Field(ge=1)] | None = None
    schedule: Schedule = "linear"
    final: Finetune | None = None

    @pydantic.model_validator(mode="after")
    def _one_way(self) -> Progressive:
        only_wish(self, ("prune", "factorize"), "Write prune: {macs_ratio: 2}, or factorize: {macs_ratio: 2}.")
        return self

    def expand(self) -> tuple[Transform, ...]:
        """
        Raises:
            RecipeError: so much is to go that gentle steps would be too many; a `Factorize` without an amount to
                divide.
        """
        whole = self.prune or self.factorize
        assert whole is not None
        name, wish = _wish(whole)
        left = 1.0 - wish if name == "ratio" else 1.0 / wish
        shares = remaining(left, self.steps or self._gentle(name, wish, left), self.schedule)
        if len(shares) == 2:
            return whole, self.final or self.between
        steps: list[Transform] = []
        for k, (before, after) in enumerate(pairwise(shares), start=1):
            # A difference of logarithms: the quotient of two numbers next to 1 has lost its digits.
            part = (math.log(after) - math.log(before)) / math.log(left) if left < 1.0 else 1.0 / (len(shares) - 1)
            steps.append(
                _pruned(whole, name, after / before, part)
                if isinstance(whole, Prune)
                else _factorized(whole, name, after, again=k > 1)
            )
            last = k == len(shares) - 1
            steps.append(self.final if last and self.final is not None else self.between)
        return tuple(steps)

    def _gentle(self, name: str, wish: float, left: float) -> int:
        """The fewest steps none of which cuts more than `GENTLE` of what is left."""
        for count in range(1, MOST + 1):
            shares = remaining(left, count, self.schedule)
            if all(1.0 - b / a <= GENTLE + SLACK for a, b in pairwise(shares)):
                return count
        raise RecipeError(
            f"{name}={wish:g} leaves {left:.2%}: with schedule={self.schedule!r}, steps that cut at most {GENTLE:.0%} "
            f"of what is left are more than {MOST}. Give steps=..., or wish for less."
        )


def progressive(
    cut: Prune | Factorize,
    between: Finetune,
    *,
    steps: int | None = None,
    schedule: Schedule = "linear",
    final: Finetune | None = None,
) -> tuple[Transform, ...]:
    """`cut` in steps with `between` after each: transforms for a `Recipe`.

        Recipe([*progressive(Prune(macs_ratio=2.5), Finetune(epochs=2), final=Finetune(epochs=10)), Quantize()])

    Args:
        cut: all that is to go; its other settings hold for every step. A `Factorize` has to say how much by
            `ratio`, `macs_ratio` or `parameters_ratio`; its ranks fall from step to step.
        between: the training after a step.
        steps: None takes the fewest of which none cuts more than 30 % of what is left: of the channels for
            `ratio` of `Prune`, else of MACs, parameters or bytes.
        schedule: how much has gone after which step.
        final: the training after the last step, in place of `between`.

    Raises:
        RecipeError: an argument of another kind, or more than 100 gentle steps; says which and the way out.
    """
    given: dict[str, Any] = {"cut": cut, "between": between, "final": final}
    for name, value in given.items():
        kinds = (Prune, Factorize) if name == "cut" else (Finetune,)
        if not isinstance(value, kinds) and not (name == "final" and value is None):
            raise RecipeError(
                f"progressive({name}=...) is {value!r}, not a {' or '.join(kind.__name__ for kind in kinds)}. Write "
                "progressive(Prune(macs_ratio=2), Finetune(epochs=2))."
            )
    field = "prune" if isinstance(cut, Prune) else "factorize"
    data = {field: cut, "between": between, "final": final, "steps": steps, "schedule": schedule}
    return Progressive.parse(data, "progressive", RecipeError).expand()


def _pruned(whole: Prune, name: str, share: float, part: float) -> Prune:
    """A step that leaves `share` of what it finds; `part` of all that goes, in logarithms."""
    amount = 1.0 - share if name == "ratio" else 1.0 / share
    return whole.model_copy(update={name: amount, "max_ratio": 1.0 - (1.0 - whole.max_ratio) ** part})


def _factorized(whole: Factorize, name: str, left: float, *, again: bool) -> Factorize:
    """A step after which `left` of the dense model stays."""
    return whole.model_copy(update={name: 1.0 - left if name == "ratio" else 1.0 / left, "merge": again})


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


def _wish(whole: Prune | Factorize) -> tuple[str, float]:
    """
    Raises:
        RecipeError: ranks are wished for that have no amount which steps could divide.
    """
    names = ("ratio", "macs_ratio", "parameters_ratio", "size_ratio", "latency_ratio")
    found = [(name, float(value)) for name in names if (value := getattr(whole, name, None)) is not None]
    if not found or found[0][0] == "latency_ratio":
        raise RecipeError(
            f"progressive divides an amount, and this {type(whole).__name__} has none that can be counted. Give ratio, "
            "macs_ratio or parameters_ratio."
        )
    return found[0]
