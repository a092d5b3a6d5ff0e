"""What a figure was measured on: processor, memory, system, versions. No host name, no paths, no user."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from lissom.errors import UsageError
from lissom.measure.records import Environment

PACKAGES = (
    "lissom",
    "torch",
    "torchao",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "executorch",
    "tensorrt",
    "numpy",
)

ENGINES = ("torch", "onnxruntime", "openvino", "executorch", "tensorrt")
"""Packages whose version decides how fast a model runs."""

ISA = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)
"""Extensions that decide how fast int8 and half precision run, in the spelling of Linux' /proc/cpuinfo."""


def environment(threads: int) -> Environment:
    """This machine and these packages.

    Args:
        threads: what the runtimes were told to use; a latency means little without it.

    Raises:
        UsageError: fewer than one thread.
    """
    if threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}.")
    cpuinfo = _read(Path("/proc/cpuinfo"))
    return Environment(
        cpu=cpu_model(cpuinfo) or platform.processor() or platform.machine() or "unknown",
        cores=available_cores(),
        threads=threads,
        isa=isa(cpuinfo),
        memory_bytes=_memory_bytes(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions=versions(PACKAGES),
    )


def machine(found: Environment) -> str:
    """What latencies depend on, in words: two that were timed on the same may be compared."""
    engines = (f"{name} {found.versions[name]}" for name in ENGINES if name in found.versions)
    return "; ".join((found.cpu, f"{found.cores} cores", " ".join(found.isa) or "no extensions", *engines))


def unlike(other: str, here: str) -> str:
    """What of another machine, as `machine` tells it, is not so here."""
    own = here.split("; ")
    return ", ".join(part for part in other.split("; ") if part not in own) or "a part of what is here"


def cpu_model(cpuinfo: str) -> str | None:
    """The processor's name in the text of /proc/cpuinfo; None where it has none (most ARM kernels)."""
    return _first(cpuinfo, ("model name", "Model", "cpu model"))


def isa(cpuinfo: str) -> tuple[str, ...]:
    """Those of `ISA` that the text of /proc/cpuinfo lists, in the order of `ISA`."""
    present = (_first(cpuinfo, ("flags", "Features")) or "").split()
    return tuple(name for name in ISA if name in present)


def available_cores() -> int:
    """Logical processors that this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Package -> version, of those that are installed."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _first(cpuinfo: str, keys: Sequence[str]) -> str | None:
    """The value of the first line whose key is in `keys`, earlier keys first."""
    pairs = [line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line]
    for key in keys:
        for name, value in pairs:
            if name.strip() == key and value.strip():
                return value.strip()
    return None


def _memory_bytes() -> int:
    """Physical memory in bytes; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
