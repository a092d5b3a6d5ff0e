"""Figures in README and documentation are those of committed results; pages of methods have all their parts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| .* \| (?P<shown>-?[\d.]+) \| (?P<id>[A-Z0-9]+), `(?P<figure>[^`]+)` \|$", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
WIDE = re.compile(r"^<!-- (?P<id>[A-Z0-9]+) (?P<part>\w+) -->\n\n(?P<table>(?:\|.*\|\n)+)", re.MULTILINE)
"""A table of one result: a row for each contender, a column for each kind of figure."""
METHODS = (
    "fold",
    "pruning",
    "architecture-search",
    "sparsify",
    "factorize",
    "finetune",
    "distill",
    "quantize",
    "search",
    "lifelong",
)
PARTS = ("When to use it", "When it fails", "Measured")
ROWS = [match.groupdict() for page in PAGES for match in ROW.finditer(page.read_text(encoding="utf-8"))]


def wide_cells() -> Iterator[tuple[str, str, str]]:
    """Result, figure and what is shown of it; nothing where the result has no such figure."""
    for page in PAGES:
        for match in WIDE.finditer(page.read_text(encoding="utf-8")):
            head, _, *rows = ([c.strip() for c in row.strip("|").split("|")] for row in match["table"].splitlines())
            for name, *cells in rows:
                for column, shown in zip(head[1:], cells, strict=True):
                    yield match["id"], f"{match['part']}, {name}: {column.partition(', ')[0]}", shown


def test_wide_tables_show_every_figure_as_committed() -> None:
    found = list(wide_cells())
    assert len(found) >= 20
    for name, figure, shown in found:
        value = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))["value"]
        digits = len(shown.partition(".")[2])
        committed = f"{value[figure]['value']:,.{digits}f}" if figure in value else ""
        assert committed == shown, figure


def test_there_are_rows() -> None:
    assert len(ROWS) >= 60


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['id']}-{row['figure']}")
def test_a_figure_is_the_committed_one(row: dict[str, str]) -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / f"{row['id']}.json").read_text(encoding="utf-8"))
    digits = len(row["shown"].partition(".")[2])
    assert f"{result['value'][row['figure']]['value']:.{digits}f}" == row["shown"]


@pytest.mark.parametrize("name", METHODS)
def test_a_page_of_a_method_has_formula_use_failures_and_figures(name: str) -> None:
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert not [part for part in PARTS if not sections.get(part, "").strip()]
    assert any(not language and " = " in code for language, code in FENCE.findall(text))
    measured = sections["Measured"]
    assert ROW.search(measured) or "No result" in measured
