from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.errors import GoalError
from lissom.goal import WISHES, Goal
from lissom.grammar import parse_bytes, parse_drop, parse_latency, parse_ratio, parse_size


@pytest.mark.parametrize(
    ("text", "drop"),
    [("1%", 0.01), ("0.5pt", 0.005), ("0.01", 0.01), (" 2 % ", 0.02), ("1e-3", 0.001), (".5PT", 0.005)],
)
def test_drops(text, drop):
    assert parse_drop(text) == pytest.approx(drop, rel=1e-12)


@pytest.mark.parametrize(("text", "ratio"), [("8x", 8.0), ("8", 8.0), ("1.5X", 1.5), ("1x", 1.0), ("4 x", 4.0)])
def test_ratios(text, ratio):
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("4x", {"latency_ratio": 4.0}),
        ("4", {"latency_ratio": 4.0}),
        ("2.5ms", {"latency_ms": 2.5}),
        ("900us", {"latency_ms": pytest.approx(0.9)}),
        ("900µs", {"latency_ms": pytest.approx(0.9)}),
        ("900\N{GREEK SMALL LETTER MU}s", {"latency_ms": pytest.approx(0.9)}),
        ("0.1 s", {"latency_ms": pytest.approx(100.0)}),
    ],
)
def test_latencies(text, wish):
    assert parse_latency(text) == wish


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("8x", {"size_ratio": 8.0}),
        ("300KB", {"size_bytes": 300_000}),
        ("300kb", {"size_bytes": 300_000}),
        ("2MB", {"size_bytes": 2_000_000}),
        ("1.5MiB", {"size_bytes": 1_572_864}),
        ("2048 B", {"size_bytes": 2048}),
    ],
)
def test_sizes(text, wish):
    assert parse_size(text) == wish


def test_memory():
    assert parse_bytes("200MB") == 200_000_000
    assert parse_bytes("1GiB") == 2**30


@given(st.floats(min_value=1, max_value=1e6))
def test_ratios_round_trip(ratio):
    assert parse_ratio(f"{ratio!r}x") == ratio


@given(st.integers(min_value=1, max_value=2**50))
def test_bytes_round_trip(size):
    assert parse_bytes(f"{size}B") == size


def test_all_options_together():
    goal = Goal.from_options(drop="1%", latency="4x", size="300KB", macs="2x", memory="200MB")
    assert goal == Goal(
        metric_drop=0.01, latency_ratio=4, size_bytes=300_000, macs_ratio=2, peak_memory_bytes=200_000_000
    )
    assert not goal.empty
    more = Goal.from_options(drop="1%rel", latency_p95="5ms", throughput="500/s")
    assert more == Goal(metric_drop_share=0.01, latency_p95_ms=5, throughput=500)
    assert Goal.from_options(throughput="500") == Goal(throughput=500)


def test_the_tighter_of_an_absolute_and_a_relative_drop_counts():
    assert Goal(metric_drop=0.01, metric_drop_share=0.02).allowed_drop(0.8) == 0.01
    assert Goal(metric_drop=0.02, metric_drop_share=0.01).allowed_drop(0.8) == pytest.approx(0.008)
    assert Goal(metric_drop_share=0.1).allowed_drop(-2.0) == pytest.approx(0.2), "an error that is negated"
    assert Goal(size_ratio=2).allowed_drop(0.8) is None


def test_drops_of_several_metrics():
    goal = Goal.from_options(drop=["1%", "f1=2%rel", "f1 = 3pt", "a=b=0.5%"])
    assert goal == Goal(metric_drop=0.01, metric_drops={"f1": 0.03, "a=b": 0.005}, metric_drop_shares={"f1": 0.02})
    assert goal.bounded == ("f1", "a=b")
    assert goal.allowed_drop(0.9, "f1") == pytest.approx(0.018)
    assert goal.allowed_drop(0.9, "other") is None
    assert goal.allowed_drop(0.9) == 0.01
    assert not Goal(metric_drops={"f1": 0.1}).empty
    assert Goal.model_validate_json(goal.model_dump_json()) == goal


def test_energy():
    assert Goal.from_options(energy="2x") == Goal(energy_ratio=2)
    assert Goal.from_options(energy="5mJ") == Goal(energy_joules=0.005)
    assert Goal.from_options(energy="800 uJ").energy_joules == pytest.approx(0.0008)
    assert Goal(energy_ratio=2).by_energy
    assert not Goal(size_ratio=2).by_energy
    with pytest.raises(GoalError, match="--energy '5W' is not understood: 'w' is not a unit of it"):
        Goal.from_options(energy="5W")
    with pytest.raises(GoalError, match=r"--energy 0.5x would make the model hungrier"):
        Goal.from_options(energy="0.5x")


