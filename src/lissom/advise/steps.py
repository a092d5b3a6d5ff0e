"""Steps of a recipe to start from: how much, in which order, and a comment that says why."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from lissom.advise.facts import Facts
from lissom.advise.methods import PATTERN, few_bits
from lissom.advise.scenarios import ROUNDINGS, Method, Scenario
from lissom.settings import Setting
from lissom.target import Target

BETWEEN, FINAL = 3, 10
"""Epochs after each cut, and after the last one."""
VIEWS, SMALL = 5, 512
"""Passes over the data that the teacher answers, in all trainings of a recipe together, where its answer to one example
takes at most so many bytes: half a gigabyte for 200,000 examples."""
MILD = 1.25
"""Times fewer multiply-accumulates or parameters where nothing can be trained afterwards."""
SOME = 0.15
"""Share of the residual blocks that is taken out."""
MAX_DROP = 0.01


class Step(Setting):
    """One step of a recipe file, as data, with the methods that it carries out."""

    methods: tuple[Method, ...]
    data: dict[str, Any]
    comment: str


def steps_of(scenario: Scenario, chosen: Collection[Method], facts: Facts, target: Target) -> tuple[Step, ...]:
    """The recipe that carries out the `chosen` methods, in order: structure, training, folding, rounding."""
    trains = "distil" in chosen
    found: list[Step] = []
    if "tables" in chosen:
        found.append(_tables(scenario, trains=trains))
    if "low-rank" in chosen:
        ratio = scenario.parameters_ratio if trains else MILD
        found.append(
            Step(
                methods=("low-rank",),
                data={"Factorize": {"parameters_ratio": ratio}},
                comment=f"{ratio:g} times fewer parameters by thinner layers, shared out by what each layer loses",
            )
        )
    if "prune-depth" in chosen:
        found.append(
            Step(
                methods=("prune-depth",),
                data={"PruneDepth": {"ratio": SOME}},
                comment=f"{SOME:.0%} of the residual blocks, the least important first",
            )
        )
    if "prune" in chosen:
        found.append(_pruning(scenario, facts, trains=trains))
    if "sparsify-2:4" in chosen:
        found.append(
            Step(
                methods=("sparsify-2:4",),
                data={"Sparsify": {"pattern": PATTERN}},
                comment="two of every four weights to zero, in an order of channels that keeps more",
            )
        )
    # Gradual pruning trains between its cuts and at the end.
    if trains and not any("distil" in step.methods for step in found):
        found.append(
            Step(methods=("distil",), data={"Finetune": _training(facts, FINAL)}, comment=_why_training(facts))
        )
    found.append(Step(methods=("fold",), data={"Fold": {}}, comment="normalizations into the layers before them"))
    rounding: Method | None = next((method for method in ROUNDINGS if method in chosen), None)
    if rounding:
        found.append(_rounding(rounding, facts, target))
    return tuple(found)


def lowered(step: Step, most: float) -> Step | None:
    """The step with the nearest amount that a model can reach, which is `most` times fewer; None if that is no less."""
    ((name, settings),) = step.data.items()
    inner: dict[str, Any] = settings["prune"] if name == "Progressive" else settings
    wish = next((one for one in ("parameters_ratio", "macs_ratio") if one in inner), None)
    # Rounded down: what is offered has to be within reach.
    amount = math.floor(most * 100) / 100
    if wish is None or amount >= inner[wish]:
        return None
    changed = {**inner, wish: max(amount, 1.0)}
    wanted, reached = f"{inner[wish]:g} times", f"{changed[wish]:g} times"
    return step.model_copy(
        update={
            "data": {name: {**settings, "prune": changed} if name == "Progressive" else changed},
            "comment": f"{step.comment.replace(wanted, reached, 1)}; {wanted} is out of reach for this model",
        }
    )


def _training(facts: Facts, epochs: int) -> dict[str, Any]:
    own: dict[str, Any] = {"epochs": epochs, "optimizer": "adamw" if facts.attentive else "sgd"}
    if not facts.classes:
        return own
    kept = {"views": VIEWS} if facts.answer_bytes <= SMALL else {}
    return {**own, "teacher": "original", **kept}


def _why_training(facts: Facts) -> str:
    return "training, taught by the original" if facts.classes else "training on the task's own targets"


def _pruning(scenario: Scenario, facts: Facts, *, trains: bool) -> Step:
    amount = (
        {"parameters_ratio": scenario.parameters_ratio}
        if scenario.parameters_ratio > 1.0
        else {"macs_ratio": scenario.macs_ratio}
    )
    ((wish, times),) = amount.items()
    what = "parameters" if wish == "parameters_ratio" else "multiply-accumulates"
    if not trains:
        return Step(
            methods=("prune",),
            data={"Prune": {wish: MILD}},
            comment=f"{MILD:g} times fewer {what} by cutting channels: little, since nothing can be trained afterwards",
        )
    gradual = {
        "prune": {wish: times},
        "between": _training(facts, BETWEEN),
        "final": _training(facts, FINAL),
    }
    return Step(
        methods=("prune", "distil"),
        data={"Progressive": gradual},
        comment=(
            f"{times:g} times fewer {what}, in cuts of at most 30 % with training after each: {_why_training(facts)}"
        ),
    )


def _tables(scenario: Scenario, *, trains: bool) -> Step:
    ratio = scenario.parameters_ratio if trains else MILD
    return Step(
        methods=("tables",),
        data={"Factorize": {"parameters_ratio": ratio}},
        comment=f"{ratio:g} times fewer parameters: tables as products of thinner ones, and layers where that pays",
    )


def _rounding(method: Method, facts: Facts, target: Target) -> Step:
    data: dict[str, Any]
    match method:
        case "int8":
            made_up = "" if facts.observed else ", which are made up here"
            data, comment = {}, f"int8 weights and activations, ranges from the calibration data{made_up}"
        case "dynamic-int8":
            data, comment = {"mode": "dynamic"}, "int8 linear layers, ranges at run time"
        case "mixed-precision":
            data = {"precision": "auto", "max_drop": MAX_DROP}
            comment = f"the fewest bits of each layer that keep the metric within {MAX_DROP:g} on validation data"
        case "weight-only":
            bits = few_bits(facts, target)
            data, comment = {"mode": "weights", "weight_bits": bits}, f"weights in {bits} bits, activations in float"
        case _:
            data, comment = {"precision": 16}, "weights stored as float16"
    return Step(methods=(method,), data={"Quantize": data}, comment=comment)
