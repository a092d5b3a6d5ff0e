"""Whether the parts of a layer are faster than the layer: measured on the target, layer beside parts.

Each layer is run by itself on random numbers of the shape that it meets in the model, interleaved with its parts,
whose weights are random as well: what they hold does not change how long they take. Equal layers (class, weight shape,
stride, padding, dilation, input shape) are timed once. Parts are faster if the 95 % interval of layer / parts, paired
by round, lies above 1; more ranks of a method than those that were not faster are taken for not faster either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from lissom.measure.latency import paired_ratio
from lissom.task import Batch
from lissom.transforms.base import Race, clone
from lissom.transforms.lowrank.evidence import Layer, Timing
from lissom.transforms.lowrank.options import Choice
from lissom.transforms.lowrank.parts import Method, build

WHOLE = "whole"


def timing_of(layer: Layer, one: Choice, timings: Iterable[Timing]) -> Timing | None:
    """What was measured of this choice."""
    found = (t for t in timings if (t.signature, t.method, t.ranks) == (layer.signature, one.method, one.ranks))
    return next(found, None)


def slow(layer: Layer, one: Choice, timings: Iterable[Timing]) -> bool:
    """Whether this choice, or one of fewer ranks, was measured and is not faster than the layer."""
    return any(
        t.signature == layer.signature
        and t.method == one.method
        and not t.faster
        and all(mine >= theirs for mine, theirs in zip(one.ranks, t.ranks, strict=True))
        for t in timings
    )


def told(layer: Layer, timings: Iterable[Timing]) -> str | None:
    """The fastest parts that were not faster, in words; None where there are none."""
    found = [t for t in timings if t.signature == layer.signature and not t.faster]
    if not found:
        return None
    best = min(found, key=lambda t: t.parts_ms / t.whole_ms)
    return (
        f"{best.method} at rank {'x'.join(map(str, best.ranks))} takes {best.parts_ms:.3g} ms, the layer itself "
        f"{best.whole_ms:.3g} ms: {best.whole_ms / best.parts_ms:.2f} times as fast, interval {best.low:.2f} to "
        f"{best.high:.2f}"
    )


def time_choices(
    model: nn.Module,
    layers: Iterable[Layer],
    chosen: Mapping[str, Choice],
    known: Sequence[Timing],
    race: Race,
    least: Callable[[Layer, Method], tuple[int, ...]] | None = None,
) -> tuple[Timing, ...]:
    """What of the choices was not measured yet. `least` gives the fewest ranks of a method: where a choice is not
    faster they are timed at once, since all others in between depend on them."""
    found = list(known)
    todo: dict[str, tuple[Layer, list[Choice]]] = {}
    for layer in layers:
        one = chosen.get(layer.name)
        if one is not None and timing_of(layer, one, found) is None:
            own = todo.setdefault(layer.signature, (layer, []))[1]
            if one not in own:
                own.append(one)
    for layer, choices in todo.values():
        made = _time(model, layer, choices, race)
        found += made
        if least is None:
            continue
        fewest: dict[Method, tuple[int, ...]] = {t.method: least(layer, t.method) for t in made if not t.faster}
        more = [Choice(method, ranks, 0, 0, None) for method, ranks in fewest.items()]
        more = [one for one in more if timing_of(layer, one, found) is None]
        if more:
            found += _time(model, layer, more, race)
    return tuple(found[len(known) :])


@torch.no_grad()
def drawn_(parts: nn.Module, draws: torch.Generator) -> nn.Module:
    """Random weights in place, of a size that keeps that of the values."""
    for parameter in parts.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draws) / max(1, parameter[0].numel()) ** 0.5)
    return parts


@torch.no_grad()
def _time(model: nn.Module, layer: Layer, choices: Sequence[Choice], race: Race) -> list[Timing]:
    whole = clone(model.get_submodule(layer.name)).cpu().eval()
    draws = torch.Generator().manual_seed(0)
    modules: dict[str, nn.Module] = {WHOLE: whole}
    for index, one in enumerate(choices):
        modules[str(index)] = drawn_(build(whole, one.method, one.ranks), draws)
    dtype = cast(Tensor, whole.weight).dtype
    spent: dict[str, np.ndarray] = {}
    for shape, times in Counter(layer.calls).items():
        samples = race(modules, Batch((torch.randn(shape, generator=draws).to(dtype),)))
        spent = {name: spent.get(name, 0.0) + times * np.array(samples[name]) for name in modules}
    made: list[Timing] = []
    for index, one in enumerate(choices):
        ratio = paired_ratio(spent[WHOLE].tolist(), spent[str(index)].tolist())
        made.append(
            Timing(
                signature=layer.signature,
                method=one.method,
                ranks=one.ranks,
                whole_ms=float(np.median(spent[WHOLE])),
                parts_ms=float(np.median(spent[str(index)])),
                low=ratio.low,
                high=ratio.high,
            )
        )
    return made