def test_bounds_on_single_classes():
    goal = Goal.from_options(class_floor="80%", class_drop="3%")
    assert goal == Goal(class_floor=0.8, class_drop=0.03)
    assert goal.by_class
    assert not Goal(metric_drop=0.1).by_class
    assert Goal.from_options(class_floor="1", class_drop="1.5pt") == Goal(class_floor=1, class_drop=0.015)


def test_the_own_metric_by_its_name():
    goal = Goal.from_options(drop=["accuracy=1%", "f1=2%"])
    assert goal.of_metric("accuracy") == Goal(metric_drop=0.01, metric_drops={"f1": 0.02})
    assert goal.of_metric("top5") == goal
    assert Goal(metric_drop_shares={"accuracy": 0.1}).of_metric("accuracy") == Goal(metric_drop_share=0.1)
    with pytest.raises(GoalError) as error:
        Goal(metric_drop=0.02, metric_drops={"accuracy": 0.01}).of_metric("accuracy")
    assert str(error.value) == (
        "The goal bounds the drop of 'accuracy' twice: 0.02, since it is the task's own metric, and 0.01 by its name. "
        "Leave one of them out."
    )


@pytest.mark.parametrize(
    ("drops", "message"),
    [
        (["1%", "2%"], "--drop is given twice: 0.01 and 2%. Leave one of them out."),
        (["f1=1%", "f1=2pt"], "--drop f1 is given twice: 0.01 and 2pt. Leave one of them out."),
        (["=1%"], "--drop '=1%' names no metric before '='. Write f1=1%, or 1% for the task's own metric."),
        (["f1="], "--drop f1 '' is not understood. Write 1%, 0.5pt, 0.01 or 1%rel."),
        (
            ["f1=2x"],
            "--drop f1 '2x' is not understood: 'x' is not a unit of it. Write 1%, 0.5pt, 0.01 or 1%rel.",
        ),
        (["f1=0%"], "--drop f1 0% must be above zero. Write 1%, 0.5pt, 0.01 or 1%rel."),
    ],
)
def test_wrong_drops_of_several_metrics(drops, message):
    with pytest.raises(GoalError) as error:
        Goal.from_options(drop=drops)
    assert str(error.value) == message


def test_soft_wishes_have_one_grammar_in_python_in_files_and_on_the_command_line(tmp_path):
    told = Goal.from_options(drop=["1%", "f1=2%rel"], latency="2x", class_floor="80%", soft=["latency", "drop.f1"])
    made = Goal(
        metric_drop=0.01, metric_drop_shares={"f1": 0.02}, latency_ratio=2, class_floor=0.8, soft=("latency", "drop.f1")
    )
    assert told == made
    text = "drop: [1%, f1=2%rel]\nlatency: 2x\nclass-floor: 80%\nsoft: [latency, drop.f1]\n"
    (tmp_path / "goal.yaml").write_text(text)
    assert Goal.read(tmp_path / "goal.yaml") == made
    assert Goal.from_data({"metric_drop": 0.01, "drop": "f1=2%rel", "latency": 2, "class_floor": 0.8, "soft": (
        "latency", "drop.f1")}) == made  # fmt: skip
    assert made.is_soft("latency")
    assert not made.is_soft("drop")
    assert made.part(soft=False) == Goal(metric_drop=0.01, class_floor=0.8)
    assert made.part(soft=True) == Goal(metric_drop_shares={"f1": 0.02}, latency_ratio=2)
    assert Goal(class_floor=0.8, soft=["class_floor"]).soft == ("class-floor",)
    assert Goal(latency_p95_ms=5, soft="latency-p95").soft == ("latency-p95",)
    assert Goal(metric_drops={"a": 0.1}, soft=("drop.a",)).of_metric("a") == Goal(metric_drop=0.1, soft=("drop",))
    assert Goal.model_validate_json(made.model_dump_json()) == made


OPTIONS = {
    "drop": "1%", "class-floor": "80%", "class-drop": "3%", "latency": "2x", "latency-p95": "5ms", "throughput": "9/s",
    "size": "300KB", "energy": "2x", "macs": "2x", "parameters": "2x", "memory": "200MB",
}  # fmt: skip


