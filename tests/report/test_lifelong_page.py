"""The page of a lifelong folder, and the arithmetic of its record."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise

import pytest
from report_samples import HOSTILE
from test_html import Page

from lissom.measure.lifelong import Attempt, Backbone, LifelongRecord, Row, TaskProof, TaskRecord
from lissom.measure.records import MetricValue
from lissom.report import lifelong
from lissom.report.units import MISSING


def metric(value: float, split: str = "validation") -> MetricValue:
    return MetricValue(name="accuracy", value=value, samples=100, split=split)  # type: ignore[arg-type]


def task(name: str, index: int, value: float, **changed: object) -> TaskRecord:
    given = {
        "name": name, "index": index, "method": "pack", "settings": {}, "family": "masks", "seed": 0, "width": 1.0,
        "classes": 10, "notes": (), "metric": metric(value), "goal": None, "goal_met": None,
        "attempts": (Attempt(width=1.0, share=0.1, trained=0.9, kept=value),), "weights": 8000, "own": 800,
        "used": 800 * index, "free": 8000 - 800 * index, "mask_bytes": 500, "value_bytes": 800, "private_bytes": 250,
        "probes": 16, "weights_sha256": "0" * 64, "outputs_sha256": "0" * 64, "answered_by": {}, "seconds": 3.0,
        "created": "2026-01-01T00:00:00+00:00", "files": {},
    }  # fmt: skip
    return TaskRecord(**{**given, **changed})  # type: ignore[arg-type]


def record(*tasks: TaskRecord, rows: tuple[Row, ...] = ()) -> LifelongRecord:
    backbone = Backbone(lissom="0", model="0", original="0", head="fc", bits=8, seed=0, grows={})
    return LifelongRecord(backbone=backbone, tasks=tasks, rows=rows, bytes_on_disk=10_000, alone_bytes=30_000)


def row(after: int, split: str = "test", **values: float) -> Row:
    metrics = {name: metric(value, split) for name, value in values.items()}
    return Row(after=after, split=split, metrics=metrics, identified=0.5, identified_together=0.75)  # type: ignore[arg-type]


MASKS = record(task("a", 1, 0.9), task("b", 2, 0.8), rows=(row(1, a=0.91), row(2, b=0.81)))
DRIFT = record(
    task("a", 1, 0.9, family="drifting", method="ewc"),
    task("b", 2, 0.8, family="drifting", method="ewc", goal_met=False, notes=("The goal was missed.",)),
    rows=(row(1, a=0.91), row(2, a=0.5, b=0.81)),
)
GROWN = record(
    task(HOSTILE, 1, 0.9, attempts=(Attempt(width=1.0, share=0.1, trained=None, kept=0.1),) * 2, notes=(HOSTILE,))
)
PAGES = {"masks": MASKS, "drift": DRIFT, "hostile": GROWN, "none": record()}


def test_bits_are_those_on_disk() -> None:
    assert (MASKS.tasks[0].mask_bits, MASKS.tasks[0].added_bits) == (0.5, 0.75)
    assert MASKS.free == 0.8
    assert record().free == 1.0


def test_with_masks_the_past_is_known_and_with_drift_it_is_not() -> None:
    assert MASKS.matrix("test") == {"a": {"a": 0.91}, "b": {"a": 0.91, "b": 0.81}}
    assert MASKS.matrix("validation") == {"a": {"a": 0.9}, "b": {"a": 0.9, "b": 0.8}}
    assert DRIFT.matrix("validation") == {"a": {"a": 0.9}, "b": {"a": None, "b": 0.8}}
    assert DRIFT.matrix("test")["b"] == {"a": 0.5, "b": 0.81}
    assert MASKS.backward_transfer("test") == 0.0
    assert DRIFT.backward_transfer("test") == pytest.approx(-0.41)
    assert DRIFT.backward_transfer("validation") is None
    assert record(task("a", 1, 0.9)).backward_transfer("validation") is None


def test_the_summary_in_words() -> None:
    assert lifelong.forgetting_text(MASKS, "test") == (
        "Backward transfer on the test split: exactly 0. The task was inferred rightly for 50.0% of single examples "
        "and for 75.0% of batches, among 1 task."
    )
    assert "-41.00 points" in lifelong.forgetting_text(DRIFT, "test")
    assert "not known" in lifelong.forgetting_text(DRIFT, "validation")


def test_figures_hold_the_numbers() -> None:
    masks, own = json.loads(str(lifelong.bits_figure(MASKS.tasks).to_json()))["data"]
    assert (masks["x"], own["x"]) == ([0.5, 0.5], [0.25, 0.25])
    (heat,) = json.loads(str(lifelong.matrix_figure(DRIFT, "test").to_json()))["data"]
    assert heat["z"] == [[0.0, None], [pytest.approx(0.41), 0.0]]
    assert heat["text"] == [["91.00%", ""], ["50.00%", "81.00%"]]
    table = lifelong.matrix_table(DRIFT, "test")
    assert table.rows == (("a", "91.00%", ""), ("b", "50.00%", "81.00%"))
    assert lifelong.tasks_table(DRIFT).flagged == {1}
    assert lifelong.attempts_table(GROWN).rows[0][1:] == ("1", "10.00%", MISSING, "10.00%", MISSING)


def test_a_proof_that_fails_is_flagged() -> None:
    def proof(weights: bool, outputs: bool, difference: float, same: bool) -> TaskProof:
        return TaskProof(name="a", weights_same=weights, outputs_same=outputs, difference=difference, same_machine=same)

    proofs = [
        proof(True, True, 0, True), proof(False, True, 0, True), proof(True, False, 1e-6, True),
        proof(True, False, 1e-6, False), proof(True, False, 1e-2, False),
    ]  # fmt: skip
    assert [one.held for one in proofs] == [True, False, False, True, False]
    table = lifelong.proof_table(proofs)
    assert table.flagged == {1, 2, 4}
    assert table.rows[3][1:] == ("the same bits", "changed", "1.0e-06", "another", "holds")


@pytest.mark.parametrize("name", PAGES)
def test_well_formed_labelled_and_offline(name: str) -> None:
    made = Page(lifelong.render(PAGES[name], HOSTILE if name == "hostile" else name))
    assert made.stray == made.open == []
    ids = [attributes["id"] for _, attributes in made.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    levels = [level for level, _ in made.headings]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert {a["aria-labelledby"] for a in made.all("section")} <= set(ids)
    assert all("onmouseover" not in attributes for _, attributes in made.tags)
    figures = [a for a in made.all("div") if "data-figure" in a]
    assert all(a.get("role") == "img" and a.get("aria-label") for a in figures)
    for tag, attributes in made.tags:
        for key in ("src", "href", "action"):
            value = attributes.get(key)
            assert value is None or value.startswith("#") or value == "data:,", (tag, value)
    for attributes, script in made.scripts:
        if attributes.get("type") == "application/json":
            assert "<" not in script


def test_it_imports_no_torch() -> None:
    code = "import sys, lissom.report.lifelong; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
