"""The heat map of layers and methods on the page of a search."""

from __future__ import annotations

import report_samples
from report_samples import HOSTILE
from test_searches import SEARCH

from lissom.measure.search_records import LayerEffect, LayerSensitivity
from lissom.report import layereffects
from lissom.report.html import render

FOUND = LayerSensitivity(
    examples=256,
    effects=(
        LayerEffect(layer="conv1", method="int8", drop=-0.01, loss=0.02),
        LayerEffect(layer="conv1", method="prune", drop=0.4, loss=1.5),
        LayerEffect(layer=HOSTILE, method="prune", drop=0.1, loss=None),
    ),
    left=1,
)


def test_rows_are_layers_columns_methods_and_what_is_missing_is_empty():
    (heat,) = layereffects.heat(FOUND).to_plotly_json()["data"]
    assert list(heat["x"]) == ["prune: half of the outputs zero", "int8: 8-bit weights"]
    assert [list(row) for row in heat["z"]] == [[0.4, -0.01], [0.1, None]]
    assert [list(row) for row in heat["text"]] == [["0.400", "-0.0100"], ["0.100", ""]]
    assert (heat["zmin"], heat["zmax"]) == (0.0, 0.4)
    assert "loss +1.5" in heat["customdata"][0][0]


def test_words_name_the_worst_cell_and_the_table_has_all():
    assert layereffects.text(FOUND) == (
        "One layer changed at a time, on 256 validation examples, without any recovery. Most is lost by prune in "
        "conv1: 0.400. For 1 cell there was no time."
    )
    assert [row[-1] for row in layereffects.table(FOUND).rows] == ["+0.02", "+1.5", ""]


def test_the_page_shows_it_escaped_and_leaves_it_out_where_nothing_was_measured():
    run = report_samples.resnet20()
    page = render([run.model_copy(update={"search": SEARCH.model_copy(update={"sensitivity": FOUND})})])
    assert 'id="run-1-layers-methods-data"' in page
    assert HOSTILE not in page
    empty = FOUND.model_copy(update={"effects": ()})
    page = render([run.model_copy(update={"search": SEARCH.model_copy(update={"sensitivity": empty})})])
    assert 'id="run-1-layers-methods-data"' not in page
    assert 'id="run-1-layers-methods-data"' not in render([run.model_copy(update={"search": SEARCH})])
