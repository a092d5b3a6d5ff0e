"""The search of a supernet in the report: front, control, drawing, words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from markupsafe import escape
from report_samples import HOSTILE, architecture, bare, searched

from lissom.measure.records import RunRecord
from lissom.report import architectures, html


def named(figure: Any) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in json.loads(figure.to_json())["data"]}


def test_the_front_shows_choice_network_and_control_apart() -> None:
    record = architecture()
    traces = named(architectures.front(record))
    assert traces["chosen"]["x"] == [pytest.approx(1 / 0.48)]
    assert traces["chosen"]["y"] == [pytest.approx(89.0)]
    assert (traces["whole network"]["x"], traces["whole network"]["y"]) == ([1.0], [pytest.approx(91.2)])
    assert len(traces["drawn at random (control)"]["x"]) == 5
    line = traces["front"]
    assert line["x"] == sorted(line["x"], reverse=True)
    assert len(line["x"]) == sum(one.on_front for one in record.trials)
    layout = json.loads(architectures.front(record).to_json())["layout"]
    assert layout["shapes"][0]["x0"] == 2.0
    assert layout["xaxis"]["title"]["text"] == "Times faster on the target"


def test_the_words_set_the_choice_against_the_network_and_against_chance() -> None:
    said = architectures.text(architecture())
    assert "12 candidates of 1.0e19 subnets, wish 2.00x." in said
    assert "accuracy 89.00% at 2.08x, the whole network 91.20%" in said
    # 0.30, 0.39 and 0.48 of the cost are within the wish; the last of them is the best
    assert "Of 5 subnets drawn at random, the control, the best within the wish has 83.00% at 2.08x." in said
    assert "no control" in architectures.text(architecture(chance=0))


def test_the_drawing_has_widths_kernels_and_what_is_left_out() -> None:
    record = architecture()
    traces = named(architectures.drawing(record.layers))
    whole, subnet, gone = traces["whole network"], traces["chosen subnet"], traces["left out"]
    assert whole["text"][2] == "64 → 32, 7² → 3²"
    assert whole["text"][1] == "64 → 32"
    assert (subnet["x"][2], subnet["y"][2]) == (32, 2)
    assert gone["y"] == [4, 5]
    rows = architectures.layers(record).rows
    assert rows[4] == ("layer1.1.expand", "conv2d", "64", "left out", "1", "", "")
    assert rows[2][2:] == ("64", "32", "7", "3", "")
    assert "3 are narrower, 1 have a smaller kernel, 2 are left out" in architectures.description(record)


def test_bits_stand_beside_the_bars_and_in_the_table() -> None:
    record = architecture()
    own = [one.model_copy(update={"bits": bits}) for one, bits in zip(record.layers[1:3], (32, 4), strict=True)]
    assert named(architectures.drawing(own))["whole network"]["text"] == [
        "64 → 32<br>float",
        "64 → 32<br>7² → 3², int4",
    ]
    assert architectures.height(own) > architectures.height(record.layers[1:3])
    rows = architectures.layers(record.model_copy(update={"layers": tuple(own)})).rows
    assert [row[-1] for row in rows] == ["float", "int4"]


def test_the_page_has_it_only_where_there_was_a_search_and_escapes_names() -> None:
    assert "Front of the architecture search" not in html.render([bare()])
    run = searched()
    page = html.render([run])
    assert "The chosen subnet beside the whole network" in page
    assert str(escape(architectures.text(architecture()))) in page
    step = run.steps[0]
    assert step.architecture is not None
    bad = step.architecture.layers[0].model_copy(update={"layer": HOSTILE})
    record = step.architecture.model_copy(update={"layers": (bad,), "metric": HOSTILE})
    wrong = run.model_copy(update={"steps": (step.model_copy(update={"architecture": record}),)})
    assert "<script>alert(1)" not in html.render([wrong])


def test_a_record_is_read_back_as_it_was_and_old_ones_have_none() -> None:
    run = searched()
    assert RunRecord.model_validate_json(run.model_dump_json()) == run
    data = run.model_dump(mode="json")
    del data["steps"][0]["architecture"]
    assert RunRecord.model_validate(data).steps[0].architecture is None
