"""A Ray cluster of this machine: two workers, of which one is killed while it evaluates."""

from __future__ import annotations

import os
import signal
import time

import pytest
import synthetic
from test_study import begin, ended

from lissom.search import Limits, workers_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("kills", [0, 1])
def test_a_search_on_two_workers_ends_as_on_one_whoever_is_killed(kills, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    whole = synthetic.told(synthetic.search(f"sqlite:///{tmp_path / 'a.db'}", name="random", limits=Limits(trials=8)))
    storage, log = f"sqlite:///{tmp_path / 'b.db'}", tmp_path / "log"
    # Long enough that whoever takes the place of the killed one finds something left to do.
    process = begin(storage, log, "random", 8, 4.0 if kills else 1.0, workers="ray:2")
    victims: list[int] = []
    while len(victims) < kills and process.poll() is None:
        at_work = [int(path.name.removeprefix("here-")) for path in tmp_path.glob("here-*")]
        if len(at_work) >= 2 and log.exists():
            assert process.pid not in at_work, "candidates are evaluated by workers"
            os.kill(at_work[0], signal.SIGKILL)
            victims.append(at_work[0])
        time.sleep(0.02)
    assert ended(process) == [whole]
    assert len(victims) == kills
    done = [line.split() for line in log.read_text().splitlines()]
    assert len({recipe for _, recipe in done}) == 8
    assert len(done) <= 8 + kills
    assert len({pid for pid, _ in done}) >= 2
    assert all(int(pid) != process.pid for pid, _ in done)


def test_without_ray_or_a_cluster_the_way_out_is_named(monkeypatch):
    from lissom.errors import WorkerError

    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(WorkerError, match=r'pip install "lissom\[ray\]"'), workers_of("ray:2").ready(1):
        pass
