"""Figures in README and documentation are those of committed results; pages of methods have all their parts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| .* \| (?P<shown>-?[\d.]+) \| (?P<id>[A-Z0-9]+), `(?P<figure>[^`]+)` \|$", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
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
