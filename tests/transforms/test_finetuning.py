"""`Finetune` as a step: its plan, the checkpoint it keeps, a recipe run around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
from lissom import Finetune, Fold, Quantize, Recipe, metrics
from lissom.errors import DataError, RecipeError
from lissom.functional.confidence import calibration_error
from lissom.graph.trace import trace
from lissom.pipeline import measuring, plan, transforming
from lissom.pipeline.arguments import taught_by
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.training import finetune as loop
from lissom.training.agreement import compared
from lissom.training.history import Pace
from lissom.training.settings import Training
from lissom.transforms.base import Work
from lissom.transforms.finetuning import Train
from small_models import build

TARGET = load_target("onnxruntime")
PLAIN: dict[str, Any] = {"precision": "float32", "channels_last": False, "learning_rate": 0.1}


def task(**more: Any) -> Task:
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(12, 3, 8, 8, generator=generator), torch.arange(12) % 5) for _ in range(4)]
    given = {"train": data, "validation": data, "metric": metrics.accuracy, "loss": F.cross_entropy}
    return Task(example_inputs=(torch.zeros(1, 3, 8, 8),), **{**given, **more})


@pytest.fixture
def model() -> nn.Module:
    return build("residual")[0]


def done(one: Finetune, model: nn.Module, work: Work | None = None) -> tuple[Any, nn.Module]:
    work = work or Work()
    made = trace(model, task().example)
    planned = one.plan(made.graph, one.study(model, made, task(), TARGET, work), TARGET)
    return planned, one.apply(model, planned, made, task(), work)


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return float(torch.stack([F.cross_entropy(model(x), y) for x, y in task().train or ()]).mean())


def test_its_fields_are_those_of_a_training() -> None:
    assert set(Finetune.model_fields) == {*Training.model_fields, "control"}
    assert Finetune(epochs=3, ema=0.9).model_dump() == Training(epochs=3, ema=0.9).model_dump()


def test_the_plan_is_one_action_on_the_whole_model(model: nn.Module) -> None:
    made = trace(model, task().example)
    one = Finetune(epochs=3)
    planned = one.plan(made.graph, Pace(precision="bfloat16", channels_last=True, step_ms={"float32": 3.0}), TARGET)
    count = sum(p.numel() for p in model.parameters())
    assert planned.actions == (Train(layer="", parameters=count, precision="bfloat16", channels_last=True),)
    assert planned.skipped == ()
    assert planned.predicted.macs == made.graph.macs
    assert planned.predicted.bytes == made.graph.bytes
    (unseen,) = one.plan(made.graph, None, TARGET).actions
    assert (unseen.precision, unseen.channels_last) == ("auto", "auto")


def test_it_trains_what_was_folded(model: nn.Module) -> None:
    folded = Fold()
    made = trace(model, task().example)
    bare = folded.apply(model, folded.plan(made.graph, None, TARGET), made, task())
    _, after = done(Finetune(epochs=3, **PLAIN), bare)
    assert loss(after) < loss(bare)
    assert {type(m) for m in after.modules()} == {type(m) for m in bare.modules()}


def test_the_seed_of_the_work_decides(model: nn.Module) -> None:
    one = Finetune(epochs=1, flip=True, **PLAIN)
    weights = [done(one, model, Work(seed=seed))[1].state_dict()["fc.weight"] for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_killed_in_the_middle_it_goes_on_as_it_was_studied(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measured choice and the checkpoint are in the step's folder: another measurement would begin anew."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    shares: list[float] = []

    def tick(share: float) -> None:
        shares.append(share)
        if len(shares) == 5:
            raise KeyboardInterrupt

    one = Finetune(epochs=2, learning_rate=0.1)
    with pytest.raises(KeyboardInterrupt):
        done(one, model, Work(tmp_path / "work", tick))
    planned, after = done(one, model, Work(tmp_path / "work", shares.append))
    assert shares[5:] == [0.625, 0.75, 0.875, 1.0, 1.0]
    settled = one.model_copy(update={k: getattr(planned.actions[0], k) for k in ("precision", "channels_last")})
    unbroken = done(settled, model)[1].state_dict()
    assert all(torch.equal(unbroken[name], value) for name, value in after.state_dict().items())


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ({"train": None}, r"Give Task\(train=\.\.\.\)"),
        ({"loss": None}, r"Give Task\(loss=\.\.\.\)"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_done(model: nn.Module, missing: dict[str, Any], said: str) -> None:
    lacking = task(**missing)
    with pytest.raises(DataError, match=said):
        Finetune().study(model, trace(model, lacking.example), lacking, TARGET)


def test_patience_needs_validation_data() -> None:
    assert Finetune().needs() == {"train"}
    assert Finetune(patience=2).needs() == {"train", "validation"}


def test_the_dry_run_does_not_train(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop._Run, "carry_out", lambda *_: pytest.fail("trained"))
    made = plan(model, task(), Recipe([Fold(), Finetune(**PLAIN), Quantize()]), TARGET)
    assert [one.transform for one in made] == ["Fold", "Finetune", "Quantize"]


def test_in_a_recipe_it_is_run_saved_and_loaded(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "peak_memory", lambda *_: 1_000_000)
    monkeypatch.setattr(measuring, "ROUNDS", 3)
    recipe = Recipe([Fold(), Finetune(epochs=2, **PLAIN), Quantize(samples=12)])
    result = lissom.compress(model, task(), recipe=recipe, target="torch", out=tmp_path / "run", seed=4)
    assert [step.transform for step in result.record.steps] == ["Fold", "Finetune", "Quantize"]
    loaded = lissom.load(tmp_path / "run", build("residual")[0])
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x), result.model(x))


def test_progress_is_weighed_by_what_steps_take(model: nn.Module) -> None:
    shares: list[float] = []
    recipe = Recipe([Fold(), Finetune(epochs=2, **PLAIN), Quantize(samples=12)])
    transforming.transform(model, task(), recipe, TARGET, work=Work(tick=shares.append))
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(1 / 62)  # after Fold: one second of 62
    assert shares[-1] == pytest.approx(1.0)
    assert len([share for share in shares if 1 / 62 < share < 61 / 62]) >= 7  # a tick for every step of training


def test_a_finished_step_is_not_trained_again(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are loaded into `restructure`, which needs no data."""
    one = Finetune(epochs=1, **PLAIN)
    made = trace(model, task().example)
    monkeypatch.setattr(loop._Run, "carry_out", lambda *_: pytest.fail("trained"))
    again = one.restructure(model, one.plan(made.graph, None, TARGET), made, Task(example_inputs=task().example_inputs))
    assert again is not model
    assert again.state_dict().keys() == model.state_dict().keys()
    assert transforming.state_of(again).keys() == transforming.state_of(model).keys()


