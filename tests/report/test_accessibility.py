"""Pages pass axe in headless Chromium, light and dark, desktop and phone width.

Needs `chromium` on the path and `npm install --no-save axe-core` in the checkout; skipped without.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from report_samples import blind, pruned, resnet20, searched, slower
from test_inspection import graph, sensitivity

from lissom.measure.records import RunRecord
from lissom.report import html, inspection

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def accessibility() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accessibility", ROOT / "scripts" / "accessibility.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not shutil.which("chromium"):
        pytest.skip("chromium is not on the path")
    if not module.AXE.is_file():
        pytest.skip("axe is not there: npm install --no-save axe-core")
    return module


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_axe_finds_what_is_wrong(accessibility: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "wrong.html"
    page.write_text(
        "<!doctype html><html><body><img src='a.png'><p style='color:#ccc;background:#fff'>pale words</p></body></html>"
    )
    found = {one["id"] for one in accessibility.audit(page, accessibility.AXE, "light", 1280)}
    assert {"html-has-lang", "image-alt", "color-contrast"} <= found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("runs", [(resnet20, pruned, slower, blind), (searched,)], ids=["several", "searched"])
def test_reports_pass(
    accessibility: ModuleType, runs: tuple[Callable[[], RunRecord], ...], scheme: str, width: int, tmp_path: Path
) -> None:
    page = html.write([make() for make in runs], tmp_path / "report.html")
    found = accessibility.audit(page, accessibility.AXE, scheme, width)
    assert not found, accessibility.told(page, scheme, width, found)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_inspect_passes(accessibility: ModuleType, scheme: str, tmp_path: Path) -> None:
    page = inspection.write(graph(), "net", tmp_path / "inspect.html", sensitivity())
    found = accessibility.audit(page, accessibility.AXE, scheme, 1280)
    assert not found, accessibility.told(page, scheme, 1280, found)
