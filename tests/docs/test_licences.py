"""The list of licences is current, whole, and holds nothing that binds what users build."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def listed() -> dict[str, tuple[str, str, str]]:
    """Package to version, licence, what brings it."""
    text = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {plain(name): (version, licence, source) for name, version, licence, source in cells[2:]}


def test_the_list_is_what_the_script_writes() -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "scripts/licences.py"), "--check"], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_versions_are_the_pinned_ones(listed: dict[str, tuple[str, str, str]]) -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {plain(name): version for name, _, version in (line.partition("==") for line in lines if "==" in line)}
    assert listed
    assert {name: version for name, (version, _, _) in listed.items()}.items() <= pinned.items()


def test_every_dependency_of_the_core_is_listed_as_such(listed: dict[str, tuple[str, str, str]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in project["dependencies"]:
        name = re.match(r"[\w.-]+", text)
        assert name is not None
        assert listed[plain(name[0])][2] == "core"


def test_each_licence_is_stated_and_none_is_strong_copyleft(listed: dict[str, tuple[str, str, str]]) -> None:
    for name, (_, licence, _) in listed.items():
        assert licence not in ("", "not stated"), name
        assert not re.search(r"(?<!L)GPL|AGPL|SSPL|Commons-Clause|Proprietary", licence), (name, licence)
