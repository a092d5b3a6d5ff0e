"""S1: the scenario mobile, pruned and quantized for ExecuTorch: ResNet-56 at least 12 times smaller, and ResNet-20.

`lissom.compress(scenario="mobile")` as a user gives it, without a recipe. Sizes are those of the exported programs.
Control: int8 alone.
"""

from __future__ import annotations

from benchmarks.context import Context, remembered
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from benchmarks.scenario import Networks, as_run, drop_points, in_scenario, int8_alone, networks, place_of

TITLE = "Scenario mobile: ResNet-56 and ResNet-20 pruned, taught and quantized for ExecuTorch, CIFAR-10"
NEEDS = ("data", "weights")
SCENARIO, TARGET = "mobile", "executorch"
SMALLER, DROP_PT = 12.0, 1.0


def goal(network: str) -> Goal:
    return Goal(
        text=(
            f"the exported {network} at least {SMALLER:g} times smaller than in float, accuracy on the test split at "
            f"most {DROP_PT:g} point lower, by the scenario alone"
        ),
        wishes=(
            Wish(figure=f"{network} size", at_least=SMALLER),
            Wish(figure=f"{network} drop", at_most=DROP_PT),
        ),
    )


def run(context: Context) -> Outcome:
    return compared(context, networks(context))


def compared(context: Context, networks: Networks) -> Outcome:
    value: dict[str, Figure] = {}
    control: list[Beside] = []
    runs: list[Run] = []
    for name, (model, task) in networks.items():
        context.say(f"{name}, {SCENARIO}")
        found = remembered(
            place_of(context, name, SCENARIO),
            lambda place, model=model, task=task: in_scenario(model, task, SCENARIO, TARGET, place),
        )
        context.say(f"{name}, int8 alone")
        alone = remembered(
            place_of(context, name, "int8"),
            lambda place, model=model, task=task: int8_alone(model, task, TARGET, place),
        )
        value |= {
            f"{name} size": Figure(value=round(found["ratios"]["size"], 3), unit="x"),
            f"{name} drop": Figure(value=drop_points(found), unit="points"),
            f"{name} parameters": Figure(value=round(found["ratios"]["parameters"], 3), unit="x"),
            f"{name} MACs": Figure(value=round(found["ratios"]["macs"], 3), unit="x"),
        }
        size, drop = round(alone["ratios"]["size"], 3), drop_points(alone)
        control += [
            Beside(what=f"{name}, int8 alone, times smaller", value=size, unit="x", source="the same run"),
            Beside(what=f"{name}, int8 alone, drop", value=drop, unit="points", source="the same run"),
        ]
        runs += [as_run(f"{name}, {SCENARIO}", found), as_run(f"{name}, int8 alone", alone)]
    return Outcome(
        goal=goal(next(iter(networks))),
        value=value,
        reference=(),
        control=tuple(control),
        seeds=(0,),
        runs=tuple(runs),
    )
