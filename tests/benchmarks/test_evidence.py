"""The table of `lissom recommend` is what the results say, and nothing else."""

from __future__ import annotations

import json

import pytest

from benchmarks import evidence, results
from lissom.advise import load_evidence
from lissom.advise.evidence import to_json

FOUND = {result.id: result for result in results.read_all(results.FOLDER)}


def test_the_shipped_table_is_what_the_results_give():
    assert evidence.PLACE.read_text(encoding="utf-8") == to_json(evidence.rows(list(FOUND.values())))
    assert len(load_evidence()) > 15


@pytest.mark.parametrize("row", load_evidence(), ids=lambda row: f"{row.experiment}-{row.setting}")
def test_every_row_has_its_source(row):
    result = FOUND[row.experiment]
    assert (row.date, row.machine.split(",")[0]) == (result.date, result.environment.cpu)
    assert row.ratios or row.loss is not None


def test_figures_are_those_of_the_raw_files():
    """A few, read from the files by hand: picking the wrong name would show."""
    raw = json.loads((results.FOLDER / "S3.json").read_text(encoding="utf-8"))
    size, drop = raw["value"]["size"]["value"], raw["value"]["drop"]["value"]
    chosen = [row for row in load_evidence() if row.experiment == "S3" and row.ratios.get("size") == size]
    assert [row.loss for row in chosen] == [drop]

    raw = json.loads((results.FOLDER / "Q2.json").read_text(encoding="utf-8"))
    sizes = {run["name"]: run["figures"]["bytes"] for run in raw["runs"]}
    (row,) = [r for r in load_evidence() if (r.experiment, r.model, r.target) == ("Q2", "ResNet-56", "openvino")]
    assert row.ratios["size"] == pytest.approx(
        sizes["resnet56 openvino/float batch 1"] / sizes["resnet56 openvino/lissom batch 1"], abs=1e-4
    )
    assert row.loss == pytest.approx(raw["value"]["resnet56 openvino drop"]["value"])


def test_a_result_without_a_figure_that_a_row_names_is_an_error():
    result = FOUND["L3"]
    less = result.model_copy(update={"value": {k: v for k, v in result.value.items() if k != "RMSE rise"}})
    with pytest.raises(LookupError, match=r"L3\.json lacks a figure .*RMSE rise"):
        evidence.rows([less])


def test_an_experiment_without_a_result_has_no_rows():
    assert evidence.rows([]) == ()
