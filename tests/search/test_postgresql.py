"""Trials in PostgreSQL: a server of our own on the loopback, and two processes at work on it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import pytest
import synthetic
from test_study import begin, ended

from lissom.errors import StorageError
from lissom.search import Limits, Point, opened

PROGRAMS = [*Path("/usr/lib/postgresql").glob("*/bin"), *(Path(one) for one in os.get_exec_path())]
BIN = next((place for place in PROGRAMS if (place / "initdb").exists() and (place / "postgres").exists()), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(BIN is None, reason="PostgreSQL's initdb and postgres are not installed"),
]


class Server:
    """One that can be stopped and started; it refuses to run as root, so that it runs as `postgres` there."""

    def __init__(self, place: Path) -> None:
        self.place = place
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        (place / "password").write_text("secret")
        if os.getuid() == 0:
            for each in (place, place / "password"):
                shutil.chown(each, "postgres")
        self._run("initdb", "-D", "data", "-U", "lissom", "-A", "scram-sha-256", "--pwfile", "password", "--no-sync")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://lissom:secret@127.0.0.1:{self.port}/{database}"

    def database(self, name: str) -> str:
        """The URL of a new one."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def start(self) -> None:
        listen = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "-t", "120", "-o", listen, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        assert BIN is not None
        other = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        command = [str(BIN / program), *arguments]
        # A started server keeps standard output open: it gets none of ours.
        with (self.place / "said").open("w") as said:
            subprocess.run(command, cwd=self.place, check=True, stdout=said, stderr=said, **other)


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    pytest.importorskip("psycopg", reason="the extra postgresql is not installed")
    # Not below pytest's own folder, which no other user may enter.
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        place = Path(made) / "server"
        place.mkdir()
        found = Server(place)
        found.start()
        yield found
        found.stop()


def test_two_processes_find_the_front_that_one_finds_in_sqlite(server, tmp_path):
    whole = synthetic.told(synthetic.search(f"sqlite:///{tmp_path / 'a.db'}", name="random", limits=Limits(trials=12)))
    log = tmp_path / "log"
    url = server.database("two")
    fronts = ended(*(begin(url, log, "random", 12, 0.5, party=2) for _ in range(2)))
    assert fronts == [whole, whole]
    done = [line.split() for line in log.read_text().splitlines()]
    assert len({recipe for _, recipe in done}) == len(done) == 12
    assert len({pid for pid, _ in done}) == 2, "both had a part in it"


def test_a_process_that_is_killed_loses_nothing(server, tmp_path):
    url = server.database("killed")
    with opened(url, "killed", {}) as study:
        held = study.claim(Point(), "r1", "random")
        assert held is not None
        code = (
            "import sys, os, signal\nfrom lissom.search import Point, opened\n"
            "with opened(sys.argv[1], 'killed', {}) as study:\n"
            "    assert study.claim(Point(), 'r1', 'random') is None\n"
            "    assert study.claim(Point(prune=2.0), 'r2', 'random')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        killed = subprocess.run([sys.executable, "-c", code, url], check=False)
        assert killed.returncode == -9
        assert study.claim(Point(prune=2.0), "r2", "random") is None
        assert study.reset() == 1
        assert study.claim(Point(prune=2.0), "r2", "random") is not None


def test_a_server_that_goes_away_is_named_without_its_password_and_the_search_goes_on_when_it_is_back(server):
    space, url = synthetic.SPACE.model_copy(update={"epochs": (0,)}), server.database("away")
    calls = 0

    def stopping(recipe):
        nonlocal calls
        calls += 1
        if calls == 3:
            server.stop()
        return synthetic.evaluate(recipe)

    with pytest.raises(StorageError, match="no longer answers") as lost:
        synthetic.search(url, call=stopping, space=space, limits=Limits(trials=6))
    assert "secret" not in str(lost.value)
    started = time.monotonic()
    with pytest.raises(StorageError, match="cannot be used") as away, opened(url, "bars", {}):
        pass
    assert "secret" not in str(away.value)
    assert time.monotonic() - started < 60.0
    server.start()
    found = synthetic.search(url, call=stopping, space=space, limits=Limits(trials=6))
    assert [t.state for t in found.trials if t.state == "running"] == []
    assert calls == 7, "the third was evaluated again, since nobody could be told of it"
