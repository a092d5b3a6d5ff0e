"""Write requirements.txt and requirements-docs.txt: exact versions of what pyproject.toml asks for, as installed here.

    .venv/bin/python scripts/pin_requirements.py

Only what the named extras need is written, whatever else the environment holds. Local version labels (`+cpu`) are cut,
because where a build of torch comes from is for the machine's own pip configuration to say.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
EXTRAS = ("openvino", "executorch", "data", "dev")
BUILD_ONLY = ("editables==0.6",)
"""What hatchling needs for an editable installation without build isolation; no package requires it."""


def closure(roots: Iterable[str]) -> dict[str, str]:
    """Every installed distribution that `roots` need, themselves included: name to version."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = [Requirement(root) for root in roots]
    while waiting:
        wanted = waiting.pop()
        key = f"{_plain(wanted.name)}{sorted(wanted.extras)}"
        if key in seen:
            continue
        seen.add(key)
        held = metadata.distribution(wanted.name)
        found[held.metadata["Name"]] = held.version.split("+")[0]
        for text in held.requires or ():
            needed = Requirement(text)
            extras = (*wanted.extras, "")
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _write(path: Path, comment: str, pins: Iterable[str]) -> None:
    lines = sorted(pins, key=lambda pin: _plain(pin.partition("==")[0]))
    path.write_text("\n".join((comment, *lines)) + "\n", encoding="utf-8")


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    everything = [*project["dependencies"], *(item for extra in EXTRAS for item in optional[extra])]
    _write(
        ROOT / "requirements.txt",
        f"# Core and the extras {', '.join(EXTRAS)}. Written by scripts/pin_requirements.py.",
        (*(f"{name}=={version}" for name, version in closure(everything).items()), *BUILD_ONLY),
    )
    _write(
        ROOT / "requirements-docs.txt",
        "# The documentation. Written by scripts/pin_requirements.py.",
        (f"{name}=={version}" for name, version in closure(optional["docs"]).items()),
    )


if __name__ == "__main__":
    main()
