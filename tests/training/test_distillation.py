"""Distillation in the loop: what it computes, whom it asks, what it refuses."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
import torch.nn.functional as F
from loops import EVERYTHING, Killed, batches, equal, net, settings, task
from torch import Tensor, nn

from lissom.errors import DataError, RecipeError, UsageError
from lissom.functional.distillation import generalized_iou
from lissom.task import Batch, Task
from lissom.training import finetune as loop
from lissom.training.chance import seed_of
from lissom.training.distillation import Distillation, distillation_of
from lissom.training.finetune import finetune
from lissom.training.objective import criterion_of
from lissom.training.settings import Training
from small_models import traced

X = batches(16)[0]
OUTPUTS = ("kl", "decoupled", "standardized", "correlation", "top_k", "bernoulli", "squared")
INNER = ("hint", "attention", "selectivity", "similarity", "relational")


class Deep(nn.Module):
    """Two resolutions, `(b, 3, 8, 8)` to `(b, classes)`; `width` channels."""

    def __init__(self, width: int, classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.first(x)).mean((2, 3)))


def deep(width: int = 3, seed: int = 0, **more: Any) -> Deep:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Deep(width, **more)


def lesson(student: nn.Module, teacher: nn.Module, aim: Task | None = None, **more: Any) -> Distillation:
    given = settings(teacher="original", **more)
    return distillation_of(student, teacher, aim or task(), given, seed=0, average=None)


def value(made: Distillation, student: nn.Module, x: Any = X[0], target: Any = X[1], **more: Any) -> Tensor:
    criterion = criterion_of(task(), settings())
    return made(student, Batch((x,), target=target), more.get("criterion", criterion))


def alone(loss: Any, student: nn.Module, teacher: nn.Module) -> float:
    """One loss without the task's."""
    made = lesson(student.eval(), teacher, losses=[loss], share=1.0)
    return float(value(made, student).detach())


@pytest.mark.parametrize("kind", [*OUTPUTS, *INNER, "flow"])
def test_zero_for_the_teacher_itself(kind: str) -> None:
    student = deep()
    assert alone(kind, student, student) == pytest.approx(0.0, abs=1e-5)
    assert alone(kind, deep(seed=1), student) > 1e-3


def test_the_loss_is_the_shared_sum_of_its_parts() -> None:
    student, teacher = deep(), deep(seed=1)
    made = lesson(student, teacher, share=0.7, temperature=3.0, losses=["kl", {"kind": "squared", "weight": 0.5}])
    with torch.no_grad():
        z, t = student.eval()(X[0]), teacher.eval()(X[0])
    total = value(made, student)
    kl = 9 * F.kl_div(F.log_softmax(z / 3, 1), F.log_softmax(t / 3, 1), log_target=True, reduction="batchmean")
    parts = {"task": F.cross_entropy(z, X[1]), "kl": kl, "squared": F.mse_loss(z, t)}
    torch.testing.assert_close(made.parts, parts)
    torch.testing.assert_close(total.detach(), 0.3 * parts["task"] + 0.7 * (kl + 0.5 * parts["squared"]))


def test_temperatures_come_from_the_loss_then_the_training_then_the_method() -> None:
    student, teacher = deep(), deep(seed=1)
    own = {"kind": "standardized", "temperature": 5.0}
    assert alone("kl", student, teacher) == alone({"kind": "kl", "temperature": 4.0}, student, teacher)
    made = lesson(student, teacher, share=1.0, temperature=7.0, losses=[own])
    assert float(value(made, student).detach()) == alone(own, student, teacher)


