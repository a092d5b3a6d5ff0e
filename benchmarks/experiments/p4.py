"""P4: ResNet-56 on CIFAR-10 with 2.1 and 2.55 times fewer MACs, after at most 15 epochs, beside an unpruned control."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lissom
from benchmarks.cifar import trained
from benchmarks.context import Context
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.recipe import Recipe

TITLE = "Structured pruning of ResNet-56 on CIFAR-10, 15 epochs on a CPU"
NEEDS = ("data", "weights")
EPOCHS = 15
RATIOS = {"2.1x": (2.1, 93.0), "2.55x": (2.55, 92.7)}
TRAINING = lissom.Finetune(epochs=EPOCHS, learning_rate=0.05)
RIGHT_AFTER = 85.0
FASTER = 1.6

PUBLISHED = (
    Beside(what="2.1x, 100 + 100 epochs, best test epoch", value=93.77, unit="%", source="Torch-Pruning's table"),
    Beside(what="2.1x, 100 epochs without sparse training", value=93.46, unit="%", source="Torch-Pruning's table"),
    Beside(what="2.1x, L1, right after surgery", value=28.08, unit="%", source="Torch-Pruning's log"),
    Beside(what="2.55x, 100 + 100 epochs, best test epoch", value=93.64, unit="%", source="Torch-Pruning's table"),
)


def goal() -> Goal:
    return Goal(
        text=(
            f"after {EPOCHS} epochs, last epoch on the test split: 93.0 % at 2.1 times fewer MACs, 92.7 % at 2.55; "
            f"right after surgery with 512 unlabelled images {RIGHT_AFTER} % at 2.1; at batch 64 on the best runtime "
            f"{FASTER} times faster at 2.1"
        ),
        wishes=(
            *(Wish(figure=f"{name} accuracy", at_least=least) for name, (_, least) in RATIOS.items()),
            Wish(figure="2.1x right after surgery", at_least=RIGHT_AFTER),
            Wish(figure="2.1x speed at batch 64", at_least=FASTER),
        ),
    )


def run(context: Context) -> Outcome:
    model, task = trained(context, 56)
    value: dict[str, Figure] = {}
    runs: list[Run] = []

    def carried_out(name: str, steps: list[Any]) -> dict[str, Any]:
        context.say(name)
        out = context.kept / name.replace(" ", "-")
        lissom.compress(model, task, recipe=Recipe(steps), target="openvino", out=out, batch_size=64)
        found = json.loads((Path(out) / "result.json").read_text(encoding="utf-8"))
        runs.append(
            Run(
                name=name,
                figures={
                    "accuracy %": round(100 * found["after"]["metric"]["value"], 2),
                    "MACs": found["after"]["macs"],
                    "parameters": found["after"]["parameters"],
                    "original ms": round(found["before"]["latency_ms"]["median"], 3),
                    "seconds of the steps": round(sum(step["seconds"] for step in found["steps"]), 1),
                },
                samples_ms=tuple(found["after"]["latency_ms"]["samples"]),
            )
        )
        return found

    for name, (ratio, _) in RATIOS.items():
        pruned = lissom.Prune(macs_ratio=ratio)
        bare = carried_out(f"{name} right after surgery", [pruned])
        value[f"{name} right after surgery"] = Figure(value=_percent(bare), unit="%")
        tuned = carried_out(f"{name} fine-tuned", [pruned, TRAINING])
        value[f"{name} accuracy"] = Figure(value=_percent(tuned), unit="%")
        value[f"{name} MACs"] = Figure(value=round(tuned["ratios"]["macs"], 3), unit="x")
        ratios = tuned["ratios"]
        value[f"{name} speed at batch 64"] = Figure(
            value=ratios["latency"],
            low=ratios["latency_low"],
            high=ratios["latency_high"],
            unit="x",
            note="OpenVINO, float32",
        )
    plain = carried_out("control, not pruned", [TRAINING])
    return Outcome(
        goal=goal(),
        value=value,
        reference=PUBLISHED,
        control=(
            Beside(
                what="the original",
                value=round(100 * plain["before"]["metric"]["value"], 2),
                unit="%",
                source="the same run",
            ),
            Beside(what="not pruned, the same epochs", value=_percent(plain), unit="%", source="the same run"),
        ),
        seeds=(0,),
        runs=tuple(runs),
    )


def _percent(found: dict[str, Any]) -> float:
    return round(100 * found["after"]["metric"]["value"], 2)
