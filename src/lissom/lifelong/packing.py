"""`pack` and `grow`: many tasks in one set of weights, each with masks of its own.

PackNet (Mallya and Lazebnik 2018, arXiv:1711.05769), section 3. For task k, with W_j the weights that task j keeps:

    1. train the free weights; the frozen ones of tasks 1 ... k - 1 take part in every product
    2. in every layer keep the largest of the free weights as W_k, set the others to zero
    3. train W_k alone, a little; then it is frozen

Task k computes with W_1 + ... + W_k. Deviations: biases, normalizations and their statistics are each task's own and
not those of the first; `share` is of all weights of a layer, so that tasks of equal shares fit 1 / share times;
with int8 the values of step 3 are rounded as they are trained, on scales that are frozen with the first weight of a
channel.

Compacting, picking and growing (Hung et al. 2019, arXiv:1910.06562), section 3: a learned binary mask m picks among the
old weights, m (W_1 + ... + W_{k-1}) + W_k; W_k is made smaller for as long as the goal is met; the layers are made
wider if it is not met. Deviation: an attempt at another width starts anew instead of going on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lissom.errors import DataError, UsageError, first_line
from lissom.functional.ownership import keep_largest, width_needed
from lissom.graph.agreement import ALLOWED_GAP, apart
from lissom.lifelong.anatomy import Anatomy
from lissom.lifelong.backbone import Backbone, Share, Weights, scales_for, write
from lissom.lifelong.ground import Ground, Made, load_
from lissom.lifelong.masking import BEGIN, Part, mixed, parts_of, private_of, rounded
from lissom.lifelong.proving import answers
from lissom.lifelong.settings import Grow, Pack
from lissom.measure.lifelong import Attempt

ROUNDING = 1e-9
"""0.29 * 100 is 28.999999999999996."""
GRID = 1 / 64
"""Widths are multiples of it."""


@dataclass(frozen=True, eq=False)
class _Tried:
    """What one width came to."""

    width: float
    share: float
    trained: float | None
    before: Backbone
    after: Backbone
    parts: Mapping[str, Part]
    private: dict[str, Tensor]
    model: nn.Module


def pack(ground: Ground, settings: Pack, before: Backbone, width: float) -> Made:
    """The task at one width.

    Raises:
        UsageError: the free weights are not enough.
    """
    _check_share(before, settings.share)
    if missing := without_room(before, settings.share):
        raise UsageError(_exhausted(ground, settings, before, missing, width))
    tried = _learn(ground, settings, before, width, picks=False)
    return _made(ground, tried, (_attempt(ground, tried),), None, picks=False)


def grow(ground: Ground, settings: Grow, before: Backbone, width: float) -> Made:
    """The task at the smallest width tried that meets the goal; at the best one if none does.

    Raises:
        UsageError: the free weights are not enough at the largest width, or the model cannot be widened.
        DataError: a goal, and no metric or validation data.
    """
    if settings.goal is not None and (ground.task.metric is None or not ground.task.has("validation")):
        raise DataError(
            f"goal={settings.goal:g} is judged by the metric on validation data. Give Task(validation=..., "
            "metric=...), or leave goal out."
        )
    _check_share(before, settings.share)
    if missing := without_room(before, settings.share):
        needed = _width_for(ground.anatomy, before, settings.share, width)
        if needed is None or needed > settings.largest:
            raise UsageError(_exhausted(ground, settings, before, missing, width))
        width = needed
    attempts: list[Attempt] = []
    best: tuple[float, _Tried] | None = None
    met = False
    while True:
        check_widened(ground, width)
        tried = _learn(ground, settings, before, width, picks=before.tasks > 0)
        attempts.append(_attempt(ground, tried))
        reached = attempts[-1].kept
        if best is None or (reached is not None and reached > best[0]):
            best = (reached or 0.0, tried)
        met = settings.goal is None or (reached is not None and reached >= settings.goal)
        wider = min(math.ceil(round(width * settings.step / GRID, 9)) * GRID, settings.largest)
        if met or wider <= width or not ground.anatomy.growing:
            break
        width = wider
    chosen = best[1]
    if met and settings.goal is not None:
        chosen = _compact(ground, settings, chosen, attempts)
    made = _made(ground, chosen, tuple(attempts), settings.goal, picks=before.tasks > 0)
    if not met:
        note = (
            f"The goal of {settings.goal:g} was missed: {best[0]:g} at a width of {chosen.width:g}, the best of "
            f"{len(attempts)}. A larger `share` or `largest`, or more training, may reach it."
        )
        made = replace(made, notes=(note,))
    return made


def _check_share(before: Backbone, share: float) -> None:
    """
    Raises:
        UsageError: a layer is so small that its share is no weight at all.
    """
    smallest = min(before.weights, key=lambda name: before.weights[name].values.numel(), default=None)
    if smallest is not None and not _count(before.weights[smallest], share):
        count = before.weights[smallest].values.numel()
        raise UsageError(
            f"share={share:g} of the {count} weights of {smallest!r} is none: the layer would be zero. Give a share of "
            f"at least {1 / count:.2g}."
        )


def without_room(before: Backbone, share: float) -> str | None:
    """The layer with the smallest share of free weights, if that is not enough for one more task."""
    short = {
        name: float(one.free.float().mean())
        for name, one in before.weights.items()
        if int(one.free.sum()) < _count(one, share)
    }
    return min(short, key=lambda name: short[name]) if short else None


def _count(one: Weights, share: float) -> int:
    return int(share * one.values.numel() + ROUNDING)


def _learn(ground: Ground, settings: Pack, narrow: Backbone, width: float, *, picks: bool) -> _Tried:
    before = narrow.at(ground.anatomy.shapes(width, "masks"))
    plain = ground.anatomy.build(width, ground.classes)
    parts = {name: _part(plain, name, one, settings, before.tasks, picks) for name, one in before.weights.items()}
    stage = f"width-{width:g}"
    trained = ground.train(mixed(plain, parts), settings.training, f"{stage}/training")
    found = ground.metric(trained)
    parts = {
        name: _kept(part, before.weights[name], part.open, _count(before.weights[name], settings.share))
        for name, part in parts_of(trained, parts).items()
    }
    tried = _Tried(
        width,
        settings.share,
        found.value if found else None,
        before,
        before,
        parts,
        private_of(trained, parts),
        trained,
    )
    return _retrain(ground, settings, tried, f"{stage}/retraining")


def _compact(ground: Ground, settings: Grow, tried: _Tried, attempts: list[Attempt]) -> _Tried:
    """Half the share, and half again, for as long as the goal is met."""
    for turn in range(1, settings.compactions + 1):
        share = tried.share / 2
        if not all(_count(one, share) for one in tried.before.weights.values()):
            break
        parts = {
            name: _kept(part, tried.before.weights[name], part.open, _count(tried.before.weights[name], share))
            for name, part in tried.parts.items()
        }
        smaller = replace(tried, share=share, parts=parts, trained=attempts[-1].kept)
        smaller = _retrain(ground, settings, smaller, f"width-{tried.width:g}/compaction-{turn}")
        attempts.append(_attempt(ground, smaller))
        reached = attempts[-1].kept
        if reached is None or settings.goal is None or reached < settings.goal:
            break
        tried = smaller
    return tried


def _retrain(ground: Ground, settings: Pack, tried: _Tried, stage: str) -> _Tried:
    """Train what is kept, and nothing else of the shared weights; then freeze it."""
    plain = load_(ground.anatomy.build(tried.width, ground.classes), tried.private)
    trained = ground.train(mixed(plain, tried.parts), settings.retraining, stage)
    parts = parts_of(trained, tried.parts)
    shares: dict[str, Share] = {}
    scales: dict[str, Tensor] = {}
    for name, part in parts.items():
        values = part.begin if part.scales is None else rounded(part.begin, part.scales, part.axis)
        shares[name] = Share(part.open, part.picked, torch.where(part.open, values, 0.0))
        if part.scales is not None:
            scales[name] = part.scales
    after = tried.before.add(shares, scales)
    private = private_of(trained, parts)
    model = load_(ground.anatomy.build(tried.width, ground.classes), {**after.state(), **private})
    return replace(tried, after=after, parts=parts, private=private, model=model)


def _part(plain: nn.Module, name: str, one: Weights, settings: Pack, tasks: int, picks: bool) -> Part:
    given = plain.get_parameter(name).detach().cpu()
    begin = given
    if tasks and settings.start == "zero":
        # A channel that nobody has would stay dead from zero: it begins with what the model has there.
        shape = [1] * given.ndim
        shape[one.axis] = -1
        taken = (~one.free).movedim(one.axis, 0).flatten(1).any(1).reshape(shape)
        begin = torch.where(taken, 0.0, given)
    scores = torch.full_like(given, BEGIN) if picks else None
    return Part(begin, one.free, one.values, ~one.free, scores, one.scales, one.axis)


def _kept(part: Part, one: Weights, candidates: Tensor, count: int) -> Part:
    """The part with the largest `count` candidates open, at the values that training gave them."""
    own = keep_largest(part.begin, candidates, count)
    scales = scales_for(one, own, part.begin)
    return replace(part, begin=torch.where(own, part.begin, 0.0), open=own, scales=scales)


def _attempt(ground: Ground, tried: _Tried) -> Attempt:
    found = ground.metric(tried.model)
    return Attempt(width=tried.width, share=tried.share, trained=tried.trained, kept=found.value if found else None)


def _made(ground: Ground, tried: _Tried, attempts: tuple[Attempt, ...], goal: float | None, *, picks: bool) -> Made:
    after = tried.after
    return Made(
        model=tried.model,
        metric=ground.metric(tried.model),
        width=tried.width,
        private=tried.private,
        attempts=attempts,
        goal=goal,
        weights=after.size,
        own=sum(int((one.owner == after.tasks).sum()) for one in after.weights.values()),
        used=sum(int(used.sum()) for used in after.used.values()),
        free=after.free,
        addition=write(tried.before, after, picks=picks),
    )


def check_widened(ground: Ground, width: float) -> None:
    """
    Raises:
        UsageError: a wider model whose new channels are multiplied by zero is not the model.
    """
    if width == 1.0:
        return
    example = ground.task.example
    anatomy = ground.anatomy
    way_out = "Give a model that reads its sizes from its tensors, or leave growth out: Grow(largest=1), Pack(...)."
    try:
        wanted = answers(anatomy.build(1.0, ground.classes), example)
        got = answers(anatomy.build(width, ground.classes, idle=True), example)
        gap = max((apart(a, b) for a, b in zip(wanted, got, strict=True)), default=0.0)
    except (RuntimeError, ValueError, TypeError) as wrong:
        raise UsageError(f"The model cannot be made {width:g} times wider: {first_line(wrong)}. {way_out}") from (wrong)
    if gap > ALLOWED_GAP:
        raise UsageError(
            f"The model cannot be made {width:g} times wider: with idle channels its outputs change by {gap:.1e} "
            f"of the largest. {way_out}"
        )


def _width_for(anatomy: Anatomy, before: Backbone, share: float, width: float) -> float | None:
    layers = [
        (one.values.numel(), int(one.free.sum()), len(anatomy.growing.get(name, ())))
        for name, one in before.weights.items()
    ]
    times = width_needed(layers, share, step=GRID)
    return None if times is None else math.ceil(round(width * times / GRID, 9)) * GRID


def _exhausted(ground: Ground, settings: Pack, before: Backbone, layer: str, width: float) -> str:
    one = before.weights[layer]
    share = int(one.free.sum()) / one.values.numel()
    needed = _width_for(ground.anatomy, before, settings.share, width)
    growth = (
        f"{layer!r} cannot be made wider here, so no growth would help; a new folder would"
        if needed is None
        else f"Growing the hidden channels to {needed:g} times the model's gives the room: "
        f"Grow(share={settings.share:g}, largest={needed:g})"
    )
    smaller = f"; or take a share of at most {math.floor(share * 1000) / 1000:g}" if share >= 0.001 else ""
    return (
        f"The backbone is full: the task {ground.name!r} is to keep {settings.share:.1%} of the weights of "
        "every layer, "
        f"and {layer!r} has {share:.1%} free, the rest belongs to {before.tasks} earlier tasks. {growth}{smaller}."
    )
