"""LATENCY: how it is judged, on a network whose law is known; a tiny real one is measured once and goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.context import Context
from benchmarks.experiments import latency
from tests.e2e import tiny
from tests.search import layered

from benchmarks import results

SPACE = layered.SPACE.model_copy(update={"rank": (1.0,)})
"""Over width, depth and bits, as the experiment draws."""


def known(**how: float) -> latency.Net:
    return latency.Net(SPACE, layered.ORIGINAL, lambda p: layered.timed(p, **how), layered.STEP)


def test_it_is_judged_on_what_was_not_fitted_and_beside_its_control():
    one = latency.judged(known(noise=0.02), fitted=8, held_out=25)
    fitted, asked = latency.drawn(SPACE, 8, 25)
    assert one.points == tuple(asked)
    assert not {*fitted, *latency.probed(SPACE)} & {*asked}
    found = latency.outcome({"a": one, "b": one})
    assert results.met(found.goal, found.value)
    control = {beside.what: beside.value for beside in found.control}
    assert control["a, proportional to MACs: error"] > 3 * found.value["a, mean relative error"].value
    wrong = latency.Judged(**{**one.__dict__, "foretold": one.foretold[::-1]})
    assert not results.met(found.goal, latency.outcome({"a": one, "b": wrong}).value), "the worse one counts"


def test_ranks_are_those_of_a_peer():
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    left, right = random.integers(0, 9, 30).astype(float), random.normal(size=30)
    assert latency.spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic)


def test_a_killed_one_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    context = Context(scratch=tmp_path / "scratch", kept=tmp_path / "kept", threads=1, rounds=3, say=lambda _: None)
    net = latency.opened(context, "tiny", tiny.tiny(), tiny.task())
    assert net.original.layers
    point = next(iter(latency.probed(net.space)))
    timed = net.measure(point)
    assert timed.latency_ratio > 0.0
    assert {one.name for one in timed.layers} == {one.name for one in net.original.layers}
    monkeypatch.setattr(latency.Evaluator, "probe", lambda *_: pytest.fail("measured again"))
    again = latency.opened(context, "tiny", tiny.tiny(), tiny.task())
    assert again.measure(point) == timed
    assert again.original == net.original
