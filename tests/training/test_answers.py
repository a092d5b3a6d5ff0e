"""Answers that are kept: only for the same batch of the same view, whole, and of the same teachers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from loops import equal, net, settings, shuffled, task
from torch import Tensor, nn

from lissom.task import Batch
from lissom.training.answers import Notebook
from lissom.training.finetune import Trained, finetune

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


class Counted(nn.Module):
    """Counts how often it is asked, in all copies."""

    calls = 0

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return self.inner(x)


class Asked:
    def __init__(self, *answers: Tensor) -> None:
        self.answers, self.times = answers, 0

    def __call__(self) -> list[Tensor]:
        self.times += 1
        return list(self.answers)


def test_an_answer_is_given_once_and_rounded_from_the_first(tmp_path: Path) -> None:
    ask = Asked(torch.randn(2, 6, 4), torch.tensor([[1e6, 1.0]]), torch.zeros(2, 0))
    book = Notebook(tmp_path, "a")
    first = book.answers(0, 3, Batch((X,)), ask)
    again = Notebook(tmp_path, "a").answers(0, 3, Batch((X.clone(),)), ask)
    assert ask.times == 1
    for one, other, given in zip(first, again, ask.answers, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == torch.float32
        assert one.shape == given.shape
    assert torch.equal(first[0], ask.answers[0].half().float())
    assert torch.equal(first[1], ask.answers[1]), "too large for half precision: kept as it is"
    assert book.size_bytes == 2 * 6 * 4 * 2 + 2 * 4


@pytest.mark.parametrize(
    "other", [Batch((X + 1,)), Batch((X.double(),)), Batch((X.reshape(3, 6),)), Batch((), {"x": X})]
)
def test_another_batch_is_asked_for_again(other: Batch, tmp_path: Path) -> None:
    book, ask = Notebook(tmp_path, "a"), Asked(torch.zeros(1, 6, 2))
    book.answers(0, 0, Batch((X,)), ask)
    book.answers(0, 0, other, ask)
    assert (ask.times, book.kept, book.replaced) == (2, 1, 1)
    again = Notebook(tmp_path, "a")
    again.answers(0, 0, other, ask)
    assert (ask.times, again.kept, again.replaced) == (2, 1, 1)


def test_those_of_another_teacher_are_refused(tmp_path: Path) -> None:
    Notebook(tmp_path, "a").answers(0, 0, Batch((X,)), Asked(torch.zeros(1, 6, 2)))
    ask = Asked(torch.ones(1, 6, 2))
    (found,) = Notebook(tmp_path, "b").answers(0, 0, Batch((X,)), ask)
    assert ask.times == 1
    assert bool((found == 1).all())


@pytest.mark.parametrize("damage", ["line", "data", "bit", "gone"])
def test_what_a_kill_left_half_written_is_made_again(damage: str, tmp_path: Path) -> None:
    book = Notebook(tmp_path, "a")
    whole = [book.answers(0, step, Batch((X + step,)), Asked(torch.full((1, 6, 2), float(step)))) for step in range(2)]
    index, data = tmp_path / "answers.jsonl", tmp_path / "answers.bin"
    if damage == "line":
        index.write_text(index.read_text()[:-9])
    elif damage == "gone":
        data.unlink()
    else:
        content = bytearray(data.read_bytes())
        content[-1] ^= 1
        data.write_bytes(content[:-2] if damage == "data" else content)
    ask = Asked(torch.full((1, 6, 2), 1.0))
    again = Notebook(tmp_path, "a")
    assert torch.equal(again.answers(0, 1, Batch((X + 1,)), ask)[0], whole[1][0])
    assert ask.times == 1
    assert torch.equal(Notebook(tmp_path, "a").answers(0, 1, Batch((X + 1,)), ask)[0], whole[1][0])
    assert ask.times == 1


def taught(views: int | None, folder: Path | None = None) -> Trained:
    Counted.calls = 0
    given = settings(epochs=5, teacher="original", views=views, crop=1, flip=True)
    return finetune(net(), task(shuffled()), given, folder=folder, original=Counted(net(seed=1)))


def test_views_are_asked_once_each_and_differ(tmp_path: Path) -> None:
    trained = taught(2, tmp_path)
    assert Counted.calls == 1 + 2 * 3  # once before training, to see whether it fits
    lesson = trained.history.lesson
    assert lesson is not None
    assert (lesson.kept, lesson.replaced) == (6, 0)
    assert lesson.kept_bytes == 2 * 40 * 4 * 2  # views, examples, classes, half precision
    (index,) = tmp_path.glob("answers/*-0-of-1/answers.jsonl")
    kept = [line.split('"')[3] for line in index.read_text().splitlines()[1:]]
    assert len(set(kept)) == 6
    taught(None)
    assert Counted.calls == 1 + 5 * 3


@pytest.mark.parametrize("change", ["teacher", "augmentation", "nothing"])
def test_in_a_training_only_answers_of_the_same_teacher_and_augmentation_are_used(change: str, tmp_path: Path) -> None:
    taught(2, tmp_path)
    (tmp_path / "training.safetensors").unlink()  # what was trained is gone, what was answered is there
    Counted.calls = 0
    given = settings(epochs=5, teacher="original", views=2, crop=2 if change == "augmentation" else 1, flip=True)
    other = Counted(net(seed=2 if change == "teacher" else 1))
    lesson = finetune(net(), task(shuffled()), given, folder=tmp_path, original=other).history.lesson
    assert lesson is not None
    assert Counted.calls == (1 if change == "nothing" else 1 + 2 * 3)
    assert lesson.replaced == 0


def test_another_student_is_answered_from_the_same_notebook(tmp_path: Path) -> None:
    def trained(seed: int, views: int, crop: int = 1) -> Trained:
        Counted.calls = 0
        given = settings(epochs=3, teacher="original", views=views, crop=crop, flip=True)
        return finetune(net(seed), task(shuffled()), given, original=Counted(net(seed=1)), answers=tmp_path)

    first = trained(0, 2)
    assert Counted.calls == 1 + 2 * 3
    second = trained(3, 3)
    assert Counted.calls == 1 + 3, "one view more"
    alone = finetune(
        net(3), task(shuffled()), settings(epochs=3, teacher="original", views=3, crop=1, flip=True),
        original=Counted(net(seed=1)),
    )  # fmt: skip
    assert equal(second.model, alone.model)
    assert not equal(second.model, first.model)
    trained(0, 2, crop=2)
    assert Counted.calls == 1 + 2 * 3, "cropped otherwise"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_loader_that_never_repeats_is_found_out() -> None:
    class Noise:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator()
            generator.seed()
            for _ in range(2):
                yield torch.randn(4, 3, 8, 8, generator=generator), torch.arange(4)

    given = settings(epochs=3, teacher="original", views=1)
    lesson = finetune(net(), task(Noise()), given, original=net(seed=1)).history.lesson
    assert lesson is not None
    assert (lesson.kept, lesson.replaced) == (2, 4)
