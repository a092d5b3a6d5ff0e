"""Run records as a real run writes them, and their edge cases."""

from __future__ import annotations

import math

from lissom.measure.records import (
    AnswererRecord,
    ChannelRecord,
    ClassRecord,
    ComparisonRecord,
    CorrectionRecord,
    DistillationRecord,
    Environment,
    EpochRecord,
    GoalItem,
    Latency,
    LayerRecord,
    MetricValue,
    Parity,
    Ratios,
    RunRecord,
    Side,
    SkipRecord,
    StepRecord,
    TargetTrial,
    TrainingRecord,
)
from lissom.measure.search_records import ArchitectureRecord, AxisRecord, ShapeRecord, SubnetTrial
from lissom.measure.synthesis import Signs, SynthesisPoint, SynthesisRecord

HOSTILE = "</script><script>alert(1)</script><b onmouseover=alert(2)>\"'&amp; {{ 7*7 }} <!--"


def latency(median: float, rounds: int = 25, spread: float = 0.02) -> Latency:
    samples = tuple(median * (1 + spread * math.sin(1.7 * i) + (0.09 if i == 11 else 0)) for i in range(rounds))
    half = median * spread / 3
    return Latency(median=median, low=median - half, high=median + half, p95=median * (1 + 2 * spread), samples=samples)


def metric(value: float, *, name: str = "accuracy", split: str = "test") -> MetricValue:
    return MetricValue.model_validate({"name": name, "value": value, "samples": 10_000, "split": split})


def side(value: float | None, median: float, size_bytes: int, *, parameters: int, macs: int, peak: int | None) -> Side:
    return Side(
        metric=None if value is None else metric(value),
        latency_ms=latency(median),
        batch_size=1,
        size_bytes=size_bytes,
        parameters=parameters,
        macs=macs,
        peak_memory_bytes=peak,
    )


def layers() -> tuple[LayerRecord, ...]:
    """The 22 layers of a ResNet-20 for CIFAR with 1x1 shortcuts; two did not run as planned."""
    records = [_layer("conv1", 3, 16, 3, 32)]
    widths = (16, 32, 64)
    for stage, width in enumerate(widths, start=1):
        before, size = widths[max(stage - 2, 0)], 32 >> (stage - 1)
        for block in range(3):
            source = before if block == 0 else width
            records.append(_layer(f"layer{stage}.{block}.conv1", source, width, 3, size))
            records.append(_layer(f"layer{stage}.{block}.conv2", width, width, 3, size))
            if block == 0 and stage > 1:
                records.append(_layer(f"layer{stage}.0.shortcut", source, width, 1, size))
    records.append(_layer("fc", 64, 10, 1, 1))
    return tuple(records)


def _layer(name: str, source: int, out: int, kernel: int, size: int) -> LayerRecord:
    weights = source * out * kernel * kernel
    first, last = name == "conv1", name == "fc"
    return LayerRecord(
        layer=name,
        op="linear" if last else "conv2d",
        macs=weights * size * size,
        parameters_before=weights + (10 if last else 0),
        parameters_after=weights + (10 if last else 0),
        planned="int8",
        ran="float32" if name == "layer3.0.shortcut" else "unknown" if first else "int8",
        sqnr_db=None if first else 24.0 + 9 * math.sin(weights),
    )


def environment() -> Environment:
    return Environment(
        cpu="Intel Xeon Platinum 8581C at 2.10 GHz",
        cores=2,
        threads=2,
        isa=("avx2", "avx512f", "avx512_vnni"),
        memory_bytes=16_500_000_000,
        system="Linux 6.1 x86_64",
        python="3.11.9",
        versions={"torch": "2.13.0", "openvino": "2026.4.1", "onnxruntime": "1.32.0", "torchao": "0.18.0"},
    )


def trial(
    target: str,
    recipe: str,
    latency_ms: float | None,
    value: float | None,
    size_bytes: int | None,
    *,
    chosen: bool = False,
    note: str = "",
) -> TargetTrial:
    return TargetTrial(
        target=target,
        recipe=recipe,
        latency_ms=latency_ms,
        metric=value,
        size_bytes=size_bytes,
        chosen=chosen,
        note=note,
    )


