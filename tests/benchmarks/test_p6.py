"""P6 without its networks: what it asks of one, how it is judged, that it ends what takes too long and continues."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.detector import Detector
from benchmarks.experiments import p6, p6plan
from benchmarks.prune_models import disturb_
from benchmarks.results import Run
from benchmarks.zoo_models import Net
from torch import nn

from benchmarks import results
from lissom.errors import ExportError
from lissom.task import Batch
from lissom.transforms.pruning.surgery import Pruned


def row(name: str, status: str = "ok", **figures: float | str) -> Run:
    return Run(name=name, figures={"status": status, "gap": 1e-7, "class": "its own", **figures})


def test_the_goal_is_judged_by_families_and_the_others_have_to_work():
    families = [row(f"timm/{i}") for i in range(95)] + [row(f"timm/{i}", "refused") for i in range(95, 100)]
    value = p6.judged([*families, row("here/detector")]).value
    assert results.met(p6.GOAL, value)
    assert value["share of families pruned"].value == 0.95
    assert value["refused with a reason"].value == 5
    assert not results.met(p6.GOAL, p6.judged([*families, row("here/detector", "differs")]).value)
    assert not results.met(p6.GOAL, p6.judged([*families[1:], row("timm/x", "refused")]).value)
    assert not results.met(p6.GOAL, p6.judged([*families, row("timm/x", "error")]).value)


def test_the_share_in_its_own_class_is_of_all_families():
    found = [row("timm/a"), row("timm/b", **{"class": "exported graph"}), row("here/detector")]
    assert p6.judged(found).value["families in their own class"].value == 0.5


def slow(_: Net, parent: Connection) -> None:
    parent.send(("trace", {"trace s": 1.0}))
    time.sleep(60)


def dying(_: Net, parent: Connection) -> None:
    parent.send(("prune", {}))
    os._exit(9)


def quick(_: Net, parent: Connection) -> None:
    parent.send(("trace", {"trace s": 1.0}))
    parent.send(("end", {"status": "ok", "reason": ""}))


@pytest.mark.parametrize(
    ("work", "status", "reason"),
    [
        (slow, "out of time", "trace: more than 5 s"),
        (dying, "error", "prune: the process ended with 9"),
        (quick, "ok", ""),
    ],
)
def test_a_network_that_hangs_or_dies_is_a_row(work: Any, status: str, reason: str):
    spawn = multiprocessing.get_context("fork")
    found = p6.watched(spawn, Net("a", "here"), 5.0, work)
    assert (found.name, found.figures["status"], found.figures["reason"]) == ("here/a", status, reason)
    assert work is dying or found.figures["trace s"] == 1.0


class Ear:
    """Stands for the connection to the parent."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def send(self, said: tuple[str, dict[str, Any]]) -> None:
        self.heard.append(said)


@pytest.mark.parametrize(("wrong", "status"), [(ExportError("no, because"), "refused"), (ValueError("oh"), "error")])
def test_refusals_and_errors_are_told_apart(monkeypatch: pytest.MonkeyPatch, wrong: Exception, status: str):
    def chain(*_: Any) -> Any:
        raise wrong

    monkeypatch.setattr(p6, "_chain", chain)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    ear = Ear()
    p6.attempt(Net("a", "here"), ear)  # pyright: ignore
    stage, figures = ear.heard[-1]
    assert (stage, figures["status"]) == ("end", status)
    assert str(wrong) in figures["reason"]


def test_finished_networks_are_kept_and_a_half_written_line_is_not(tmp_path: Path):
    path = tmp_path / "kept" / "n.jsonl"
    notes = p6._Notes(path)
    notes.add(row("timm/a"))
    notes.add(row("timm/b", "refused"))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"name": "timm/c", "fig')
    again = p6._Notes(path)
    assert again.runs == notes.runs
    again.forget()
    assert not p6._Notes(path).runs


def test_a_gap_is_a_share_of_the_range():
    wanted = torch.tensor([0.0, 10.0])
    assert p6.relative_gap(wanted, torch.tensor([0.0, 9.0])) == pytest.approx(0.1)
    assert p6.relative_gap(wanted, torch.tensor([0.0, float("nan")])) == float("inf")
    assert p6.relative_gap(wanted, torch.zeros(3)) == float("inf")


