"""Inner values of models that know nothing of it: forward hooks, there for the length of one call.

"auto" pairs the last place of every resolution that both models have (the four smallest), where a place is a module
that returns one tensor. In networks of tokens, which have one resolution, it pairs three blocks at equal depths.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from lissom.errors import DataError, RecipeError, nearest
from lissom.graph.select import select
from lissom.graph.trace import evaluation

STAGES = 4
BLOCKS = 3


class Place(NamedTuple):
    """A module that returns a tensor (or a tuple that begins with one), and that tensor's shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def resolution(self) -> tuple[int, ...]:
        """Positions: the last axes of images `(n, c, h, w)`, the axis between of tokens `(n, t, c)`."""
        return self.shape[1:-1] if len(self.shape) == 3 else self.shape[2:]


def values_of(output: object) -> Tensor | None:
    """The floating point tensor that a module returned, alone or first of a tuple; None for anything else."""
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    return first if isinstance(first, Tensor) and first.is_floating_point() and first.ndim >= 2 else None


@contextlib.contextmanager
def tapped(model: nn.Module, names: Iterable[str]) -> Generator[dict[str, Tensor]]:
    """What the modules `names` return in calls inside, `(n, c, *positions)`; the last call of each counts."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            values = values_of(output)
            if values is not None:
                found[name] = values.float().transpose(1, 2) if values.ndim == 3 else values.float()

        return keep

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in dict.fromkeys(names)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def places_of(model: nn.Module, call: Callable[[nn.Module], object]) -> list[Place]:
    """Every module in the order in which it is done, except the whole model; `call` runs the model."""
    found: dict[str, Place] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            values = values_of(output)
            if values is not None:
                found.pop(name, None)
                found[name] = Place(name, tuple(values.shape))

        return keep

    handles = [one.register_forward_hook(hook(name)) for name, one in model.named_modules() if name]
    try:
        with torch.no_grad(), evaluation(model):
            call(model)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def chosen(
    taps: str | Sequence[str] | Mapping[str, str], kind: str, student: Sequence[Place], teacher: Sequence[Place]
) -> list[tuple[Place, Place]]:
    """The pairs of places that `taps` means.

    Raises:
        RecipeError: names that match nothing, or nothing that both models have in common.
    """
    ours, theirs = ({place.name: place for place in places} for places in (student, teacher))
    if isinstance(taps, Mapping):
        return [(_named(ours, s, kind, "student"), _named(theirs, t, kind, "teacher")) for s, t in taps.items()]
    if not isinstance(taps, str):
        names = select(ours, tuple(taps), f"{kind}, taps")
        return [(ours[name], _named(theirs, name, kind, "teacher")) for name in ours if name in names]
    pairs = _automatic(student, teacher)
    if not pairs:
        raise RecipeError(
            f"{kind}: no taps were found: the student has the resolutions {_shown(student)}, the teacher "
            f"{_shown(teacher)}, and they have none in common. Give taps, from student's to teacher's module: "
            "taps={'layer3': 'blocks.11'}."
        )
    return pairs


def check_tappable(model: nn.Module, kind: str) -> None:
    """
    Raises:
        RecipeError: an exported graph, whose modules are never called.
    """
    if isinstance(model, GraphModule):
        raise RecipeError(
            f"{kind} compares inner values, and this model is an exported graph, which calls no modules. Use losses "
            "of outputs, such as losses=['kl']."
        )


def check_called(found: Mapping[str, Tensor], names: Iterable[str], whose: str) -> None:
    """
    Raises:
        DataError: a tap gave no value in this call.
    """
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            f"The {whose}'s module {missing[0]!r} was not called for this batch, or returned no tensor: its values "
            "cannot be compared. Tap a module that every batch goes through."
        )


def _named(places: Mapping[str, Place], name: str, kind: str, whose: str) -> Place:
    if name not in places:
        raise RecipeError(
            f"{kind}, taps: the {whose} has no module {name!r} that returns a tensor. {nearest(name, places)}"
        )
    return places[name]


def _automatic(student: Sequence[Place], teacher: Sequence[Place]) -> list[tuple[Place, Place]]:
    ours, theirs = _stages(student, 4), _stages(teacher, 4)
    # In the order in which the student computes them; the last ones are the smallest in a classifier.
    if pairs := [_pair(ours[size], theirs[size]) for size in ours if size in theirs][-STAGES:]:
        return pairs
    ours, theirs = _stages(student, 3), _stages(teacher, 3)
    common = [size for size in ours if size in theirs]
    if not common:
        return []
    left, right = _blocks(ours[common[-1]]), _blocks(theirs[common[-1]])
    count = min(BLOCKS, len(left), len(right))
    return [(_at(left, index, count), _at(right, index, count)) for index in range(count)]


def _stages(places: Iterable[Place], axes: int) -> dict[tuple[int, ...], list[Place]]:
    """By resolution, in the order of their last places; a single position is no map."""
    found: dict[tuple[int, ...], list[Place]] = {}
    for place in places:
        if len(place.shape) == axes and max(place.resolution) > 1:
            held = found.pop(place.resolution, [])
            found[place.resolution] = [*held, place]
    return found


def _pair(ours: Sequence[Place], theirs: Sequence[Place]) -> tuple[Place, Place]:
    """The last place of the student, and the teacher's of the same name, or its last."""
    named = {place.name: place for place in theirs}
    return ours[-1], named.get(ours[-1].name, theirs[-1])


def _blocks(places: Sequence[Place]) -> Sequence[Place]:
    """The longest list of numbered modules; without one, the last place."""
    parents = Counter(p.name.rpartition(".")[0] for p in places if p.name.rpartition(".")[2].isdigit())
    if not parents:
        return places[-1:]
    longest = max(parents.values())
    parent = next(name for name, count in parents.items() if count == longest)
    return [p for p in places if p.name.rpartition(".")[0] == parent and p.name.rpartition(".")[2].isdigit()]


def _at(blocks: Sequence[Place], index: int, count: int) -> Place:
    """The block at the share `(index + 1) / count` of the depth."""
    return blocks[-(-len(blocks) * (index + 1) // count) - 1]


def _shown(places: Iterable[Place]) -> str:
    sizes = dict.fromkeys("x".join(map(str, p.resolution)) for p in places if len(p.shape) > 2)
    return ", ".join(sizes) or "none"
