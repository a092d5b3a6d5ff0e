"""The page: one file, no network, nothing in a record can become code, usable without sight or mouse."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from report_samples import HOSTILE, bare, blind, channels, hostile, pruned, resnet20, slower, training

from lissom.errors import RunFolderError, UsageError
from lissom.measure.records import RunRecord
from lissom.report import html, trainings

MAKERS = {"resnet20": resnet20, "bare": bare, "slower": slower, "hostile": hostile, "pruned": pruned, "blind": blind}
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """What a browser would see: tags with attributes, headings, and text outside scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.stray: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.text = ""
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.cells: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.stray.append(tag)

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            attributes, source = self.scripts[-1]
            self.scripts[-1] = (attributes, source + data)
            return
        if "style" in self.open:
            return
        self.text += data
        if self.open and re.fullmatch(r"h[1-6]", self.open[-1]):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)
        if any(tag in ("td", "th") for tag in self.open):
            self.cells[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@cache
def source(*names: str) -> str:
    return html.render([MAKERS[name]() for name in names])


@cache
def page(*names: str) -> Page:
    return Page(source(*names))


PAGES = [
    ("resnet20",),
    ("bare",),
    ("slower",),
    ("hostile",),
    ("pruned",),
    ("blind",),
    ("resnet20", "slower", "bare"),
    ("hostile", "hostile"),
]


@pytest.fixture(params=PAGES, ids="+".join)
def names(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


def test_no_tag_asks_the_network(names: tuple[str, ...]) -> None:
    for tag, attributes in page(*names).tags:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(key)
            picture = tag == "img" and value is not None and re.fullmatch(r"data:image/png;base64,[\w+/]+=*", value)
            assert value is None or value.startswith("#") or value == "data:," or picture, (tag, value)
    styles = re.findall(r"<style>(.*?)</style>", source(*names), flags=re.DOTALL)
    assert len(styles) == 1
    assert "url(" not in styles[0]
    assert "@import" not in styles[0]


def test_the_page_forbids_itself_the_network() -> None:
    policy = next(a["content"] for a in page("resnet20").all("meta") if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_well_formed(names: tuple[str, ...]) -> None:
    made = page(*names)
    assert made.stray == []
    assert made.open == []
    ids = [attributes["id"] for _, attributes in made.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_untrusted_text_stays_text() -> None:
    """Hostile names change no tag: the page has the elements of the same page with tame names."""
    made = page("hostile")
    assert {name for name, _ in made.tags} <= {name for name, _ in page("blind").tags}
    assert all("onmouseover" not in attributes for _, attributes in made.tags)
    assert HOSTILE in made.text
    assert "{{ 7*7 }}" in made.text
    for attributes, script in made.scripts:
        if attributes.get("type") == "application/json":
            assert "<" not in script
            json.loads(script)
        else:
            assert "alert(1)" not in script


def test_scripts_are_plotly_once_ours_once_and_data() -> None:
    code = [script for attributes, script in page("resnet20", "slower", "bare").scripts if "type" not in attributes]
    assert len(code) == 2
    assert sum("Plotly, Inc." in script for script in code) == 1


def test_every_figure_finds_its_data_and_has_words(names: tuple[str, ...]) -> None:
    made = page(*names)
    figures = [a for a in made.all("div") if "data-figure" in a]
    data = {a["id"] for a, _ in made.scripts if a.get("type") == "application/json"}
    assert figures
    assert {a["data-figure"] for a in figures} == data
    assert all(a.get("role") == "img" and a.get("aria-label") for a in figures)


def test_headings_are_in_order(names: tuple[str, ...]) -> None:
    levels = [level for level, _ in page(*names).headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(text.strip() for _, text in page(*names).headings)


def test_landmarks_and_links(names: tuple[str, ...]) -> None:
    made = page(*names)
    assert all(len(made.all(tag)) == 1 for tag in ("header", "nav", "main", "footer"))
    assert made.all("html")[0]["lang"] == "en"
    targets = {f"#{attributes['id']}" for _, attributes in made.tags if "id" in attributes}
    links = [a["href"] for a in made.all("a")]
    assert links[0] == "#main"
    assert set(links) <= targets
    labels = [a["aria-labelledby"] or "" for a in made.all("section")]
    assert {f"#{part}" for label in labels for part in label.split()} <= targets
    ids = [attributes.get("id") for tag, attributes in made.tags if re.fullmatch(r"h[1-6]", tag)]
    heading = dict(zip(ids, (text for _, text in made.headings), strict=True))
    named = [" ".join(heading[part] for part in label.split()) for label in labels]
    assert len(set(named)) == len(named)


def test_tables_have_captions_and_scopes(names: tuple[str, ...]) -> None:
    made = page(*names)
    assert len(made.all("caption")) == len(made.all("table")) > 0
    assert all(a.get("scope") in ("col", "row") for a in made.all("th"))


def test_the_figures_of_the_headline() -> None:
    text = " ".join(page("resnet20").text.split())
    assert "3.5x smaller" in text
    assert "2.6x faster 95 % interval [2.55, 2.71]" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "-0.03 points of accuracy 91.73% to 91.70%, test split, 10,000 examples" in text
    assert "Goal met: 3 of 3 items" in text


def test_a_missed_goal_says_so_in_words() -> None:
    text = " ".join(page("slower").text.split())
    assert "Goal missed: 1 of 2 items met" in text
    assert "✗ missed at least 2x faster (reached 0.80x)" in text
    assert "1.25x slower" in text


def test_everything_in_the_record_is_on_the_page() -> None:
    run, made = resnet20(), page("resnet20")
    for skip in run.skipped:
        assert skip.layer in made.cells
        assert skip.reason in made.cells
    assert all(layer.layer in made.cells for layer in run.layers)
    for expected in (
        run.command,
        *run.notes,
        run.created,
        run.environment.cpu,
        "torch 2.13.0",
        "0.620 int8 steps",
    ):
        assert expected in made.text
    assert "- transform: Quantize\n  calibration: entropy\n  bits: 8\n  axes:\n    - 0" in made.text
    assert all(trial.note in made.text for trial in run.trials)


def test_channels_are_shown_where_there_was_pruning() -> None:
    made, run = page("pruned"), pruned()
    assert (2, "Channels") in made.headings
    assert (2, "Channels") not in page("resnet20").headings
    assert "4 of 5 layers are narrower: 42 of 74 output channels are left." in made.text
    drawn = json.loads(next(text for a, text in made.scripts if a.get("id") == "run-1-channels-figure-data"))
    before, after = drawn["data"]
    assert (before["name"], after["name"]) == ("before", "after")
    assert before["x"] == [one.before for one in run.channels]
    assert after["x"] == [one.after for one in run.channels]
    assert before["text"] == ["16 → 9", "16 → 5", "16 → 9", "16 → 9", "10"]
    assert "same channels as layer1.0.conv2" in before["hovertext"][0]
    assert after["hovertext"][4].endswith("whole: it is an output of the model")


def test_the_bars_of_channels_are_there_as_a_table_too() -> None:
    cells = page("pruned").cells
    start = cells.index("Why whole") + 1
    for row, one in enumerate(channels()):
        found = cells[start + 9 * row : start + 9 * (row + 1)]
        assert found[:4] == [one.layer, one.op, str(one.before), str(one.after)]
        assert found[-2:] == [", ".join(one.coupled), one.reason]


def test_trainings_are_drawn_and_listed() -> None:
    made, run = page("pruned"), pruned()
    assert (2, "Training") in made.headings
    assert (3, "Step 2, Finetune(epochs=5): loss and metric of each epoch") in made.headings
    assert (2, "Training") not in page("resnet20").headings
    drawn = json.loads(next(text for a, text in made.scripts if a.get("id") == "run-1-training-1-data"))
    training = run.steps[1].training
    assert training is not None
    loss, accuracy = drawn["data"]
    assert loss["x"] == accuracy["x"] == [1, 2, 3, 4, 5]
    assert loss["y"] == [epoch.loss for epoch in training.epochs]
    assert accuracy["y"] == pytest.approx([90, 91, 92, 93, 92.5])
    assert (loss["yaxis"], accuracy["yaxis"]) == ("y", "y2")
    assert loss["marker"]["symbol"].index("diamond") == training.chosen == 3
    start = made.cells.index("Weights kept") + 1
    assert made.cells[start + 18 : start + 24] == ["4", "0.3200", "93.00%", "0.004", "1 min 06 s", "kept"]
    assert "accuracy on validation after epoch 4, which is kept: 93.00%." in next(
        a["aria-label"] or "" for a in made.all("div") if a.get("data-figure") == "run-1-training-1-data"
    )
    assert "Computed in bfloat16, channels last." in made.text
    assert "exported graph: its own forward() does not run at the new sizes" in made.cells


@pytest.mark.parametrize(("epochs", "measured"), [(1, True), (3, False), (12, False)])
def test_a_training_without_metric_is_one_panel(epochs: int, measured: bool) -> None:
    one = training(epochs=epochs, measured=measured)
    spec = json.loads(trainings.curves(one).to_json())
    assert [trace["yaxis"] for trace in spec["data"]] == (["y", "y2"] if measured else ["y"])
    assert ("xaxis2" in spec["layout"]) is measured
    assert all(len(trace["x"]) == epochs for trace in spec["data"])
    assert ("kept" in trainings.description(one)) is measured


def test_what_is_missing_is_said() -> None:
    text = page("bare").text
    for sentence in (
        "No goal was set.",
        "No layer was skipped.",
        "no figures of single layers",
        "Not compared in",
    ):
        assert sentence in text


def test_commands_can_be_copied_without_scripts() -> None:
    made = page("resnet20")
    buttons = made.all("button")
    assert [a["data-copies"] for a in buttons] == ["run-1-recipe-text", "run-1-command-text"]
    assert all("hidden" in a for a in buttons)
    assert {a.get("id") for a in made.all("code")} == {a["data-copies"] for a in buttons}


def test_runs_stand_side_by_side() -> None:
    made = page("resnet20", "slower", "bare")
    assert (1, "3 runs compared") in made.headings
    assert [text for level, text in made.headings if level == 2] == [
        "Side by side",
        "resnet20",
        "vit_tiny",
        "bare",
    ]
    row = made.cells.index("Size ratio, before / after")
    assert made.cells[row : row + 4] == ["Size ratio, before / after", "3.5x", "3.8x", "1.00x"]


def test_no_run_is_an_error_with_the_way_out() -> None:
    with pytest.raises(UsageError, match="Name at least one run folder"):
        html.render([])


def test_write_is_atomic(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.html"
    assert html.write([resnet20()], target) == target
    assert html.write([bare()], target) == target
    assert target.read_text(encoding="utf-8") == source("bare")
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_a_failed_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.html"
    target.write_text("old", encoding="utf-8")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(RunFolderError, match="No space left on device"):
        html.write([resnet20()], target)
    assert target.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_record_read_back_from_json_gives_the_same_page() -> None:
    again = RunRecord.model_validate_json(resnet20().model_dump_json())
    assert html.render([again]) == source("resnet20")


def test_the_report_never_imports_torch() -> None:
    check = "import sys, lissom.report.html; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_text_colours_are_readable_in_both_schemes() -> None:
    """WCAG 2.2, 1.4.3: 4.5:1 for text, on every background the style sheet puts behind it."""
    from test_figures import contrast

    style = re.findall(r"<style>(.*?)</style>", source("bare"), flags=re.DOTALL)[0]
    schemes = [
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(schemes) == 3
    for scheme in schemes:
        for text in ("text", "quiet", "accent", "good", "bad"):
            for ground in ("ground", "raised", "flag"):
                assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground, scheme[text])
