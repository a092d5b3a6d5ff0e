"""Check HTML pages with axe in headless Chromium: light and dark, desktop and phone width.

    npm install --no-save axe-core
    .venv/bin/python scripts/accessibility.py runs/a/report.html site/index.html

axe is looked for in `node_modules/axe-core`, or taken from `--axe FILE`. Prints every violation with the elements that
it is about. Exit code 1 if there is one. Needs `chromium` on the path. No request leaves the machine.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
SCHEMES = {"dark": 0, "light": 1}
"""As Blink numbers them."""
WIDTHS = (1280, 390)
RUN = """
addEventListener("load", () => setTimeout(() => axe.run(document, {resultTypes: ["violations"]}).then(
  found => { document.documentElement.dataset.axe = encodeURIComponent(JSON.stringify(
    found.violations.map(one => ({id: one.id, impact: one.impact, help: one.help,
      nodes: one.nodes.map(node => `${node.target.join(" ")}: ${node.failureSummary}`)})))) },
  wrong => { document.documentElement.dataset.axeFailed = encodeURIComponent(String(wrong)) }), 500))
"""


def audit(page: Path, axe: Path, scheme: str, width: int) -> list[dict[str, Any]]:
    """What axe finds wrong: `id`, `impact`, `help`, and `nodes` with selector and reason.

    Raises:
        RuntimeError: Chromium or axe did not come to an end.
    """
    source = page.read_text(encoding="utf-8")
    script = axe.read_text(encoding="utf-8").replace("</script", "<\\/script")
    # The copy lies beside the page, so that its links to styles and scripts hold.
    with (
        tempfile.NamedTemporaryFile("w", suffix=".html", prefix="axe-", dir=page.parent, encoding="utf-8") as copy,
        tempfile.TemporaryDirectory() as profile,
    ):
        copy.write(re.sub(r"</body>", lambda _: f"<script>{script}</script><script>{RUN}</script></body>", source))
        copy.flush()
        ended = subprocess.run(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                f"--user-data-dir={profile}", f"--window-size={width},1600", "--virtual-time-budget=60000",
                f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", "--dump-dom", Path(copy.name).as_uri(),
            ],
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
    if found := re.search(r'data-axe="([^"]*)"', ended.stdout):
        return json.loads(urllib.parse.unquote(found[1]))
    failed = re.search(r'data-axe-failed="([^"]*)"', ended.stdout)
    reason = urllib.parse.unquote(failed[1]) if failed else ended.stderr[-400:] or "no answer"
    raise RuntimeError(f"{page}: axe did not end: {reason}")


def told(page: Path, scheme: str, width: int, violations: Sequence[dict[str, Any]]) -> str:
    lines = [f"{page}, {scheme}, {width} pixels wide: {len(violations) or 'no'} violations"]
    for one in violations:
        lines.append(f"  {one['id']} ({one['impact']}): {one['help']}")
        lines += [f"    {' '.join(node.split())}" for node in one["nodes"][:5]]
        if len(one["nodes"]) > 5:
            lines.append(f"    and {len(one['nodes']) - 5} more")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--axe", type=Path, default=AXE, metavar="FILE")
    given = parser.parse_args()
    if not shutil.which("chromium") or not given.axe.is_file():
        parser.error(f"needs chromium on the path, and {given.axe}: npm install --no-save axe-core")
    wrong = 0
    for page in given.pages:
        for scheme in SCHEMES:
            for width in WIDTHS:
                violations = audit(page.resolve(), given.axe, scheme, width)
                wrong += len(violations)
                print(told(page, scheme, width, violations))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
