"""The texts of a goal as numbers: `1%`, `4x`, `2.5ms`, `300KB`, as they stand on the command line and in files.

A ratio is original / compressed, so 8 means an eighth. A drop is absolute, in the metric's own unit: "1%" of
accuracy is one point (0.93 to 0.92), never one per cent of the original's value; that is "1%rel".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from lissom.errors import GoalError, shown


class _Text(NamedTuple):
    number: float
    unit: str


NUMBER = re.compile(r"(?P<number>[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?)\s*(?P<unit>[^\d\s.]*)", re.IGNORECASE)

DROP_UNITS = {"": 1.0, "%": 0.01, "pt": 0.01}
SHARE_UNITS = {"%rel": 0.01}
"""Of the original's metric, instead of in its unit."""
FLOOR_UNITS = {"": 1.0, "%": 0.01}
RATIO_UNITS = {"": 1.0, "x": 1.0}
TIME_UNITS = {"us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3}
"""In milliseconds; the micro sign has two code points."""
ENERGY_UNITS = {"uj": 1e-6, "µj": 1e-6, "μj": 1e-6, "mj": 1e-3, "j": 1.0}
"""In joules; case does not matter, so that mJ are millijoules however they are written."""
BYTE_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}

EXAMPLES = {
    "--drop": "1%, 0.5pt, 0.01 or 1%rel",
    "--class-floor": "80% or 0.8",
    "--class-drop": "3%, 1.5pt or 0.03",
    "--latency": "4x, 2.5ms or 900us",
    "--size": "8x, 300KB or 1.5MiB",
    "--latency-p95": "5ms or 900us",
    "--throughput": "500 or 500/s",
    "--energy": "2x, 5mJ or 800uJ",
    "--macs": "2x",
    "--parameters": "2x",
    "--memory": "200MB",
}

GROWTH = {"size": "larger", "latency": "slower", "macs": "costlier", "energy": "hungrier", "parameters": "larger"}


def named(text: str, *, option: str = "--drop") -> tuple[str | None, str]:
    """ "f1=2%rel" -> ("f1", "2%rel"), "1%" -> (None, "1%"): the metric that a bound is on, and the bound.

    Raises:
        GoalError: no name before the sign.
    """
    name, sign, bound = text.rpartition("=")
    if sign and not name.strip():
        raise GoalError(
            f"{option} {shown(text)} names no metric before '='. Write f1=1%, or 1% for the task's own metric."
        )
    return (name.strip(), bound) if sign else (None, bound)


def is_share(text: str, *, option: str = "--drop") -> bool:
    """Whether a drop is said as a share of the original's metric.

    Raises:
        GoalError: not understood.
    """
    return _split(text, option).unit in SHARE_UNITS


def parse_drop(text: str, *, option: str = "--drop") -> float:
    """ "1%" -> 0.01, "0.5pt" -> 0.005, "0.01" -> 0.01: in the metric's own unit; "1%rel" -> 0.01 of the original's.

    Raises:
        GoalError: not understood, not above zero, or 100 % and more.
    """
    return _drop(text, DROP_UNITS | SHARE_UNITS, option)


def parse_class_drop(text: str, *, option: str = "--class-drop") -> float:
    """ "3%" -> 0.03, as `parse_drop`, of the share of a class that is right; not relative.

    Raises:
        GoalError: as `parse_drop`.
    """
    return _drop(text, DROP_UNITS, option)


def parse_floor(text: str, *, option: str = "--class-floor") -> float:
    """ "80%" -> 0.8, "0.8" -> 0.8: the least share that is to be right.

    Raises:
        GoalError: not understood, not above zero, or above 100 %.
    """
    number, unit = _split(text, option)
    floor = number * _unit(FLOOR_UNITS, unit, text, option)
    _positive(floor, text, option)
    if floor > 1.0:
        raise GoalError(f"{option} {text} is above 100 %. Write {_examples(option)}.")
    return floor


def parse_ratio(text: str, *, option: str = "--ratio") -> float:
    """ "8x" or "8" -> 8.0: original / compressed.

    Raises:
        GoalError: not understood, or below 1.
    """
    number, unit = _split(text, option)
    ratio = number * _unit(RATIO_UNITS, unit, text, option)
    _positive(ratio, text, option)
    if ratio < 1.0:
        raise GoalError(
            f"{option} {text} would make the model {_growth(option)}: a ratio is original / compressed. "
            f"Write {_examples(option)}."
        )
    return ratio


