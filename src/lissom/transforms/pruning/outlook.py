"""What other amounts of pruning would cost and save, from one study: no criterion is run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lissom.graph.axes import Atom
from lissom.graph.graph import Graph
from lissom.settings import Setting
from lissom.target import Target
from lissom.transforms.base import Cost
from lissom.transforms.pruning.prune import WISHES, Prune, Study

RATIOS = tuple(tenth / 10 for tenth in range(1, 10))


class Outlook(Setting):
    """One amount of pruning. Ratios are before / after: above 1 is smaller."""

    ratio: float | None
    """Share of the channels that was wished for; None: what the recipe itself asks for."""
    channels_before: int
    channels_after: int
    """Of all groups that may be cut; fewer can be cut than wished for where `max_ratio` or `round_to` bind."""
    cost: Cost
    macs_ratio: float
    parameters_ratio: float
    size_ratio: float
    importance: float | None
    """Share of the summed scores that stays; None for scores that may be negative."""


def outlook(
    prune: Prune, graph: Graph, study: Study, target: Target, ratios: Sequence[float] = RATIOS
) -> tuple[Outlook, ...]:
    """The recipe's own amount first, then every one of `ratios`, with all other settings of `prune`.

    Raises:
        GoalError: the recipe's own budget is out of reach.
    """
    others = (prune.model_copy(update={**dict.fromkeys(WISHES), "ratio": ratio}) for ratio in ratios)
    return tuple(
        _seen(study, one.kept(graph, study, target), ratio)
        for ratio, one in zip((None, *ratios), (prune, *others), strict=True)
    )


def _seen(study: Study, kept: Mapping[str, tuple[int, ...]], ratio: float | None) -> Outlook:
    atoms = {group.name: group.atom for group in study.channels.groups}
    counts: dict[Atom, int] = {atoms[name]: len(places) for name, places in kept.items()}
    places = {atoms[name]: np.array(own, dtype=np.int64) for name, own in kept.items()}
    costs = study.costs
    cost = Cost(
        macs=costs.macs(counts, places), parameters=costs.parameters(counts, places), bytes=costs.bytes(counts, places)
    )
    return Outlook(
        ratio=ratio,
        channels_before=sum(len(study.scores[name]) for name in kept),
        channels_after=sum(map(len, kept.values())),
        cost=cost,
        macs_ratio=_over(costs.macs({}), cost.macs),
        parameters_ratio=_over(costs.parameters({}), cost.parameters),
        size_ratio=_over(costs.bytes({}), cost.bytes),
        importance=_importance(study, kept),
    )


def _over(before: int, after: int) -> float:
    return before / after if after else 1.0


def _importance(study: Study, kept: Mapping[str, tuple[int, ...]]) -> float | None:
    whole = sum(float(study.scores[name].sum()) for name in kept)
    if whole <= 0 or any(bool((study.scores[name] < 0).any()) for name in kept):
        return None
    return sum(float(study.scores[name][list(places)].sum()) for name, places in kept.items()) / whole
