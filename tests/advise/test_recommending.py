"""Recommendations: which methods, why, in which recipe; that the recipe loads and costs what is said."""

from __future__ import annotations

from pathlib import Path

import advice_models as models
import pytest
import torch
import yaml

import lissom
from lissom.advise import SCENARIOS, Recommendation, load_evidence, scenario_of, to_yaml
from lissom.advise.evidence import Evidence, of_method
from lissom.advise.recommendation import NOT_MEASURED, counted_text, measured_text
from lissom.advise.steps import Step, lowered
from lissom.errors import DataError, OutOfReachError, TargetError, UsageError
from lissom.pipeline.recommending import begin
from lissom.recipe import Recipe


def methods(found: Recommendation) -> dict[str, bool]:
    return {one.method: one.fits for one in found.methods}


def why(found: Recommendation, method: str) -> str:
    return next(one.why for one in found.methods if one.method == method)


@pytest.mark.parametrize("scenario", [one.name for one in SCENARIOS if not one.without_data])
def test_every_scenario_gives_a_convolutional_network_a_recipe_that_reads_back(scenario: str, tmp_path: Path) -> None:
    found = lissom.recommend(*models.convolutional(), scenario)
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(found, "project.py", "recipe.yaml"), encoding="utf-8")
    assert Recipe.read(file).id == found.recipe.id
    used = {one.method for one in found.methods if one.used}
    assert used == {method for step in found.steps for method in step.methods}
    assert all(one.fits for one in found.methods if one.used)
    assert used - {"fold"} <= set(scenario_of(scenario).methods)
    assert Recommendation.model_validate_json(found.model_dump_json()) == found


def test_costs_are_those_of_the_recipe_carried_out() -> None:
    model, task = models.convolutional(train=None, loss=None)
    found = lissom.recommend(model, task, "mobile", target="torch")
    assert [type(step).__name__ for step in found.recipe.steps] == ["Prune", "Fold", "Quantize"]
    plans = lissom.plan(model, task, found.recipe, "torch")
    assert found.after == plans[-1].predicted
    assert found.before.macs == lissom.analyze(model, task).macs > found.after.macs
    assert f"{found.before.bytes / found.after.bytes:.2f} times fewer bytes" in counted_text(found)


def test_the_model_is_not_changed() -> None:
    model, task = models.convolutional()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lissom.recommend(model, task, "realtime", target="torch")
    assert all((value == before[name]).all() for name, value in model.state_dict().items())
    assert not model.training


def test_a_recipe_that_trains_is_tried_on_one_runtime() -> None:
    for scenario, runtimes in (("realtime", 1), ("server", 2)):
        begun = begin(*models.convolutional(), scenario, target="auto", recipe=None, sought=None, data_free=None)
        installed = [one for one in begun.targets if one.name in scenario_of(scenario).targets]
        assert len(installed) == len(begun.targets) <= runtimes
        assert begun.recipe is not None


def test_blocks_fit_where_there_are_some() -> None:
    found = lissom.recommend(*models.convolutional(), "realtime", target="torch")
    assert methods(found)["prune-depth"]
    assert "3 residual blocks" in why(found, "prune-depth")
    assert [next(iter(step.data)) for step in found.steps] == ["PruneDepth", "Progressive", "Fold", "Quantize"]


def test_transformers_get_ranges_at_run_time_on_a_server_and_convolutions_fixed_ones() -> None:
    (last,) = lissom.recommend(*models.transformer(), "server", target="onnxruntime").recipe.steps[-1:]
    assert last.mode == "dynamic"
    (last,) = lissom.recommend(*models.convolutional(), "server", target="onnxruntime").recipe.steps[-1:]
    assert last.mode == "static"


def test_training_suits_the_model_and_is_left_out_without_data() -> None:
    trained = lissom.recommend(*models.transformer(), "edge", target="onnxruntime")
    (tuning,) = [step for step in trained.recipe.steps if isinstance(step, lissom.Finetune)]
    assert (tuning.optimizer, tuning.teacher, tuning.views) == ("adamw", "original", 5)
    bare = lissom.recommend(*models.convolutional(train=None, loss=None), "edge", target="onnxruntime")
    assert not [step for step in bare.recipe.steps if isinstance(step, lissom.Finetune)]
    assert not methods(bare)["distil"]
    assert why(bare, "distil") == "training needs Task(train=..., loss=...)"


