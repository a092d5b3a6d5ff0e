from __future__ import annotations

import pytest

from lissom.errors import GoalError
from lissom.goal import Goal
from lissom.measure.judge import impossible, judge, reached, written_bytes
from lissom.measure.metric_records import ClassShares
from lissom.measure.records import EnergyUse, GoalItem, Latency, MetricValue, Ratios, Side


def side(
    metric: float | None = 0.93,
    *,
    name: str = "accuracy",
    latency: float = 8.0,
    size: int = 3_400_000,
    memory: int | None = 90_000_000,
    classes: ClassShares | None = None,
    **further: float,
) -> Side:
    value = None if metric is None else MetricValue(name=name, value=metric, samples=10_000, split="test")
    return Side(
        metric=value,
        latency_ms=Latency(
            median=latency, low=latency - 0.1, high=latency + 0.1, p95=latency + 0.2, samples=(latency,)
        ),
        batch_size=64,
        size_bytes=size,
        parameters=850_000,
        macs=125_000_000,
        peak_memory_bytes=memory,
        classes=classes,
        metrics=tuple(MetricValue(name=k, value=v, samples=10_000, split="test") for k, v in further.items()),
    )


RATIOS = Ratios(size=8.1, latency=3.97, latency_low=3.9, latency_high=4.05, macs=2.0, parameters=2.5)


def judged(goal: Goal, before: Side | None = None, after: Side | None = None, ratios: Ratios = RATIOS):
    return judge(goal, before or side(), after or side(0.9297, latency=2.0, size=420_000), ratios)


def test_no_wish_no_item():
    assert judged(Goal()) == ()


def test_one_item_per_wish_in_the_order_of_the_fields():
    goal = Goal(
        metric_drop=0.01,
        metric_drop_share=0.02,
        latency_ratio=4,
        size_ratio=8,
        macs_ratio=2,
        parameters_ratio=3,
        latency_ms=2.5,
        latency_p95_ms=2.0,
        throughput=40_000,
        size_bytes=400_000,
        peak_memory_bytes=100_000_000,
    )
    assert judged(goal) == (
        GoalItem(wish="metric drop <= 1.00 pt", figure="0.03 pt", met=True),
        GoalItem(wish="metric drop <= 2.00 % of the original's", figure="0.03 %", met=True),
        GoalItem(wish="latency ratio >= 4.00x", figure="3.97x (3.90 to 4.05)", met=False),
        GoalItem(wish="size ratio >= 8.00x", figure="8.10x", met=True),
        GoalItem(wish="MACs ratio >= 2.00x", figure="2.00x", met=True),
        GoalItem(wish="parameters ratio >= 3.00x", figure="2.50x", met=False),
        GoalItem(wish="latency at batch 64 <= 2.500 ms", figure="2.000 ms (1.900 to 2.100)", met=True),
        GoalItem(wish="95th percentile of latency at batch 64 <= 2.000 ms", figure="2.200 ms", met=False),
        GoalItem(wish="throughput at batch 64 >= 40000.0/s", figure="32000.0/s (30476.2 to 33684.2)", met=False),
        GoalItem(wish="size <= 400.00 KB", figure="420.00 KB", met=False),
        GoalItem(wish="peak memory <= 100.00 MB", figure="90.00 MB", met=True),
    )


def test_the_median_ratio_decides_and_the_interval_is_shown():
    ratios = RATIOS.model_copy(update={"latency": 4.01, "latency_low": 3.8, "latency_high": 4.2})
    (item,) = judged(Goal(latency_ratio=4), ratios=ratios)
    assert item == GoalItem(wish="latency ratio >= 4.00x", figure="4.01x (3.80 to 4.20)", met=True)


@pytest.mark.parametrize(("after", "met"), [(0.92, True), (0.9199, False), (0.95, True)])
def test_a_drop_of_exactly_the_limit_is_met_in_spite_of_rounding(after, met):
    # 0.93 - 0.92 is 0.010000000000000009.
    (item,) = judged(Goal(metric_drop=0.01), after=side(after))
    assert item.met is met


def test_a_gain_is_a_negative_drop():
    (item,) = judged(Goal(metric_drop=0.01), after=side(0.94))
    assert item == GoalItem(wish="metric drop <= 1.00 pt", figure="-1.00 pt", met=True)


