"""Size on disk, and peak memory of a fresh process.

Memory of a process that has imported torch says nothing about a deployed model, so the artifact is loaded and
run in a child of its own. The child imports the runtime, calls `reset_peak()`, reads `baseline =
resident_bytes()`, loads and runs the artifact, and ends with `report_peak(baseline)`; `peak_of` starts it and
returns the difference.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lissom.errors import FailureError

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
STDERR_LINES = 12


def size_bytes(files: Sequence[Path]) -> int:
    """Bytes of the files together, as shipped; a file named twice counts once.

    Raises:
        FailureError: one of them is not a file.
    """
    for file in files:
        if not file.is_file():
            raise FailureError(f"The artifact file {file.name!r} does not exist, so it has no size. Export it again.")
    return sum(file.stat().st_size for file in {file.resolve() for file in files})


def peak_of(arguments: Sequence[str], *, timeout_s: float = 600.0) -> int:
    """Bytes that a fresh Python process needed above its own baseline.

    Args:
        arguments: what follows `python`, such as `["-m", "package.module", "model.onnx"]`. The last line
            the child prints must be `report_peak`'s.
        timeout_s: seconds after which the child is killed.

    Raises:
        FailureError: the child failed, took too long, or printed something else.
    """
    try:
        child = subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise FailureError(
            f"Peak memory could not be measured: the process was still running after {timeout_s:g} s. "
            "Measure a smaller batch."
        ) from late
    if child.returncode != 0:
        raise FailureError(
            f"Peak memory could not be measured: the process ended with {_ending(child.returncode)}.\n"
            f"{_tail(child.stderr) or 'It printed no error.'}"
        )
    baseline, peak = _parse(child.stdout)
    return max(0, peak - baseline)


def resident_bytes() -> int:
    """Resident memory of this process now; its peak where the system does not tell."""
    current = _status_bytes("VmRSS")
    return peak_bytes() if current is None else current


def peak_bytes() -> int:
    """Highest resident memory of this process since it started, or since `reset_peak`."""
    # ru_maxrss comes second: on Linux a child inherits it from its parent across exec, VmHWM it does not.
    high_water = _status_bytes("VmHWM")
    return _maximum_resident_bytes() if high_water is None else high_water


def reset_peak() -> bool:
    """Make `peak_bytes` start from now, so that imports are not counted; False where not permitted."""
    try:
        # "5" resets the high-water mark: Linux, Documentation/filesystems/proc.rst, clear_refs.
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def report_peak(baseline: int) -> None:
    """In the child: print the line that `peak_of` reads. `baseline` is bytes, from `resident_bytes`."""
    sys.stdout.write("\n" + json.dumps({"baseline": baseline, "peak": peak_bytes()}) + "\n")
    sys.stdout.flush()


def _status_bytes(field: str) -> int | None:
    """A memory field of /proc/self/status, which is in kB; None where there is none."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(found[0]) * 1024 if found else None


def _maximum_resident_bytes() -> int:
    try:
        import resource  # not on Windows
    except ImportError as missing:
        raise FailureError("Peak memory cannot be read on this system; leave it out.") from missing
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _parse(stdout: str) -> tuple[int, int]:
    lines = stdout.strip().splitlines()
    last = lines[-1] if lines else ""
    try:
        report = json.loads(last)
        return int(report["baseline"]), int(report["peak"])
    except (ValueError, TypeError, KeyError) as wrong:
        raise FailureError(
            f"Peak memory could not be measured: the process's last line is {last[:200]!r}. It must call "
            "lissom.measure.footprint.report_peak(baseline) at its end."
        ) from wrong


def _ending(returncode: int) -> str:
    return f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-STDERR_LINES:])