def test_neither_model_is_changed_and_no_hook_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = deep().train(), deep(width=5, seed=1).train()
    before = copy.deepcopy(student), copy.deepcopy(teacher)
    finetune(student, task(), settings(teacher="original", losses=["hint"]), original=teacher)
    made = lesson(student, teacher, losses=["hint"])
    monkeypatch.setattr(student, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        value(made, student)
    for model, kept in ((student, before[0]), (teacher, before[1])):
        assert equal(model, kept)
        assert all(one.training and not one._forward_hooks for one in model.modules())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_student_comes_closer_to_its_teacher() -> None:
    teacher = finetune(deep(width=12), task(batches(*[40] * 5)), settings(epochs=12)).model
    aim = task(batches(*[40] * 5))
    found: dict[str, float] = {}
    for name, more in {"alone": {}, "taught": {"teacher": "original", "share": 1.0}}.items():
        trained = finetune(deep(seed=2), aim, settings(epochs=6, **more), original=teacher).model
        found[name] = alone("kl", trained, teacher)
    assert found["taught"] < 0.7 * found["alone"]


def test_regressors_learn_and_are_no_part_of_the_result() -> None:
    student, teacher = deep(), deep(width=5, seed=1)
    made = lesson(student, teacher, losses=["hint"])
    assert [tuple(one.shape) for one in made.regressors["hint"].parameters()] == [(5, 3, 1), (5,), (10, 6, 1), (10,)]
    trained = finetune(student, task(), settings(teacher="original", losses=["hint"], epochs=6), original=teacher)
    assert trained.model.state_dict().keys() == student.state_dict().keys()
    hints = [epoch.parts["hint"] for epoch in trained.history.epochs]
    assert hints[-1] < hints[0]
    assert trained.history.lesson is not None
    assert trained.history.lesson.taps == {"hint": {"first": "first", "second": "second"}}


def test_a_fusion_reviews_deep_maps_at_shallow_taps_and_is_no_part_of_the_result() -> None:
    student, teacher = deep(), deep(width=5, seed=1)
    made = lesson(student, teacher, losses=["review"], share=1.0)
    fusion = made.regressors["review"]
    value(made, student).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in fusion.parameters())
    # The shallow tap alone: its loss reaches the student's second stage through the fusion.
    maps = [torch.randn(2, c, 4, 4).requires_grad_() for c in (3, 6)]
    (shallow, _), _ = fusion([(one, torch.zeros(())) for one in maps])
    assert shallow.shape == (2, 5, 4, 4)
    assert all(bool(g.any()) for g in torch.autograd.grad(shallow.sum(), maps))

    given = settings(teacher="original", losses=["review"], share=1.0, epochs=8)
    trained = finetune(student, task(), given, original=teacher)
    assert trained.model.state_dict().keys() == student.state_dict().keys()
    losses = [epoch.parts["review"] for epoch in trained.history.epochs]
    assert losses[-1] < 0.9 * losses[0]


