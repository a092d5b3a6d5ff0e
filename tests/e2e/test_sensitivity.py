"""Sensitivity: what one group's cut does, against the user's own module with the same channels zeroed by hand."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
from lissom.errors import DataError, UsageError
from lissom.measure.records import Sensitivity
from lissom.pipeline import sensitivity

FIRST, SECOND = "features.0.weight", "features.3.weight"


@pytest.fixture(scope="module")
def found() -> Sensitivity:
    return sensitivity(tiny.tiny(), tiny.task(loss=F.cross_entropy))


@torch.no_grad()
def scores(model: tiny.Tiny, group: str) -> Tensor:
    """Energy, written out: mean squares of what is read times the squared weights that read it."""
    task = tiny.task()
    x = torch.cat([batch.args[0] for batch in task.batches("train", limit=512)])
    if group == FIRST:
        return model.features[:3](x).square().mean((0, 2, 3)) * model.features[3].weight.square().sum((0, 2, 3))
    return model.features(x).mean((2, 3)).square().mean(0) * model.head.weight.square().sum(0)


def without(group: str, count: int) -> nn.Module:
    """The trained network with the `count` least important channels of a group silenced."""
    model = tiny.tiny()
    gone = scores(model, group).argsort()[:count]
    norm = model.features[1 if group == FIRST else 4]
    with torch.no_grad():
        norm.weight[gone] = 0
        norm.bias[gone] = 0  # relu(0) = 0: nothing that reads these channels sees them
    return model


@torch.no_grad()
def measured(model: nn.Module, seed: int = 2, count: int = 96) -> tuple[float, float]:
    x, y = tiny.bars(count, seed)
    logits = model(x)
    return float((logits.argmax(1) == y).double().mean()), float(F.cross_entropy(logits, y))


@pytest.mark.parametrize("group", [FIRST, SECOND])
def test_every_figure_is_that_of_the_network_with_those_channels_silenced(found: Sensitivity, group: str) -> None:
    one = next(one for one in found.groups if one.group == group)
    assert [effect.ratio for effect in one.effects] == [0.1, 0.3, 0.5, 0.7]
    for effect in one.effects:
        cut = math.ceil(effect.ratio * one.size)
        assert effect.kept == one.size - cut
        metric, loss = measured(without(group, cut))
        assert effect.metric == metric
        assert effect.loss == pytest.approx(loss, rel=1e-5)


def test_the_test_would_see_other_channels_cut(found: Sensitivity) -> None:
    """One channel more, and the figures are others."""
    effect = next(one for one in found.groups if one.group == SECOND).effects[2]
    assert effect.loss != pytest.approx(measured(without(SECOND, 9))[1], rel=1e-3)


def test_macs_are_those_of_the_smaller_network(found: Sensitivity) -> None:
    effect = next(one for one in found.groups if one.group == FIRST).effects[2]
    assert found.macs == 23104
    assert effect.macs == 4 * 9 * 64 + 4 * 16 * 9 * 16 + 16 * 4


def test_it_is_taken_on_validation_and_the_uncut_model_stands_beside(found: Sensitivity) -> None:
    metric, loss = measured(tiny.tiny())
    assert (found.split, found.examples, found.metric_name) == ("validation", 96, "accuracy")
    assert found.metric == metric
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert [one.layers for one in found.groups] == [
        ("features.0", "features.1", "features.3"),
        ("features.3", "features.4", "head"),
    ]
    assert Sensitivity.model_validate_json(found.model_dump_json()) == found


def test_the_test_split_is_never_read() -> None:
    class Forbidden:
        def __iter__(self) -> object:
            raise AssertionError("the test split was read")

    assert sensitivity(tiny.tiny(), tiny.task(test=Forbidden()), ratios=(0.5,)).split == "validation"
    only = lissom.Task(example_inputs=(tiny.bars(1, 5)[0],), test=Forbidden(), metric=lissom.metrics.accuracy)
    with pytest.raises(DataError, match="The test split is never used"):
        sensitivity(tiny.tiny(), only)


def test_other_splits_and_fewer_examples() -> None:
    task = tiny.task(validation=None, calibration=tiny.loader(96, 2), loss=F.cross_entropy, metric=None)
    found = sensitivity(tiny.tiny(), task, ratios=(0.5,), examples=50)
    assert (found.split, found.examples) == ("calibration", 50)
    assert found.metric is None
    assert found.metric_name is None
    x, y = tiny.bars(96, 2)
    with torch.no_grad():
        assert found.loss == pytest.approx(float(F.cross_entropy(tiny.tiny()(x[:50]), y[:50])), rel=1e-5)


def test_a_metric_over_the_whole_split() -> None:
    def share(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) == targets).double().mean())

    found = sensitivity(tiny.tiny(), tiny.task(metric=share), ratios=(0.5,))
    assert found.metric == measured(tiny.tiny())[0]
    assert found.groups[0].effects[0].metric == measured(without(FIRST, 4))[0]
    assert found.loss is None


def test_outputs_keep_their_structure() -> None:
    class Named(tiny.Tiny):
        def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"logits": super().forward(x)}

    model = Named()
    model.load_state_dict(tiny.tiny().state_dict())
    task = tiny.task(loss=lambda outputs, y: F.cross_entropy(outputs["logits"], y), metric=None)
    found = sensitivity(model.eval(), task, ratios=(0.5,))
    assert found.loss == pytest.approx(measured(tiny.tiny())[1], rel=1e-5)


def test_a_model_of_one_batch_size_is_measured_in_its_own_batches() -> None:
    class Fixed(tiny.Tiny):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(8, 1, 8, 8))

    model = Fixed()
    model.load_state_dict(tiny.tiny().state_dict())
    x = tiny.bars(8, 5)[0]
    task = tiny.task(example_inputs=(x,), validation=[tiny.bars(20, 2)], loss=F.cross_entropy)
    found = sensitivity(model.eval(), task, ratios=(0.5,))
    assert found.examples == 16  # what does not fill a batch of eight is left out
    pictures, kinds = tiny.bars(20, 2)
    with torch.no_grad():
        logits = tiny.tiny()(pictures[:16])
    assert found.loss == pytest.approx(float(F.cross_entropy(logits, kinds[:16])), rel=1e-5)
    with pytest.raises(DataError, match="exactly 8 examples"):
        sensitivity(model.eval(), tiny.task(example_inputs=(x,), validation=[tiny.bars(5, 2)]))


def test_the_model_stays_as_it_was_and_progress_ends_at_one() -> None:
    model = tiny.tiny().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shares: list[float] = []
    sensitivity(model, tiny.task(), ratios=(0.5,), progress=lambda share, _: shares.append(share))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("ratios", [(), (0.0,), (1.0,), (0.5, 1.5)])
def test_ratios_are_shares(ratios: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=r"in \(0, 1\)"):
        sensitivity(tiny.tiny(), tiny.task(), ratios=ratios)


def test_what_the_task_lacks_is_named() -> None:
    with pytest.raises(DataError, match="the task has neither"):
        sensitivity(tiny.tiny(), tiny.task(metric=None))
    with pytest.raises(DataError, match="has no target"):
        sensitivity(tiny.tiny(), tiny.task(validation=[tiny.bars(4, 2)[0]]))
