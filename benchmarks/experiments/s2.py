"""S2: the scenario realtime, blocks and channels cut, taught, int8: ResNet-56 at least 6 times faster, and ResNet-20.

`lissom.compress(scenario="realtime")` as a user gives it, without a recipe, for OpenVINO. The original runs in float on
OpenVINO and on ONNX Runtime, and the faster of the two is what counts; all files are timed in one interleaved run, at
batch `BATCH`. Control: int8 alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.context import Context
from benchmarks.protocol import Contender, faster, race, retarget
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from benchmarks.scenario import Networks, as_run, drop_points, in_scenario, int8_alone, networks, place_of
from lissom.export.base import Artifact

TITLE = "Scenario realtime: ResNet-56 and ResNet-20 pruned, taught and quantized for OpenVINO, CIFAR-10"
NEEDS = ("data", "weights")
SCENARIO, TARGET, OTHER = "realtime", "openvino", "onnxruntime"
FASTER, DROP_PT, BATCH = 6.0, 0.5, 64


def goal(network: str) -> Goal:
    return Goal(
        text=(
            f"{network} at batch {BATCH} at least {FASTER:g} times faster than the faster of OpenVINO and ONNX Runtime "
            f"in float, accuracy on the test split at most {DROP_PT:g} points lower, by the scenario alone"
        ),
        wishes=(
            Wish(figure=f"{network} speed", at_least=FASTER),
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
        # The files are needed for the race: the run folders themselves are continued and read back.
        context.say(f"{name}, {SCENARIO}")
        place, other = place_of(context, name, SCENARIO), place_of(context, name, "int8")
        found = in_scenario(model, task, SCENARIO, TARGET, place)
        alone = int8_alone(model, task, TARGET, other)
        original = _file("original", place)
        racing = [original, retarget(original, OTHER), _file(SCENARIO, place), _file("int8 alone", other)]
        context.say(f"{name}, speed")
        samples = race(racing, task.example, BATCH, rounds=context.rounds, threads=context.threads)
        floats = (f"{TARGET}/original", f"{OTHER}/original")
        best = min(floats, key=lambda one: float(np.median(samples[one])))
        value |= {
            f"{name} speed": faster(samples, best, f"{TARGET}/{SCENARIO}", f"over {best}, batch {BATCH}"),
            f"{name} drop": Figure(value=drop_points(found), unit="points"),
            f"{name} MACs": Figure(value=round(found["ratios"]["macs"], 3), unit="x"),
            f"{name} size": Figure(value=round(found["ratios"]["size"], 3), unit="x"),
        }
        speed = faster(samples, best, f"{TARGET}/int8 alone").value
        control += [
            Beside(what=f"{name}, int8 alone, times faster", value=speed, unit="x", source="the same run"),
            Beside(what=f"{name}, int8 alone, drop", value=drop_points(alone), unit="points", source="the same run"),
        ]
        runs += [as_run(f"{name}, {SCENARIO}", found), as_run(f"{name}, int8 alone", alone)]
        runs += [Run(name=f"{name}, latency of {one}", samples_ms=tuple(times)) for one, times in samples.items()]
    return Outcome(
        goal=goal(next(iter(networks))),
        value=value,
        reference=(),
        control=tuple(control),
        seeds=(0,),
        runs=tuple(runs),
    )


def _file(name: str, place: Path) -> Contender:
    """The original or the compressed file of a run folder."""
    manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
    written = manifest["original" if name == "original" else "artifact"]
    return Contender(name, Artifact.model_validate(written), place)