def test_tokens_are_reviewed_as_well() -> None:
    class Tokens(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.blocks = nn.Sequential(
                *[nn.Sequential(nn.Linear(8 if i == 0 else width, width), nn.Tanh()) for i in range(2)]
            )
            self.fc = nn.Linear(width, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.blocks(x.flatten(1, 2)).mean(1))

    made = lesson(Tokens(6), Tokens(10), losses=[{"kind": "review", "taps": ["blocks.0", "blocks.1"]}])
    assert bool(value(made, Tokens(6)).isfinite())
    assert made.tap_names == {"review": {"blocks.0": "blocks.0", "blocks.1": "blocks.1"}}


# Whom it asks -----------------------------------------------------------------------------------------------


def test_several_teachers_are_one_whose_probabilities_are_their_mean() -> None:
    student, first, second = deep(), deep(seed=1), deep(seed=2)
    aim = task(teacher=[second, lambda x: first.eval()(x)])
    made = distillation_of(
        student, first, aim, settings(teacher=["original", "task"], share=1.0, temperature=1.0), seed=0, average=None
    )
    assert list(made.teachers) == ["original", "task 1", "task 2"]
    with torch.no_grad():
        p = sum(weight * one.eval()(X[0]).softmax(1) for one, weight in ((first, 2 / 3), (second, 1 / 3)))
        wanted = F.kl_div(student.eval()(X[0]).log_softmax(1), p, reduction="batchmean")
    torch.testing.assert_close(value(made, student).detach(), wanted)


def test_self_is_the_average_as_it_moves() -> None:
    given = settings(epochs=3, ema=0.9, teacher="self", learning_rate=0.2)
    history = finetune(deep(), task(), given).history
    assert history.lesson is not None
    assert history.lesson.teachers == ("self",)
    assert history.epochs[-1].parts["kl"] > 0.0  # the weights themselves would give zero


def test_each_round_begins_anew_and_learns_from_the_one_before(tmp_path: Path) -> None:
    start, teacher = deep(seed=2), deep(5, seed=1)
    given = {"teacher": "original", "share": 1.0, "epochs": 1}
    shares: list[float] = []
    last, history = finetune(start, task(), settings(rounds=2, **given), original=teacher, tick=shares.append)
    first = finetune(start, task(), settings(**given), original=teacher)
    second = finetune(start, task(), settings(**given), original=first.model, seed=seed_of("round", 0, 1))
    assert equal(last, second.model)
    assert not equal(last, first.model)
    assert history.lesson is not None
    assert history.lesson.rounds == tuple(one.history.epochs[-1].metric for one in (first, second))
    assert second.history.lesson == history.lesson.model_copy(update={"rounds": ()})
    assert shares == pytest.approx([1 / 6, 2 / 6, 0.5, 0.5, 4 / 6, 5 / 6, 1.0, 1.0])


def test_without_an_original_the_model_at_the_start_teaches() -> None:
    left, right = (
        finetune(deep(), task(), settings(teacher="original"), **more).model
        for more in ({}, {"original": deep()})
    )  # fmt: skip
    assert equal(left, right)


def test_an_exported_graph_teaches_and_learns() -> None:
    _, _, made = traced("residual")
    aim = task([(torch.randn(12, 3, 8, 8), torch.arange(12) % 5)], validation=None)
    history = finetune(made.module, aim, settings(teacher="original", epochs=1)).history
    assert history.epochs[0].parts["kl"] == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(RecipeError, match="exported graph"):
        finetune(made.module, aim, settings(teacher="original", losses=["hint"]))


def test_mixed_targets_are_mixed_in_the_loss_that_reads_them() -> None:
    history = finetune(
        deep(), task(), settings(**{**EVERYTHING, "losses": ["kl", "decoupled"], "teacher": "original"})
    ).history  # fmt: skip
    assert set(history.epochs[0].parts) == {"task", "kl", "decoupled"}


# Outputs ----------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    hidden: Tensor
    scores: Tensor


class Wrapped(nn.Module):
    """Another structure of outputs around the same model."""

    def __init__(self, inner: nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x: Tensor) -> Any:
        z = self.inner(x)
        hidden = x.mean((2, 3))
        return {
            "dict": {"hidden": hidden, "logits": z},
            "tuple": (hidden, z),
            "dataclass": Answer(hidden, z),
            "list": [[z, hidden]],
        }[self.how]


@pytest.mark.parametrize("how", ["dict", "tuple", "dataclass", "list"])
def test_logits_are_found_in_any_structure(how: str) -> None:
    student, teacher = deep(), deep(seed=1)
    wanted = alone("kl", student, teacher)
    wrapped = Wrapped(student, how)
    for pair in ((wrapped, teacher), (student, Wrapped(teacher, how)), (wrapped, Wrapped(teacher, how))):
        made = lesson(pair[0].eval(), pair[1], losses=["kl"], share=1.0)
        criterion = lambda outputs, _: torch.zeros((), requires_grad=True)  # noqa: E731
        assert float(value(made, pair[0], criterion=criterion).detach()) == pytest.approx(wanted)
    name = {"dict": "hidden", "tuple": "0", "dataclass": "hidden", "list": "0.1"}[how]
    made = lesson(wrapped, Wrapped(teacher, how), losses=[{"kind": "squared", "output": name}])
    assert float(value(made, wrapped, criterion=lambda *_: torch.zeros(())).detach()) == 0.0


class Tagger(nn.Module):
    """`(b, positions)` tokens to `(b, positions, 7)`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(11, 7, generator=torch.Generator().manual_seed(seed)))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


def test_padding_counts_nothing_and_positions_are_rows() -> None:
    tokens, target = torch.arange(15).reshape(3, 5) % 11, torch.arange(15).reshape(3, 5) % 7
    target[0, 2:] = -100
    student, teacher = Tagger(0), Tagger(1)
    aim = Task(
        example_inputs=(tokens,),
        train=[(tokens, target)],
        loss=lambda z, y: F.cross_entropy(z.flatten(0, 1), y.flatten()),
    )
    kept = target >= 0
    for kind in ("kl", "decoupled", "top_k"):
        made = lesson(student, teacher, aim, losses=[kind], share=1.0)
        found = made(student, Batch((tokens,), target=target), criterion_of(aim, settings()))
        flat = [one(tokens)[kept] for one in (student, teacher)]
        wanted = made.outputs[kind].of(flat[0], flat[1], target[kept], 4.0)
        torch.testing.assert_close(found, wanted)
    nothing = made(student, Batch((tokens,), target=torch.full_like(target, -100)), lambda *_: torch.zeros(()))
    assert float(nothing.detach()) == 0.0


def test_pixels_have_their_classes_on_axis_one() -> None:
    student, teacher = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
    target = torch.arange(2 * 8 * 8).reshape(2, 8, 8) % 4
    aim = task([(X[0][:2], target)], validation=None)
    made = lesson(student, teacher, aim, share=1.0)
    found = made(student, Batch((X[0][:2],), target=target), criterion_of(aim, settings()))
    z, t = (one(X[0][:2]).movedim(1, 3).reshape(-1, 4) for one in (student, teacher))
    torch.testing.assert_close(found, made.outputs["kl"].of(z, t, None, 4.0))


class Detector(nn.Module):
    """`(b, 3, 8, 8)` to 16 boxes, as corners around the centres of a 4 x 4 grid, with logits of three classes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.head = nn.Conv2d(3, 7, 2, stride=2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        made = self.head(x).flatten(2).mT
        middle = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
        return {
            "boxes": torch.cat([middle - made[..., :2].exp(), middle + made[..., 2:4].exp()], -1),
            "logits": made[..., 4:],
        }


BOXES = {"kind": "boxes", "output": "boxes", "scores": "logits"}


def detection() -> Task:
    """Targets as detectors have them: a list of found things, which no loss of distillation reads."""
    found = [{"boxes": torch.zeros(1, 4), "labels": torch.zeros(1, dtype=torch.int64)}] * 16
    return task([(X[0], found)], loss=lambda outputs, _: outputs["boxes"].square().mean(), validation=None)


@pytest.mark.parametrize("kind", ["kl", "bernoulli"])
def test_a_detector_learns_boxes_and_classes(kind: str) -> None:
    losses = [{"kind": kind, "output": "logits"}, BOXES]
    given = settings(teacher="original", losses=losses, share=1.0, epochs=8, learning_rate=0.2)
    epochs = finetune(Detector(0), detection(), given, original=Detector(1)).history.epochs
    for name in (kind, "boxes"):
        assert epochs[-1].parts[name] < 0.8 * epochs[0].parts[name]
    made = lesson(Detector(1), Detector(1), detection(), losses=losses, share=1.0)
    same = value(made, Detector(1), target=None, criterion=lambda *_: torch.zeros(()))
    assert float(same.detach()) == pytest.approx(0.0, abs=1e-6)


def test_boxes_count_as_much_as_the_teacher_is_sure() -> None:
    student, teacher = Detector(0), Detector(1)
    with torch.no_grad():
        ours, theirs = student(X[0]), teacher(X[0])
    giou = generalized_iou(ours["boxes"].flatten(0, 1), theirs["boxes"].flatten(0, 1))
    for more, sure in (
        ({}, theirs["logits"].sigmoid().amax(-1)),
        ({"background": 0}, 1 - theirs["logits"].softmax(-1)[..., 0]),
    ):
        made = lesson(student, teacher, detection(), losses=[{**BOXES, **more}], share=1.0)
        found = value(made, student, target=None, criterion=lambda *_: torch.zeros(()))
        torch.testing.assert_close(found.detach(), ((1 - giou) * sure.flatten()).sum() / sure.sum())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"scores": "boxes", "output": "logits"}, r"'logits' is of shape \(16, 16, 3\)"),
        ({"background": 3}, "background=3, and 'logits' has 3 classes"),
        ({"scores": "score"}, "no output 'score'"),
    ],
)
def test_boxes_that_are_none_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        lesson(Detector(0), Detector(1), detection(), losses=[{**BOXES, **more}])