def resnet20(**changes: object) -> RunRecord:
    """ResNet-20 on CIFAR-10, int8: 91.73 % to 91.70 %, 1.09 MB to 0.31 MB, 0.92 ms to 0.35 ms."""
    run = RunRecord(
        lissom="0.1.0",
        name="resnet20",
        created="2026-03-02T10:15:00Z",
        target="openvino",
        before=side(0.9173, 0.92, 1_090_000, parameters=272_474, macs=41_214_592, peak=21_000_000),
        after=side(0.9170, 0.35, 310_000, parameters=272_474, macs=41_214_592, peak=9_400_000),
        ratios=Ratios(
            size=3.516, latency=2.63, latency_low=2.55, latency_high=2.71, macs=1.0, parameters=1.0
        ),
        goal=(
            GoalItem(wish="metric drop at most 1 point", figure="0.03 points", met=True),
            GoalItem(wish="at least 3.5x smaller", figure="3.5x", met=True),
            GoalItem(wish="at least 2x faster", figure="2.6x", met=True),
        ),
        steps=(
            StepRecord(
                transform="Fold", settings={}, seconds=0.41, metric=metric(0.9181, split="validation")
            ),
            StepRecord(
                transform="Quantize",
                settings={"calibration": "entropy", "bits": 8},
                seconds=74.2,
                metric=metric(0.9178, split="validation"),
            ),
        ),
        skipped=(
            SkipRecord(transform="Quantize", layer="avgpool", reason="no integer kernel in OpenVINO"),
            SkipRecord(transform="Prune", layer="fc", reason="its output is the model's output"),
        ),
        layers=layers(),
        parity=Parity(max_steps=0.62, mean_steps=0.041, agreement=0.9994),
        trials=(
            trial("openvino", "Fold, Quantize", 0.35, 0.9178, 310_000, chosen=True),
            trial("onnxruntime", "Fold, Quantize", 0.48, 0.9178, 305_000, note="1.4x slower than openvino"),
            trial("openvino", "Fold, Prune(0.4), Quantize", 0.29, 0.9021, 190_000, note="drops 1.6 points"),
            trial("executorch", "Fold, Quantize", None, None, None, note="not installed"),
        ),
        notes=("Calibrated on 512 training images.", "One seed; a claim of gain needs three."),
        recipe=[
            {"transform": "Fold"},
            {"transform": "Quantize", "calibration": "entropy", "bits": 8, "axes": [0, 1]},
        ],
        command="lissom compress resnet20.py --target openvino --drop 1% --size 3.5x --latency 2x --out a",
        environment=environment(),
        seed=0,
    )  # fmt: skip
    return run.model_copy(update=changes)


def bare() -> RunRecord:
    """A data-free run: no metric, no peak memory, no layers, no goal, no parity, nothing skipped."""
    return resnet20(
        name="bare",
        before=side(None, 5.0, 2_000_000, parameters=500_000, macs=1_000_000, peak=None),
        after=side(None, 5.1, 2_000_000, parameters=500_000, macs=1_000_000, peak=None),
        ratios=Ratios(size=1.0, latency=0.98, latency_low=0.95, latency_high=1.02, macs=1.0, parameters=1.0),
        goal=(), steps=(), skipped=(), layers=(), parity=None, trials=(), notes=(), recipe=[],
    )  # fmt: skip


def slower() -> RunRecord:
    """A goal missed: smaller, but slower than the original."""
    return resnet20(
        name="vit_tiny",
        target="onnxruntime",
        before=side(0.751, 27.0, 22_900_000, parameters=5_720_000, macs=1_260_000_000, peak=80_000_000),
        after=side(0.744, 33.75, 6_100_000, parameters=5_720_000, macs=1_260_000_000, peak=40_000_000),
        ratios=Ratios(size=3.754, latency=0.8, latency_low=0.78, latency_high=0.82, macs=1.0, parameters=1.0),
        goal=(
            GoalItem(wish="at least 3.5x smaller", figure="3.8x", met=True),
            GoalItem(wish="at least 2x faster", figure="0.80x", met=False),
        ),
    )


def channels() -> tuple[ChannelRecord, ...]:
    """A block of a residual network, pruned: two layers share their channels, the last one keeps its own."""
    return (
        ChannelRecord(
            layer="conv1", op="conv2d", before=16, after=9, inputs_before=3, inputs_after=3, coupled=("layer1.0.conv2",)
        ),
        ChannelRecord(layer="layer1.0.conv1", op="conv2d", before=16, after=5, inputs_before=16, inputs_after=9),
        ChannelRecord(
            layer="layer1.0.conv2", op="conv2d", before=16, after=9, inputs_before=16, inputs_after=5,
            coupled=("conv1",),
        ),
        ChannelRecord(layer="depthwise", op="conv2d", before=16, after=9),
        ChannelRecord(
            layer="fc", op="linear", before=10, after=10, inputs_before=16, inputs_after=9,
            reason="it is an output of the model",
        ),
    )  # fmt: skip


