"""What other amounts of pruning would cost and save, from one study: no criterion is run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from lissom.graph.axes import Atom
from lissom.graph.blocks import Block
from lissom.graph.graph import Graph
from lissom.settings import Setting
from lissom.target import Target
from lissom.transforms.base import Cost
from lissom.transforms.pruning import depth
from lissom.transforms.pruning.prune import WISHES, Prune, Study

RATIOS = tuple(tenth / 10 for tenth in range(1, 10))


class Outlook(Setting):
    """One amount of pruning. Ratios are before / after: above 1 is smaller."""

    ratio: float | None
    """Share of the channels, or blocks, that was wished for; None: what the recipe itself asks for."""
    units: Literal["channels", "blocks"]
    units_before: int
    units_after: int
    """Of all that may be cut; fewer can be cut than wished for where `max_ratio` or `round_to` bind."""
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
        _narrower(graph, study, one.kept(graph, study, target), ratio)
        for ratio, one in zip((None, *ratios), (prune, *others), strict=True)
    )


def depth_outlook(
    prune: depth.PruneDepth, graph: Graph, study: depth.Study, ratios: Sequence[float] = RATIOS
) -> tuple[Outlook, ...]:
    """As `outlook`, for whole blocks.

    Raises:
        GoalError: the recipe's own budget is out of reach.
    """
    others = (prune.model_copy(update={**dict.fromkeys(depth.WISHES), "ratio": ratio}) for ratio in ratios)
    free = prune.free(study)
    return tuple(
        _shorter(graph, study, free, one.dropped(graph, study), ratio)
        for ratio, one in zip((None, *ratios), (prune, *others), strict=True)
    )


def _narrower(graph: Graph, study: Study, kept: Mapping[str, tuple[int, ...]], ratio: float | None) -> Outlook:
    atoms = {group.name: group.atom for group in study.channels.groups}
    counts: dict[Atom, int] = {atoms[name]: len(places) for name, places in kept.items()}
    places = {atoms[name]: np.array(own, dtype=np.int64) for name, own in kept.items()}
    costs = study.costs
    return _seen(
        graph,
        Cost(
            macs=costs.macs(counts, places),
            parameters=costs.parameters(counts, places),
            bytes=costs.bytes(counts, places),
        ),
        ratio=ratio,
        units="channels",
        units_before=sum(len(study.scores[name]) for name in kept),
        units_after=sum(map(len, kept.values())),
        importance=_share_left(
            [score for name in kept for score in study.scores[name].tolist()],
            [score for name, own in kept.items() for score in study.scores[name][list(own)].tolist()],
        ),
    )


def _shorter(
    graph: Graph, study: depth.Study, free: Sequence[Block], dropped: Sequence[Block], ratio: float | None
) -> Outlook:
    return _seen(
        graph,
        depth.cost_without(graph, dropped),
        ratio=ratio,
        units="blocks",
        units_before=len(free),
        units_after=len(free) - len(dropped),
        importance=_share_left(
            [study.importance[block.module] for block in free],
            [study.importance[block.module] for block in free if block not in dropped],
        ),
    )


def _seen(
    graph: Graph,
    cost: Cost,
    *,
    ratio: float | None,
    units: Literal["channels", "blocks"],
    units_before: int,
    units_after: int,
    importance: float | None,
) -> Outlook:
    return Outlook(
        ratio=ratio,
        units=units,
        units_before=units_before,
        units_after=units_after,
        cost=cost,
        macs_ratio=_over(graph.macs, cost.macs),
        parameters_ratio=_over(graph.parameters, cost.parameters),
        size_ratio=_over(graph.bytes, cost.bytes),
        importance=importance,
    )


def _over(before: int, after: int) -> float:
    return before / after if after else 1.0


def _share_left(before: Sequence[float], after: Sequence[float]) -> float | None:
    whole = sum(before)
    return None if whole <= 0 or min(before) < 0 else sum(after) / whole