@pytest.mark.parametrize("wish", list(WISHES))
def test_every_wish_can_be_soft_and_parts_make_the_whole(wish):
    whole = Goal.from_data({**OPTIONS, "soft": wish})
    hard, soft = whole.part(soft=False), whole.part(soft=True)
    assert soft == Goal.from_data({wish: OPTIONS[wish]})
    both = {**hard.model_dump(exclude_defaults=True), **soft.model_dump(exclude_defaults=True), "soft": (wish,)}
    assert Goal(**both) == whole


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"latency": "2x", "soft": "speed"},
            "soft names 'speed', which is no wish. Known: class-drop, class-floor, drop, energy, latency, latency-p95, "
            "macs, memory, parameters, size, throughput.",
        ),
        ({"latency": "2x", "soft": "size"}, "soft names 'size', and the goal holds no such wish. Held: latency."),
        (
            {"drop": "f1=1%", "soft": "drop.f2"},
            "soft names 'drop.f2', and the goal holds no such wish. Held: drop.f1.",
        ),
        (
            {"latency": "2x", "latency_ratio": 2},
            "the goal says 'latency_ratio' twice, as a field and as a wish. Leave one of them out.",
        ),
        ({"latency-p95": "2ms", "latency_p95": "3ms"}, "the goal says 'latency_p95' twice. Leave one of them out."),
        (
            {"speed": 2},
            "the goal: unknown wish 'speed'. Known: class-drop, class-floor, drop, energy, latency, latency-p95, macs, "
            "memory, parameters, size, soft, throughput.",
        ),
        (
            {"latency": ["2x"]},
            "the goal: latency: ['2x'] is not understood. Write it as on the command line, as a text.",
        ),
        (["latency"], "the goal must hold wishes by name, such as `latency: 4x`, got ['latency']."),
    ],
)
def test_wrong_data_of_a_goal(data, message):
    with pytest.raises(GoalError) as error:
        Goal.from_data(data)
    assert str(error.value) == message


