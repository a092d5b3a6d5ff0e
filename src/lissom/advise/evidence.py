"""What our own experiments measured, as data.

`evidence.json` is made from their results by `python -m benchmarks report`. A figure holds for the model, the data and
the machine that it was measured on. Nothing here is added up or extrapolated.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from importlib import resources
from typing import Literal

from lissom.advise.facts import ModelKind
from lissom.advise.scenarios import Method
from lissom.settings import Setting

FILE = "evidence.json"
Cost = Literal["size", "parameters", "macs", "latency"]


class Evidence(Setting):
    """One contender of one experiment. Ratios are before / after; `loss` says how much worse the metric got."""

    experiment: str
    methods: tuple[Method, ...]
    """All that was done, beyond folding."""
    model: str
    kind: ModelKind
    data: str
    setting: str
    target: str | None
    ratios: dict[Cost, float]
    loss: float | None
    """None: not measured."""
    unit: Literal["points", "RMSE"] = "points"
    note: str = ""
    date: str
    machine: str


def load_evidence() -> tuple[Evidence, ...]:
    """All rows, in the order of the experiments."""
    text = resources.files("lissom.advise").joinpath(FILE).read_text(encoding="utf-8")
    return tuple(Evidence.model_validate(row) for row in json.loads(text))


def to_json(rows: Collection[Evidence]) -> str:
    return json.dumps([row.model_dump(mode="json") for row in rows], indent=1, ensure_ascii=False) + "\n"


def of_method(rows: Collection[Evidence], method: Method, kind: ModelKind, target: str) -> tuple[Evidence, ...]:
    """Rows of that method alone, or with training alone; the nearest first."""
    return _nearest([row for row in rows if set(row.methods) in ({method}, {method, "distil"})], kind, target)


def of_methods(
    rows: Collection[Evidence], methods: Collection[Method], kind: ModelKind, target: str
) -> tuple[Evidence, ...]:
    """Rows of exactly these methods together; the nearest first."""
    return _nearest([row for row in rows if set(row.methods) == set(methods)], kind, target)


def _nearest(rows: Collection[Evidence], kind: ModelKind, target: str) -> tuple[Evidence, ...]:
    """Of the same kind of model first, then those whose loss is known, then those on the same target."""
    return tuple(sorted(rows, key=lambda row: (row.kind != kind, row.loss is None, row.target not in (target, None))))
