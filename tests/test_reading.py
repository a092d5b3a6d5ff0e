"""Text of others is data: whatever it holds, a value or one sentence, soon."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom import Recipe
from lissom.errors import LissomError, RecipeError, first_line, shown
from lissom.reading import DEEPEST, json_of, text_of, yaml_of

LAUGHS = "a: &a [x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {k: v}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "aliases are not read"),
        (MERGES, "aliases are not read"),
        ("&a [*a]", "aliases are not read"),
        ("[" * 100_000, "nested more than 64 levels"),
        ("- " * 50_000 + "x", "nested more than 64 levels"),
        ("[" * 70 + "]" * 70, "nested more than 64 levels"),
        ("1" * 5_000, "a number has 5000 digits"),
        ("- 0x" + "f" * 5_000, "a number has 5002 digits"),
        ("- 1" + ":59" * 5_000, "a number has 15001 digits"),
        ("{a: 1, a: 2}", "'a' stands twice in one mapping"),
        ("- !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("!!int x", "invalid literal"),
        ("!!float x", "could not convert"),
        ("!!bool x", "does not fit its tag"),
        ("!!timestamp x", "does not fit its tag"),
        ("!!binary é", "failed"),
        ("2001-99-99", "month must be in"),
        ('"\\ud800"', "half a character"),
        ("a: 'x", "while scanning"),
        ("? [a]\n: b", "unhashable"),
        ("- a\n" * 300_000, "more than 1048576 characters"),
    ],
)
def test_what_is_refused_is_refused_soon(text: str, said: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ValueError, match=said):
        yaml_of(text)
    assert time.perf_counter() - began < 20


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**50), 10**50) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(PLAIN)
def test_what_json_and_yaml_write_is_read_back(data: object) -> None:
    assert json_of(json.dumps(data)) == data
    assert yaml_of(json.dumps(data)) == data
    assert yaml_of(yaml.safe_dump(data)) == data


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet=st.sampled_from("-:[]{}&*!|>'\"#%@`\n\t 01.exnul~<?,aé\x00\x85\ud800")))
def test_any_text_is_data_or_a_value_error(text: str) -> None:
    for read in (json_of, yaml_of):
        try:
            read(text)
        except ValueError as wrong:
            first_line(wrong).encode("utf-8", "backslashreplace")


def test_depth_is_counted_from_the_outside() -> None:
    for depth in (1, DEEPEST - 1):
        assert json_of("[" * depth + "]" * depth) is not None
    with pytest.raises(ValueError, match="64 levels"):
        json_of('{"a":' * 65 + "1" + "}" * 65)


def test_a_file_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        text_of(Path("/dev/zero"), largest=1000)
    with pytest.raises(RecipeError, match=r"cannot be read.*Give a file of YAML or JSON"):
        Recipe.read(tmp_path)
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"r\.yaml cannot be read.*utf-8"):
        Recipe.read(tmp_path / "r.yaml")


def test_values_in_errors_are_cut() -> None:
    assert len(shown("x" * 10**6)) < 250
    assert len(shown([[["x" * 100] * 100] * 100] * 100)) <= 300
    assert shown(3.5) == "3.5"
    assert first_line(ValueError()) == "ValueError"


NAMES = st.sampled_from(
    ["Fold", "Prune", "PruneDepth", "Sparsify", "Factorize", "Finetune", "Quantize", "Progressive", "Nothing", "steps"]
)
FIELDS = st.sampled_from(
    ["ratio", "mode", "criterion", "epochs", "teacher", "rank", "pattern", "bits", "layers", "calibration", "qat",
     "weights", "only", "steps", "prune", "seed", "temperature", "macs_ratio", "energy", "method"]
)  # fmt: skip
ODD = PLAIN | st.sampled_from(["static", "dynamic", math.inf, math.nan, -1, 0, 10**30, 1e308, "2:4", "entropy"])
STEPS = st.lists(
    st.dictionaries(NAMES, st.dictionaries(FIELDS | st.text(max_size=3), ODD, max_size=3) | ODD, max_size=2)
    | NAMES
    | ODD,
    max_size=4,
)


def read_of(data: object) -> None:
    """A recipe that can be written and read back, or an error of Lissom's that can be printed."""
    try:
        recipe = Recipe.from_data(data)
    except LissomError as wrong:
        if not 10 < len(str(wrong)) < 2_000:
            pytest.fail(f"an error of {len(str(wrong))} characters: {str(wrong)[:500]}")
        return
    assert Recipe.from_data(yaml_of(recipe.to_yaml())).id == recipe.id
    assert Recipe.from_data(json_of(recipe.to_json())).id == recipe.id
    assert recipe.title


@settings(deadline=None, max_examples=120)
@given(STEPS | ODD)
def test_any_data_is_a_recipe_or_an_error(data: object) -> None:
    read_of(data)


@pytest.mark.slow
@settings(deadline=None, max_examples=5_000)
@given(STEPS | ODD)
def test_any_data_is_a_recipe_or_an_error_at_length(data: object) -> None:
    read_of(data)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_file_is_a_recipe_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"\."):
        Recipe.read(path)
