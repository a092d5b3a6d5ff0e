"""Tables and number texts: what the terminal and the page both show."""

from __future__ import annotations

import pytest
from report_samples import bare, metric, pruned, resnet20, slower

from lissom.measure.records import GoalItem, Ratios, RunRecord
from lissom.report import html, tables, units
from lissom.report.headline import headlines, summary
from lissom.report.listing import recipe_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (1.0, "1.00"),
        (9.996, "10.0"),
        (123.4, "123"),
        (999.6, "1,000"),
        (-0.5, "-0.500"),
        (float("nan"), "n/a"),
    ],
)
def test_significant_digits(value: float, text: str) -> None:
    assert units.significant(value) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_090_000, "1.09 MB"),
        (310_000, "310 kB"),
        (999_999, "1.00 MB"),
        (16_500_000_000, "16.5 GB"),
    ],
)
def test_sizes_are_decimal(size: int, text: str) -> None:
    assert units.bytes_text(size) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(3.94, "3.9x"), (1.034, "1.03x"), (0.8, "0.80x"), (123.4, "123x"), (float("inf"), "n/a")],
)
def test_ratios(ratio: float, text: str) -> None:
    assert units.ratio_text(ratio) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.41, "0.410 s"), (74.2, "1 min 14 s"), (3900, "1 h 05 min")])
def test_seconds(seconds: float, text: str) -> None:
    assert units.seconds_text(seconds) == text


def test_counts() -> None:
    assert [units.count_text(n) for n in (640, 272_474, 41_214_592)] == ["640", "272k", "41.2M"]


def test_missing_figures_say_so() -> None:
    assert {units.bytes_text(None), units.ms_text(None), units.db_text(None), units.metric_text(None)} == {
        units.MISSING
    }


@pytest.mark.parametrize(
    ("name", "before", "after", "text"),
    [
        ("accuracy", 0.9173, 0.9170, "-0.03 points"),
        ("accuracy", 91.73, 91.70, "-0.03 points"),
        ("top5", 0.9, 0.91, "+1.00 points"),
        ("accuracy", 0.9, 0.89999, "0.00 points"),
        ("negative_mse", -0.5, -0.5123, "-0.0123"),
        ("correlation", 0.85, 0.84, "-0.01"),
    ],
)
def test_points_only_for_metrics_that_are_shares(name: str, before: float, after: float, text: str) -> None:
    assert units.change_text(metric(before, name=name), metric(after, name=name)) == text


def test_a_loss_is_no_percentage() -> None:
    assert units.metric_value_text("negative_mse", 0.43) == "0.43"
    assert units.metric_value_text("mIoU", 0.43) == "43.00%"


def test_the_headline_of_a_good_run() -> None:
    size, latency, change = headlines(resnet20())
    assert (size.figure, size.label, size.detail) == ("3.5x", "smaller", "1.09 MB to 310 kB")
    assert (latency.figure, latency.label, latency.interval) == ("2.6x", "faster", "[2.55, 2.71]")
    assert (change.figure, change.label) == ("-0.03", "points of accuracy")
    assert [h.verdict for h in (size, latency, change)] == ["better", "better", "neutral"]
    assert summary(resnet20()) == "3.5x smaller, 2.6x faster [2.55, 2.71], accuracy -0.03 points."


def test_slower_is_said_as_slower_with_its_interval_the_right_way_round() -> None:
    _, latency, _ = headlines(slower())
    assert (latency.figure, latency.label, latency.interval) == ("1.25x", "slower", "[1.22, 1.28]")
    assert latency.verdict == "worse"


def test_an_interval_across_one_is_no_speedup() -> None:
    ratios = Ratios(size=2.0, latency=1.05, latency_low=0.99, latency_high=1.11, macs=1, parameters=1)
    _, latency, _ = headlines(resnet20(ratios=ratios))
    assert latency.verdict == "neutral"
    assert "no measurable difference" in latency.label


def test_a_run_without_a_metric() -> None:
    assert headlines(bare())[2].label == "metric not measured"
    assert summary(bare()).endswith("metric not measured.")


