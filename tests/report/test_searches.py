"""A search on the page: the front, every candidate, the time line, and nothing that a recipe's text could run."""

from __future__ import annotations

import report_samples
from report_samples import HOSTILE

from lissom.measure.search_records import SearchRecord, SearchTrial
from lissom.report import othergoals, searches
from lissom.report.html import render


def trial(number: int, **changed: object) -> SearchTrial:
    given: dict[str, object] = {
        "number": number, "by": "knapsack", "recipe": "Fold", "point": {"precision": "float32"}, "metric": 0.9,
        "latency_ms": 2.0, "latency_ratio": 1.5, "latency_low": 1.4, "latency_high": 1.7, "size_bytes": 2000,
        "macs": 10, "parameters": 10, "started": 2.0 * number, "seconds": 1.5, "on_front": False, "chosen": False,
        "failure": "",
    }  # fmt: skip
    return SearchTrial.model_validate({**given, **changed})


NONE = dict.fromkeys(
    ("metric", "latency_ms", "latency_ratio", "latency_low", "latency_high", "size_bytes", "macs", "parameters")
)
SEARCH = SearchRecord(
    searcher="auto", budget_seconds=60.0, workers=1, space={"prune": [1.0, 2.0]}, closed={},
    objectives=("drop", "size"),
    hypervolume=0.05, original_metric=0.91, latency_error=0.08, met=False, binding="size ratio >= 8x",
    explanation=(f"What binds is {HOSTILE}.",),
    trials=(
        trial(0, on_front=True), trial(1, on_front=True, chosen=True, latency_ratio=3.0, recipe=HOSTILE),
        trial(2), trial(3, failure="no kernel for it", by="recovery", **NONE),
    ),
)  # fmt: skip


def test_front_has_error_bars_of_the_interval_and_marks_the_choice():
    figure = searches.front(SEARCH).to_plotly_json()
    named = {trace.get("name"): trace for trace in figure["data"]}
    assert set(named) == {None, "tried", "on the front", "chosen"}
    assert list(named["chosen"]["x"]) == [3.0]
    bars = named["tried"]["error_x"]
    assert (round(bars["array"][0], 6), round(bars["arrayminus"][0], 6)) == (0.2, 0.1)
    assert list(named[None]["x"]) == [1.5, 3.0]


def test_time_line_has_every_candidate_where_it_was():
    bars = searches.timeline(SEARCH).to_plotly_json()["data"]
    assert [(b["name"], list(b["base"]), list(b["x"])) for b in bars] == [
        ("knapsack", [0.0, 2.0, 4.0], [1.5, 1.5, 1.5]),
        ("recovery", [6.0], [1.5]),
    ]


def test_table_flags_what_could_not_be_made():
    table = searches.trials(SEARCH)
    assert [row[0] for row in table.rows] == ["0", "1", "2", "3"]
    assert table.flagged == {3}
    assert table.rows[3][-1] == "no kernel for it"
    assert [row[0] for row in searches.trials(SEARCH, only_front=True).rows] == ["0", "1"]


def test_words_say_how_many_and_how_well_foretold():
    assert searches.text(SEARCH) == (
        "auto: 3 candidates measured in a budget of 60 s. 1 candidate could not be made. "
        "Latency was foretold to 8% on average."
    )


def test_the_page_shows_the_search_and_escapes_what_recipes_say():
    run = report_samples.resnet20().model_copy(update={"search": SEARCH})
    page = render([run])
    assert 'id="run-1-front-data"' in page
    assert 'id="run-1-timeline-data"' in page
    assert "no kernel for it" in page
    assert HOSTILE not in page
    assert 'id="run-1-front-data"' not in render([report_samples.resnet20()])
    assert 'id="run-1-effects-data"' not in page, "no candidate differs in one dimension alone"


WIDE = SEARCH.model_copy(
    update={
        "space": {"precision": ["float32", "int8"], "prune": [1.0, 1.5, 2.0], "epochs": [0.0]},
        "trials": (
            trial(0, point={"precision": "float32", "prune": 1.0}, metric=0.91, latency_ratio=1.0, size_bytes=4000),
            trial(1, point={"precision": "int8", "prune": 1.0}, metric=0.92, latency_ratio=2.0, size_bytes=1000),
            trial(2, point={"precision": "float32", "prune": 2.0}, metric=0.88, latency_ratio=1.8, size_bytes=2000),
            trial(3, point={"precision": "int8", "prune": 2.0}, metric=0.86, latency_ratio=3.0, size_bytes=500),
            trial(4, point={"precision": "int8", "prune": 1.5}, metric=0.87, latency_ratio=2.5, size_bytes=1200),
            trial(5, failure="no kernel for it", **NONE),
        ),
    }
)


def test_other_goals_are_answered_by_looking_at_every_candidate():
    found = othergoals.answers(WIDE)
    assert [(round(one.drop, 6), one.fastest.number, one.smallest.number) for one in found] == [
        (0.0, 1, 1), (0.04, 4, 1), (0.05, 3, 3),
    ]  # fmt: skip
    for one in found:
        allowed = [t for t in WIDE.trials if t.metric is not None and 0.91 - t.metric <= one.drop + 1e-9]
        assert one.fastest.latency_ratio == max(t.latency_ratio for t in allowed)
        assert one.smallest.size_bytes == min(t.size_bytes for t in allowed)
    assert othergoals.sentences(found) == (
        "Without any drop, the fastest is also the smallest: 2.00x as fast, 1.00 kB: candidate 1 (Fold).",
        "With a drop of 0.0400, the fastest is 2.50x as fast, 1.20 kB: candidate 4 (Fold). "
        "The smallest is 1.00 kB, 2.00x as fast: candidate 1 (Fold).",
        "With a drop of 0.0500, the fastest is also the smallest: 3.00x as fast, 500 B: candidate 3 (Fold).",
    )
    assert len(othergoals.table(found).rows) == 3
    assert othergoals.answers(WIDE.model_copy(update={"trials": ()})) == ()


def test_the_heat_map_holds_what_was_tried_by_itself():
    cells = searches.alone(WIDE)
    assert {key: t.number for key, t in cells.items()} == {("precision", 1): 1, ("prune", 2): 2}
    (heat,) = searches.effects(WIDE).to_plotly_json()["data"]
    assert list(heat["y"]) == ["precision", "prune"], "what has one value alone is no dimension"
    assert [[None if z is None else round(z, 6) for z in row] for row in heat["z"]] == [[-0.01, None], [None, 0.03]]
    assert heat["text"][1][1] == "2.0: 1.80x"
    assert [row[:2] for row in searches.effects_table(WIDE).rows] == [("precision", "int8"), ("prune", "2.0")]
    page = render([report_samples.resnet20().model_copy(update={"search": WIDE})])
    assert 'id="run-1-effects-data"' in page
    assert page.count("<li>With a drop of") == 2
