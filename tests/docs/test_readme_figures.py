"""Figures in the README and on the pages of examples are those of committed results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| .* \| (?P<shown>-?[\d.]+) \| (?P<id>[A-Z0-9]+), `(?P<figure>[^`]+)` \|$", re.MULTILINE)
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs" / "examples").glob("*.md")))
ROWS = [match.groupdict() for page in PAGES for match in ROW.finditer(page.read_text(encoding="utf-8"))]


def test_there_are_rows() -> None:
    assert len(ROWS) >= 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['id']}-{row['figure']}")
def test_a_figure_is_the_committed_one(row: dict[str, str]) -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / f"{row['id']}.json").read_text(encoding="utf-8"))
    digits = len(row["shown"].partition(".")[2])
    assert f"{result['value'][row['figure']]['value']:.{digits}f}" == row["shown"]