def test_an_objective_gets_the_loops_own_batch() -> None:
    """What later transforms rely on: the frame of an objective is stable."""

    def mine(model: nn.Module, batch: Batch, criterion: Any) -> Tensor:
        return criterion(model(*batch.args, **batch.kwargs), batch.target)

    model, _ = build("residual")
    settings = Training(epochs=1, **PLAIN)
    left, right = (loop.finetune(model, task(), settings, **more).model for more in ({}, {"objective": mine}))
    assert all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def test_the_model_that_the_recipe_was_given_teaches_and_the_step_says_how_well(model: nn.Module) -> None:
    recipe = Recipe([lissom.Prune(ratio=0.4, recovery="none"), Finetune(epochs=2, teacher="original", **PLAIN)])
    model = model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned, tuned = transforming.transform(model, task(), recipe, TARGET)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    note = tuned.notes["distillation"]
    assert isinstance(note, dict)
    assert note["teachers"] == ["original"]
    assert set(note["losses"]) == {"task", "kl"}
    x = torch.cat([batch for batch, _ in task().validation or ()])
    with torch.no_grad():
        same = model.eval()(x).argmax(1) == tuned.model.eval()(x).argmax(1)
    found = note["comparison"]
    assert found["agreement"] == pytest.approx(float(same.double().mean()))
    assert [one["name"] for one in found["answerers"]] == ["student", "original"]
    for one, each in zip(found["answerers"], (tuned.model, model), strict=True):
        assert one["metric"] == pytest.approx(transforming.validate(each, task()).metric.value)
    assert pruned.notes == {"criterion": "reconstruction"}


