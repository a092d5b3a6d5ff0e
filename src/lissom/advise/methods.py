"""Whether a method fits a model, its task and a target, and why: one pure function each, from facts to a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from lissom.advise.facts import Facts
from lissom.advise.scenarios import Method
from lissom.target import Target

DYNAMIC_SHARE = 0.3
"""Share of the products in linear layers from which dynamic quantization is worth a try."""
WORTH = 0.3
"""Share of the parameters in layers that a method can make smaller, from which it is worth a try."""
TABLES = 0.1
"""The same of look-up tables: they cost no products, so that bytes alone count."""
PATTERN = "2:4"


class Verdict(NamedTuple):
    """`why` is a sentence without its full stop."""

    fits: bool
    why: str


def verdict(method: Method, facts: Facts, target: Target) -> Verdict:
    """What the facts say of a method on a target."""
    return _VERDICTS[method](facts, target)


def _fold(facts: Facts, _: Target) -> Verdict:
    return Verdict(True, "moves normalizations into the layers before them; changes no output, and reads no data")


def _prune(facts: Facts, target: Target) -> Verdict:
    channels = facts.channels
    if not channels.free:
        return Verdict(False, f"no channel can be cut: {channels.reason or 'no layer has coupled channels'}")
    why = (
        f"{channels.free:,} of {channels.total:,} channels, in {channels.free_groups} of {channels.groups} groups, can "
        "be cut"
    )
    if target.channel_multiple > 1:
        why += f"; {target.title} computes {target.channel_multiple} at a time, so groups shrink in such steps"
    if channels.reason:
        why += f"; most of the others stay because: {channels.reason}"
    depthwise = facts.share("depthwise").macs
    if depthwise >= 0.01:
        why += f"; the channels of depthwise layers ({percent(depthwise)} of the products) go with their neighbors'"
    return Verdict(True, why)


def _prune_depth(facts: Facts, _: Target) -> Verdict:
    if facts.blocks < 3:
        return Verdict(
            False, f"{facts.blocks or 'no'} residual block{'s' * (facts.blocks != 1)} that could be taken out whole"
        )
    if not facts.observed:
        return Verdict(False, "blocks are judged on calibration data, and the task has none")
    return Verdict(True, f"{facts.blocks} residual blocks can be taken out whole")


def _distil(facts: Facts, _: Target) -> Verdict:
    if not facts.trains:
        lacks = [n for n, has in (("train", "train" in facts.splits), ("loss", facts.loss)) if not has]
        return Verdict(False, f"training needs Task({'=..., '.join(lacks)}=...)")
    if not facts.classes:
        return Verdict(True, "there are training data and a loss; targets are no classes, so no teacher is asked")
    return Verdict(True, "there are training data, a loss and classes: the original teaches what is left of it")


def _low_rank(facts: Facts, _: Target) -> Verdict:
    held = facts.share("convolution").parameters + facts.share("linear").parameters
    if held < WORTH:
        return Verdict(False, f"{percent(held)} of the parameters are in convolutions and linear layers: too few")
    why = f"{percent(held)} of the parameters are in convolutions and linear layers that can be split"
    return Verdict(True, why + ("" if facts.observed else "; without data, ranks are chosen by the weights alone"))


def _tables(facts: Facts, _: Target) -> Verdict:
    held = facts.share("embedding").parameters
    if held < TABLES:
        return Verdict(
            False, f"{percent(held)} of the parameters are in look-up tables" if held else "no look-up table"
        )
    return Verdict(True, f"{percent(held)} of the parameters are in look-up tables, which can be split")


def _sparsify(facts: Facts, target: Target) -> Verdict:
    if PATTERN not in target.patterns:
        return Verdict(False, f"{target.title} has no kernels that skip zeros: they cost what numbers do")
    return Verdict(True, f"{target.title} has kernels for {PATTERN}; a layer that is not faster stays dense")


def _int8(facts: Facts, target: Target) -> Verdict:
    if not facts.integer_share:
        return Verdict(False, f"{target.title} computes no layer of this model in static integers")
    why = f"{target.title} computes layers with {percent(facts.integer_share)} of the products in integers"
    if facts.observed:
        return Verdict(True, f"{why}, and there are data to set their ranges on")
    if facts.real_inputs and "train" not in facts.splits:
        return Verdict(True, f"{why}; the task has no calibration data, so inputs are made up to set ranges on")
    return Verdict(False, f"{why}, but ranges need Task(calibration=...), and such inputs cannot be made up")


def _dynamic(facts: Facts, target: Target) -> Verdict:
    share = facts.dynamic_share
    if not share:
        return Verdict(False, f"{target.title} takes no range of this model's layers at run time")
    why = f"{percent(share)} of the products are in layers that {target.title} takes ranges of at run time"
    if share < DYNAMIC_SHARE:
        return Verdict(False, f"{why}: too little to be worth a try, which begins at {DYNAMIC_SHARE:.0%}")
    return Verdict(True, f"{why}; no data are read")


def _mixed(facts: Facts, target: Target) -> Verdict:
    if not facts.observed or not facts.judged:
        needed = {
            "calibration": facts.observed,
            "validation": "validation" in facts.splits,
            "metric": facts.metric,
        }
        lacks = "=..., ".join(name for name, there in needed.items() if not there)
        return Verdict(False, f"bits are chosen by the metric, which needs Task({lacks}=...)")
    if not facts.integer_share:
        return Verdict(False, f"{target.title} computes no layer of this model in static integers")
    if target.halves != "storage" and min(target.weights.bits) == 8:
        return Verdict(False, f"{target.title} stores weights in 8 bits or in 32, and nothing between")
    few = ", 4" * (min(target.weights.bits) <= 4)
    return Verdict(True, f"the metric can choose each layer's bits; {target.title} stores 16, 8{few} bits")


def _weight_only(facts: Facts, target: Target) -> Verdict:
    if facts.stored_share < WORTH:
        return Verdict(
            False,
            f"{target.title} restores {percent(facts.stored_share)} of the parameters from integers where it computes "
            "in float",
        )
    return Verdict(
        True,
        f"{target.title} restores layers with {percent(facts.stored_share)} of the parameters from "
        f"{few_bits(facts, target)}-bit weights; activations stay in float, so nothing is promised to run faster",
    )


def _float16(facts: Facts, target: Target) -> Verdict:
    if target.halves != "storage":
        return Verdict(False, f"{target.title} would turn halves into float32 at every call")
    return Verdict(True, f"{target.title} stores halves: half the bytes, and no data are read")


def _made_up(facts: Facts, _: Target) -> Verdict:
    if "train" in facts.splits:
        return Verdict(False, "the task has training data")
    if "calibration" in facts.splits:
        return Verdict(False, "the task has calibration data, which are better than any that are made up")
    if not facts.real_inputs:
        return Verdict(False, "inputs are whole numbers (tokens, places), which cannot be made up by their gradient")
    return Verdict(True, "inputs are made up from the model itself where a step needs some")


def percent(share: float) -> str:
    """`42%`; `less than 1%` for a little, `0%` for nothing."""
    return "less than 1%" if 0.0 < share < 0.005 else f"{share:.0%}"


def few_bits(facts: Facts, target: Target) -> int:
    """4 where there are data to correct the rounding with and the target holds most weights in 4 bits, else 8."""
    grouped = facts.share("linear").parameters + facts.share("embedding").parameters
    return 4 if facts.observed and grouped >= 0.5 and 4 in target.weights.group_bits else 8


_VERDICTS: Mapping[Method, Callable[[Facts, Target], Verdict]] = {
    "fold": _fold,
    "prune-depth": _prune_depth,
    "prune": _prune,
    "low-rank": _low_rank,
    "tables": _tables,
    "sparsify-2:4": _sparsify,
    "distil": _distil,
    "int8": _int8,
    "dynamic-int8": _dynamic,
    "mixed-precision": _mixed,
    "weight-only": _weight_only,
    "float16": _float16,
    "made-up-inputs": _made_up,
}
METHODS: tuple[Method, ...] = tuple(_VERDICTS)
