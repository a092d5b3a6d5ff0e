"""What an experiment gets: folders, counts, somewhere to write."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.protocol import machine
from lissom.files import write_text

FOUND = "found.json"

Needed = Literal["data", "weights"]
EXPECTED = {
    "data": "pass --data FOLDER, the folder that holds {name}/",
    "weights": "pass --weights FOLDER, the folder that holds {name}",
}


class MissingDataError(Exception):
    """An experiment's input is not here; the message says which and how to give it."""


@dataclass(frozen=True)
class Context:
    """`scratch` is an empty folder that is removed afterwards; `say` reports progress to the person who waits.

    `kept` stays from one call to the next: what takes long continues there after it was killed.
    """

    scratch: Path
    kept: Path
    threads: int
    rounds: int
    data: Path | None = None
    weights: Path | None = None
    say: Callable[[str], None] = print

    def folder(self, kind: Needed, name: str) -> Path:
        """The file or folder `name` of the data or weights folder.

        Raises:
            MissingDataError: the folder is not given, or holds no `name`.
        """
        given: Path | None = getattr(self, kind)
        way_out = EXPECTED[kind].format(name=name)
        if given is None:
            raise MissingDataError(f"--{kind} is not given: {way_out}.")
        if not (given / name).exists():
            raise MissingDataError(f"--{kind} {given} holds no {name}: {way_out}.")
        return given / name


def remembered(folder: Path, make: Callable[[Path], Any]) -> Any:
    """What `make(folder)` found in an earlier call, as JSON in that folder; made now if there was none.

    The file is small and says when, with what and on which machine it was made: it may be committed, so that an
    experiment of many hours goes on on another machine. Without it (delete it) this part is made again.
    """
    done = folder / FOUND
    if not done.is_file():
        found = make(folder)
        folder.mkdir(parents=True, exist_ok=True)
        made = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "environment": machine(1).model_dump(mode="json"),
        }
        write_text(done, json.dumps({"found": found, **made}, indent=1) + "\n")
    return json.loads(done.read_text(encoding="utf-8"))["found"]
