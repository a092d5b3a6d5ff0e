"""Where "auto" taps, on networks of images and of tokens."""

from __future__ import annotations

import torch
from torch import nn

from lissom.training.taps import Place, chosen, places_of, tapped
from small_models import build


def images(*sizes: tuple[str, int, int]) -> list[Place]:
    return [Place(name, (2, width, size, size)) for name, width, size in sizes]


def blocks(count: int) -> list[Place]:
    return [Place(f"blocks.{index}", (2, 5, 8)) for index in range(count)] + [Place("norm", (2, 5, 8))]


def names(pairs: list[tuple[Place, Place]]) -> list[tuple[str, str]]:
    return [(student.name, teacher.name) for student, teacher in pairs]


def test_the_last_place_of_each_common_resolution() -> None:
    student = images(("stem", 4, 16), ("a.0", 4, 16), ("a", 4, 16), ("b", 8, 8), ("pool", 8, 1))
    teacher = images(("stem", 8, 32), ("one", 8, 16), ("two", 16, 8), ("two.end", 16, 8), ("pool", 8, 1))
    assert names(chosen("auto", "hint", student, teacher)) == [("a", "one"), ("b", "two.end")]
    same = images(("a", 8, 16), ("b", 8, 8), ("b.more", 8, 8))
    assert names(chosen("auto", "hint", student, same)) == [("a", "a"), ("b", "b")], "the same name goes first"


def test_blocks_of_tokens_at_equal_depths() -> None:
    assert names(chosen("auto", "hint", blocks(3), blocks(12))) == [
        ("blocks.0", "blocks.3"),
        ("blocks.1", "blocks.7"),
        ("blocks.2", "blocks.11"),
    ]
    assert names(chosen("auto", "hint", blocks(1), blocks(4))) == [("blocks.0", "blocks.3")]
    assert names(chosen("auto", "hint", blocks(0), blocks(0))) == [("norm", "norm")]


def test_patterns_mean_the_same_names_in_both() -> None:
    places = images(("a", 4, 16), ("b.0", 8, 8), ("b.1", 8, 8))
    assert names(chosen(("b.*",), "hint", places, places)) == [("b.0", "b.0"), ("b.1", "b.1")]


def test_places_are_what_modules_returned_in_the_order_they_were_done() -> None:
    model, example = build("residual")
    model.train()
    places = places_of(model, lambda one: one(*example.args))
    order = [place.name for place in places]
    assert order.index("fc") == len(order) - 1
    assert all(one.training and not one._forward_hooks for one in model.modules())
    with tapped(model, [places[0].name, "fc"]) as found:
        outputs = model(*example.args)
    assert torch.equal(found["fc"], outputs)
    assert tuple(found[places[0].name].shape) == places[0].shape


def test_channels_of_tokens_come_first_in_what_is_tapped() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    with tapped(model, ["0"]) as found:
        model(torch.randn(2, 5, 3))
    assert found["0"].shape == (2, 4, 5)
