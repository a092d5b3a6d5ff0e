"""What the user wants: how much quality may go, how much smaller and faster it must get.

A ratio is original / compressed, so 8 means an eighth. A drop is absolute, in the metric's own unit: 0.01 of
accuracy is one point (0.93 to 0.92), never one per cent of the original's value. `lissom.grammar` reads the texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import pydantic

from lissom.errors import GoalError, cut, nearest, shown
from lissom.grammar import (
    GROWTH,
    is_share,
    named,
    parse_bytes,
    parse_class_drop,
    parse_drop,
    parse_energy,
    parse_floor,
    parse_latency,
    parse_rate,
    parse_ratio,
    parse_size,
    parse_time,
)
from lissom.reading import text_of, yaml_of
from lissom.settings import Setting

_FIELD_EXAMPLES = {
    "metric_drop": "0.01",
    "metric_drop_share": "0.01",
    "metric_drops": '{"f1": 0.01}',
    "metric_drop_shares": '{"f1": 0.01}',
    "class_floor": "0.8",
    "class_drop": "0.03",
    "latency_ratio": "4",
    "size_ratio": "8",
    "macs_ratio": "2",
    "parameters_ratio": "2",
    "energy_ratio": "2",
    "energy_joules": "0.005",
    "latency_ms": "2.5",
    "latency_p95_ms": "5",
    "throughput": "500",
    "size_bytes": "300_000",
    "peak_memory_bytes": "200_000_000",
}


WISHES: dict[str, tuple[str, ...]] = {
    "drop": ("metric_drop", "metric_drop_share"),
    "class-floor": ("class_floor",),
    "class-drop": ("class_drop",),
    "latency": ("latency_ratio", "latency_ms"),
    "latency-p95": ("latency_p95_ms",),
    "throughput": ("throughput",),
    "size": ("size_ratio", "size_bytes"),
    "macs": ("macs_ratio",),
    "parameters": ("parameters_ratio",),
    "memory": ("peak_memory_bytes",),
    "energy": ("energy_ratio", "energy_joules"),
}
"""What a wish is called on the command line, in files and in `soft`, and its fields."""
MOST_BYTES = 2**63
BY_NAME = ("metric_drops", "metric_drop_shares")
NAMED = "drop."
"""`drop.f1` is the bound on the drop of f1."""


class Goal(Setting):
    """Wishes that apply together; one that is None is not wished for.

    Those named in `soft` decide nothing: they order what keeps all others, and are reported as reached or not.

    A wrong value raises GoalError with the field, the value and right examples.
    """

    metric_drop: float | None = None
    """Largest loss, in the metric's own unit: 0.01 is one point of an accuracy in [0, 1]."""
    metric_drop_share: float | None = None
    """Largest loss as a share of the original's metric: 0.01 allows 0.93 to become 0.9207."""
    metric_drops: dict[str, float] | None = None
    """As `metric_drop`, of metrics by name: those of `Task(metrics=...)`, or the task's own."""
    metric_drop_shares: dict[str, float] | None = None
    """As `metric_drop_share`, by name."""
    class_floor: float | None = None
    """Least share that is right of every class, by the first metric of the task that tells classes apart."""
    class_drop: float | None = None
    """Largest loss of any class, absolute: 0.03 allows three points."""
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
    energy_ratio: float | None = None
    energy_joules: float | None = None
    """Largest median energy of one input, joules, at the measured batch."""
    soft: tuple[str, ...] = ()
    """Names of `WISHES`, or `drop.f1` for a bound by name."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _check(cls, data: Any) -> Any:
        # GoalError is no ValueError, so pydantic lets it through instead of wrapping it.
        if isinstance(data, Mapping):
            given = dict(cast(Mapping[str, object], data))
            for name, value in given.items():
                if name not in cls.model_fields:
                    raise GoalError(f"Goal: unknown field {shown(name)}. {nearest(name, cls.model_fields)}")
                if value is not None and name != "soft":
                    _check_field(name, value)
            return {**given, "soft": _soft(given)}
        return data

    @property
    def empty(self) -> bool:
        """No wish at all."""
        return not _wished(dict(self))

    def is_soft(self, wish: str) -> bool:
        """By its name of `WISHES`, or `drop.f1`."""
        return wish in self.soft

    def part(self, *, soft: bool) -> Self:
        """The soft wishes alone, or the others alone; none of them marked."""
        changed: dict[str, object] = {"soft": ()}
        for wish, fields in WISHES.items():
            if self.is_soft(wish) != soft:
                changed.update(dict.fromkeys(fields))
        for field in BY_NAME:
            held: dict[str, float] = getattr(self, field) or {}
            changed[field] = {n: bound for n, bound in held.items() if self.is_soft(NAMED + n) == soft} or None
        return self.model_copy(update=changed)

    def allowed_drop(self, original: float, name: str | None = None) -> float | None:
        """Largest loss of a metric that is `original` before, in its own unit: the tighter of both wishes. Of the
        task's own metric, or of the one that is named."""
        if name is None:
            drop, share = self.metric_drop, self.metric_drop_share
        else:
            drop, share = (self.metric_drops or {}).get(name), (self.metric_drop_shares or {}).get(name)
        given = [one for one in (drop, None if share is None else share * abs(original)) if one is not None]
        return min(given, default=None)

    @property
    def by_class(self) -> bool:
        """Whether single classes are bounded."""
        return self.class_floor is not None or self.class_drop is not None

    @property
    def by_energy(self) -> bool:
        """Whether energy is bounded."""
        return self.energy_ratio is not None or self.energy_joules is not None

    @property
    def bounded(self) -> tuple[str, ...]:
        """Names of the metrics whose drop is bounded by name."""
        return tuple(dict.fromkeys([*(self.metric_drops or {}), *(self.metric_drop_shares or {})]))

    def of_metric(self, own: str) -> Self:
        """The same goal, for a task whose own metric is called `own`: bounds by that name are those of its own.

        Raises:
            GoalError: the own metric is bounded in both ways.
        """
        changed: dict[str, object] = {}
        for field in ("metric_drop", "metric_drop_share"):
            by_name: dict[str, float] = getattr(self, f"{field}s") or {}
            if own not in by_name:
                continue
            if getattr(self, field) is not None:
                raise GoalError(
                    f"The goal bounds the drop of {own!r} twice: {getattr(self, field):g}, since it is the task's own "
                    f"metric, and {by_name[own]:g} by its name. Leave one of them out."
                )
            changed[field] = by_name[own]
            changed["soft"] = tuple("drop" if wish == NAMED + own else wish for wish in self.soft)
            changed[f"{field}s"] = {name: bound for name, bound in by_name.items() if name != own} or None
        return self.model_copy(update=changed)

    @classmethod
    def from_options(  # noqa: PLR0913  one option per wish
        cls,
        *,
        drop: str | Sequence[str] | None = None,
        class_floor: str | None = None,
        class_drop: str | None = None,
        latency: str | None = None,
        latency_p95: str | None = None,
        throughput: str | None = None,
        size: str | None = None,
        macs: str | None = None,
        memory: str | None = None,
        energy: str | None = None,
        parameters: str | None = None,
        soft: str | Sequence[str] | None = None,
    ) -> Self:
        """A goal from the command line's texts: `--drop 1% --drop f1=2%rel --latency 4x --size 300KB --macs 2x`.

        Raises:
            GoalError: a text that is not understood, with the option, the text and right ones; one bound given twice.
        """
        wishes: dict[str, object] = _drops([drop] if isinstance(drop, str) else drop or ())
        if class_floor is not None:
            wishes["class_floor"] = parse_floor(class_floor)
        if class_drop is not None:
            wishes["class_drop"] = parse_class_drop(class_drop)
        for text, parse in ((latency, parse_latency), (size, parse_size), (energy, parse_energy)):
            if text is not None:
                wishes.update(parse(text))
        if latency_p95 is not None:
            wishes["latency_p95_ms"] = parse_time(latency_p95, option="--latency-p95")
        if throughput is not None:
            wishes["throughput"] = parse_rate(throughput)
        if macs is not None:
            wishes["macs_ratio"] = parse_ratio(macs, option="--macs")
        if memory is not None:
            wishes["peak_memory_bytes"] = parse_bytes(memory, option="--memory")
        if parameters is not None:
            wishes["parameters_ratio"] = parse_ratio(parameters, option="--parameters")
        wishes["soft"] = (soft,) if isinstance(soft, str) else tuple(soft or ())
        return cls.model_validate(wishes)

    @classmethod
    def from_data(cls, data: object, where: str = "the goal") -> Self:
        """A goal from a mapping: names and texts of the command line (`latency: 4x`, `drop: [1%, f1=2%]`,
        `soft: latency`), or fields of `Goal` with their numbers.

        Raises:
            GoalError: no mapping, an unknown name, a text that is not understood, one thing said twice.
        """
        if not isinstance(data, Mapping):
            raise GoalError(f"{where} must hold wishes by name, such as `latency: 4x`, got {shown(data)}.")
        options: dict[str, Any] = {}
        fields: dict[str, object] = {}
        for key, value in cast(Mapping[object, object], data).items():
            option = str(key).replace("-", "_")
            if option in cls.model_fields and option not in ("throughput", "class_floor", "class_drop", "soft"):
                fields[option] = value
            elif option.replace("_", "-") in (*WISHES, "soft"):
                if option in options:
                    raise GoalError(f"{where} says {shown(key)} twice. Leave one of them out.")
                options[option] = _texts(str(key), value, where)
            else:
                raise GoalError(f"{where}: unknown wish {shown(key)}. {nearest(cut(str(key), 60), [*WISHES, 'soft'])}")
        made = cls.from_options(**options)
        said = [name for name in fields if getattr(made, name) is not None]
        if said:
            raise GoalError(f"{where} says {said[0]!r} twice, as a field and as a wish. Leave one of them out.")
        return cls.model_validate({**made.model_dump(exclude_defaults=True), **fields})

    @classmethod
    def data_of(cls, path: str | Path) -> dict[str, object]:
        """What a YAML or JSON file holds, for `from_data`.

        Raises:
            GoalError: the file is missing, not YAML or JSON, or no mapping.
        """
        try:
            data = yaml_of(text_of(Path(path)))
        except (OSError, ValueError) as wrong:
            raise GoalError(f"The goal {path} cannot be read: {wrong}. Give a file of YAML or JSON.") from wrong
        if not isinstance(data, Mapping):
            raise GoalError(f"{path} must hold wishes by name, such as `latency: 4x`, got {shown(data)}.")
        return {str(key): value for key, value in cast(Mapping[object, object], data).items()}

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """A goal from a YAML or JSON file.

        Raises:
            GoalError: as `data_of` and `from_data`.
        """
        return cls.from_data(cls.data_of(path), str(path))


