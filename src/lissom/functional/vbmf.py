"""How many singular values of a matrix stand above its noise, with nothing to choose.

Empirical variational Bayes of V = B A' + noise has a global solution in closed form: Nakajima, Sugiyama, Babacan and
Tomioka 2013, "Global Analytic Solution of Fully-observed Variational Bayesian Matrix Factorization" (JMLR 14). With
L <= M the sides of V, a = L / M and t = 2.5129 sqrt(a) (the paper's approximation of a root that has no closed form),
a singular value g is kept where

    g^2 > M s^2 x(t),      x(t) = (1 + t) (1 + a / t)

and the noise variance s^2 minimises, over what the theorem bounds it to,

    sum over values of  x - log x  +  [x > x(t)] (log(T(x) + 1) + a log(T(x) / a + 1) - T(x)),       x = g^2 / (M s^2)
    T(x) = (x - (1 + a) + sqrt((x - (1 + a))^2 - 4 a)) / 2

The minimum is looked for on a grid of s^2 (the function has many), then refined around the best point.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

POINTS = 512
REFINED = 3


def rank_above_noise(values: Tensor, shape: tuple[int, int]) -> int:
    """How many of the singular values (k,) of a matrix of this shape are signal; 0 where all look like noise."""
    short, long = min(shape), max(shape)
    g = values.double().sort(descending=True).values[:short]
    if float(g.square().sum()) <= 0.0:
        return 0
    ratio = short / long
    t = 2.5129 * math.sqrt(ratio)
    limit = (1 + t) * (1 + ratio / t)
    variance = _variance(g, short, long, limit)
    return int((g > math.sqrt(long * variance * limit)).sum())


def _variance(g: Tensor, short: int, long: int, limit: float) -> float:
    """The noise variance: the square mean of an entry of the noise."""
    ratio = short / long
    squares = g.square()
    high = float(squares.sum()) / (short * long)
    most = min(math.ceil(short / (1 + ratio)) - 1, len(g) - 1)
    low = max(float(squares[most]) / (long * limit), float(squares[most:].mean()) / long)
    low = min(max(low, 1e-12 * high), high)
    # Exact low rank: the noise is nothing, and everything above rounding is signal.
    left, right = math.log(low), math.log(high)
    best = left
    for _ in range(REFINED):
        points = torch.linspace(left, right, POINTS, dtype=torch.float64)
        costs = _objective(squares / long, points.exp(), ratio, limit)
        at = int(costs.argmin())
        best = float(points[at])
        left, right = float(points[max(at - 1, 0)]), float(points[min(at + 1, POINTS - 1)])
    return math.exp(best)


def _objective(scaled: Tensor, variances: Tensor, ratio: float, limit: float) -> Tensor:
    """The function to minimise, for each of the variances; `scaled` are g^2 / M."""
    x = (scaled / variances.unsqueeze(1)).clamp_min(1e-300)
    plain = x - x.log()
    centred = x - (1 + ratio)
    t = (centred + (centred.square() - 4 * ratio).clamp_min(0).sqrt()) / 2
    gain = (t + 1).clamp_min(1e-300).log() + ratio * (t / ratio + 1).clamp_min(1e-300).log() - t
    return (plain + torch.where(x > limit, gain, 0.0)).sum(1)
