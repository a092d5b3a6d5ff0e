"""Entries of a `ModuleList` that a cut leaves out, and what the others are called then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from lissom.graph.parts import entries, modules_axis
from lissom.graph.resize import Sizes
from lissom.graph.trace import Trace


@dataclass(frozen=True)
class LeftOut:
    """Path of a list to the entries that go."""

    lists: Mapping[str, frozenset[int]] = field(default_factory=dict[str, frozenset[int]])

    @classmethod
    def of(cls, traced: Trace, sizes: Sizes) -> LeftOut:
        values = sizes.channels.on(traced.module)
        stays: dict[str, set[int]] = {}
        listed: dict[str, set[int]] = {}
        for node in traced.module.graph.nodes:
            atom = modules_axis(node, sizes.channels.axes, values)
            if atom is None:
                continue
            kept = set(sizes.places(atom).tolist())
            for place, path in enumerate(entries(node) or ()):
                holder, _, index = path.rpartition(".")
                listed.setdefault(holder, set()).add(int(index))
                if place in kept:
                    stays.setdefault(holder, set()).add(int(index))
        gone = {path: frozenset(own - stays.get(path, set())) for path, own in listed.items()}
        return cls({path: own for path, own in gone.items() if own})

    def drop_(self, module: nn.Module) -> None:
        # From the inside out: the paths are those of the whole model.
        for path in sorted(self.lists, key=lambda own: own.count("."), reverse=True):
            holder = module.get_submodule(path)
            if isinstance(holder, nn.ModuleList):
                for index in sorted(self.lists[path], reverse=True):
                    del holder[index]

    def name(self, before: str) -> str:
        """What a parameter is called in the smaller model: the entries behind those that went move up."""
        parts = before.split(".")
        found = list(parts)
        for path, gone in self.lists.items():
            own = path.split(".")
            at = len(own)
            if parts[:at] == own and len(parts) > at and parts[at].isdigit():
                found[at] = str(int(parts[at]) - sum(index < int(parts[at]) for index in gone))
        return ".".join(found)


NOTHING = LeftOut()
