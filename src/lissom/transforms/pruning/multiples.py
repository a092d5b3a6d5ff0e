"""In multiples of what the channels of each group are cut, where that is left to the target.

A kernel computes `Target.channel_multiple` channels at a time: between two multiples, a channel less saves nothing and
costs accuracy. So of every group of n units

    m = c / gcd(c, w)               c = the target's multiple, w = places of a unit that lie side by side
    m is halved until 4 m <= n      or 1: no step takes more than a quarter of a group

are kept in multiples of m. A head of 64 features holds whole multiples by itself (w = 64), and any number of heads may
stay; a channel that is one place everywhere has w = 1; an expert is a module and has no multiple. Groups that the
user's code ties keep shares of the greatest common divisor of their sizes (`ties`), which is their n.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import reduce
from math import gcd

import numpy as np

from lissom.graph.axes import Atom
from lissom.graph.channels import Group, Member
from lissom.transforms.pruning.ties import Ties, step_of

STEPS = 4
"""A group can be cut in at least so many, where the target's multiple would leave fewer."""


def suited(groups: Mapping[str, Group], multiple: int, ties: Ties, modules: Collection[Atom]) -> dict[str, int]:
    """The multiple of each group for a target's; `modules` are the groups whose units are whole modules."""
    found = {
        name: 1 if group.atom in modules else _small_enough(multiple // gcd(multiple, width_of(group)), group.size)
        for name, group in groups.items()
    }
    sizes = {name: group.size for name, group in groups.items()}
    for tie in ties.among(groups):
        unit = reduce(gcd, (sizes[name] for name in tie))
        while (step := step_of(tie, sizes, found)) > _small_enough(step, unit):
            found.update({name: max(1, found[name] // 2) for name in tie})
    return found


def finer(multiples: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """These multiples, then at most half of the largest, and so on, down to single channels."""
    most = max(multiples.values(), default=1)
    while True:
        yield {name: min(own, most) for name, own in multiples.items()}
        if most == 1:
            return
        most //= 2


def width_of(group: Group) -> int:
    """Places of one unit that lie side by side, in every parameter: the greatest common divisor of all runs."""
    width = 0
    for member in group.members:
        width = gcd(width, _run(member))
        if width == 1:
            break
    return width or 1


def _run(member: Member) -> int:
    count = member.places.shape[1]
    if count == 1:
        return 1
    ends = np.flatnonzero((np.diff(np.sort(member.places, axis=1), axis=1) != 1).any(axis=0)) + 1
    return int(np.gcd.reduce(np.diff(np.concatenate(([0], ends, [count])))))


def _small_enough(multiple: int, size: int) -> int:
    while multiple > 1 and STEPS * multiple > size:
        multiple //= 2
    return multiple
