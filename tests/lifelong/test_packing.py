"""Tasks with masks: nothing of an earlier one ever changes, and what is stored is what was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import worlds
from torch import nn

from lissom.errors import DataError, RunFolderError, UsageError, VerificationError
from lissom.files import save_tensors
from lissom.lifelong import EWC, Grow, Lifelong, Pack, keeping
from lissom.lifelong.proving import answers
from lissom.task import Batch

SHARED = ("a.weight", "b.weight")
PROBE = Batch((worlds.clouds(9)[0],))


def files(folder: Path, task: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob(f"tasks/*-{task}/*"))}


def test_earlier_tasks_are_the_same_bit_for_bit(folder: Path) -> None:
    lifelong = Lifelong.create(worlds.net(), folder, worlds.task(0), bits=8)
    kept: dict[str, tuple[list[torch.Tensor], dict[str, bytes]]] = {}
    methods = [worlds.pack(), worlds.pack(), Grow(share=0.1, training=worlds.quick(1), retraining=worlds.quick(1))]
    for at, method in enumerate(methods):
        lifelong.add(f"t{at}", worlds.task(at), method)
        kept[f"t{at}"] = answers(lifelong.model(f"t{at}"), PROBE), files(folder, f"t{at}")
        for name, (wanted, held) in kept.items():
            assert all(torch.equal(a, b) for a, b in zip(answers(lifelong.model(name), PROBE), wanted, strict=True))
            assert files(folder, name) == held
    assert lifelong.prove().held
    changed = lifelong.model("t0")  # the comparison sees a small change
    with torch.no_grad():
        changed.get_parameter("fc.bias")[0] += 1e-4
    assert not torch.equal(answers(changed, PROBE)[0], kept["t0"][0][0])


def test_the_record_is_what_the_models_hold(three: Lifelong) -> None:
    models = [three.model(task.name) for task in three.tasks]
    total = sum(models[0].get_parameter(name).numel() for name in SHARED)
    taken = {name: torch.zeros_like(models[0].get_parameter(name), dtype=torch.bool) for name in SHARED}
    for task, model in zip(three.tasks, models, strict=True):
        used = {name: model.get_parameter(name) != 0 for name in SHARED}
        new = {name: used[name] & ~taken[name] for name in SHARED}
        assert task.weights == total == 24 * 10 + 16 * 24
        assert task.own == sum(int(0.2 * one.numel()) for one in used.values())
        # A value may be rounded to zero, so that it cannot be told from one that is not used.
        assert 0 <= task.own - sum(int(one.sum()) for one in new.values()) <= 5
        taken = {name: taken[name] | used[name] for name in SHARED}
        assert task.own <= task.used <= total - task.free
    assert three.tasks[-1].free == total - sum(task.own for task in three.tasks)
    assert three.tasks[1].used == three.tasks[0].own + three.tasks[1].own
    assert [task.classes for task in three.tasks] == [3, 4, 3]
    assert three.tasks[1].notes == ("The head has 4 classes instead of 3.",)
    assert three.model("b")(torch.zeros(1, 10)).shape == (1, 4)


def test_values_are_shared_and_int8_on_one_scale_a_channel(three: Lifelong) -> None:
    first, last = three.model("a"), three.model("c")
    for name in SHARED:
        ours, theirs = first.get_parameter(name), last.get_parameter(name)
        both = (ours != 0) & (theirs != 0)
        assert torch.equal(ours[both], theirs[both])
        if three.record.backbone.bits == 8:
            for channel in torch.stack([ours, theirs], 1):
                values = channel[channel != 0].detach().double()
                if len(values):
                    assert _on_a_grid(values.numpy())


def _on_a_grid(values: np.ndarray) -> bool:
    """Whether some step, the largest magnitude over an integer up to 127, divides all values."""
    largest = np.abs(values).max()
    steps = largest / np.arange(1, 128)
    ratios = values[None] / steps[:, None]
    return bool((np.abs(ratios - np.round(ratios)).max(1) < 1e-3).any())


def test_masks_take_at_most_a_bit_for_each_weight_they_speak_of(three: Lifelong) -> None:
    held = 0
    for task in three.tasks:
        path = three.folder / "tasks" / f"{task.index:04}-{task.name}" / "masks.bin"
        assert task.mask_bytes == path.stat().st_size
        flags = task.weights - held + (held if task.method == "grow" else 0)
        assert task.own <= 8 * task.mask_bytes <= flags + 16
        assert task.mask_bits == 8 * task.mask_bytes / task.weights
        held += task.own


def test_it_learns_and_packing_costs_little(three: Lifelong) -> None:
    for task in three.tasks:
        assert task.metric is not None
        assert task.metric.value > 0.6
        assert task.attempts[-1].kept == task.metric.value


def test_the_model_is_of_the_users_class_and_untouched(three: Lifelong) -> None:
    made = three.model("a")
    assert type(made) is worlds.Net
    assert not made.training
    assert set(made.state_dict()) == set(worlds.net().state_dict())
    assert all(not hasattr(module, "parametrizations") for module in made.modules())


def test_frozen_weights_do_not_move_in_training(folder: Path) -> None:
    lifelong = Lifelong.create(worlds.net(), folder, worlds.task(0))
    lifelong.add("a", worlds.task(0), worlds.pack())
    before = lifelong.model("a").get_parameter("a.weight").clone()
    lifelong.add("b", worlds.task(1), Pack(share=0.2, training=worlds.quick(3, rate=0.3), retraining=worlds.quick(1)))
    after = lifelong.model("b").get_parameter("a.weight")
    assert torch.equal(after[before != 0], before[before != 0])
    assert (after[before == 0] != 0).any()


def test_picking_leaves_old_weights_out(folder: Path) -> None:
    lifelong = Lifelong.create(worlds.net(), folder, worlds.task(0))
    lifelong.add("a", worlds.task(0), worlds.pack(0.5))
    training = worlds.quick(8, rate=0.02)
    lifelong.add("b", worlds.task(1), Grow(share=0.1, training=training, retraining=worlds.quick(1)))
    task = lifelong.tasks[-1]
    assert task.own < task.used < task.own + lifelong.tasks[0].own
    assert lifelong.prove().held


def test_it_compacts_while_the_goal_is_met(folder: Path) -> None:
    lifelong = Lifelong.create(worlds.net(), folder, worlds.task(0))
    method = Grow(share=0.4, goal=0.5, compactions=2, training=worlds.quick(4), retraining=worlds.quick(2))
    task = lifelong.add("a", worlds.task(0), method)
    assert [attempt.share for attempt in task.attempts] == [0.4, 0.2, 0.1][: len(task.attempts)]
    assert task.goal_met
    met = [attempt for attempt in task.attempts if (attempt.kept or 0) >= 0.5]
    assert task.own == int(met[-1].share * 240) + int(met[-1].share * 384)


def test_it_grows_if_the_goal_is_missed_and_says_so(folder: Path) -> None:
    lifelong = Lifelong.create(worlds.net(), folder, worlds.task(0))
    lifelong.add("a", worlds.task(0), worlds.pack())
    before = answers(lifelong.model("a"), PROBE)
    method = Grow(share=0.1, goal=2.0, step=1.5, largest=1.5, training=worlds.quick(1), retraining=worlds.quick(1))
    task = lifelong.add("b", worlds.task(1), method)
    assert [attempt.width for attempt in task.attempts] == [1.0, 1.5]
    assert task.goal_met is False
    assert "The goal of 2 was missed" in task.notes[0]
    full = Grow(share=0.75, largest=1.5, training=worlds.quick(1), retraining=worlds.quick(1))
    wide = lifelong.add("c", worlds.task(2), full)
    assert wide.width > 1.0
    assert lifelong.model("c").get_submodule("b").out_features == wide.width * 16
    assert lifelong.model("c")(PROBE.args[0]).shape == (96, 3)
    assert all(torch.equal(a, b) for a, b in zip(answers(lifelong.model("a"), PROBE), before, strict=True))
    again = lifelong.add("d", worlds.task(3), worlds.pack(0.01))
    assert again.width == wide.width
    assert lifelong.prove().held


def test_a_full_backbone_says_how_much_growth_is_needed(folder: Path) -> None:
    lifelong = Lifelong.create(worlds.net(), folder, worlds.task(0))
    lifelong.add("a", worlds.task(0), Pack(share=0.9, training=worlds.quick(1), retraining=worlds.quick(1)))
    # 'a' grows on one axis: at width v it has v n weights, 0.9 n of them taken, and 0.25 v n are wanted: v >= 1.2.
    with pytest.raises(UsageError, match=r"25.0% .*'a.weight' has 10.0% free.*1 earlier.* to 1.203.*at most 0.1\."):
        lifelong.add("b", worlds.task(1), worlds.pack(0.25))
    with pytest.raises(UsageError, match=r"largest=1\.20312"):
        lifelong.add("b", worlds.task(1), Grow(share=0.25, largest=1.1))
    method = Grow(share=0.25, largest=1.25, training=worlds.quick(1), retraining=worlds.quick(1))
    assert lifelong.add("b", worlds.task(1), method).width == 1.203125
    assert lifelong.prove().held


def test_wrong_wishes_are_refused_with_the_way_out(three: Lifelong, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"'a' is in .* already"):
        three.add("a", worlds.task(0))
    with pytest.raises(UsageError, match=r"begins with a letter or digit .* got '\.\./x'"):
        three.add("../x", worlds.task(0))
    with pytest.raises(UsageError, match="EWC cannot follow 'pack'"):
        three.add("d", worlds.task(0), EWC())
    with pytest.raises(
        UsageError, match=r"inputs of the task 'd', of shapes \[\(2, 7\)\]; the first task has \[\(16, 10\)\]"
    ):
        three.add("d", worlds.task(0, inputs=7))
    with pytest.raises(UsageError, match="classes=2, but the targets of the task 'd' reach 2"):
        three.add("d", worlds.task(0), Pack(classes=2))
    with pytest.raises(UsageError, match=r"There is no task 'aa'.*'a'"):
        three.model("aa")
    blind = replace(worlds.task(0), validation=None)
    with pytest.raises(DataError, match=r"goal=0\.5 is judged by the metric"):
        three.add("d", blind, Grow(goal=0.5))
    with pytest.raises(RunFolderError, match=r"another model: '0.bias' has the shape none there"):
        Lifelong.open(three.folder, nn.Sequential(nn.Linear(10, 3)))
    with pytest.raises(RunFolderError, match="already holds a backbone"):
        Lifelong.create(worlds.net(), three.folder, worlds.task(0))
    with pytest.raises(UsageError, match="bits=4"):
        Lifelong.create(worlds.net(), folder, worlds.task(0), bits=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"compactions=1 .* there is no goal"):
        Grow(compactions=1)
    with pytest.raises(ValueError, match=r"retraining\.regularizer='slimming' makes whole channels small"):
        Pack(retraining=worlds.quick(1).model_copy(update={"regularizer": "slimming"}))
    assert [task.name for task in three.tasks] == ["a", "b", "c"]
    assert three.prove().held


class InPlace(worlds.Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.mul_(0.5))


@pytest.mark.parametrize("method", [worlds.pack(), EWC(training=worlds.quick(1))], ids=["pack", "ewc"])
def test_a_model_that_writes_into_its_inputs_proves_and_spoils_nobodys_data(folder: Path, method) -> None:
    torch.manual_seed(0)
    task = replace(worlds.task(0), train=[(x.clone(), y) for x, y in worlds.task(0).train])
    before = task.validation[0][0].clone()
    example = task.example_inputs[0].clone()
    lifelong = Lifelong.create(InPlace().eval(), folder, task)
    with torch.random.fork_rng(devices=[]):
        lifelong.add("a", replace(task, metric=None), method)
    assert lifelong.prove().held
    assert torch.equal(task.validation[0][0], before)
    assert torch.equal(task.example_inputs[0], example)


def test_a_share_that_leaves_a_layer_nothing_is_refused(folder: Path) -> None:
    lifelong = Lifelong.create(worlds.net(), folder, worlds.task(0))
    with pytest.raises(UsageError, match=r"share=0.001 of the 240 weights of 'a.weight' is none.*at least 0.0042"):
        lifelong.add("a", worlds.task(0), worlds.pack(0.001))
    assert not lifelong.tasks


@pytest.mark.parametrize("method", [worlds.pack(), EWC(training=worlds.quick(1))], ids=["pack", "ewc"])
def test_files_that_read_back_otherwise_are_not_committed(folder: Path, method, monkeypatch) -> None:
    lifelong = Lifelong.create(worlds.net(), folder, worlds.task(0))

    def spoilt(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        save_tensors(path, {name: value + 1 if value.is_floating_point() else value for name, value in tensors.items()})

    monkeypatch.setattr(keeping, "save_tensors", spoilt)
    with pytest.raises(VerificationError, match="reads back with other weights"):
        lifelong.add("a", worlds.task(0), method)
    assert not lifelong.tasks