def test_the_control_is_the_same_training_without_a_teacher_and_is_not_kept(model: nn.Module, tmp_path: Path) -> None:
    given = {"epochs": 2, "teacher": "original", "views": 1, **PLAIN}
    notes: dict[str, Any] = {}
    shares: list[float] = []
    work = Work(tmp_path / "work", shares.append, seed=3, note=notes.__setitem__)
    _, after = done(Finetune(control=True, **given), model, work)
    _, same = done(Finetune(**given), model, Work(seed=3))
    assert all(torch.equal(a, b) for a, b in zip(after.parameters(), same.parameters(), strict=True))
    _, alone = done(Finetune(epochs=2, **PLAIN), model, Work(seed=3))
    found = notes["distillation"]["comparison"]
    assert [one["name"] for one in found["answerers"]] == ["student", "original", "without a teacher"]
    assert found["answerers"][2]["metric"] == pytest.approx(transforming.validate(alone, task()).metric.value)
    assert shares == sorted(shares)
    assert len(shares) == len({*shares}) + 2  # twice eight steps, and both ends
    assert Finetune(control=True, **given).expected_seconds == 2 * Finetune(**given).expected_seconds
    assert "control" not in Finetune(**given).model_dump()
    with pytest.raises(pydantic.ValidationError, match="Leave it out"):
        Finetune(control=True)


def test_classes_and_calibration_are_counted_on_all_answers(model: nn.Module) -> None:
    other = build("residual")[0]
    with torch.no_grad():
        other.fc.bias[2] += 1.0
    found = compared(other, task(), Training(teacher="original"), model, control=model)
    assert found is not None
    y = torch.cat([batch for _, batch in task().validation or ()])
    each = []
    for one in (other, model, model):
        with torch.no_grad():
            z = torch.cat([one.eval()(x) for x, _ in task().validation or ()])
        sure, said = z.softmax(1).max(1)
        each.append((calibration_error(sure, said == y), (said == y).double(), said))
    assert [one.calibration_error for one in found.answerers] == pytest.approx([e for e, _, _ in each])
    assert [one.name for one in found.answerers] == ["student", "original", "without a teacher"]
    assert sorted(one.label for one in found.classes) == list(range(5))
    for one in found.classes:
        assert one.examples == int((y == one.label).sum())
        assert one.right == pytest.approx([float(hits[y == one.label].mean()) for _, hits, _ in each])
    gaps = [abs(one.right[0] - one.right[1]) for one in found.classes]
    assert gaps == sorted(gaps, reverse=True)
    assert found.agreement == pytest.approx(float((each[0][2] == each[1][2]).double().mean()))
    assert [one.agreement for one in found.answerers] == pytest.approx([found.agreement, 1.0, 1.0])


def test_quantities_are_compared_by_what_is_left_unexplained(model: nn.Module) -> None:
    aim = task(loss=lambda z, _: z.square().mean(), metric=None)
    found = compared(model, aim, Training(teacher="original", losses=["squared"]), model)
    assert found is not None
    assert (found.unexplained, found.agreement, found.classes, found.metric_name) == (0.0, None, (), None)
    other = build("residual")[0].requires_grad_(False)
    other.fc.weight.mul_(0.0)
    other.fc.bias.mul_(0.0)
    found = compared(other, aim, Training(teacher="original", losses=["squared"]), model)
    assert found is not None
    assert found.unexplained == pytest.approx(1.0)
    assert [(one.calibration_error, one.agreement) for one in found.answerers] == [(None, None)] * 2
    assert compared(model, task(validation=None), Training(teacher="original"), model) is None


def test_a_dry_run_compares_with_the_model_that_the_recipe_was_given(model: nn.Module) -> None:
    """After surgery the widths differ, and a loss that needs equal ones is refused before anything is done."""
    flow = Finetune(teacher="original", losses=[{"kind": "flow", "taps": ["stem", "body"]}], **PLAIN)
    assert len(plan(model, task(), Recipe([flow]), TARGET)) == 1
    with pytest.raises(RecipeError, match="channel by channel"):
        plan(model, task(), Recipe([lissom.Prune(ratio=0.4, recovery="none"), flow]), TARGET)


def test_another_teacher_of_the_task_is_another_run(model: nn.Module) -> None:
    recipe = Recipe([Finetune(teacher="task")])
    left, right, again = (taught_by(recipe, task(teacher=one)) for one in (model, build("mlp")[0], model))
    assert left == again != right
    assert taught_by(Recipe([Finetune(teacher="original")]), task()) is None
    with pytest.raises(DataError, match=r"Give Task\(teacher"):
        taught_by(recipe, task())
