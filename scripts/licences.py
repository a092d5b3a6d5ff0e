"""Write docs/licences.md: every package that an installation brings, with its version and licence.

    .venv/bin/python scripts/licences.py            what requirements.txt pins, as its own metadata says
    .venv/bin/python scripts/licences.py --check    exit code 1 if the file is not current

The licence is that of the package's metadata: its SPDX expression, else its classifiers, else the first line of the
field, else what the text of its licence file is known by. Licence texts lie in the packages themselves.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from pin_requirements import closure

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
EXTRAS = ("openvino", "data", "executorch")
SPDX = {
    "Apache 2.0": "Apache-2.0", "Apache License 2.0": "Apache-2.0", "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0", "Apache License Version 2.0": "Apache-2.0", "MIT License": "MIT",
    "BSD License": "BSD", "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "BSD 3-Clause": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause", "Python Software Foundation License": "PSF-2.0", "New BSD": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
}  # fmt: skip
"""Names that metadata use, as SPDX writes them."""
SENTENCES = {
    "Neither the name of the copyright holder nor the names of its contributors": "BSD-3-Clause",
    "Permission is hereby granted, free of charge, to any person obtaining a copy": "MIT",
    "Apache License Version 2.0, January 2004": "Apache-2.0",
}


def licence_of(name: str) -> str:
    """The licence of an installed package, as SPDX writes it where its metadata allow."""
    held = metadata.metadata(name)
    if expression := held.get("License-Expression"):
        return expression
    classified = [line.rsplit(" :: ", 1)[-1] for line in held.get_all("Classifier") or () if line.startswith("License")]
    if found := [SPDX.get(one, one) for one in classified if one != "OSI Approved"]:
        return " AND ".join(sorted(set(found)))
    stated = next(iter((held.get("License") or "").strip().splitlines()), "")
    return SPDX.get(stated, stated) or _by_text(name)


def _by_text(name: str) -> str:
    """By the sentences that only one licence has, in the files that the package brings."""
    for file in metadata.files(name) or ():
        if "licenses" in file.parts:
            text = " ".join(file.read_text(encoding="utf-8").split())
            return next((licence for sentence, licence in SENTENCES.items() if sentence in text), "not stated")
    return "not stated"


def rows() -> list[tuple[str, str, str, str]]:
    """(package, version, licence, what brings it) by name; the core is named before extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sources: Mapping[str, Iterable[str]] = {
        "core": project["dependencies"],
        **{extra: project["optional-dependencies"][extra] for extra in EXTRAS},
    }
    brought: dict[str, str] = {}
    versions: dict[str, str] = {}
    for source, roots in sources.items():
        for name, version in closure(roots).items():
            brought.setdefault(name, source)
            versions[name] = version
    ordered = sorted(brought, key=lambda name: re.sub(r"[-_.]+", "-", name).lower())
    return [(name, versions[name], licence_of(name), brought[name]) for name in ordered]


def page() -> str:
    """The whole file."""
    found = rows()
    lines = [
        "# Licences",
        "",
        "Lissom is under the Apache License 2.0. These are the packages that an installation brings, in the",
        "versions of `requirements.txt`, with the licence that each one's metadata state. Written by "
        "`scripts/licences.py`; TensorRT, Ray, timm, transformers",
        "and psycopg (PostgreSQL, LGPL), which are extras too, are not pinned and not listed.",
        "",
        "| package | version | licence | brought by |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in found),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    if "--check" in sys.argv[1:]:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        print(f"{PAGE.name} is {'current' if current else 'not current: run scripts/licences.py'}")
        sys.exit(0 if current else 1)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