# What is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"teacher": "original", "temperature": 0.0}, "greater than 0"),
        ({"temperature": 2.0}, r"temperature is of a distillation.*Add teacher='original'"),
        ({"teacher": "orignal"}, "Did you mean 'original'"),
        ({"teacher": nn.Linear(2, 2)}, r"Give the model to Task\(teacher=\.\.\.\) and write teacher='task'"),
        ({"teacher": "original", "losses": ["atention"]}, "Did you mean 'attention'"),
        ({"teacher": "original", "losses": []}, "at least 1"),
        ({"teacher": "original", "losses": [{"kind": "squared", "temperature": 2.0}]}, "temperature"),
        ({"teacher": "self"}, r"Set ema"),
        ({"rounds": 2}, r"rounds is of a distillation"),
        ({"teacher": "self", "ema": 0.9, "rounds": 2}, "from the generation before.*Leave one out"),
        ({"teacher": ["original", "task"], "losses": ["hint"]}, "hint compares inner values with those of one teacher"),
        ({"teacher": "original", "losses": ["hint"], "views": 2}, "views=2 keeps answers of outputs"),
        ({"teacher": "self", "ema": 0.9, "views": 2}, "changes"),
    ],
)
def test_wrong_settings_are_explained(more: dict[str, Any], said: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=said):
        Training(**more)