def training(*, name: str = "accuracy", epochs: int = 5, measured: bool = True) -> TrainingRecord:
    """Overfits at the end: the last but one epoch is kept."""
    return TrainingRecord(
        metric_name=name if measured else None,
        epochs=tuple(
            EpochRecord(
                loss=1.6 / (i + 2),
                learning_rate=0.01 * (epochs - i) / epochs,
                metric=0.9 + 0.01 * min(i, epochs - 2) - 0.005 * (i == epochs - 1) if measured else None,
                seconds=62.5 + i,
            )
            for i in range(epochs)
        ),
        chosen=epochs - 2 if measured and epochs > 1 else epochs - 1,
        precision="bfloat16",
        channels_last=True,
        step_ms={"float32": 41.2, "bfloat16, channels last": 20.5},
    )


def distillation(*, name: str = "original", control: bool = True, classes: int = 10) -> DistillationRecord:
    """A student between its teacher and what it would be without one."""
    answerers = (
        AnswererRecord(name="student", metric=0.912, calibration_error=0.031, agreement=0.941),
        AnswererRecord(name=name, metric=0.931, calibration_error=0.044, agreement=1.0),
        AnswererRecord(name="without a teacher", metric=0.901, calibration_error=None),
    )[: 3 if control else 2]
    return DistillationRecord(
        teachers=(name,), share=0.9, losses={"task": 0.28, "kl": 0.0613, "hint": 0.182},
        taps={"hint": {"layer1": "layer1", "layer2": "layer2"}}, rounds=(0.905, 0.912), kept=704, replaced=2,
        kept_bytes=900_000,
        comparison=ComparisonRecord(
            metric_name="accuracy", answerers=answerers, agreement=0.941,
            classes=tuple(
                ClassRecord(label=i, examples=100 + i, right=(0.9, 0.98 - 0.01 * i, 0.85)[: len(answerers)])
                for i in range(classes)
            ),
        ),
    )  # fmt: skip


def corrections(*, name: str = "cross-layer") -> tuple[CorrectionRecord, ...]:
    return (
        CorrectionRecord(name=name, layers=19, error_before=0.0123, error_after=0.0087, accepted=True),
        CorrectionRecord(name="bias", layers=22, error_before=0.0087, error_after=0.0091, accepted=False),
    )


def synthesis(*, word: str = "inversion", epochs: int = 3) -> SynthesisRecord:
    """Of a training; the sheet is one grey pixel."""
    signs = Signs(examples=512, confidence=0.93, balance=0.98, spread=1.2, normalizations=4, collapsed=None)
    return SynthesisRecord(
        settings={"method": word, "updates": 40}, splits=("train",), examples=1920, signs=signs,
        history=tuple(
            SynthesisPoint(
                **signs.model_dump(), losses={"confidence": 0.5 - 0.1 * epoch, word: 0.2},
                agreement=0.9 + 0.04 * epoch, entropy=0.25,
            )
            for epoch in range(epochs)
        ),
        sheet="data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==",
        sheet_classes=(3,),
    )  # fmt: skip


def blind() -> RunRecord:
    """A run without data."""
    run = pruned()
    made = synthesis().model_copy(update={"splits": ("train", "calibration", "validation"), "history": ()})
    prune, train, quantize = run.steps
    return run.model_copy(
        update={
            "synthesis": made,
            "steps": (
                prune,
                train.model_copy(update={"synthesis": synthesis(), "made_up": ("train",)}),
                quantize.model_copy(update={"made_up": ("calibration",)}),
            ),
        }
    )


def pruned() -> RunRecord:
    """Pruned, fine-tuned, quantized."""
    return resnet20(
        steps=(
            StepRecord(
                transform="Prune", settings={"macs_ratio": 2.1, "seed": 0}, seconds=4.2,
                metric=metric(0.88, split="validation"), title="Prune(macs_ratio=2.1)",
                did="3 groups of channels cut, in 5 layers", macs=19_600_000, parameters=130_000,
                module="exported graph", reason="its own forward() does not run at the new sizes",
            ),
            StepRecord(
                transform="Finetune", settings={"epochs": 5}, seconds=340.0,
                metric=metric(0.916, split="validation"), title="Finetune(epochs=5)",
                did="130,000 parameters trained in bfloat16, channels last", macs=19_600_000, parameters=130_000,
                module="exported graph", training=training(), distillation=distillation(),
            ),
            StepRecord(
                transform="Quantize", settings={}, seconds=1.0, metric=None, title="Quantize(mode=static)",
                did="22 x store-weight", macs=19_600_000, parameters=130_000, module="exported graph",
                corrections=corrections(),
            ),
        ),
        channels=channels(),
    )  # fmt: skip


