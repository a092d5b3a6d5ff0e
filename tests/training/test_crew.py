"""What a leader sends to those who train with it, without processes: `tests/e2e/test_torchrun.py` has those."""

from __future__ import annotations

import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from loops import batches, net, task

from lissom.training import crew
from lissom.training.distributed import Team

CPU = torch.device("cpu")


class Sent(Team):
    """Two processes of which this is the first; keeps what it would have sent."""

    def __init__(self) -> None:
        super().__init__(CPU, 0, 2)
        self.sent: list[bytes] = []

    def from_first(self, make):
        self.sent.append(make())
        return self.sent[-1]


def test_alone_nothing_is_sent_and_nobody_follows(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (crew.size(), crew.follows()) == (1, False)
    with crew.leading(task(batches(4)), CPU):
        crew.offer(Team(CPU), {"model": net()})
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("rank", "follows"), [("0", False), ("1", True)])
def test_all_but_the_first_follow(monkeypatch, rank, follows):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert crew.follows() is follows


def test_models_are_sent_and_what_the_project_file_gave_is_named():
    ours, theirs = task(batches(16, 16)), task(batches(16, 16))
    model, team = net(), Sent()
    token = crew._task.set(ours)
    try:
        crew.offer(team, {"model": model, "task": ours, "loss": lambda a, b: F.mse_loss(a, b), "seed": 3})
    finally:
        crew._task.reset(token)
    (sent,) = team.sent
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(sent)
    job = crew._Reader(io.BytesIO(sent), crew._known(theirs)).load()
    assert job["task"].train is theirs.train, "data stay where they are"
    assert job["task"].loss is theirs.loss
    assert all(torch.equal(job["model"].state_dict()[name], value) for name, value in model.state_dict().items())
    assert job["model"] is not model
    assert float(job["loss"](torch.zeros(2), torch.ones(2))) == 1.0
    assert job["seed"] == 3


def test_without_a_crew_the_others_are_in_the_training_already():
    team = Sent()
    crew.offer(team, {"model": net()})
    assert team.sent == []
