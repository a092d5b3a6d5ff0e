"""Make the pictures of the documentation, into docs/img.

    .venv/bin/python scripts/docs_pictures.py

report.png and demo.svg show one run of `lissom demo`; inspect.png the page of `lissom inspect` on examples/digits.py.
With `inspect` as an argument, only that one. Needs `chromium` on the path.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "img"
SHOWN_RUN = "onnxruntime"
"""The run whose own report is photographed: its runtime is always there."""
WIDTH, HEIGHT = 1280, 1500
INSPECT_HEIGHT = 1440
LIMIT_BYTES = 300_000
COLUMNS = 104
LIGHT = TerminalTheme(
    (255, 255, 255),
    (26, 32, 44),
    [(0, 0, 0), (170, 0, 0), (0, 110, 0), (140, 90, 0), (0, 70, 160)] + [(90, 90, 90)] * 3,
)
CHROMIUM = (
    "chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync"
)


def photograph(page: Path, picture: Path, height: int = HEIGHT) -> None:
    """The first screen of an HTML page as PNG."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                *CHROMIUM.split(),
                f"--user-data-dir={profile}",
                f"--window-size={WIDTH},{height}",
                f"--screenshot={picture}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
    size = picture.stat().st_size
    if size > LIMIT_BYTES:
        raise SystemExit(f"{picture.name} has {size} bytes, more than {LIMIT_BYTES}: make the window smaller.")


def draw(text: str, picture: Path) -> None:
    """Terminal output as SVG, with fonts that every system has instead of downloaded ones."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    console.print(Text(text))
    svg = console.export_svg(title="lissom demo", theme=LIGHT, unique_id="demo")
    svg = re.sub(r"@font-face\s*\{.*?\}", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace")
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    picture.write_text("\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n", encoding="utf-8")


def inspect() -> None:
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "inspect.html"
        command = [str(Path(sys.executable).parent / "lissom"), "inspect", str(ROOT / "examples" / "digits.py")]
        subprocess.run([*command, "--sensitivity", "--html", str(page)], capture_output=True, check=True)
        photograph(page, IMAGES / "inspect.png", INSPECT_HEIGHT)


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    inspect()
    if sys.argv[1:] == ["inspect"]:
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "lissom"), "demo", "--out", "runs/demo"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        draw(f"$ lissom demo --out runs/demo\n\n{done.stdout}", IMAGES / "demo.svg")
        photograph(Path(folder) / "runs/demo" / SHOWN_RUN / "report.html", IMAGES / "report.png")


if __name__ == "__main__":
    main()
