"""What the user wants: how much quality may go, how much smaller and faster it must get.

A ratio is original / compressed, so 8 means an eighth. A drop is absolute, in the metric's own unit: "1%" of
accuracy is one point (0.93 to 0.92), never one per cent of the original's value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Self, cast

import pydantic

from lissom.errors import GoalError, nearest
from lissom.settings import Setting


class _Text(NamedTuple):
    number: float
    unit: str


NUMBER = re.compile(r"(?P<number>[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?)\s*(?P<unit>[^\d\s.]*)", re.IGNORECASE)

DROP_UNITS = {"": 1.0, "%": 0.01, "pt": 0.01}
SHARE_UNITS = {"%rel": 0.01}
"""Of the original's metric, instead of in its unit."""
RATIO_UNITS = {"": 1.0, "x": 1.0}
TIME_UNITS = {"us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3}
"""In milliseconds; the micro sign has two code points."""
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
    "--latency": "4x, 2.5ms or 900us",
    "--size": "8x, 300KB or 1.5MiB",
    "--latency-p95": "5ms or 900us",
    "--throughput": "500 or 500/s",
    "--macs": "2x",
    "--memory": "200MB",
}

_GROWTH = {"size": "larger", "latency": "slower", "macs": "costlier", "parameters": "larger"}

_FIELD_EXAMPLES = {
    "metric_drop": "0.01",
    "metric_drop_share": "0.01",
    "latency_ratio": "4",
    "size_ratio": "8",
    "macs_ratio": "2",
    "parameters_ratio": "2",
    "latency_ms": "2.5",
    "latency_p95_ms": "5",
    "throughput": "500",
    "size_bytes": "300_000",
    "peak_memory_bytes": "200_000_000",
}


