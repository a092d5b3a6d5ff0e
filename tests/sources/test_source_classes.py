"""Which class of the data is which output of the model, and tables of texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lissom.data import parquet_texts, table
from lissom.errors import DataError, UsageError
from lissom.sources.classes import listed, matched


def test_names_decide_where_both_have_them() -> None:
    places, said = matched(("dog", "great cat"), ("Great-Cat", "DOG", "horse"))
    assert places == (1, 0)
    assert said == (
        "Classes of the data are numbered as the model names them: dog is 1, great cat is 0. "
        "1 of the model's classes have no data."
    )
    places, said = matched(("a", "b"), ("A", "B"))
    assert places is None
    assert "the model's by name: 0 A, 1 B" in said


@pytest.mark.parametrize(
    ("data", "model", "words"),
    [
        (("0", "1"), ("no", "yes"), "numbers, taken as those of the model: 0 no, 1 yes"),
        (("0", "1"), (), "numbers, 0 to 1; the model names no classes"),
        (("cat", "dog"), (), "in this order: 0 cat, 1 dog. The model names none"),
        (("cat", "dog"), ("tabby", "poodle"), "The model names them otherwise: 0 tabby, 1 poodle. They are taken"),
        (("cat", "dog"), ("cat", "poodle"), "The model names them otherwise"),
    ],
)
def test_an_order_that_is_trusted_is_said(data: tuple[str, ...], model: tuple[str, ...], words: str) -> None:
    places, said = matched(data, model)
    assert places is None
    assert words in said


def test_numbers_in_the_order_of_text_are_told() -> None:
    names = tuple(sorted(str(number) for number in range(11)))
    assert "2 10, 3 2" in matched(names, ())[1]
    assert matched(names, ())[1].endswith("in which 10 stands before 2: pad them with zeros if it is not.")
    assert "order of text" not in matched(("00", "01"), ())[1]


def test_an_order_that_is_wrong_is_refused() -> None:
    with pytest.raises(DataError, match=r"'cat' is the model's 1, but 'fox' is none that it names \(0 dog, 1 cat\)"):
        matched(("cat", "fox"), ("dog", "cat"))


def test_long_lists_are_cut() -> None:
    assert listed([str(n) for n in range(10)]).endswith("7 7, ... (10 classes)")


def test_a_table_with_a_header(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('﻿id,review,stars\n1,"good, ""very""\nindeed",pos\n2,bad\u2028,neg\n', encoding="utf-8")
    found = table(file, text="review", label="stars")
    assert found.texts == ('good, "very"\nindeed', "bad\u2028")
    assert found.classes == ("neg", "pos")
    assert found.labels.tolist() == [1, 0]
    with pytest.raises(UsageError, match=r"no column 'text' or 'label': its first line is \['id'|has no column 'text'"):
        table(file, text="text", label="stars")
    with pytest.raises(UsageError, match=r"'revieww' among id, review, stars.*Did you mean 'review'"):
        table(file, text="revieww", label="stars")
    with pytest.raises(UsageError, match=r"its first line is \['id', 'review', 'stars'\]"):
        table(file, text="x", label="y")


def test_a_table_without_a_header(tmp_path: Path) -> None:
    tabs, commas = tmp_path / "a.tsv", tmp_path / "a.csv"
    tabs.write_text('he said "no\t1\nyes\t0\n')
    commas.write_text("a,0\nb,1\n")
    assert table(tabs).texts == ('he said "no', "yes")
    assert table(commas).labels.tolist() == [0, 1]
    assert table(commas, limit=1).texts == ("a",)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", DataError, "has no rows"),
        ("a,b,0\n", DataError, r"line 1: expected a value for text and label, got \['a', 'b', '0'\]"),
        ("text,label\na,0\n ,1\n", DataError, "line 3"),
        ('text,label\n"a,0\n', DataError, "unexpected end of data"),
        ("text,klass\na,0\n", UsageError, "no column 'label' among text, klass"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(text)
    with pytest.raises(error, match=words):
        table(file)


def test_texts_of_parquet(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = pyarrow.table({"sentence": ["a", "b", "c"], "label": [1, 0, 1], "broken": ["a", None, "b"]})
    parquet.write_table(rows, tmp_path / "train-00000-of-00001.parquet")
    found = parquet_texts(tmp_path, "train", text="sentence", limit=2)
    assert found.texts == ("a", "b")
    assert torch.equal(found.labels, torch.tensor([1, 0]))
    with pytest.raises(UsageError, match=r"holds int64, not strings"):
        parquet_texts(tmp_path, "train", text="label")
    with pytest.raises(DataError, match=r"1 rows have no 'broken'"):
        parquet_texts(tmp_path, "train", text="broken")
