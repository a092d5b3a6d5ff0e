"""The page of `lissom inspect --html`: offline, readable without sight or mouse, nothing in a name can become code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from report_samples import HOSTILE
from test_figures import contrast
from test_html import Page

from lissom.graph.graph import ChannelGroup, ChannelMember, Graph
from lissom.measure.records import CutEffect, GroupSensitivity, Sensitivity
from lissom.report import groups, inspection
from lissom.report.groups import harm


def group(name: str, size: int, macs: int, reason: str | None = None) -> ChannelGroup:
    member = ChannelMember(parameter=name, axis=0)
    layers = (name.removesuffix(".weight"), "next")
    return ChannelGroup(name=name, size=size, members=(member,), layers=layers, macs=macs, reason=reason)


def graph(*found: ChannelGroup) -> Graph:
    given = found or (
        group("head.weight", 10, 640, "it is an output of the model"),
        group("conv1.weight", 16, 300_000),
        group("conv2.weight", 32, 900_000),
    )
    return Graph(
        nodes=(), tensors=(), inputs=(), input_shapes=(), outputs=(), dynamic_batch=True, uncounted={"fft": 1},
        groups=given,
    )  # fmt: skip


def effect(ratio: float, kept: int, metric: float | None, loss: float | None) -> CutEffect:
    return CutEffect(ratio=ratio, kept=kept, macs=1_000_000, metric=metric, loss=loss)


def sensitivity(metric: str | None = "accuracy", group_name: str = "conv1.weight") -> Sensitivity:
    def effects(*pairs: tuple[float, int, float, float]) -> tuple[CutEffect, ...]:
        return tuple(effect(r, k, m if metric else None, loss) for r, k, m, loss in pairs)

    return Sensitivity(
        criterion="magnitude",
        split="validation",
        examples=288,
        metric_name=metric,
        metric=0.9 if metric else None,
        loss=0.3,
        macs=1_200_000,
        ratios=(0.1, 0.5),
        groups=(
            GroupSensitivity(
                group=group_name, size=16, layers=("conv1", "next"),
                effects=effects((0.1, 14, 0.9, 0.3), (0.5, 8, 0.6, 1.2)),
            ),
            GroupSensitivity(
                group="conv2.weight", size=32, layers=("conv2",),
                effects=effects((0.1, 28, 0.91, 0.28), (0.5, 16, 0.85, 0.5)),
            ),
        ),
    )  # fmt: skip


MAKERS = {
    "groups": lambda: inspection.render(graph(), "net"),
    "whole": lambda: inspection.render(graph(), "net", sensitivity()),
    "loss": lambda: inspection.render(graph(), "net", sensitivity(None)),
    "hostile": lambda: inspection.render(
        graph(group(HOSTILE, 3, 5), group(HOSTILE + "2", 3, 5, HOSTILE)), HOSTILE, sensitivity(HOSTILE, HOSTILE)
    ),
    "none": lambda: inspection.render(
        graph().model_copy(update={"groups": ()}), "net", sensitivity().model_copy(update={"groups": ()})
    ),
}


@cache
def source(name: str) -> str:
    return MAKERS[name]()


@cache
def page(name: str) -> Page:
    return Page(source(name))


@pytest.fixture(params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_well_formed_and_labelled(name: str) -> None:
    made = page(name)
    assert made.stray == made.open == []
    ids = [attributes["id"] for _, attributes in made.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    levels = [level for level, _ in made.headings]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert {a["href"] for a in made.all("a")} <= {f"#{one}" for one in ids}
    assert {a["aria-labelledby"] for a in made.all("section")} <= set(ids)
    assert len(made.all("caption")) == len(made.all("table")) > 0
    assert all(a.get("scope") in ("col", "row") for a in made.all("th"))
    assert len(made.all("main")) == len(made.all("nav")) == 1


def test_every_figure_has_words_and_a_table(name: str) -> None:
    made = page(name)
    figures = [a for a in made.all("div") if "data-figure" in a]
    data = {a["id"] for a, _ in made.scripts if a.get("type") == "application/json"}
    assert {a["data-figure"] for a in figures} == data
    assert all(a.get("role") == "img" and a.get("aria-label") for a in figures)
    assert len(made.all("table")) >= 1 + len(figures)


def test_it_asks_nothing_of_the_network(name: str) -> None:
    for tag, attributes in page(name).tags:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(key)
            assert value is None or value.startswith("#") or value == "data:,", (tag, value)
    policy = next(a["content"] for a in page(name).all("meta") if a.get("http-equiv"))
    assert (policy or "").startswith("default-src 'none'")


def test_untrusted_names_stay_text() -> None:
    made = page("hostile")
    assert {tag for tag, _ in made.tags} <= {tag for tag, _ in page("whole").tags}
    assert all("onmouseover" not in attributes for _, attributes in made.tags)
    assert HOSTILE in made.text
    for attributes, script in made.scripts:
        if attributes.get("type") == "application/json":
            assert "<" not in script
            json.loads(script)
        else:
            assert "alert(1)" not in script


def test_groups_that_may_be_cut_come_first_with_what_they_carry() -> None:
    rows = groups.groups_table(graph()).rows
    assert [row[0] for row in rows] == ["conv1.weight", "conv2.weight", "head.weight"]
    assert rows[0][1:] == ("16", "300k", "conv1, next", "")
    assert rows[2][-1] == "it is an output of the model"
    assert groups.groups_text(graph()) == "3 groups of channels; 2 of them, 48 channels, may be cut."
    free, whole = json.loads(str(groups.groups_figure(graph()).to_json()))["data"]
    assert (free["name"], free["x"], free["y"]) == ("may be cut", [300_000, 900_000], [0, 1])
    assert (whole["name"], whole["y"]) == ("left whole", [2])


def test_the_heat_map_is_the_drop_of_the_metric() -> None:
    (trace,) = json.loads(str(groups.sensitivity_figure(sensitivity()).to_json()))["data"]
    assert trace["x"] == ["10%", "50%"]
    assert trace["z"] == [[0.0, pytest.approx(30.0)], [0.0, pytest.approx(5.0)]]
    assert trace["text"] == [["0", "-30.00"], ["+1.00", "-5.00"]]
    assert trace["zmax"] == pytest.approx(30.0)
    assert "8 of 16 channels kept" in trace["hovertext"][0][1]
    assert "accuracy 60.00% (-30.00)" in trace["hovertext"][0][1]
    assert "loss 1.2 (+0.90)" in trace["hovertext"][0][1]
    assert "16.7% fewer MACs" in trace["hovertext"][0][1]
    rows = groups.sensitivity_table(sensitivity()).rows
    assert rows[0] == ("conv1.weight", "16", "0 (loss +0)", "-30.00 (loss +0.9)")


def test_without_a_metric_it_is_the_rise_of_the_loss() -> None:
    found = sensitivity(None)
    assert groups.change_title(found) == "Change of loss"
    assert harm(found, found.groups[0].effects[1]).text == "+0.90"
    assert harm(found, found.groups[0].effects[1]).value == pytest.approx(0.9)
    assert groups.sensitivity_table(found).rows[1] == ("conv2.weight", "32", "-0.02", "+0.20")
    assert groups.whole_text(found) == "Uncut: loss 0.3, on 288 validation examples."


def test_the_figure_in_words() -> None:
    said = "With 50% of its channels cut, conv1.weight costs most (-30.00 points of accuracy) and conv2.weight least"
    assert said in page("whole").text
    assert "Change of accuracy, in points, when one group alone is cut" in page("whole").text
    assert "Uncut: accuracy 90.00%, loss 0.3, on 288 validation examples." in page("whole").text
    assert "No group of channels may be cut." in page("none").text
    assert "Cost not counted for: fft." in page("groups").text
    assert (2, "Sensitivity") not in page("groups").headings


@pytest.mark.parametrize("scheme", [0, 1])
def test_figures_in_the_cells_are_readable_on_the_deepest_colour(scheme: int) -> None:
    """WCAG 2.2, 1.4.3: the colour lies over the page's ground, light or dark."""
    style = re.findall(r"<style>(.*?)</style>", source("whole"), flags=re.DOTALL)[0]
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", blocks[scheme]))
    (trace,) = json.loads(str(groups.sensitivity_figure(sensitivity()).to_json()))["data"]
    for _, rgba in trace["colorscale"]:
        *over, alpha = (float(part) for part in re.findall(r"[\d.]+", rgba))
        ground = [int(colours["ground"][at : at + 2], 16) for at in (1, 3, 5)]
        mixed = [round(alpha * a + (1 - alpha) * b) for a, b in zip(over, ground, strict=True)]
        assert contrast(colours["text"], "#" + "".join(f"{part:02x}" for part in mixed)) >= 4.5


def test_it_never_imports_torch_and_is_written_whole(tmp_path: Path) -> None:
    check = "import sys, lissom.report.inspection; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
    target = inspection.write(graph(), "net", tmp_path / "a" / "page.html", sensitivity())
    assert target.read_text(encoding="utf-8") == source("whole")
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]
