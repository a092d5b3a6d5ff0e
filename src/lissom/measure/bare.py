"""Peak memory of an artifact in a process that has the runtime and numpy, and no torch.

    python -m lissom.measure.bare RUNTIME FILE THREADS INPUTS NAME...

INPUTS is a safetensors file: array `2/0` is the third call's first input. The process ends with `report_peak`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.numpy import load_file

from lissom.measure.footprint import report_peak, reset_peak, resident_bytes

CALLS = 3
"""Times that everything is run: memory that a runtime takes at its second call counts too."""


def report(runtime: str, file: Path, threads: int, inputs: Path, names: Sequence[str]) -> None:
    """Load the file, run it, print the peak."""
    importlib.import_module(runtime)  # its own size is not the model's
    sessions = importlib.import_module(f"lissom.export.{runtime}_session")
    held = load_file(inputs)
    count = len(held) // len(names)
    pieces = [[held[f"{piece}/{index}"] for index in range(len(names))] for piece in range(count)]
    reset_peak()
    baseline = resident_bytes()
    call = sessions.runner(file, names, threads)
    for _ in range(CALLS):
        _ = [call(piece) for piece in pieces]
    report_peak(baseline)


if __name__ == "__main__":
    report(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