def parse_latency(text: str, *, option: str = "--latency") -> dict[str, float]:
    """ "4x" -> {"latency_ratio": 4.0}, "900us" -> {"latency_ms": 0.9}.

    Raises:
        GoalError: as `parse_ratio`.
    """
    if _split(text, option).unit in RATIO_UNITS:
        return {"latency_ratio": parse_ratio(text, option=option)}
    return {"latency_ms": parse_time(text, option=option)}


def parse_time(text: str, *, option: str = "--latency") -> float:
    """ "900us" -> 0.9, in milliseconds; the unit is not optional.

    Raises:
        GoalError: not understood, or not above zero.
    """
    number, unit = _split(text, option)
    milliseconds = number * _unit(TIME_UNITS, unit, text, option)
    _positive(milliseconds, text, option)
    return milliseconds


def parse_rate(text: str, *, option: str = "--throughput") -> float:
    """ "500/s" or "500" -> 500.0 examples per second.

    Raises:
        GoalError: not understood, or not above zero.
    """
    number, unit = _split(text, option)
    rate = number * _unit({"": 1.0, "/s": 1.0}, unit, text, option)
    _positive(rate, text, option)
    return rate


def parse_size(text: str, *, option: str = "--size") -> dict[str, float | int]:
    """ "8x" -> {"size_ratio": 8.0}, "300KB" -> {"size_bytes": 300000}.

    Raises:
        GoalError: as `parse_ratio`.
    """
    if _split(text, option).unit in RATIO_UNITS:
        return {"size_ratio": parse_ratio(text, option=option)}
    return {"size_bytes": parse_bytes(text, option=option)}


def parse_energy(text: str, *, option: str = "--energy") -> dict[str, float]:
    """ "2x" -> {"energy_ratio": 2.0}, "5mJ" -> {"energy_joules": 0.005}.

    Raises:
        GoalError: as `parse_ratio`.
    """
    number, unit = _split(text, option)
    if unit in RATIO_UNITS:
        return {"energy_ratio": parse_ratio(text, option=option)}
    joules = number * _unit(ENERGY_UNITS, unit, text, option)
    _positive(joules, text, option)
    return {"energy_joules": joules}


def parse_bytes(text: str, *, option: str = "--memory") -> int:
    """ "200MB" -> 200000000, "1.5MiB" -> 1572864; the unit is not optional, its case does not matter.

    Raises:
        GoalError: not understood, or less than one byte.
    """
    number, unit = _split(text, option)
    size = number * _unit(BYTE_UNITS, unit, text, option)
    _positive(math.floor(size), text, option)
    return math.floor(size)


def _drop(text: str, units: Mapping[str, float], option: str) -> float:
    number, unit = _split(text, option)
    drop = number * _unit(units, unit, text, option)
    _positive(drop, text, option)
    if drop >= 1.0:
        raise GoalError(f"{option} {text} is {100 * drop:g} %: any model would do. Write {_examples(option)}.")
    return drop


def _split(text: str, option: str) -> _Text:
    found = NUMBER.fullmatch(text.strip())
    if found is None or not math.isfinite(float(found["number"])):
        raise GoalError(f"{option} {shown(text)} is not understood. Write {_examples(option)}.")
    return _Text(float(found["number"]), found["unit"].lower())


def _unit(units: Mapping[str, float], unit: str, text: str, option: str) -> float:
    if unit not in units:
        what = f"{shown(unit)} is not a unit of it" if unit else "it needs a unit"
        raise GoalError(f"{option} {shown(text)} is not understood: {what}. Write {_examples(option)}.")
    return units[unit]


def _positive(value: float, text: str, option: str) -> None:
    if value <= 0:
        raise GoalError(f"{option} {text} must be above zero. Write {_examples(option)}.")


def _examples(option: str) -> str:
    return EXAMPLES.get(option.partition(" ")[0], "8x")


def _growth(option: str) -> str:
    return GROWTH.get(option.removeprefix("--"), "larger")