class Goal(Setting):
    """Wishes that apply together; one that is None is not wished for.

    A wrong value raises GoalError with the field, the value and right examples.
    """

    metric_drop: float | None = None
    """Largest loss, in the metric's own unit: 0.01 is one point of an accuracy in [0, 1]."""
    metric_drop_share: float | None = None
    """Largest loss as a share of the original's metric: 0.01 allows 0.93 to become 0.9207."""
    latency_ratio: float | None = None
    size_ratio: float | None = None
    macs_ratio: float | None = None
    parameters_ratio: float | None = None
    latency_ms: float | None = None
    """Largest median latency of one call, milliseconds, at the measured batch."""
    latency_p95_ms: float | None = None
    """Largest 95th percentile of the timed rounds, milliseconds."""
    throughput: float | None = None
    """Least examples per second, one call after the other at the measured batch, by the median."""
    size_bytes: int | None = None
    """Largest size of the artifact's files together."""
    peak_memory_bytes: int | None = None
    """Largest resident memory above the bare runtime's."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _check(cls, data: Any) -> Any:
        # GoalError is no ValueError, so pydantic lets it through instead of wrapping it.
        if isinstance(data, Mapping):
            for name, value in cast(Mapping[str, object], data).items():
                if name not in cls.model_fields:
                    raise GoalError(f"Goal: unknown field {name!r}. {nearest(name, cls.model_fields)}")
                if value is not None:
                    _check_field(name, value)
        return cast(Any, data)

    @property
    def empty(self) -> bool:
        """No wish at all."""
        return all(getattr(self, name) is None for name in type(self).model_fields)

    def allowed_drop(self, original: float) -> float | None:
        """Largest loss of a metric that is `original` before, in its own unit: the tighter of both wishes."""
        share = None if self.metric_drop_share is None else self.metric_drop_share * abs(original)
        given = [one for one in (self.metric_drop, share) if one is not None]
        return min(given, default=None)

    @classmethod
    def from_options(
        cls,
        *,
        drop: str | None = None,
        latency: str | None = None,
        latency_p95: str | None = None,
        throughput: str | None = None,
        size: str | None = None,
        macs: str | None = None,
        memory: str | None = None,
    ) -> Self:
        """A goal from the command line's texts: `--drop 1% --latency 4x --size 300KB --macs 2x`.

        Raises:
            GoalError: a text that is not understood, with the option, the text and right ones.
        """
        wishes: dict[str, float | int | None] = {}
        if drop is not None:
            relative = _split(drop, "--drop").unit in SHARE_UNITS
            wishes["metric_drop_share" if relative else "metric_drop"] = parse_drop(drop)
        if latency is not None:
            wishes.update(parse_latency(latency))
        if latency_p95 is not None:
            wishes["latency_p95_ms"] = parse_time(latency_p95, option="--latency-p95")
        if throughput is not None:
            wishes["throughput"] = parse_rate(throughput)
        if size is not None:
            wishes.update(parse_size(size))
        if macs is not None:
            wishes["macs_ratio"] = parse_ratio(macs, option="--macs")
        if memory is not None:
            wishes["peak_memory_bytes"] = parse_bytes(memory, option="--memory")
        return cls.model_validate(wishes)


def parse_drop(text: str, *, option: str = "--drop") -> float:
    """ "1%" -> 0.01, "0.5pt" -> 0.005, "0.01" -> 0.01: in the metric's own unit; "1%rel" -> 0.01 of the original's.

    Raises:
        GoalError: not understood, not above zero, or 100 % and more.
    """
    number, unit = _split(text, option)
    drop = number * _unit(DROP_UNITS | SHARE_UNITS, unit, text, option)
    _positive(drop, text, option)
    if drop >= 1.0:
        raise GoalError(f"{option} {text} is {100 * drop:g} %: any model would do. Write {EXAMPLES['--drop']}.")
    return drop


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


def parse_bytes(text: str, *, option: str = "--memory") -> int:
    """ "200MB" -> 200000000, "1.5MiB" -> 1572864; the unit is not optional, its case does not matter.

    Raises:
        GoalError: not understood, or less than one byte.
    """
    number, unit = _split(text, option)
    size = number * _unit(BYTE_UNITS, unit, text, option)
    _positive(math.floor(size), text, option)
    return math.floor(size)


def _split(text: str, option: str) -> _Text:
    found = NUMBER.fullmatch(text.strip())
    if found is None or not math.isfinite(float(found["number"])):
        raise GoalError(f"{option} {text!r} is not understood. Write {_examples(option)}.")
    return _Text(float(found["number"]), found["unit"].lower())


def _unit(units: Mapping[str, float], unit: str, text: str, option: str) -> float:
    if unit not in units:
        what = f"{unit!r} is not a unit of it" if unit else "it needs a unit"
        raise GoalError(f"{option} {text!r} is not understood: {what}. Write {_examples(option)}.")
    return units[unit]


def _positive(value: float, text: str, option: str) -> None:
    if value <= 0:
        raise GoalError(f"{option} {text} must be above zero. Write {_examples(option)}.")


def _check_field(name: str, value: object) -> None:
    """The same rules for `Goal(...)` in Python."""
    example = _FIELD_EXAMPLES[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise GoalError(f"Goal({name}=...) must be a number, got {value!r}. Write {name}={example}.")
    if value <= 0:
        raise GoalError(f"Goal({name}={value!r}) must be above zero. Write {name}={example}.")
    kind, _, unit = name.rpartition("_")
    if unit == "share" and value >= 1:
        raise GoalError(f"Goal({name}={value!r}) is all of the metric: any model would do. Write {name}={example}.")
    if unit == "ratio" and value < 1:
        raise GoalError(
            f"Goal({name}={value!r}) would make the model {_GROWTH[kind]}: a ratio is original / compressed. "
            f"Write {name}={example}."
        )
    if unit == "bytes" and value != int(value):
        raise GoalError(f"Goal({name}={value!r}) must be a whole number of bytes. Write {name}={example}.")


def _examples(option: str) -> str:
    return EXAMPLES.get(option, "8x")


def _growth(option: str) -> str:
    return _GROWTH.get(option.removeprefix("--"), "larger")