def test_before_and_after() -> None:
    rows = {row[0]: row[1:] for row in tables.before_after(resnet20()).rows}
    assert rows["accuracy (test split)"] == ("91.73%", "91.70%", "-0.03 points")
    assert rows["Artifact size"] == ("1.09 MB", "310 kB", "3.5x")
    assert rows["Latency per call, median"][2] == "2.6x [2.55, 2.71]"
    assert rows["Peak memory above the bare runtime"] == ("21.0 MB", "9.40 MB", "2.2x")


def test_zeros_are_told_where_weights_were_set_to_zero() -> None:
    run = resnet20()
    assert "Parameters that are not zero" not in {row[0] for row in tables.before_after(run).rows}
    assert "Zeros" not in {column.name for column in tables.layers(run).columns}
    counted = run.model_copy(
        update={
            "before": run.before.model_copy(update={"nonzeros": 272_000}),
            "after": run.after.model_copy(update={"nonzeros": 136_000}),
            "layers": (
                run.layers[0].model_copy(update={"zeros": 0.5, "pattern": "2:4"}),
                run.layers[1].model_copy(update={"zeros": 0.25}),
                *run.layers[2:],
            ),
        }
    )
    rows = {row[0]: row[1:] for row in tables.before_after(counted).rows}
    assert rows["Parameters that are not zero"] == ("272k", "136k", "2.0x")
    assert [row[-1] for row in tables.layers(counted).rows][:2] == ["50% (2:4)", "25%"]
    few = counted.model_copy(update={"after": run.after.model_copy(update={"nonzeros": 270_000})})
    assert "Parameters that are not zero" not in {row[0] for row in tables.before_after(few).rows}, "biases at zero"


def test_before_and_after_without_metric_and_memory() -> None:
    rows = {row[0]: row[1:] for row in tables.before_after(bare()).rows}
    assert rows["Metric"] == ("not measured",) * 3
    assert rows["Peak memory above the bare runtime"] == ("not measured",) * 3


def test_every_layer_has_a_row_and_the_ones_off_plan_are_flagged_in_words() -> None:
    run = resnet20()
    table = tables.layers(run)
    assert len(table.rows) == len(run.layers) == 22
    off = [row for i, row in enumerate(table.rows) if i in table.flagged]
    assert [(row[0], row[-3:]) for row in off] == [("layer3.0.shortcut", ("int8", "float32", "no"))]
    assert table.rows[0][-3:] == ("int8", "not reported", "unknown")
    text = tables.layers_text(run)
    assert text == "20 of 22 layers ran as planned. 1 layer did not. For 1 layer the runtime does not tell."


def test_goals() -> None:
    assert tables.goal_text(resnet20()) == "Goal met: 3 of 3 items"
    assert tables.goal_text(slower()) == "Goal missed: 1 of 2 items met"
    assert tables.goal_text(bare()) == ""
    assert [row[-1] for row in tables.goals(slower()).rows] == ["met", "missed"]
    assert tables.goals(slower()).flagged == {1}


def test_soft_wishes_are_reached_or_not_and_flag_nothing() -> None:
    soft = (
        GoalItem(wish="latency ratio >= 4.00x", figure="2.63x", met=False, hard=False),
        GoalItem(wish="size ratio >= 3.00x", figure="3.50x", met=True, hard=False),
    )
    run = resnet20()
    run = run.model_copy(update={"goal": (*run.goal, *soft)})
    table = tables.goals(run)
    assert [row[2] for row in table.rows] == ["met"] * len(resnet20().goal) + ["soft, not reached", "soft, reached"]
    assert not table.flagged
    count = len(resnet20().goal)
    assert tables.goal_text(run) == f"Goal met: {count} of {count} items, 1 of 2 soft wishes reached"
    assert tables.goal_text(run.model_copy(update={"goal": soft[:1]})) == "No wish decides: 0 of 1 soft wish reached"
    page = html.render([run])
    assert "latency ratio &gt;= 4.00x (soft)" in page
    assert '<div class="goal met">' in page