def test_a_metric_that_is_no_share_keeps_its_own_unit():
    before, after = side(-12.5, name="negative_mse"), side(-13.0, name="negative_mse")
    (item,) = judged(Goal(metric_drop=2.0), before, after)
    assert item == GoalItem(wish="metric drop <= 2.00", figure="0.50", met=True)


def test_further_metrics_are_judged_by_name():
    goal = Goal(metric_drop=0.01, metric_drops={"f1": 0.02, "negative_mse": 1.5}, metric_drop_shares={"f1": 0.01})
    before, after = side(0.93, f1=0.9, negative_mse=-4.0), side(0.925, f1=0.885, negative_mse=-6.0)
    assert judged(goal, before, after) == (
        GoalItem(wish="metric drop <= 1.00 pt", figure="0.50 pt", met=True),
        GoalItem(wish="f1 drop <= 2.00 pt", figure="1.50 pt", met=True),
        GoalItem(wish="f1 drop <= 1.00 % of the original's", figure="1.67 %", met=False),
        GoalItem(wish="negative_mse drop <= 1.50", figure="2.00", met=False),
    )


def shares(*values: float) -> ClassShares:
    return ClassShares(metric="accuracy", split="test", labels=(0, 1, 4), examples=(100, 50, 20), shares=values)


@pytest.mark.parametrize(
    ("goal", "after", "item"),
    [
        (
            Goal(class_floor=0.8),
            shares(0.9, 0.78, 0.95),
            GoalItem(
                wish="accuracy of every class >= 80.00 %",
                figure="78.00 % in class 1 (50 examples, was 90.00 %)",
                met=False,
            ),
        ),
        (
            Goal(class_floor=0.78),
            shares(0.9, 0.78, 0.95),
            GoalItem(
                wish="accuracy of every class >= 78.00 %",
                figure="78.00 % in class 1 (50 examples, was 90.00 %)",
                met=True,
            ),
        ),
        (
            Goal(class_drop=0.1),
            shares(0.9, 0.85, 0.95 - 0.15),
            GoalItem(
                wish="accuracy drop of every class <= 10.00 pt", figure="5.00 pt in class 1 (50 examples)", met=True
            ),
        ),
        (
            Goal(class_drop=0.1),
            shares(0.5, 0.85, 0.95),
            GoalItem(
                wish="accuracy drop of every class <= 10.00 pt", figure="40.00 pt in class 0 (100 examples)", met=False
            ),
        ),
        (
            Goal(class_drop=0.1),
            shares(1.0, 1.0, 1.0),
            GoalItem(
                wish="accuracy drop of every class <= 10.00 pt", figure="-10.00 pt in class 0 (100 examples)", met=True
            ),
        ),
    ],
)
def test_single_classes_are_judged_and_the_worst_is_named(goal, after, item):
    before = side(classes=shares(0.9, 0.9, 0.8))
    assert judged(goal, before, side(classes=after)) == (item,)
    assert impossible(goal, before) is None


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (
            side(-3.0, name="negative_mse"),
            "The goal bounds single classes, and 'negative_mse' tells no classes apart. Give the task "
            "lissom.metrics.accuracy, as its metric or in Task(metrics=...), or a Metric with by_class=...",
        ),
        (
            side(None),
            "The goal says single classes are bounded, but no metric was measured. Give the task a metric and test "
            "data, or leave the drop out of the goal.",
        ),
    ],
)
@pytest.mark.parametrize("goal", [Goal(class_floor=0.5), Goal(class_drop=0.5)])
def test_single_classes_of_what_has_none(goal, before, reason):
    assert impossible(goal, before) == reason
    with pytest.raises(GoalError) as error:
        judged(goal, before, before)
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (
            side(f1=0.9),
            "The goal bounds the drop of 'f2', which is not measured. Did you mean 'f1'? The task's own metric is "
            "'accuracy'; Task(metrics=...) adds others.",
        ),
        (
            side(),
            "The goal bounds the drop of 'f2', and the task measures 'accuracy' alone. Task(metrics={'f2': ...}) "
            "adds it.",
        ),
        (
            side(None),
            "The goal says the drop of 'f2' is bounded, but no metric was measured. Give the task a metric and test "
            "data, or leave the drop out of the goal.",
        ),
    ],
)
def test_a_bound_on_a_metric_that_nobody_measures(before, reason):
    goal = Goal(metric_drops={"f2": 0.01})
    assert impossible(goal, before) == reason
    with pytest.raises(GoalError) as error:
        judged(goal, before, before)
    assert str(error.value) == reason


