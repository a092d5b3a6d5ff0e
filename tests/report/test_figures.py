"""Figures: the right numbers in the right trace, and names that stay names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from report_samples import bare, hostile, metric, resnet20, slower

from lissom.report import figures
from lissom.report.points import points_table, tradeoff_points, vertical


def spec(figure: Any) -> dict[str, Any]:
    return json.loads(figure.to_json())


def named(figure: Any) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in spec(figure)["data"] if "name" in trace}


def test_tradeoff_places_both_models_and_the_candidates() -> None:
    traces = named(figures.tradeoff([resnet20()]))
    assert (traces["before"]["x"], traces["before"]["y"]) == ([0.92], pytest.approx([91.73]))
    assert (traces["after"]["x"], traces["after"]["y"]) == ([0.35], pytest.approx([91.70]))
    # the chosen candidate is "after"; the one without figures cannot be drawn
    assert traces["candidate"]["x"] == [0.48, 0.29]


def test_marker_area_follows_size() -> None:
    traces = named(figures.tradeoff([resnet20()]))
    before, after = (traces[name]["marker"]["size"][0] for name in ("before", "after"))
    assert (before / after) ** 2 == pytest.approx(1.09 / 0.31)


def test_a_small_change_of_metric_is_not_blown_up() -> None:
    low, high = spec(figures.tradeoff([resnet20(trials=())]))["layout"]["yaxis"]["range"]
    assert high - low >= 2


def test_without_a_shared_metric_the_axis_is_size() -> None:
    other = slower()
    other = other.model_copy(
        update={
            side: getattr(other, side).model_copy(update={"metric": metric(0.7, name="f1")})
            for side in ("before", "after")
        }
    )
    assert vertical([resnet20(), slower()]).metric == "accuracy"
    for runs in ([bare()], [resnet20(), bare()], [resnet20(), other]):
        assert vertical(runs).metric is None
        assert spec(figures.tradeoff(runs))["layout"]["yaxis"]["title"]["text"] == "Size, MB"
    assert named(figures.tradeoff([bare()]))["before"]["y"] == [2.0]


def test_several_runs_each_have_their_colour() -> None:
    traces = named(figures.tradeoff([resnet20(), slower()]))
    first, second = traces["resnet20, after"], traces["vit_tiny, after"]
    assert first["marker"]["color"] != second["marker"]["color"]
    assert traces["vit_tiny, before"]["x"] == [27.0]


def test_points_table_holds_what_is_drawn() -> None:
    run = resnet20()
    table = points_table([run])
    assert len(table.rows) == len(tradeoff_points([run])) == 4
    assert table.rows[1] == ("resnet20, after", "0.350 ms [0.348, 0.352]", "91.70%", "310 kB")


def test_latency_samples_keep_their_rounds() -> None:
    run = resnet20()
    before, after = spec(figures.latency_samples(run))["data"]
    assert before["y"] == list(run.before.latency_ms.samples)
    assert after["x"] == list(range(1, 26))
    shapes = spec(figures.latency_samples(run))["layout"]["shapes"]
    assert {s["y0"] for s in shapes if s["type"] == "line"} == {0.92, 0.35}
    assert (shapes[0]["y0"], shapes[0]["y1"]) == (run.before.latency_ms.low, run.before.latency_ms.high)


def test_layers_are_grouped_by_what_really_ran() -> None:
    run = resnet20()
    traces = [t for t in spec(figures.layer_bars(run))["data"] if t["xaxis"] == "x"]
    assert {t["name"]: len(t["x"]) for t in traces} == {
        "not reported": 1,
        "ran as int8": 20,
        "ran as float32": 1,
    }
    rows = {row: macs for t in traces for row, macs in zip(t["y"], t["x"], strict=True)}
    assert [rows[i] for i in range(22)] == [layer.macs for layer in run.layers]
    marks = [(t["marker"]["color"], t["marker"]["pattern"]["shape"]) for t in traces]
    assert len({colour for colour, _ in marks}) == len({hatch for _, hatch in marks}) == 3
    axis = spec(figures.layer_bars(run))["layout"]["yaxis"]
    assert axis["ticktext"] == [layer.layer for layer in run.layers]


def test_long_layer_names_keep_their_end() -> None:
    run = resnet20()
    long = run.layers[0].model_copy(update={"layer": "encoder.block." * 9 + "attention.query"})
    (text,) = spec(figures.layer_bars(resnet20(layers=(long,))))["layout"]["yaxis"]["ticktext"]
    assert text.endswith("attention.query")
    assert len(text) == 28


def test_names_cannot_become_markup() -> None:
    """Plotly renders tags and links in any text it is given; the records' must reach it as entities."""
    run = hostile()
    for figure in (
        figures.tradeoff([run, resnet20()]),
        figures.latency_samples(run),
        figures.layer_bars(run),
    ):
        texts = [text for text in strings(spec(figure)) if "alert" in text]
        assert all("<script" not in text and "<b " not in text for text in texts), texts
    assert figures.safe("<a href='x'>&lt;") == "&lt;a href='x'&gt;&amp;lt;"
    assert any("&lt;script&gt;" in text for text in strings(spec(figures.layer_bars(run))))


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in strings(item)]


@pytest.mark.parametrize("run", [bare(), slower()])
def test_every_record_can_be_drawn(run: Any) -> None:
    for figure in (figures.tradeoff([run]), figures.latency_samples(run), figures.layer_bars(run)):
        assert spec(figure)["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"
    assert figures.describe_tradeoff([run])
    assert "median" in figures.describe_samples(run)


@pytest.mark.parametrize("ground", ["#ffffff", "#14181f", "#1b212a"])
def test_colours_stand_out_in_both_schemes(ground: str) -> None:
    """WCAG 2.2, 1.4.11: graphics need 3:1."""
    for colour in figures.RUN_COLOURS:
        assert contrast(colour, ground) >= 3, colour


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