def test_tables_are_split_and_stored_in_few_bits() -> None:
    found = lissom.recommend(*models.tables(), "memory", target="onnxruntime")
    assert [type(step).__name__ for step in found.recipe.steps] == ["Factorize", "Fold", "Quantize"]
    assert found.recipe.steps[-1].mode == "weights"
    assert "bits are chosen by the metric" in why(found, "mixed-precision")
    assert found.after is not None
    assert found.after.bytes < found.before.bytes


def test_split_tables_are_trained_where_there_are_data_and_the_method_says_so() -> None:
    batches = [(torch.randint(300, (32,)), torch.randint(500, (32,)), torch.randn(32)) for _ in range(2)]
    model, task = models.tables(train=batches, loss=torch.nn.functional.mse_loss)
    found = lissom.recommend(model, task, "memory", target="onnxruntime")
    assert [next(iter(step.data)) for step in found.steps] == ["Factorize", "Finetune", "Fold", "Quantize"]
    assert set(found.methods_used) == {method for step in found.steps for method in step.methods}
    assert found.recipe.steps[1].teacher is None
    assert "multiply-accumulates" not in counted_text(found)  # there were none before
    assert [row.experiment for row in found.methods[4].evidence] == ["L3"]


def test_a_gpu_skips_zeros_and_a_processor_does_not() -> None:
    found = lissom.recommend(*models.convolutional(), "gpu")
    assert (found.target, found.installed) == ("tensorrt", False)
    assert [next(iter(step.data)) for step in found.steps] == ["Sparsify", "Finetune", "Fold", "Quantize"]
    other = lissom.recommend(*models.convolutional(), "gpu", target="onnxruntime")
    assert not methods(other)["sparsify-2:4"]
    assert "ONNX Runtime (CPU) has no kernels that skip zeros" in why(other, "sparsify-2:4")


def test_without_data_inputs_are_made_up_where_ranges_are_fixed() -> None:
    found = lissom.recommend(*models.convolutional(**models.NO_DATA), "no-data", target="onnxruntime")
    assert found.data_free == "auto"
    assert "--data-free auto" in to_yaml(found, "p.py", "r.yaml")
    tokens = lissom.recommend(*models.transformer(**models.NO_DATA), "no-data", target="onnxruntime")
    assert tokens.data_free is None
    assert tokens.recipe.steps[-1].mode == "dynamic"
    assert "whole numbers" in why(tokens, "made-up-inputs")


def test_wrong_questions_are_refused_with_the_way_out() -> None:
    model, task = models.convolutional()
    with pytest.raises(UsageError, match=r"Unknown scenario 'mobil'\. Did you mean 'mobile'\?"):
        lissom.recommend(model, task, "mobil")
    with pytest.raises(TargetError, match="A recommendation is for one runtime"):
        lissom.recommend(model, task, "mobile", target="auto")
    with pytest.raises(TargetError, match="Unknown target 'openvin'"):
        lissom.recommend(model, task, "mobile", target="openvin")
    with pytest.raises(DataError, match="without training data, and this one has some"):
        lissom.recommend(model, task, "no-data")
    with pytest.raises(DataError, match=r"No method of the scenario 'memory' fits .* ExecuTorch.*Task\(calibration"):
        lissom.recommend(*models.convolutional(**models.NO_DATA), "memory", target="executorch")


def row(**changed) -> Evidence:
    given = {
        "experiment": "T1", "methods": ("int8",), "model": "net", "kind": "transformer", "data": "bars",
        "setting": "Quantize()", "target": "openvino", "ratios": {"size": 3.5}, "loss": 0.25, "date": "2026-11-24",
        "machine": "cpu, 2 threads",
    }  # fmt: skip
    return Evidence.model_validate({**given, **changed})


def test_what_was_measured_on_another_kind_of_model_says_so() -> None:
    found = lissom.recommend(*models.convolutional(), "server", target="onnxruntime")
    (judged,) = [one for one in found.methods if one.method == "int8"]
    other = judged.model_copy(update={"evidence": (row(),)})
    text = measured_text(other, "convolutional")
    assert "net, bars: size 3.50x, lost 0.25 points (T1, 2026-11-24, cpu, 2 threads)" in text
    assert "another kind of model (transformer) than this one (convolutional)" in text
    assert "another kind" not in measured_text(other, "transformer")
    assert measured_text(judged.model_copy(update={"evidence": ()}), "convolutional") == NOT_MEASURED


