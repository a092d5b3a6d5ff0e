"""What a result file holds, how it is judged, and how it is written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pydantic

from lissom.measure.records import Environment, Interval
from lissom.settings import Setting

FOLDER = Path(__file__).parent / "results"


class Wish(Setting):
    """One thing that is wanted of a figure; exactly one bound."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def met_by(self, value: float) -> bool:
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)


class Goal(Setting):
    """What is wanted, in words and as bounds on figures. No bounds: the result is a record, met by being there."""

    text: str
    wishes: tuple[Wish, ...] = ()


class Figure(Setting):
    """A number that was reached; `low` and `high` are the 95 % bootstrap interval where there is one."""

    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    note: str = ""

    @classmethod
    def of(cls, interval: Interval, unit: str = "x", note: str = "") -> Figure:
        return cls(value=interval.median, low=interval.low, high=interval.high, unit=unit, note=note)


class Beside(Setting):
    """A figure that stands beside ours: of another tool (reference) or without the method (control)."""

    what: str
    value: float
    unit: str = ""
    source: str
    """Where it comes from: a publication, or how it was measured here."""


class Run(Setting):
    """One contender, as measured. `samples_ms` are block medians, in the order they were timed."""

    name: str
    figures: dict[str, float | str] = pydantic.Field(default_factory=dict)
    samples_ms: tuple[float, ...] = ()


class Outcome(Setting):
    """What an experiment hands back."""

    goal: Goal
    value: dict[str, Figure]
    reference: tuple[Beside, ...]
    control: tuple[Beside, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]


class Result(Setting):
    """`results/ID.json`."""

    id: str
    title: str
    date: str
    goal: Goal
    value: dict[str, Figure]
    met: bool
    reference: tuple[Beside, ...]
    control: tuple[Beside, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    command: str
    environment: Environment


def met(goal: Goal, value: Mapping[str, Figure]) -> bool:
    """Whether every wish has its figure and the figure keeps its bound."""
    return all(wish.figure in value and wish.met_by(value[wish.figure].value) for wish in goal.wishes)


def write(result: Result, folder: Path) -> Path:
    """Replace `folder/ID.json` in one step: it is never seen half-written."""
    path = folder / f"{result.id}.json"
    text = json.dumps(result.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    write_text(path, text)
    return path


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(scratch).chmod(0o644)
    Path(scratch).replace(path)


def read(path: Path) -> Result:
    return Result.model_validate_json(path.read_text(encoding="utf-8"))


def read_all(folder: Path) -> list[Result]:
    """Every result, by id."""
    return sorted(map(read, paths(folder)), key=lambda result: result.id)


def paths(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("*.json"))