def test_soft_wishes_come_last_and_decide_nothing():
    goal = Goal(metric_drop=0.01, latency_ratio=4, size_ratio=8, soft=("latency",))
    items = judged(goal)
    assert items == (
        GoalItem(wish="metric drop <= 1.00 pt", figure="0.03 pt", met=True),
        GoalItem(wish="size ratio >= 8.00x", figure="8.10x", met=True),
        GoalItem(wish="latency ratio >= 4.00x", figure="3.97x (3.90 to 4.05)", met=False, hard=False),
    )
    assert reached(items)
    assert not reached(judged(goal.model_copy(update={"soft": ()})))
    assert reached(judged(Goal(latency_ratio=4, soft=("latency",))))


def test_energy_is_judged_by_its_median_and_not_without_counters():
    goal = Goal(energy_ratio=2, energy_joules=0.005)
    used = EnergyUse(median=0.006, low=0.0055, high=0.0065, samples=(0.006,))
    ratios = RATIOS.model_copy(update={"energy": 2.5, "energy_low": 2.4, "energy_high": 2.6})
    after = side().model_copy(update={"energy": used})
    assert judged(goal, after=after, ratios=ratios) == (
        GoalItem(wish="energy ratio >= 2.00x", figure="2.50x (2.40 to 2.60)", met=True),
        GoalItem(wish="energy of one input at batch 64 <= 5.000 mJ", figure="6.000 mJ (5.500 to 6.500)", met=False),
    )
    with pytest.raises(GoalError, match="The goal limits energy, but it was not measured"):
        judged(goal)


def test_a_near_miss_does_not_read_like_the_wish():
    ratios = RATIOS.model_copy(update={"size": 7.9996})
    (item,) = judged(Goal(size_ratio=8), ratios=ratios)
    assert item == GoalItem(wish="size ratio >= 8.0000x", figure="7.9996x", met=False)


def test_a_metric_wish_without_a_metric():
    message = (
        "The goal says metric drop <= 0.01, but no metric was measured. Give the task a metric and test "
        "data, or leave the drop out of the goal."
    )
    for before, after in ((side(None), side()), (side(), side(None))):
        with pytest.raises(GoalError) as error:
            judged(Goal(metric_drop=0.01), before, after)
        assert str(error.value) == message
    assert impossible(Goal(metric_drop=0.01), side(None)) == message


def test_a_memory_wish_without_a_figure():
    with pytest.raises(GoalError) as error:
        judged(Goal(peak_memory_bytes=10**8), after=side(memory=None))
    assert str(error.value) == (
        "The goal limits peak memory, but it was not measured on this target. Leave it out of the goal, "
        "or choose another target."
    )


@pytest.mark.parametrize(
    "goal",
    [
        Goal(),
        Goal(metric_drop=0.01, size_ratio=100, latency_ratio=1000, macs_ratio=1000),
        Goal(size_ratio=8, size_bytes=10_000),
    ],
)
def test_hard_is_not_impossible(goal):
    assert impossible(goal, side()) is None


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        (
            Goal(size_bytes=500),
            "A size of 500 B is less than an empty model file (1000 B) takes.",
        ),
        (
            Goal(size_ratio=10_000),
            "10000x smaller than 3.40 MB is less than an empty model file (1000 B) takes.",
        ),
        (
            Goal(parameters_ratio=1_000_000),
            "1000000x fewer parameters than 850000 leaves less than one.",
        ),
        (Goal(macs_ratio=1e9), "1000000000x fewer MACs than 125000000 leaves less than one."),
        (
            Goal(metric_drop=1),
            "A drop of 1 in accuracy is 100 points, which any model meets. One point is 0.01.",
        ),
    ],
)
def test_arithmetic_impossibilities(goal, reason):
    assert impossible(goal, side()) == reason


def test_a_large_drop_of_an_error_in_its_own_unit_is_possible():
    assert impossible(Goal(metric_drop=50), side(-2500.0, name="negative_mse")) is None


@pytest.mark.parametrize(
    ("size", "text"),
    [(999, "999 B"), (1000, "1.00 KB"), (299_130, "299.13 KB"), (2_000_000, "2.00 MB"), (3.5e9, "3.50 GB")],
)
def test_bytes_are_written_in_decimal_units(size, text):
    assert written_bytes(size) == text
