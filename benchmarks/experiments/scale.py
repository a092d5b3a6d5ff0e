"""SCALE: candidates of a search per hour, two processes on one storage over one process, and whether the fronts agree.

Each run is `lissom compress --search random` as a user gives it, on the digits of the example, for a goal out of reach,
so that every run makes the same candidates: the first forty of an order that the seed decides. Costs of the goal are
MACs and bytes, which do not depend on the load. The hour is that between the beginning of the first candidate and the
end of the last one: start, export and final measurement are no candidates. One and two processes take turns.
Control: one process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.context import Context, remembered
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish

TITLE = "Two processes search together: candidates per hour over one process, digits"
NEEDS = ()
PROJECT = Path(__file__).parents[2] / "examples" / "digits.py"
SEEDS = (0, 1, 2)
FASTER = 1.7
WISHES = ("--drop", "90%", "--macs", "50x")


def goal() -> Goal:
    return Goal(
        text=f"two processes on one storage make at least {FASTER} times the candidates per hour of one, and the same "
        "front",
        wishes=(
            Wish(figure="candidates per hour, two over one", at_least=FASTER),
            Wish(figure="fronts that differ", at_most=0.0),
        ),
    )


def run(context: Context) -> Outcome:
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for seed in SEEDS:
        for count in (1, 2) if seed % 2 == 0 else (2, 1):
            context.say(f"seed {seed}, {count} process(es)")
            found.setdefault(seed, {})[count] = remembered(
                context.kept / f"seed-{seed}-processes-{count}",
                lambda place, seed=seed, count=count: searched(place, PROJECT, count, seed),
            )
    return outcome(found)


def searched(place: Path, project: Path, count: int, seed: int, more: Sequence[str] = ()) -> dict[str, Any]:
    """What `count` processes find that begin together, and how long all candidates took. Killed, it goes on."""
    place.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "lissom", "compress", str(project), "--target", "onnxruntime", "--search", "random",
        *WISHES, "--threads", "1", "--seed", str(seed), "--storage", f"sqlite:///{place / 'search.db'}", *more,
    ]  # fmt: skip
    begun = [
        subprocess.Popen([*command, "--out", str(place / f"run-{one}")], stdout=subprocess.DEVNULL)
        for one in range(count)
    ]
    codes = [process.wait() for process in begun]
    if any(code != 1 for code in codes):
        raise RuntimeError(f"a search ended with {codes}, not 1 for a goal that is out of reach")
    record = json.loads((place / "run-0" / "result.json").read_text(encoding="utf-8"))["search"]
    return told(record["trials"])


def told(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Candidates, the seconds from the first to the last, and the front without what a clock decides."""
    seconds = max(one["started"] + one["seconds"] for one in trials) - min(one["started"] for one in trials)
    ahead = sorted((one["recipe"], one["metric"], one["macs"], one["size_bytes"]) for one in trials if one["on_front"])
    return {"candidates": len(trials), "seconds": round(seconds, 1), "front": ahead}


def outcome(found: Mapping[int, Mapping[int, Mapping[str, Any]]]) -> Outcome:
    """Of seed -> processes -> what they found."""

    def pace(one: Mapping[str, Any]) -> float:
        return 3600.0 * one["candidates"] / one["seconds"]

    ratios = [pace(by[2]) / pace(by[1]) for by in found.values()]
    differ = sum(by[1]["front"] != by[2]["front"] for by in found.values())
    runs = tuple(
        Run(
            name=f"seed {seed}, {count} {'process' if count == 1 else 'processes'}",
            figures={
                "candidates": float(one["candidates"]),
                "seconds": one["seconds"],
                "candidates per hour": round(pace(one), 1),
                "on the front": float(len(one["front"])),
            },
        )
        for seed, by in found.items()
        for count, one in sorted(by.items())
    )
    alone = statistics.median(pace(by[1]) for by in found.values())
    return Outcome(
        goal=goal(),
        value={
            "candidates per hour, two over one": Figure(
                value=round(statistics.median(ratios), 3), unit="x", low=round(min(ratios), 3),
                high=round(max(ratios), 3), note="median, least and most over the seeds",
            ),
            "fronts that differ": Figure(value=float(differ)),
        },
        reference=(),
        control=(Beside(what="one process, candidates per hour", value=round(alone, 1), source="the same run"),),
        seeds=tuple(found),
        runs=runs,
    )  # fmt: skip
