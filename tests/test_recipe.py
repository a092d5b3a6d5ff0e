"""Recipes: both ways through YAML and JSON, a stable id, an order that explains itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lissom
from lissom import Finetune, Fold, Quantize, Recipe
from lissom.errors import RecipeError

quantizers = st.builds(
    Quantize,
    mode=st.sampled_from(["static", "dynamic"]),
    samples=st.integers(1, 10_000),
    exclude=st.lists(st.sampled_from(["head", "layer1.*", "*.fc", "ü: - x", "yes", "12"]), max_size=3).map(tuple),
)
recipes = st.one_of(
    st.lists(st.just(Fold()), min_size=1, max_size=2).map(Recipe),
    quantizers.map(lambda q: Recipe([q])),
    quantizers.map(lambda q: Recipe([Fold(), q])),
    st.builds(
        lambda epochs, order, patience, q: Recipe(
            [Fold(), Finetune(epochs=epochs, channels_last=order, patience=patience, ema=0.99), q]
        ),
        st.integers(1, 300),
        st.sampled_from([True, False, "auto"]),
        st.none() | st.integers(1, 9),
        quantizers,
    ),
)


@given(recipes)
def test_yaml_and_json_hold_the_whole_recipe(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    place = tmp_path_factory.mktemp("recipes")
    for name, text in (("r.yaml", recipe.to_yaml()), ("r.json", recipe.to_json())):
        (place / name).write_text(text, encoding="utf-8")
        read = Recipe.read(place / name)
        assert read == recipe
        assert read.id == recipe.id
        assert [type(step) for step in read.steps] == [type(step) for step in recipe.steps]


@given(recipes, recipes)
def test_the_id_tells_recipes_apart(one: Recipe, other: Recipe) -> None:
    assert (one.id == other.id) == (one == other)


@settings(max_examples=1)
@given(st.just(Recipe([Fold(), Quantize(samples=77, exclude=("head", "stem.*"))])))
def test_the_id_is_the_same_in_another_process(recipe: Recipe) -> None:
    code = "import json, sys, lissom; print(lissom.Recipe.from_data(json.loads(sys.argv[1])).id)"
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, recipe.to_json()],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == recipe.id


def test_the_id_does_not_depend_on_how_defaults_are_written() -> None:
    assert Recipe.from_data(["Fold", {"Quantize": None}]) == Recipe([Fold(), Quantize()])
    assert Recipe.from_data({"steps": [{"Quantize": {"mode": "static"}}]}).id == Recipe([Quantize()]).id


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        Recipe([Fold()]).steps = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([Quantize(), Fold()], r"Fold comes after Quantize: it changes weights .* Put Fold before Quantize\."),
        ([Quantize(), Quantize(mode="dynamic")], r"Quantize comes twice: .* Keep one\."),
        (
            [Quantize(), Finetune()],
            r"Finetune comes after Quantize: weights that are already integers cannot be trained\.",
        ),
        ([], r"needs at least one transform, got none\. Write Recipe\(\[Fold\(\), Quantize\(\)\]\)"),
        ([Fold], r"holds transforms, got <class .*Fold.*>\. Write Recipe\(\[Fold\(\), Quantize\(\)\]\), with brackets"),
        (["Fold"], r"holds transforms, got 'Fold'"),
        ("Fold", r"A recipe is a list of transforms, got str"),
        (Fold(), r"A recipe is a list of transforms, got Fold"),
    ],
)
def test_a_recipe_that_cannot_work_says_why(steps: object, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe(steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- Fodl: {}", r"r\.yaml, step 1: unknown transform 'Fodl'. Did you mean 'Fold'\?"),
        ("- Fold\n- Quantize: {mod: static}", r"step 2, Quantize: unknown field 'mod'. Did you mean 'mode'\?"),
        ("- Quantize: {mode: sttaic}", r"Quantize: mode: .*'static', 'dynamic', .*got 'sttaic'"),
        ("- Finetune: {epochs: 0}", r"step 1, Finetune: epochs: .*greater than or equal to 1, got 0"),
        ("- Finetune: {learning_rat: 0.1}", r"unknown field 'learning_rat'. Did you mean 'learning_rate'\?"),
        ("- Quantize: {samples: 0}", r"samples: .*greater than or equal to 1.*got 0"),
        ("- Quantize: [1]", r"step 1, Quantize"),
        ("- Fold: 0", r"step 1, Fold"),
        ("- {Fold: {}, Quantize: {}}", r"step 1: a step is one transform with its settings"),
        ("- 3", r"step 1: a step is one transform with its settings, like `Fold: \{\}`, got 3"),
        ("Fold: {}", r"r\.yaml: a recipe is a list of transforms, got dict\. Write `- Fold: \{\}`"),
        ("steps: [Fold]\nname: mine", r"a recipe is a list of transforms, got dict"),
        ("Fold", r"a recipe is a list of transforms, got str"),
        ("", r"a recipe is a list of transforms, got NoneType"),
        ("[]", r"at least one transform"),
        ("- [", r"r\.yaml is not plain YAML: .*line 1"),
        ("- !!python/object/apply:os.system ['touch pwned']", r"r\.yaml is not plain YAML: .*python/object"),
        ("- !!python/object:lissom.Fold {}", r"r\.yaml is not plain YAML"),
        ("- Quantize\n- Fold", r"Fold comes after Quantize"),
    ],
)
def test_a_recipe_file_that_cannot_be_read_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=said) as caught:
        Recipe.read("r.yaml")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["r.yaml"]


def test_a_recipe_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml cannot be read: .*No such file"):
        Recipe.read(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"b\.yaml cannot be read: "):
        Recipe.read(tmp_path / "b.yaml")


def test_training_stands_anywhere_before_quantization() -> None:
    Recipe([Finetune()])
    Recipe([Finetune(), Fold(), Finetune(), Quantize()])


def test_json_is_readable_as_a_recipe_and_by_others() -> None:
    assert json.loads(Recipe([Fold()]).to_json()) == [{"Fold": {}}]
    assert Recipe([Fold(), Quantize(samples=9)]).title.startswith("Fold > Quantize(")
    assert lissom.Recipe is Recipe
