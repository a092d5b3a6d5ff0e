"""Which figures of the results `lissom recommend` shows: one row for each contender, picked by name, never typed in.

An experiment without a result has no rows. A figure that a result lacks is an error: the row names what is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import lissom.advise
from benchmarks import results
from benchmarks.results import Result
from lissom.advise.evidence import FILE, Cost, Evidence, to_json
from lissom.advise.facts import ModelKind
from lissom.advise.scenarios import Method

PLACE = Path(lissom.advise.__file__).parent / FILE
Pick = Callable[[Result], float]
DIGITS = 4


@dataclass(frozen=True)
class Row:
    """Where the figures of one row of the table are."""

    experiment: str
    methods: tuple[Method, ...]
    model: str
    kind: ModelKind
    data: str
    setting: str
    target: str | None = None
    ratios: Mapping[Cost, Pick] = field(default_factory=dict[Cost, Pick])
    loss: Pick | None = None
    unit: Literal["points", "RMSE"] = "points"
    note: str = ""


def figure(name: str) -> Pick:
    """A figure that the experiment reports."""
    return lambda result: result.value[name].value


def control(name: str) -> Pick:
    return lambda result: next(one.value for one in result.control if one.what == name)


def of_run(run: str, name: str) -> Pick:
    """A figure of one contender."""

    def pick(result: Result) -> float:
        return float(next(one.figures[name] for one in result.runs if one.name == run))

    return pick


def less(a: Pick, b: Pick) -> Pick:
    return lambda result: a(result) - b(result)


def over(a: Pick, b: Pick) -> Pick:
    return lambda result: a(result) / b(result)


def lost(run: str, original: Pick, name: str = "accuracy %") -> Pick:
    """Points of a contender below the original."""
    return less(original, of_run(run, name))


RESNETS, CIFAR = ("resnet20", "resnet56"), "CIFAR-10 test split"
NAMES = {"resnet20": "ResNet-20", "resnet56": "ResNet-56"}
ALONE = "of this step alone, nothing trained"


def _resnets() -> list[Row]:
    found: list[Row] = []
    for name in RESNETS:
        for target in ("openvino", "onnxruntime"):
            found.append(
                Row(
                    "Q2",
                    ("int8",),
                    NAMES[name],
                    "convolutional",
                    CIFAR,
                    "Quantize()",
                    target,
                    {
                        "size": over(
                            of_run(f"{name} {target}/float batch 1", "bytes"),
                            of_run(f"{name} {target}/lissom batch 1", "bytes"),
                        ),
                        "latency": figure(f"{name} {target} speed-up, batch 64"),
                    },
                    figure(f"{name} {target} drop"),
                    note="latency at batch 64",
                )
            )
    return found


def _low_rank() -> list[Row]:
    found: list[Row] = []
    original = of_run("original", "accuracy %")
    for share in ("0.3", "0.5"):
        run = f"svd {share}, aware, recovery reconstruct"
        found.append(
            Row(
                "L1RANKS",
                ("low-rank",),
                "ResNet-56",
                "convolutional",
                "2,000 CIFAR-10 images seen in training",
                f"Factorize(method='svd', ratio={share})",
                None,
                {"macs": of_run(run, "MACs ratio")},
                lost(run, original),
                note=ALONE,
            )
        )
    for share in ("0.2", "0.35", "0.5"):
        run = f"svd {share}, aware, recovery none"
        found.append(
            Row(
                "L1TEXT",
                ("low-rank",),
                "MiniLM",
                "transformer",
                "SST-2",
                f"Factorize(method='svd', ratio={share}, recovery='none')",
                None,
                {"macs": of_run(run, "MACs ratio")},
                lost(run, original),
                note=ALONE,
            )
        )
    for model, kind, target in (
        ("ResNet-56", "convolutional", "onnxruntime"),
        ("ResNet-56", "convolutional", "openvino"),
        ("VGG-16", "convolutional", "onnxruntime"),
        ("MiniLM-shaped", "transformer", "openvino"),
    ):
        found.append(
            Row(
                "L4",
                ("low-rank",),
                model,
                kind,
                "none",
                "Factorize(ratio=0.5)",
                target,
                {"latency": figure(f"{model}, {target}, whole network with the guard")},
                note="latency alone; accuracy was not looked at",
            )
        )
    return found


def _transformers() -> list[Row]:
    vit = ("vision transformer, 1.8 M parameters", "transformer", "CIFAR-10 test split")
    bert = ("BERT-base, random weights", "transformer", "none")
    found = [
        Row(
            "Q5",
            methods,
            *vit,
            setting,
            "openvino",
            {"size": figure(f"size ratio, {name}")},
            figure(f"drop, {name}"),
        )
        for methods, setting, name in (
            (("int8",), "Quantize()", "8 bits everywhere"),
            (("float16",), "Quantize(precision=16)", "16 bits everywhere"),
            (("mixed-precision",), "Quantize(precision='auto', max_drop=0.003)", "by search"),
        )
    ]
    methods: tuple[tuple[Method, str, str], ...] = (
        ("int8", "Quantize()", "static"),
        ("dynamic-int8", "Quantize(mode='dynamic')", "dynamic"),
    )
    for method, setting, name in methods:
        for target in ("openvino", "onnxruntime"):
            found.append(
                Row(
                    "BERT",
                    (method,),
                    *bert,
                    setting,
                    target,
                    {
                        "size": over(of_run(f"{target}/float", "bytes"), of_run(f"{target}/lissom-{name}", "bytes")),
                        "latency": figure(f"{target}/lissom-{name} over the best fp32"),
                    },
                    note="random weights, so no accuracy; latency at batch 1",
                )
            )
    return found


def _speech() -> list[Row]:
    whole = control("the dense network in float")
    names = ("4.5 times fewer, int8", "6 times fewer, int8", "8 times fewer, int8")
    speech = ("speech network of 5 convolutions", "convolutional", "fsdd test split")
    alone = Row(
        "S3",
        ("int8",),
        *speech,
        "Quantize()",
        "onnxruntime",
        {"size": of_run("int8 alone", "times smaller")},
        lost("int8 alone", whole, "test %"),
    )
    return [
        alone,
        *(
            Row(
                "S3",
                ("low-rank", "distil", "int8"),
                *speech,
                f"Factorize(parameters_ratio={name.split()[0]}), Finetune(epochs=5, teacher='original'), Quantize()",
                "onnxruntime",
                {"size": of_run(name, "times smaller")},
                lost(name, whole, "test %"),
            )
            for name in names
        ),
    ]


def _pruned() -> list[Row]:
    original, setting = control("the original"), "Finetune(epochs=12, teacher='original')"
    resnet = ("ResNet-56", "convolutional", CIFAR)
    return [
        Row(
            "P4",
            ("prune", "distil"),
            *resnet,
            f"Prune(macs_ratio={name[:-1]}), {setting}",
            None,
            {"macs": figure(f"{name} MACs")},
            less(original, figure(f"{name} accuracy")),
        )
        for name in ("2.1x", "2.55x")
    ]


def _scenarios() -> list[Row]:
    mobile: tuple[Method, ...] = ("prune", "distil", "int8")
    realtime: tuple[Method, ...] = ("prune-depth", "prune", "distil", "int8")
    found: list[Row] = []
    for name in ("ResNet-56", "ResNet-20"):
        model = (name, "convolutional", CIFAR)
        size, macs, drop = figure(f"{name} size"), figure(f"{name} MACs"), figure(f"{name} drop")
        found += [
            Row("S1", mobile, *model, "scenario mobile", "executorch", {"size": size, "macs": macs}, drop),
            Row(
                "S2",
                realtime,
                *model,
                "scenario realtime",
                "openvino",
                {"size": size, "macs": macs, "latency": figure(f"{name} speed")},
                drop,
                note="latency at batch 64, over the faster of two runtimes in float",
            ),
        ]
    return found


ROWS: tuple[Row, ...] = (
    *_resnets(),
    Row(
        "R50",
        ("int8",),
        "ResNet-50, random weights",
        "convolutional",
        "none",
        "Quantize()",
        "openvino",
        {"size": figure("size ratio"), "latency": figure("openvino speed-up, batch 1")},
        note="random weights, so no accuracy; latency at batch 1",
    ),
    *_low_rank(),
    *_transformers(),
    *_speech(),
    *_pruned(),
    *_scenarios(),
    Row(
        "L3",
        ("tables", "distil"),
        "matrix factorization",
        "tables",
        "MovieLens 100K, three seeds",
        "Factorize(parameters_ratio=5, method='svd'), trained",
        "onnxruntime",
        {"parameters": figure("whole model smaller"), "size": figure("file smaller")},
        figure("RMSE rise"),
        "RMSE",
        note="RMSE: lower is better",
    ),
)


def rows(found: Sequence[Result]) -> tuple[Evidence, ...]:
    """Every row whose experiment has a result, with the figures of that result.

    Raises:
        LookupError: a result lacks a figure that a row names.
    """
    by_id = {result.id: result for result in found}
    return tuple(_row(row, by_id[row.experiment]) for row in ROWS if row.experiment in by_id)


def _row(row: Row, result: Result) -> Evidence:
    def picked(pick: Pick) -> float:
        try:
            return round(pick(result), DIGITS)
        except (KeyError, StopIteration) as absent:
            raise LookupError(f"{row.experiment}.json lacks a figure of the row {row.setting!r}: {absent}") from absent

    machine = result.environment
    return Evidence(
        experiment=row.experiment,
        methods=row.methods,
        model=row.model,
        kind=row.kind,
        data=row.data,
        setting=row.setting,
        target=row.target,
        ratios={cost: picked(pick) for cost, pick in row.ratios.items()},
        loss=None if row.loss is None else picked(row.loss),
        unit=row.unit,
        note=row.note,
        date=result.date,
        machine=f"{machine.cpu}, {machine.threads} thread{'s' * (machine.threads > 1)}",
    )


def write(found: Sequence[Result]) -> None:
    """Replace the table that the package ships."""
    results.write_text(PLACE, to_json(rows(found)))