def hostile() -> RunRecord:
    """Every free text is an attack on the page."""
    run = resnet20()
    return run.model_copy(
        update={
            "name": HOSTILE,
            "target": HOSTILE,
            "created": HOSTILE,
            "command": HOSTILE,
            "notes": (HOSTILE,),
            "goal": (GoalItem(wish=HOSTILE, figure=HOSTILE, met=False),),
            "skipped": (SkipRecord(transform=HOSTILE, layer=HOSTILE, reason=HOSTILE),),
            "layers": tuple(
                layer.model_copy(update={"layer": f"{HOSTILE}{i}", "op": HOSTILE, "planned": HOSTILE, "ran": HOSTILE})
                for i, layer in enumerate(run.layers)
            ),
            "channels": (
                ChannelRecord(layer=HOSTILE, op=HOSTILE, before=9, after=3, coupled=(HOSTILE,)),
                ChannelRecord(layer=HOSTILE, op=HOSTILE, before=9, after=9, reason=HOSTILE),
            ),
            "trials": (trial(HOSTILE, HOSTILE, 0.5, 0.9, 1000, note=HOSTILE),),
            "steps": (
                StepRecord(
                    transform=HOSTILE,
                    settings={HOSTILE: HOSTILE},
                    seconds=1,
                    metric=None,
                    title=HOSTILE,
                    did=HOSTILE,
                    reason=HOSTILE,
                    training=training(name=HOSTILE),
                    synthesis=synthesis(word=HOSTILE).model_copy(update={"sheet": HOSTILE}),
                    made_up=(HOSTILE,),
                    distillation=distillation(name=HOSTILE).model_copy(update={"taps": {HOSTILE: {HOSTILE: HOSTILE}}}),
                    corrections=corrections(name=HOSTILE),
                ),
            ),
            "recipe": [{HOSTILE: HOSTILE}],
            "environment": environment().model_copy(update={"cpu": HOSTILE, "versions": {HOSTILE: HOSTILE}}),
            "before": run.before.model_copy(update={"metric": metric(0.9, name=HOSTILE)}),
            "after": run.after.model_copy(update={"metric": metric(0.9, name=HOSTILE)}),
        }
    )


def architecture(*, chance: int = 5, wish: str = "latency_ratio") -> ArchitectureRecord:
    """Four subnets of two axes that were looked at by plan, some by chance, some by the search."""

    def trial(
        at: int, by: str, metric: float, cost: float, *, front: bool = False, chosen: bool = False
    ) -> SubnetTrial:
        return SubnetTrial.model_validate({
            "subnet": (at, at), "by": by, "metric": metric, "cost": cost, "macs": int(4e7 * cost),
            "parameters": int(3e5 * cost), "reward": metric * (cost / 0.5) ** -0.07, "on_front": front,
            "chosen": chosen,
        })  # fmt: skip

    planned = [trial(0, "uniform", 0.912, 1.0, front=True), trial(1, "uniform", 0.71, 0.11, front=True)]
    drawn = [trial(2 + i, "chance", 0.80 + 0.015 * i, 0.3 + 0.09 * i) for i in range(chance)]
    found = [trial(20 + i, "search", 0.85 + 0.01 * i, 0.28 + 0.05 * i, front=True, chosen=i == 4) for i in range(5)]
    shapes = (
        ("stem", 16, 16, 3, 3), ("layer1.0.expand", 64, 32, 1, 1), ("layer1.0.depthwise", 64, 32, 7, 3),
        ("layer1.0.project", 16, 16, 1, 1), ("layer1.1.expand", 64, 0, 1, None), ("layer1.1.depthwise", 64, 0, 5, None),
        ("a.rather.long.path.to.a.layer", 128, 96, 5, 5), ("head", 10, 10, None, None),
    )  # fmt: skip
    return ArchitectureRecord(
        wish=wish, goal=0.5, metric="accuracy", searcher="reward", subnets=str(10**19),
        axes=(AxisRecord(axis="width", members=("stem.weight",), choices=(16, 8), chosen=16),),
        trials=(*planned, *drawn, *found),
        layers=tuple(
            ShapeRecord(layer=name, op="conv2d", before=before, after=after, kernel_before=k, kernel_after=own)
            for name, before, after, k, own in shapes
        ),
    )  # fmt: skip


def searched() -> RunRecord:
    """A run whose first step searched an architecture."""
    step = StepRecord(
        transform="Supernet", settings={}, seconds=3600.0, metric=None, title="Supernet(latency_ratio=2)",
        architecture=architecture(),
    )  # fmt: skip
    return resnet20(steps=(step, *resnet20().steps))