@pytest.mark.parametrize(
    ("student", "teacher", "more", "error", "said"),
    [
        (deep(), deep(classes=6), {}, DataError, "student have 4 classes and those of the teacher 6"),
        (deep(), nn.Flatten(0), {}, DataError, r"shapes \(16, 4\) and \(3072,\)"),
        (deep(), Wrapped(nn.Identity(), "tuple"), {"losses": ["bernoulli"]}, DataError, r"Which of the teacher .*'0'"),
        (deep(classes=1), deep(classes=1), {"losses": ["kl"]}, DataError, "has one.*'bernoulli'"),
        (deep(), deep(), {"losses": [{"kind": "kl", "output": "logit"}]}, DataError, "no output 'logit'"),
        (deep(), deep(), {"losses": [{"kind": "hint", "taps": ["frist"]}]}, RecipeError, "Did you mean 'first'"),
        (deep(), deep(), {"losses": [{"kind": "hint", "taps": {"first": "secnd"}}]}, RecipeError, "mean 'second'"),
        (deep(), deep(5), {"losses": ["flow"]}, RecipeError, "channel by channel.*'hint'"),
        (deep(), deep(), {"losses": [{"kind": "attention", "taps": ["fc"]}]}, RecipeError, "have none"),
        (deep(), deep(), {"losses": [{"kind": "hint", "taps": {"fc": "first"}}]}, RecipeError, "the same axes"),
        (deep(), deep(), {"losses": [{"kind": "flow", "taps": ["first"]}]}, RecipeError, "there is one: 'first'"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), deep(), {"losses": ["hint"]}, RecipeError, "Give taps"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_before_training(
    student: nn.Module, teacher: nn.Module, more: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        lesson(student, teacher, **more)


def test_teachers_that_are_none_are_refused() -> None:
    for given, error, said in (
        (None, DataError, r"Give Task\(teacher=\.\.\.\)"),
        ([deep(), "resnet"], UsageError, "got str"),
        ([deep(), deep(classes=6)], DataError, "another"),
    ):
        with pytest.raises(error, match=said):
            distillation_of(deep(), deep(), task(teacher=given), settings(teacher="task"), seed=0, average=None)
    function = task(teacher=lambda x: x)
    with pytest.raises(RecipeError, match="a function without modules"):
        distillation_of(deep(), deep(), function, settings(teacher="task", losses=["hint"]), seed=0, average=None)


def test_targets_that_are_no_classes_need_a_word() -> None:
    targets = torch.rand(16, 4)
    aim = task([(X[0], targets)], loss=F.binary_cross_entropy_with_logits, validation=None)
    with pytest.raises(DataError, match=r"targets are torch\.float32.*'bernoulli'"):
        lesson(deep(), deep(), aim)
    with pytest.raises(DataError, match="decoupled needs the true classes"):
        lesson(deep(), deep(), aim, losses=["decoupled"])
    trained = finetune(deep(), aim, settings(teacher="original", losses=["bernoulli"]), original=deep(5))
    assert trained.history.epochs[-1].parts["bernoulli"] < trained.history.epochs[0].parts["bernoulli"]


def test_an_objective_and_a_teacher_are_one_too_many() -> None:
    with pytest.raises(RecipeError, match="Leave one of them out"):
        finetune(deep(), task(), settings(teacher="original"), objective=lambda m, b, c: c(m(*b.args), b.target))


# Killed, and continued --------------------------------------------------------------------------------------


LESSONS: dict[str, dict[str, Any]] = {
    "inner": {"losses": ["kl", "hint", "relational"], "teacher": "original", "optimizer": "adamw"},
    "kept": {"teacher": ["original", "task"], "views": 2},
    "self": {"teacher": "self"},
    "rounds": {"teacher": "original", "rounds": 2, "epochs": 2},
}


@pytest.mark.parametrize("kind", LESSONS)
def test_killed_at_any_step_it_is_the_same_training(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    given = settings(**{**EVERYTHING, **LESSONS[kind]})
    aim = task(teacher=deep(width=4, seed=5))

    def trained(folder: Path | None = None, dies: int = 0) -> loop.Trained:
        steps = iter(range(1, 100))

        def tick(_: float) -> None:
            if next(steps) == dies:
                raise Killed

        return finetune(deep(), aim, given, folder=folder, tick=tick, seed=3, original=deep(5, seed=1))

    unbroken = trained()
    for step in (2, 5, 8):
        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            trained(folder, dies=step)
        again = trained(folder)
        assert equal(again.model, unbroken.model), step
        assert [e.parts for e in again.history.epochs] == [e.parts for e in unbroken.history.epochs]
        assert again.history.lesson == unbroken.history.lesson


@pytest.mark.parametrize("change", ["teacher", "losses"])
def test_a_checkpoint_of_another_lesson_is_not_continued(change: str, tmp_path: Path) -> None:
    finetune(deep(), task(), settings(teacher="original"), folder=tmp_path, original=deep(5))
    teacher = deep(5, seed=1) if change == "teacher" else deep(5)
    given = settings(teacher="original", losses=["standardized"] if change == "losses" else None)
    shares: list[float] = []
    again = finetune(deep(), task(), given, folder=tmp_path, original=teacher, tick=shares.append)
    assert len(shares) == 7
    assert equal(again.model, finetune(deep(), task(), given, original=teacher).model)


def test_settings_without_a_teacher_are_written_as_before() -> None:
    assert not {"teacher", "temperature", "losses", "share", "views"} & set(Training().model_dump())
    given = Training(teacher="original", losses=["kl", {"kind": "hint", "taps": {"a.b": "c"}}])
    assert Training.model_validate_json(given.model_dump_json()) == given
    assert net() is not None
