"""TUCKER: Tucker-2 of every 3x3 convolution of a ResNet-50, beside tensorly, at no larger an error.

Ranks are half of the channels on both sides. tensorly: `partial_tucker(weight, rank, modes=[0, 1])` on its PyTorch
backend with its defaults (HOSVD start, tolerance 1e-4), in the type of the weights. Ours: `functional.tucker`. Both on
one thread in one process, each layer in turns, after one call on another weight; seconds of processor time, so that
neighbours on the machine count on neither side. Two sets of weights: random ones of He's initialization, whose singular
values are flat, and the same with the n-th of each unfolding's directions scaled by `DECAY`^(n / channels), as training
leaves them: steeper spectra need fewer sweeps. Relative errors of the approximation, in float64; their ratio is rounded
to six digits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.context import Context
from benchmarks.models import resnet50
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.functional.tucker import tucker
from lissom.graph.trace import torch_threads
from lissom.measure.latency import paired_ratio

TITLE = "Tucker-2 of the 3x3 convolutions of a ResNet-50 beside tensorly"
NEEDS = ()
ROUNDS = 3
TIMES = 5.0
DECAY = 0.01
KINDS = ("flat", "steep")


def goal() -> Goal:
    return Goal(
        text=f"at least {TIMES:g} times faster than tensorly over all layers, at no larger an error in any of them",
        wishes=(
            *(Wish(figure=f"{kind}, times faster", at_least=TIMES) for kind in KINDS),
            *(Wish(figure=f"{kind}, largest error over tensorly's", at_most=1.0) for kind in KINDS),
        ),
    )


def run(context: Context) -> Outcome:
    with torch_threads(1):
        return compare(context)


def compare(context: Context) -> Outcome:
    convolutions = [m for m in resnet50().modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    value: dict[str, Figure] = {}
    runs: list[Run] = []
    for kind in KINDS:
        weights = [conv.weight.detach() for conv in convolutions]
        weights = weights if kind == "flat" else [steep(weight) for weight in weights]
        seconds: dict[str, list[float]] = {"lissom": [], "tensorly": []}
        errors: list[float] = []
        contenders: dict[str, Callable[[Tensor], Tensor]] = {"lissom": ours, "tensorly": theirs}
        for one in contenders.values():
            one(weights[0])
        for turn in range(ROUNDS):
            spent = dict.fromkeys(contenders, 0.0)
            for weight in weights:
                found: dict[str, float] = {}
                for name in contenders if turn % 2 == 0 else reversed(contenders):
                    started = time.process_time()
                    made = contenders[name](weight)
                    spent[name] += time.process_time() - started
                    found[name] = float((weight.double() - made).norm() / weight.double().norm())
                errors.append(found["lissom"] / found["tensorly"])
            for name, one in spent.items():
                seconds[name].append(one)
            context.say(f"{kind}, round {turn + 1}: " + ", ".join(f"{name} {s:.2f} s" for name, s in spent.items()))
        value[f"{kind}, times faster"] = Figure.of(paired_ratio(seconds["tensorly"], seconds["lissom"]))
        value[f"{kind}, largest error over tensorly's"] = Figure(value=round(max(errors), 6))
        runs += [
            Run(name=f"{kind}, {name}", figures={"seconds": round(min(s), 3)}, samples_ms=tuple(1000 * x for x in s))
            for name, s in seconds.items()
        ]
    return Outcome(
        goal=goal(),
        value=value,
        reference=(Beside(what="layers", value=float(len(convolutions)), source="3x3 convolutions of a ResNet-50"),),
        control=(),
        seeds=(0,),
        runs=tuple(runs),
    )


def ours(weight: Tensor) -> Tensor:
    return tucker(weight, half(weight)).weight()


def theirs(weight: Tensor) -> Tensor:
    import tensorly
    from tensorly.decomposition import partial_tucker

    tensorly.set_backend("pytorch")
    made: Any = partial_tucker(weight, rank=list(half(weight)), modes=[0, 1])
    (core, factors), _ = made
    return tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1]).double()


def half(weight: Tensor) -> tuple[int, int]:
    return weight.shape[0] // 2, weight.shape[1] // 2


def steep(weight: Tensor) -> Tensor:
    """The weight with a falling spectrum on both sides, and its own norm."""
    found = weight
    for axis in (0, 1):
        rows = found.movedim(axis, 0)
        u, s, v = torch.linalg.svd(rows.flatten(1), full_matrices=False)
        fall = DECAY ** (torch.arange(len(s)) / len(s))
        found = ((u * (s * fall)) @ v).reshape(rows.shape).movedim(0, axis)
    return found * (weight.norm() / found.norm())