def test_a_goal_file_that_cannot_be_read(tmp_path):
    with pytest.raises(GoalError, match=r"The goal .*none\.yaml cannot be read: .*Give a file of YAML or JSON"):
        Goal.read(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- latency")
    with pytest.raises(GoalError, match=r"list\.yaml must hold wishes by name"):
        Goal.read(tmp_path / "list.yaml")


def test_no_wish():
    assert Goal().empty
    assert Goal.from_options().empty
    assert not Goal(size_ratio=1).empty


def test_json_round_trip():
    goal = Goal(metric_drop=0.01, size_ratio=8, latency_ms=2.5)
    assert Goal.model_validate_json(goal.model_dump_json()) == goal


UNDERSTOOD = {
    "drop": "1%, 0.5pt, 0.01 or 1%rel",
    "latency": "4x, 2.5ms or 900us",
    "size": "8x, 300KB or 1.5MiB",
    "macs": "2x",
    "memory": "200MB",
}


@pytest.mark.parametrize("option", list(UNDERSTOOD))
@pytest.mark.parametrize("text", ["nan", "inf", "", "small", "1,5", "x8", "1e999", "8xx8", "--"])
def test_what_is_not_a_number_is_refused(option, text):
    with pytest.raises(GoalError) as error:
        Goal.from_options(**{option: text})
    assert str(error.value) == f"--{option} {text!r} is not understood. Write {UNDERSTOOD[option]}."


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("class_floor", "80", "--class-floor 80 is above 100 %. Write 80% or 0.8."),
        ("class_floor", "8x", "--class-floor '8x' is not understood: 'x' is not a unit of it. Write 80% or 0.8."),
        ("class_floor", "0%", "--class-floor 0% must be above zero. Write 80% or 0.8."),
        ("class_drop", "100%", "--class-drop 100% is 100 %: any model would do. Write 3%, 1.5pt or 0.03."),
        (
            "class_drop",
            "3%rel",
            "--class-drop '3%rel' is not understood: '%rel' is not a unit of it. Write 3%, 1.5pt or 0.03.",
        ),
        ("drop", "0%", "--drop 0% must be above zero. Write 1%, 0.5pt, 0.01 or 1%rel."),
        ("latency_p95", "5", "--latency-p95 '5' is not understood: it needs a unit. Write 5ms or 900us."),
        ("throughput", "0/s", "--throughput 0/s must be above zero. Write 500 or 500/s."),
        ("throughput", "5ms", "--throughput '5ms' is not understood: 'ms' is not a unit of it. Write 500 or 500/s."),
        ("drop", "-1%", "--drop -1% must be above zero. Write 1%, 0.5pt, 0.01 or 1%rel."),
        ("drop", "1", "--drop 1 is 100 %: any model would do. Write 1%, 0.5pt, 0.01 or 1%rel."),
        ("drop", "150%", "--drop 150% is 150 %: any model would do. Write 1%, 0.5pt, 0.01 or 1%rel."),
        ("drop", "2x", "--drop '2x' is not understood: 'x' is not a unit of it. Write 1%, 0.5pt, 0.01 or 1%rel."),
        (
            "size",
            "0.5x",
            "--size 0.5x would make the model larger: a ratio is original / compressed. Write 8x, 300KB or 1.5MiB.",
        ),
        (
            "latency",
            "0.25",
            "--latency 0.25 would make the model slower: a ratio is original / compressed. Write 4x, 2.5ms or 900us.",
        ),
        (
            "macs",
            "0.9x",
            "--macs 0.9x would make the model costlier: a ratio is original / compressed. Write 2x.",
        ),
        ("size", "-8x", "--size -8x must be above zero. Write 8x, 300KB or 1.5MiB."),
        ("size", "0KB", "--size 0KB must be above zero. Write 8x, 300KB or 1.5MiB."),
        ("size", "0.2B", "--size 0.2B must be above zero. Write 8x, 300KB or 1.5MiB."),
        (
            "size",
            "5ms",
            "--size '5ms' is not understood: 'ms' is not a unit of it. Write 8x, 300KB or 1.5MiB.",
        ),
        ("latency", "0ms", "--latency 0ms must be above zero. Write 4x, 2.5ms or 900us."),
        (
            "latency",
            "5KB",
            "--latency '5KB' is not understood: 'kb' is not a unit of it. Write 4x, 2.5ms or 900us.",
        ),
        ("memory", "200", "--memory '200' is not understood: it needs a unit. Write 200MB."),
        ("memory", "2x", "--memory '2x' is not understood: 'x' is not a unit of it. Write 200MB."),
        ("macs", "5%", "--macs '5%' is not understood: '%' is not a unit of it. Write 2x."),
    ],
)
def test_wrong_options_name_the_option_the_value_and_right_ones(option, text, message):
    with pytest.raises(GoalError) as error:
        Goal.from_options(**{option: text})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metric_drop": 0}, "Goal(metric_drop=0) must be above zero. Write metric_drop=0.01."),
        ({"metric_drop": "1%"}, "Goal(metric_drop=...) must be a number, got '1%'. Write metric_drop=0.01."),
        (
            {"metric_drop_share": 1.0},
            "Goal(metric_drop_share=1.0) is all of the metric: any model would do. Write metric_drop_share=0.01.",
        ),
        ({"size_ratio": float("nan")}, "Goal(size_ratio=...) must be a number, got nan. Write size_ratio=8."),
        ({"macs_ratio": True}, "Goal(macs_ratio=...) must be a number, got True. Write macs_ratio=2."),
        ({"latency_ms": -1.0}, "Goal(latency_ms=-1.0) must be above zero. Write latency_ms=2.5."),
        (
            {"latency_ratio": 0.5},
            "Goal(latency_ratio=0.5) would make the model slower: a ratio is original / compressed. Write "
            "latency_ratio=4.",
        ),
        (
            {"parameters_ratio": 0.5},
            "Goal(parameters_ratio=0.5) would make the model larger: a ratio is original / compressed. Write "
            "parameters_ratio=2.",
        ),
        ({"class_floor": 1.5}, "Goal(class_floor=1.5) is above 1, which is 100 %. Write class_floor=0.8."),
        ({"class_drop": 1.0}, "Goal(class_drop=1.0) is all of it: any model would do. Write class_drop=0.03."),
        (
            {"metric_drops": 0.01},
            'Goal(metric_drops=...) must be a bound for each name of a metric, got 0.01. Write metric_drops={"f1": '
            "0.01}.",
        ),
        (
            {"metric_drops": {"f1": 0}},
            "Goal(metric_drops={'f1': 0}) must be above zero. Write metric_drops={\"f1\": 0.01}.",
        ),
        (
            {"metric_drop_shares": {"f1": 1.5}},
            "Goal(metric_drop_shares={'f1': 1.5}) is all of the metric: any model would do. Write "
            'metric_drop_shares={"f1": 0.01}.',
        ),
        (
            {"size_bytes": 1000.5},
            "Goal(size_bytes=1000.5) must be a whole number of bytes. Write size_bytes=300_000.",
        ),
        ({"size": 8}, "Goal: unknown field 'size'. Did you mean 'size_ratio' or 'size_bytes'?"),
    ],
)
def test_wrong_fields_raise_the_same_error_in_python(fields, message):
    with pytest.raises(GoalError) as error:
        Goal(**fields)
    assert str(error.value) == message
    with pytest.raises(GoalError):
        Goal.parse(fields, "goal.yaml", GoalError)
