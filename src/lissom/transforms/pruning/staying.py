"""Why layers keep all of their channels."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lissom.graph.channels import Channels
from lissom.graph.resize import Kept
from lissom.transforms.base import Skip


def skips(
    channels: Channels,
    atoms: Kept,
    excluded: frozenset[str],
    divisors: frozenset[str],
    gone: Collection[str],
) -> Iterable[Skip]:
    """Every layer that makes channels of a group that stays whole; none that is left out itself."""
    seen: set[Skip] = set()
    for group in channels.groups:
        if group.atom in atoms:
            continue
        reason = group.reason or "none of its channels is among the least important"
        if group.name in excluded:
            reason = "it is excluded"
        elif group.name in divisors:
            reason = "the model's own code divides by its size"
        elif group.reason is None and group.size == 1:
            reason = "it has one channel"
        makers = [m for m in group.members if m.axis == 0 and len(channels.parameters[m.parameter]) > 1]
        for member in makers or group.members[:1]:
            if member.parameter in gone:
                continue
            skip = Skip(layer=member.parameter.rpartition(".")[0] or member.parameter, reason=reason)
            if skip not in seen:
                seen.add(skip)
                yield skip
