"""A recommender on MovieLens ratings: trained, its tables factorized, served by its file alone.

    lissom compress examples/movielens.py --set data=FOLDER --recipe recipe.yaml --out runs/movielens
    python examples/movielens.py runs/movielens FOLDER 196        ten films for user 196

`data` is the folder that holds `u.data` of MovieLens 100K (user, item, rating, time; tab separated), from
grouplens.org: research use, no redistribution. Without it, the environment variable MOVIELENS is read. The model is
matrix factorization with biases; its tables are nearly all of its size, so the recipe is

    - Factorize: {parameters_ratio: 5}
    - Finetune: {epochs: 5, learning_rate: 0.01}

Y. Koren, R. Bell, C. Volinsky: Matrix Factorization Techniques for Recommender Systems, Computer 2009.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
from lissom.errors import ProjectError

Ratings = tuple[Tensor, Tensor, Tensor]
"""Users and items, counted from 0, and ratings, `(n,)` each."""


class Recommender(nn.Module):
    """Users and items, `(b,)` each, to ratings `(b,)`: mean + user's bias + item's bias + user . item."""

    def __init__(self, users: int, items: int, width: int, mean: float) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, width), nn.Embedding(items, width)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        for table in (self.user, self.item, self.user_bias, self.item_bias):
            nn.init.normal_(table.weight, std=0.05)
        self.mean = mean

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        biases = (self.user_bias(user) + self.item_bias(item)).squeeze(-1)
        return self.mean + biases + (self.user(user) * self.item(item)).sum(-1)


def read(folder: Path) -> Ratings:
    """All ratings of `u.data`.

    Raises:
        ProjectError: there is no such file.
    """
    if not (folder / "u.data").is_file():
        raise ProjectError(f"data={folder}: there is no u.data of MovieLens 100K. Pass --set data=FOLDER.")
    rows = torch.from_numpy(np.loadtxt(folder / "u.data", dtype=np.int64, usecols=(0, 1, 2)))
    return rows[:, 0] - 1, rows[:, 1] - 1, rows[:, 2].float()


def batches(ratings: Ratings, rows: Tensor, size: int) -> list[Ratings]:
    return [tuple(column[part] for column in ratings) for part in rows.split(size)]  # pyright: ignore


def train(ratings: Ratings, rows: Tensor, width: int, epochs: int, seed: int, penalty: float = 0.12) -> nn.Module:
    """A recommender with `width` numbers for each user and item, from scratch."""
    users, items = (int(ids.max()) + 1 for ids in ratings[:2])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = Recommender(users, items, width, float(ratings[2][rows].mean()))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for user, item, rating in batches(ratings, rows[torch.randperm(len(rows), generator=generator)], 1024):
            size = model.user(user).square().sum(-1) + model.item(item).square().sum(-1)
            optimizer.zero_grad()
            (F.mse_loss(model(user, item), rating) + penalty * size.mean()).backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def build(
    data: str | Path | None = None, width: int | str = 64, epochs: int | str = 20, seed: int | str = 0
) -> tuple[nn.Module, lissom.Task]:
    """The trained recommender and its task: 80 % of the ratings to train, 10 % to choose, 10 % to report.

    Raises:
        ProjectError: `data` is not given, or holds no `u.data`.
    """
    folder = data or os.environ.get("MOVIELENS")
    if folder is None:
        raise ProjectError("data is not given: the folder that holds u.data. Pass --set data=FOLDER, or set MOVIELENS.")
    ratings = read(Path(folder))
    count = len(ratings[0])
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    learned, chosen, reported = rows.split([count - 2 * (count // 10), count // 10, count // 10])
    return train(ratings, learned, int(width), int(epochs), int(seed)), lissom.Task(
        example_inputs=tuple(column[:1] for column in ratings[:2]),
        train=batches(ratings, learned, 1024),
        calibration=batches(ratings, learned, 4096),
        validation=batches(ratings, chosen, 4096),
        test=batches(ratings, reported, 4096),
        loss=F.mse_loss,
        metric=lissom.metrics.negative_mse,
        name="movielens",
    )


def top(run: Path, user: int, ratings: Ratings, count: int = 10) -> list[tuple[int, float]]:
    """Items that `user` has not rated and the ratings that the run's own file expects, best first. No Lissom in it."""
    import onnxruntime  # all that serving needs

    session = onnxruntime.InferenceSession(run / "model.onnx")
    items = np.setdiff1d(np.arange(int(ratings[1].max()) + 1), ratings[1][ratings[0] == user].numpy())
    names = [one.name for one in session.get_inputs()]
    (expected,) = session.run(None, dict(zip(names, (np.full_like(items, user), items), strict=True)))
    best = np.argsort(-expected, kind="stable")[:count]
    return [(int(items[k]), float(expected[k])) for k in best]


if __name__ == "__main__":
    for film, stars in top(Path(sys.argv[1]), int(sys.argv[3]) - 1, read(Path(sys.argv[2]))):
        sys.stdout.write(f"item {film + 1}: {stars:.2f} stars\n")
