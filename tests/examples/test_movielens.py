"""The recommender example, on ratings drawn here: no MovieLens in the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import lissom
from lissom.errors import ProjectError


@pytest.fixture(scope="module")
def movielens(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("movielens")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of 60 users and 80 items that have two tastes, in the format of MovieLens."""
    draws = np.random.default_rng(0)
    tastes, kinds = draws.normal(size=(60, 2)), draws.normal(size=(80, 2))
    pairs = draws.permutation(60 * 80)[:3000]
    user, item = pairs // 80, pairs % 80
    user[0], item[0], user[1], item[1] = 59, 0, 0, 79
    stars = np.clip(np.round(3 + (tastes[user] * kinds[item]).sum(1)), 1, 5).astype(int)
    rows = "".join(f"{u + 1}\t{i + 1}\t{s}\t0\n" for u, i, s in zip(user, item, stars, strict=True))
    path = tmp_path_factory.mktemp("ratings")
    (path / "u.data").write_text(rows)
    return path


def test_ratings_are_learned_and_splits_are_apart(movielens: ModuleType, folder: Path) -> None:
    state = torch.random.get_rng_state()
    model, task = movielens.build(folder, width="16", epochs="150")
    assert torch.equal(torch.random.get_rng_state(), state)
    parts = [
        torch.cat([torch.stack([u, i]) for u, i, _ in part], 1) for part in (task.train, task.validation, task.test)
    ]
    assert [part.shape[1] for part in parts] == [2400, 300, 300]
    user, item, stars = (torch.cat([batch[k] for batch in task.test]) for k in range(3))
    with torch.no_grad():
        error = float((model(user, item) - stars).square().mean())
    assert error < 0.8 * float((stars - model.mean).square().mean())


def test_without_data_it_says_what_to_pass(
    movielens: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOVIELENS", raising=False)
    with pytest.raises(ProjectError, match=r"data is not given.*--set data=FOLDER, or set MOVIELENS"):
        movielens.build()
    with pytest.raises(ProjectError, match=r"there is no u\.data"):
        movielens.build(tmp_path)
    monkeypatch.setenv("MOVIELENS", str(folder))
    assert movielens.build(epochs=1)[1].name == "movielens"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_factorized_file_recommends_what_the_model_does(
    movielens: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lissom.pipeline.measuring.ROUNDS", 3)
    model, task = movielens.build(folder, width=16, epochs=60)
    recipe = lissom.Recipe([lissom.Factorize(parameters_ratio=2)])
    result = lissom.compress(model, task, target="onnxruntime", recipe=recipe, out=tmp_path / "run", threads=1)
    assert {action.layer for action in result.plans[0].actions} == {"user", "item"}
    ratings = movielens.read(folder)
    films = movielens.top(tmp_path / "run", 7, ratings, 5)
    rated = set(ratings[1][ratings[0] == 7].tolist())
    rest = torch.tensor([item for item in range(80) if item not in rated])
    with torch.no_grad():
        expected = result.model(torch.full_like(rest, 7), rest)
    best = expected.topk(5)
    assert [film for film, _ in films] == rest[best.indices].tolist()
    assert [stars for _, stars in films] == pytest.approx(best.values.tolist(), abs=1e-4)
