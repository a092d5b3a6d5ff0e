"""Paths that sources take."""

from __future__ import annotations

from pathlib import Path

from lissom.errors import ProjectError, nearest


def existing(path: Path) -> Path:
    """
    Raises:
        ProjectError: there is no such file.
    """
    if path.is_file():
        return path
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    near = [one.name for one in beside if one.is_file() and one.suffix == path.suffix]
    way_out = nearest(path.name, near) if near else "Give the path of a file that is there."
    raise ProjectError(f"There is no file {path}. {way_out}")