def test_the_nearest_run_comes_first_and_none_is_of_other_methods() -> None:
    rows = (
        row(experiment="A"),
        row(experiment="B", kind="convolutional", loss=None),
        row(experiment="C", kind="convolutional"),
        row(experiment="D", kind="convolutional", target="onnxruntime"),
        row(experiment="E", methods=("prune", "int8")),
        row(experiment="F", methods=("int8", "distil")),
    )
    found = of_method(rows, "int8", "convolutional", "onnxruntime")
    assert [one.experiment for one in found] == ["D", "C", "B", "A", "F"]


def test_a_method_that_nobody_measured_is_said_to_be_so() -> None:
    measured = {method for one in load_evidence() for method in one.methods}
    found = lissom.recommend(*models.convolutional(), "gpu", target="tensorrt")
    text = to_yaml(found, "p.py", "r.yaml")
    assert ("sparsify-2:4" in measured) != (f"sparsify-2:4, measured: {NOT_MEASURED}" in text)
    assert yaml.safe_load(text) == [step.data for step in found.steps]


class Pinched(torch.nn.Module):
    """`(b, 3, 8, 8)` to `(b, 4)`: most products are between channels that cannot be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.wide = torch.nn.Conv2d(16, 3, 3, padding=1)
        self.head = torch.nn.Conv2d(3, 256, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.wide(torch.relu(self.narrow(x)))).flatten(1)


@pytest.mark.parametrize("trains", [True, False])
def test_an_amount_out_of_reach_is_lowered_to_the_nearest_and_said(trains: bool) -> None:
    data = {} if trains else {"train": None, "loss": None}
    _, task = models.convolutional(**data)
    model = Pinched().eval()
    wanted = scenario_of("mobile").parameters_ratio if trains else 1.25
    asked = lissom.Prune(parameters_ratio=wanted)
    with pytest.raises(OutOfReachError, match="out of reach") as refused:
        lissom.plan(model, task, Recipe([asked]), "onnxruntime")
    found = lissom.recommend(model, task, "mobile", target="onnxruntime")
    ((name, settings),) = found.steps[0].data.items()
    amount = (settings["prune"] if name == "Progressive" else settings)["parameters_ratio"]
    assert 1.0 < amount <= refused.value.most < amount + 0.01
    assert found.after is not None
    assert found.before.parameters / found.after.parameters >= amount
    assert f"{amount:g} times fewer parameters" in found.steps[0].comment
    (said,) = found.lowered
    assert f"{wanted:g} times is out of reach for this model" in said
    assert said in " ".join(to_yaml(found, "p.py", "r.yaml").replace("\n# ", " ").split())
    assert len(lissom.plan(model, task, found.recipe, "onnxruntime")) == len(found.recipe.steps)
    begun = begin(model, task, "mobile", target="onnxruntime", recipe=None, sought=None, data_free=None)
    assert begun.recipe == found.recipe


def test_an_amount_within_reach_stays_as_the_scenario_has_it() -> None:
    found = lissom.recommend(*models.convolutional(), "mobile", target="onnxruntime")
    assert found.lowered == ()
    assert found.steps[0].data["Progressive"]["prune"] == {"parameters_ratio": 3.5}


def test_ranks_out_of_reach_are_lowered_too() -> None:
    step = Step(methods=("low-rank",), data={"Factorize": {"parameters_ratio": 4.5}}, comment="4.5 times fewer")
    other = lowered(step, 2.349)
    assert other is not None
    assert other.data == {"Factorize": {"parameters_ratio": 2.34}}
    assert other.comment == "2.34 times fewer; 4.5 times is out of reach for this model"
    assert lowered(step, 4.5) is None
    assert lowered(Step(methods=("fold",), data={"Fold": {}}, comment=""), 1.1) is None
    split = lissom.recommend(*models.convolutional(train=None, loss=None), "edge", target="onnxruntime")
    assert len(split.lowered) <= 1
