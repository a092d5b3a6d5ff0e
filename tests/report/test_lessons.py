"""Student, teachers and control as tables and sentences."""

from __future__ import annotations

from report_samples import corrections, distillation, pruned, resnet20

from lissom.measure.records import DistillationRecord, StepRecord
from lissom.report import lessons


def step(record: DistillationRecord | None) -> StepRecord:
    return StepRecord(transform="Finetune", settings={}, seconds=1.0, metric=None, distillation=record)


def test_only_steps_that_learned_have_a_lesson() -> None:
    assert lessons.lessons(resnet20().steps) == ()
    (one,) = lessons.lessons(pruned().steps)
    assert one.title == "Step 2, Finetune(epochs=5): student, teacher, control"


def test_the_table_shows_who_is_ahead_and_by_how_much() -> None:
    (one,) = lessons.lessons([step(distillation())])
    assert one.answerers is not None
    assert one.answerers.rows == (
        ("student", "91.20%", "", "3.10 points", "94.1%"),
        ("original", "93.10%", "-1.90 points", "4.40 points", "100.0%"),
        ("without a teacher", "90.10%", "+1.10 points", "not measured", "not measured"),
    )
    assert one.classes is not None
    assert [column.name for column in one.classes.columns] == [
        "Class", "Examples", "student", "original", "without a teacher", "Student less original",
    ]  # fmt: skip
    assert one.classes.rows[0] == ("0", "100", "90.0%", "98.0%", "85.0%", "-8.0 points")


def test_of_many_classes_the_first_are_shown() -> None:
    (one,) = lessons.lessons([step(distillation(classes=40, control=False))])
    assert one.classes is not None
    assert len(one.classes.rows) == 10
    assert one.classes.caption.startswith("The 10 classes that differ most")


def test_the_text_names_teachers_losses_taps_and_generations() -> None:
    (one,) = lessons.lessons([step(distillation())])
    for said in (
        "Learned from: original; share of the loss 0.9.",
        "Losses: task 0.280, kl 0.0613, hint 0.182.",
        "Taps of hint: layer1 to layer1, layer2 to layer2.",
        "likeliest answer in 94.1% of the cases",
        "each generation: 90.50%, 91.20%",
        "Kept on disk: 704 answers, 2 of them made again, 900 kB.",
    ):
        assert said in one.text


def test_without_validation_data_there_are_no_tables() -> None:
    bare = DistillationRecord(teachers=("original",), share=0.5, losses={"task": 1.0, "kl": 0.5}, taps={})
    (one,) = lessons.lessons([step(bare)])
    assert (one.answerers, one.classes) == (None, None)
    assert one.text == "Learned from: original; share of the loss 0.5. Losses: task 1.00, kl 0.500."


def test_quantities_have_no_classes() -> None:
    record = distillation()
    assert record.comparison is not None
    found = record.comparison.model_copy(update={"agreement": None, "unexplained": 0.0213, "classes": ()})
    (one,) = lessons.lessons([step(record.model_copy(update={"comparison": found}))])
    assert "It leaves 2.13% of the teachers' squared values unexplained." in one.text
    assert one.classes is None


def test_corrections_say_what_was_put_back() -> None:
    assert lessons.corrections(resnet20().steps) is None
    table = lessons.corrections([step(None), step(None).model_copy(update={"corrections": corrections()})])
    assert table is not None
    assert table.rows == (
        ("2. cross-layer", "19", "1.23%", "0.87%", "kept"),
        ("2. bias", "22", "0.87%", "0.91%", "put back"),
    )
