"""Crop, flip, mixup, cutmix: what they keep, what they mix, that the generator decides."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import task
from torch import Tensor

from lissom.errors import DataError
from lissom.task import Batch
from lissom.training.augment import Mixed, augmented
from lissom.training.chance import generator_of
from lissom.training.objective import criterion_of
from lissom.training.settings import Training


def batch(b: int = 6, h: int = 8, w: int = 10) -> Batch:
    """Every pixel of every image is a number of its own, and none is 0."""
    x = torch.arange(1.0, b * 2 * h * w + 1).reshape(b, 2, h, w)
    return Batch((x,), target=torch.arange(b))


def image(made: Batch) -> Tensor:
    return made.args[0]


@given(st.integers(0, 4), st.booleans(), st.integers(0, 50))
@settings(max_examples=30)
def test_crop_and_flip_cut_a_piece_of_the_padded_image(pad: int, flip: bool, seed: int) -> None:
    source = batch()
    made = augmented(source, Training(crop=pad, flip=flip), generator_of(seed))
    assert image(made).shape == image(source).shape
    assert torch.equal(made.target, source.target)
    assert torch.equal(image(source), image(batch()))
    padded = F.pad(image(source), (pad,) * 4)
    for index, one in enumerate(image(made)):
        pieces = [
            piece if not mirrored else piece.flip(-1)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for piece in [padded[index, :, top : top + 8, left : left + 10]]
            for mirrored in ((False, True) if flip else (False,))
        ]
        assert any(torch.equal(one, piece) for piece in pieces)


def test_flip_mirrors_about_half_and_crop_reaches_every_corner() -> None:
    source = batch(b=400, h=2, w=2)
    flipped = image(augmented(source, Training(flip=True), generator_of(0)))
    mirrored = (flipped != image(source)).flatten(1).any(1)
    assert torch.equal(flipped[mirrored], image(source)[mirrored].flip(-1))
    assert 0.4 < mirrored.double().mean() < 0.6
    cropped = image(augmented(source, Training(crop=2), generator_of(0)))
    assert (cropped == 0).all((1, 2, 3)).any()


@pytest.mark.parametrize("kind", [{"crop": 2}, {"flip": True}, {"mixup": 0.5}, {"cutmix": 1.0}])
def test_the_generator_alone_decides(kind: dict[str, float]) -> None:
    wanted = Training.model_validate(kind)
    before = torch.get_rng_state()
    first, again, other = (augmented(batch(), wanted, generator_of("a", seed)) for seed in (1, 1, 2))
    assert torch.equal(image(first), image(again))
    assert not torch.equal(image(first), image(other))
    assert torch.equal(torch.get_rng_state(), before)


@given(st.floats(0.1, 3), st.integers(0, 100))
@settings(max_examples=30)
def test_mixup_is_a_convex_combination_of_two_examples(alpha: float, seed: int) -> None:
    source = batch()
    made = augmented(source, Training(mixup=alpha), generator_of(seed))
    target = made.target
    assert isinstance(target, Mixed)
    assert 0 <= target.share <= 1
    assert torch.equal(target.first, source.target)
    assert sorted(target.second.tolist()) == list(range(6))
    x = image(source)
    wanted = target.share * x + (1 - target.share) * x[target.second]
    torch.testing.assert_close(image(made), wanted, rtol=1e-5, atol=1e-3)


@given(st.floats(0.1, 3), st.integers(0, 100))
@settings(max_examples=30)
def test_cutmix_pastes_one_box_and_counts_its_pixels(alpha: float, seed: int) -> None:
    source = batch()
    made = augmented(source, Training(cutmix=alpha), generator_of(seed))
    target = made.target
    assert isinstance(target, Mixed)
    x, new, partner = image(source), image(made), target.second
    taken = new != x
    assert torch.equal(new[taken], x[partner][taken])
    moved = torch.arange(6) != partner
    box = taken[moved].any(0).any(0) if moved.any() else torch.zeros(8, 10, dtype=torch.bool)
    if moved.any():
        assert float(target.share) == pytest.approx(1 - box.double().mean().item())
        rows, columns = box.any(1), box.any(0)
        assert torch.equal(box, rows[:, None] & columns)  # a rectangle
        for line in (rows, columns):
            assert (line.int().diff().abs().sum()) <= 2  # without gaps


def test_with_both_a_coin_decides() -> None:
    kinds: set[bool] = set()
    for seed in range(20):
        made = augmented(batch(), Training(mixup=1.0, cutmix=1.0), generator_of(seed))
        kinds.add(bool(torch.isin(image(made), image(batch())).all()))
    assert kinds == {True, False}


def test_mixed_targets_mix_the_losses() -> None:
    logits = torch.randn(5, 4)
    first, second = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([3, 1, 0, 2, 1])
    loss = criterion_of(task(), Training(label_smoothing=0.1))(logits, Mixed(first, second, 0.3))
    soft = 0.3 * F.one_hot(first, 4) + 0.7 * F.one_hot(second, 4)
    torch.testing.assert_close(loss, F.cross_entropy(logits, soft, label_smoothing=0.1))


REGRESSION = Batch((torch.randn(3, 2, 4, 4),), target=torch.randn(3))
TOKENS = Batch((torch.zeros(3, 7, dtype=torch.int64),), target=torch.zeros(3, dtype=torch.int64))
MAPS = Batch((torch.randn(3, 2, 4, 4),), target=torch.zeros(3, 4, 4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("kind", "wrong", "said"),
    [
        (
            {"mixup": 1},
            REGRESSION,
            "mixup needs targets that are class indices, integers of shape (3,), got torch.float",
        ),
        (
            {"cutmix": 1},
            MAPS,
            "cutmix needs targets that are class indices, integers of shape (3,), got torch.int64 of",
        ),
        ({"mixup": 1}, TOKENS, "mixup blends floating point inputs, and the inputs are torch.int64. Set mixup to 0."),
        ({"cutmix": 1}, TOKENS, "cutmix needs exactly one input of images"),
        (
            {"crop": 1},
            TOKENS,
            "crop needs exactly one input of images, floating point of shape (batch, channels, height",
        ),
        ({"flip": True}, MAPS, "flip moves images only, and the targets have more than two axes"),
    ],
)
def test_what_does_not_fit_is_explained(kind: dict[str, float], wrong: Batch, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        augmented(wrong, Training.model_validate(kind), generator_of(0))


@pytest.mark.parametrize(
    ("outputs", "target", "said"),
    [
        (torch.randn(3, 4), torch.randn(3, 4), "label_smoothing needs targets that are class indices"),
        (torch.randn(3, 4, 5), torch.zeros(3, dtype=torch.int64), "label_smoothing needs logits of shape (batch, clas"),
    ],
)
def test_label_smoothing_needs_classes(outputs: Tensor, target: Tensor, said: str) -> None:
    smooth = criterion_of(task(loss=lambda o, t: o.mean()), Training(label_smoothing=0.1))
    with pytest.raises(DataError, match=re.escape(said)):
        smooth(outputs, target)
