"""One number for a metric and a cost, to search by.

    reward = metric * (cost / goal) ** w        w = exponent  where cost > goal, or everywhere if `soft`
                                                w = 0         elsewhere

Tan et al. 2019, "MnasNet: Platform-Aware Neural Architecture Search for Mobile" (arXiv:1807.11626), equations 2 and 3.
Their soft constraint has the exponent -0.07 on both sides of the goal, so that twice the latency is worth five percent
of the metric; their hard one is 0 below the goal and -1 above.
"""

from __future__ import annotations

SOFT = -0.07


def reward(metric: float, cost: float, goal: float, *, exponent: float = SOFT, soft: bool = True) -> float:
    """`metric` higher is better; `cost` and `goal` are in the same unit (ms, MACs, parameters).

    Raises:
        ValueError: a cost or goal that is not positive, an exponent above 0.
    """
    if cost <= 0 or goal <= 0:
        raise ValueError(f"cost and goal must be positive, got {cost} and {goal}")
    if exponent > 0:
        raise ValueError(f"an exponent above 0 rewards cost, got {exponent}")
    weight = exponent if soft or cost > goal else 0.0
    return metric * (cost / goal) ** weight