class Two(nn.Module):
    def __init__(self, *, cut: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.cut = cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.a(x)
        return self.b(made.detach() if self.cut else made)


def test_a_parameter_that_lost_its_gradient_is_named():
    example = Batch((torch.ones(2, 4),))
    whole, cut = Two(), Two(cut=True)
    assert p6.lost_gradients(whole, Pruned(Two(), True, "", 0.0), example) == []
    assert p6.lost_gradients(whole, Pruned(cut, True, "", 0.0), example) == ["a.weight", "a.bias"]
    assert p6.lost_gradients(cut, Pruned(cut, True, "", 0.0), example) == [], "it had none before"


def test_nothing_stays_zero_or_one():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    nn.init.zeros_(model[0].weight)
    disturb_(model)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            assert float(tensor.abs().min()) > 0
            assert not bool((tensor == 1).any())


def test_the_detector_has_three_scales():
    made = Detector().eval()(torch.zeros(1, 3, 64, 64))
    assert [tuple(one.shape) for one in made] == [(1, 9, 8, 8), (1, 9, 4, 4), (1, 9, 2, 2)]


@pytest.mark.slow
def test_the_detector_is_pruned_by_half_into_its_own_class():
    figures = p6._chain(Net("detector", "here"), lambda stage, found: None)
    assert (figures["status"], figures["class"], figures["gradients"]) == ("ok", "its own", "flow")
    assert figures["parameters after"] < 0.35 * figures["parameters"]
    assert figures["onnx gap"] < 1e-4


class Small(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 28 * 28, 4))

    def get_classifier(self) -> nn.Module:
        return self[-1]


@pytest.mark.filterwarnings("ignore")
def test_planning_is_timed_on_both_sides_and_cuts_nothing():
    tool = pytest.importorskip("torch_pruning")
    model, example = Small().eval(), torch.randn(1, 3, 32, 32)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tracing = tool.DependencyGraph._trace
    for one in (p6plan.Ours(model, example), p6plan.Theirs(model, example)):
        one.plan()
        one.plan()
        assert len(one.seconds) == 2
        assert all(second > 0 for second in (*one.seconds, *one.tracing))
        assert one.groups == 2
    assert tool.DependencyGraph._trace is tracing
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_the_documentation_quotes_the_results():
    page = (Path(__file__).parents[2] / "docs" / "pruning.md").read_text(encoding="utf-8")
    found, planning = (results.read(results.FOLDER / f"{name}.json") for name in ("P6", "P6PLAN"))
    rows: list[str] = []
    for name, wanted in (("families of timm", True), ("the nine", False)):
        group = [run.figures for run in found.runs if run.name.startswith("timm/") is wanted]
        fine = sum(one["status"] == "ok" for one in group)
        left = statistics.median(float(one["MMACs after"]) / float(one["MMACs"]) for one in group)
        own = sum(one["class"] == "its own" for one in group)
        gap = max(float(one["gap"]) for one in group)
        rows.append(f"{name} {fine} of {len(group)} {own} {gap:.0e} {left:.0%}".replace("e-0", "e-").replace("%", " %"))
    for index, row in enumerate(rows, start=2):
        cells = [line.split("|")[index].strip() for line in _table(page, "## What it was tried on")]
        assert " ".join(cells) == row
    for network in ("resnet50", "densenet121", "vit-small, 48 blocks"):
        assert f"{planning.value[f'{network}, times faster'].value:.2g} times" in page
    tracing = {run.name: run.figures["tracing s"] for run in planning.runs}
    shown = [f"{tracing[f'resnet50, {who}']:.2g} s" for who in ("lissom", "Torch-Pruning")]
    assert " against ".join(shown) in page


def _table(page: str, heading: str) -> list[str]:
    lines = page.split(heading)[1].splitlines()
    rows = [line for line in lines[: lines.index("## Measured")] if line.startswith("|")]
    return [rows[0], *rows[2:]]
