"""What was made up: sentences, curves, pictures, and which steps read it."""

from __future__ import annotations

import json

from report_samples import bare, blind, synthesis

from lissom.measure.synthesis import SynthesisRecord
from lissom.report import html, syntheses


def text(record: SynthesisRecord) -> str:
    (one,) = syntheses.syntheses(bare().model_copy(update={"synthesis": record}))
    return one.text


def test_the_words_say_what_how_and_whether_to_trust_it() -> None:
    for said in (
        "1,920 inputs made up by inversion, for: train.",
        "one class 93% likely",
        "balanced to 0.98",
        "Statistics of 4 batch normalizations were at hand.",
        "the teacher's class likeliest in 98.0%, with an entropy of 0.25",
        "Nothing says that they have collapsed.",
    ):
        assert said in text(synthesis())
    signs = synthesis().signs.model_copy(update={"collapsed": "few classes: balance 0.10", "normalizations": 0})
    wrong = text(synthesis(epochs=0).model_copy(update={"signs": signs}))
    assert "They have collapsed: few classes: balance 0.10. Do not trust" in wrong
    assert "No batch normalization told" in wrong


def test_curves_and_table_hold_every_loss_and_share() -> None:
    record = synthesis()
    drawn = json.loads(str(syntheses.curves(record, "Epoch").to_json()))
    by_name = {trace["name"]: trace for trace in drawn["data"]}
    assert by_name["confidence"]["y"] == [point.losses["confidence"] for point in record.history]
    assert by_name["agreement"]["y"] == [point.agreement for point in record.history]
    assert by_name["agreement"]["yaxis"] == "y2"
    table = syntheses.table(record, "Epoch")
    assert [column.name for column in table.columns][:3] == ["Epoch", "confidence", "inversion"]
    assert table.rows[2][:3] == ("3", "0.300", "0.200")
    assert table.rows[2][-1] == "no"
    alone = record.model_copy(
        update={"history": tuple(p.model_copy(update={"agreement": None, "entropy": None}) for p in record.history)}
    )
    names = [trace["name"] for trace in json.loads(str(syntheses.curves(alone, "Moment").to_json()))["data"]]
    assert "agreement" not in names
    assert syntheses.table(alone, "Moment").rows[0][5] == "not measured"


def test_every_step_says_which_data_it_read() -> None:
    assert syntheses.readers(bare()) is None
    table = syntheses.readers(blind())
    assert table is not None
    assert [row[1] for row in table.rows] == ["none", "train", "calibration"]


def test_only_pictures_are_shown_as_pictures() -> None:
    run = blind()
    assert [one.sheet is not None for one in syntheses.syntheses(run)] == [True, True]
    for bad in (
        "https://example.org/a.png",
        "data:image/svg+xml;base64,AAAA",
        'data:image/png;base64,A" onload="x',
        None,
    ):
        wrong = run.model_copy(update={"synthesis": synthesis().model_copy(update={"sheet": bad})})
        assert syntheses.syntheses(wrong)[0].sheet is None
    page = html.render([run])
    assert page.count('<img class="sheet"') == 2
    assert "Likeliest classes, in rows from the left: 3." in page
    assert "Made up data" in page
    assert "Made up data" not in html.render([bare()])