def _texts(key: str, value: object, where: str) -> str | list[str]:
    """A file may hold `latency: 4`, which is a number and means the text."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    if key in ("drop", "soft") and isinstance(value, (list, tuple)):
        return [str(one) for one in cast(Sequence[object], value)]
    raise GoalError(f"{where}: {key}: {shown(value)} is not understood. Write it as on the command line, as a text.")


def _wished(given: Mapping[str, object]) -> set[str]:
    """Names of the wishes that are not None, as `soft` calls them."""
    found = {wish for wish, fields in WISHES.items() if any(given.get(field) is not None for field in fields)}
    for field in BY_NAME:
        held = given.get(field)
        found |= {f"{NAMED}{name}" for name in cast(Mapping[str, object], held)} if isinstance(held, Mapping) else set()
    return found


def _soft(given: Mapping[str, object]) -> tuple[str, ...]:
    """Names in their one spelling, each once.

    Raises:
        GoalError: a name of no wish, or of one that the goal does not hold.
    """
    value = given.get("soft") or ()
    names: object = (value,) if isinstance(value, str) else value
    if not isinstance(names, (tuple, list)) or not all(isinstance(n, str) for n in cast(Sequence[object], names)):
        raise GoalError(f"Goal(soft=...) must be names of wishes, got {shown(value)}. Write soft=('latency',).")
    wished, found = _wished(given), dict[str, None]()
    for name in cast(Sequence[str], names):
        wish = name if name.startswith(NAMED) else name.replace("_", "-")
        if wish not in WISHES and not name.startswith(NAMED):
            known = {*WISHES, *(cut(one, 60) for one in wished)}
            raise GoalError(f"soft names {shown(name)}, which is no wish. {nearest(cut(wish, 60), known)}")
        if wish not in wished:
            held = cut(", ".join(sorted(wished))) or "none"
            raise GoalError(f"soft names {shown(name)}, and the goal holds no such wish. Held: {held}.")
        found[wish] = None
    return tuple(found)


def _drops(texts: Sequence[str]) -> dict[str, object]:
    """Fields of the goal for `1%`, `1%rel`, `f1=1%`, each at most once."""
    found: dict[str, dict[str | None, float]] = {}
    for text in texts:
        name, bound = named(text)
        option = "--drop" if name is None else f"--drop {cut(name, 60)}"
        field = "metric_drop_share" if is_share(bound, option=option) else "metric_drop"
        held = found.setdefault(field if name is None else f"{field}s", {})
        if name in held:
            raise GoalError(f"{option} is given twice: {held[name]:g} and {bound}. Leave one of them out.")
        held[name] = parse_drop(bound, option=option)
    return {field: held.get(None, held) for field, held in found.items()}


def _check_field(name: str, value: object) -> None:
    """The same rules for `Goal(...)` in Python."""
    if name in ("metric_drops", "metric_drop_shares"):
        _check_by_name(name, value)
        return
    example = f"Write {name}={_FIELD_EXAMPLES[name]}."
    kind, _, unit = name.rpartition("_")
    _check_number(f"Goal({name}=...)", value, example, share=unit == "share")
    assert isinstance(value, (int, float))
    if name == "class_drop" and value >= 1:
        raise GoalError(f"Goal({name}={shown(value)}) is all of it: any model would do. {example}")
    if name == "class_floor" and value > 1:
        raise GoalError(f"Goal({name}={shown(value)}) is above 1, which is 100 %. {example}")
    if unit == "ratio" and value < 1:
        wrong = f"Goal({name}={shown(value)}) would make the model {GROWTH[kind]}"
        raise GoalError(f"{wrong}: a ratio is original / compressed. {example}")
    if unit == "bytes" and value >= MOST_BYTES:
        raise GoalError(f"Goal({name}={shown(value)}) is more than any file or memory holds. {example}")
    if unit == "bytes" and value != int(value):
        raise GoalError(f"Goal({name}={shown(value)}) must be a whole number of bytes. {example}")


def _check_number(where: str, value: object, example: str, *, share: bool) -> None:
    """A finite number above zero, and below one where it is a share."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
        raise GoalError(f"{where} must be a number, got {shown(value)}. {example}")
    where = where.replace("...", shown(value))
    if value <= 0:
        raise GoalError(f"{where} must be above zero. {example}")
    if share and value >= 1:
        raise GoalError(f"{where} is all of the metric: any model would do. {example}")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _check_by_name(name: str, value: object) -> None:
    example = f"Write {name}={_FIELD_EXAMPLES[name]}."
    if not isinstance(value, Mapping) or not value:
        raise GoalError(f"Goal({name}=...) must be a bound for each name of a metric, got {shown(value)}. {example}")
    for metric, bound in cast(Mapping[object, object], value).items():
        if not isinstance(metric, str) or not metric:
            raise GoalError(f"Goal({name}=...) names metrics by text, got {shown(metric)}. {example}")
        _check_number(f"Goal({name}={{{shown(metric)}: ...}})", bound, example, share=name == "metric_drop_shares")