def test_every_skipped_layer_has_its_reason() -> None:
    run = resnet20()
    assert [(row[0], row[2]) for row in tables.skipped(run).rows] == [(s.layer, s.reason) for s in run.skipped]


def test_steps_and_trials() -> None:
    steps = tables.steps(resnet20()).rows
    title = "2. Quantize(calibration=entropy, bits=8)"
    assert steps[1] == (title, "not recorded", "not recorded", "not recorded", "1 min 14 s", "91.78%")
    trials = tables.trials(resnet20()).rows
    assert trials[1][2:] == ("0.480 ms", "91.78%", "305 kB", "no", "1.4x slower than openvino")
    assert trials[3][2:5] == ("not measured",) * 3


def test_steps_say_what_they_did_and_what_is_left() -> None:
    prune, tune, quantize = tables.steps(pruned()).rows
    assert prune[:4] == (
        "1. Prune(macs_ratio=2.1)",
        "3 groups of channels cut, in 5 layers",
        "19.6M (2.1x fewer)",
        "exported graph: its own forward() does not run at the new sizes",
    )
    assert tables.reasons(pruned()) == (
        "After step 1, Prune(macs_ratio=2.1), the model is an exported graph: its own forward() does not run at the new"
        " sizes.",
    )
    assert tables.reasons(resnet20()) == ()
    assert tune[:2] == ("2. Finetune(epochs=5)", "130,000 parameters trained in bfloat16, channels last")
    assert quantize[3] == "exported graph"
    assert [row[-1] for row in (prune, tune, quantize)] == ["88.00%", "91.60%", "not measured"]


def test_parity() -> None:
    table = tables.parity(resnet20())
    assert table is not None
    assert [row[1] for row in table.rows] == ["0.620 int8 steps", "0.0410 int8 steps", "99.94% of examples"]
    assert tables.parity(bare()) is None


def test_comparison_has_a_column_for_each_run() -> None:
    table = tables.comparison([resnet20(), slower()])
    assert [column.name for column in table.columns] == ["Quantity", "resnet20", "vit_tiny"]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["Latency ratio, before / after"] == ("2.6x [2.55, 2.71]", "0.80x [0.780, 0.820]")
    assert rows["Goal"] == ("met: 3 of 3", "missed: 1 of 2")


def test_runs_of_one_name_are_told_apart() -> None:
    run = resnet20()
    assert tables.run_labels([run, resnet20(target="onnxruntime")]) == (
        "resnet20 (openvino)",
        "resnet20 (onnxruntime)",
    )
    assert len(set(tables.run_labels([run, run]))) == 2


def test_samples_of_unequal_length() -> None:
    run = resnet20()
    shorter = run.after.latency_ms.model_copy(update={"samples": (0.35,)})
    run = resnet20(after=run.after.model_copy(update={"latency_ms": shorter}))
    rows = tables.samples(run).rows
    assert len(rows) == 25
    assert rows[0][2] == "0.3500"
    assert rows[1][2] == ""


@pytest.mark.parametrize("run", [resnet20(), slower(), bare(), pruned()])
def test_rows_are_as_wide_as_their_columns(run: RunRecord) -> None:
    made = [
        make(run)
        for make in (
            tables.before_after,
            tables.layers,
            tables.skipped,
            tables.goals,
            tables.steps,
            tables.trials,
            tables.environment,
            tables.samples,
        )
    ]
    made.append(tables.comparison([run, run]))
    for table in made:
        assert {len(row) for row in table.rows} <= {len(table.columns)}, table.caption
        assert all(column.name for column in table.columns)


def test_the_recipe_reads_back_as_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    recipe = [
        {"transform": "Fold"},
        {"transform": "Prune", "ratio": 0.4, "only": ["a.b", "yes", "1.5"], "none": None, "on": True},
        {"transform": "Quantize", "nested": {"deep": [[1, 2], {"x": "a: b # c"}], "empty": [], "map": {}}},
    ]
    assert yaml.safe_load(recipe_text(recipe)) == recipe
    assert yaml.safe_load(recipe_text([])) == []
    assert recipe_text(recipe).startswith("- transform: Fold\n- transform: Prune\n  ratio: 0.4")
