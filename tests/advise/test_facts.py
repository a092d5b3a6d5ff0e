"""Facts of a model, against counts made by hand from its shapes."""

from __future__ import annotations

import advice_models as models
import pytest
import torch

import lissom
from lissom.advise import Facts, facts_of
from lissom.target import load_target


def facts(built, target: str = "onnxruntime", blocks: int = 0) -> Facts:
    model, task = built
    return facts_of(lissom.analyze(model, task), task, load_target(target), blocks=blocks)


def test_shares_of_a_convolutional_network_are_those_of_its_shapes() -> None:
    found = facts(models.convolutional())
    stem, depthwise, block, head = 64 * 16 * 27, 64 * 16 * 9, 64 * 16 * 16 * 9 * 2, 16 * 4
    macs = stem + depthwise + 3 * block + head
    assert found.macs == macs
    assert found.share("depthwise").macs == pytest.approx(depthwise / macs)
    assert found.share("convolution").macs == pytest.approx((stem + 3 * block) / macs)
    parameters = 16 * 27 + 16 + 16 * 9 + 16 + 3 * (2 * 16 * 16 * 9 + 4 * 16) + 16 * 4 + 4
    assert found.parameters == parameters
    assert found.share("depthwise").parameters == pytest.approx((16 * 9 + 16) / parameters)
    assert found.share("embedding").parameters == 0
    assert (found.kind, found.attentive, found.classes, found.trains) == ("convolutional", False, True, True)
    # The transposed layers and the rest have integer kernels on ONNX Runtime: everything that multiplies here.
    assert found.integer_share == pytest.approx(1.0)
    assert found.dynamic_share == pytest.approx(head / macs)


def test_a_first_layer_on_grey_images_is_not_depthwise() -> None:
    from torch import nn, randn

    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(128, 2))
    task = lissom.Task(example_inputs=(randn(1, 1, 8, 8),))
    found = facts((model.eval(), task))
    assert found.share("convolution").parameters == pytest.approx((8 * 9 + 8) / found.parameters)
    assert found.share("depthwise").parameters == pytest.approx((8 * 9 + 8) / found.parameters)


def test_kinds_of_models() -> None:
    transformer, tables = facts(models.transformer()), facts(models.tables())
    assert (transformer.kind, tables.kind) == ("transformer", "tables")
    assert transformer.share("embedding").parameters == pytest.approx(200 * 32 / transformer.parameters)
    assert not transformer.real_inputs
    assert tables.share("embedding").parameters == 1.0
    assert tables.stored_share == 1.0
    assert facts(models.tables(), "tensorrt").stored_share == 0.0
    assert (tables.splits, tables.observed, tables.trains, tables.judged) == ((), False, False, False)


def test_answers_to_one_example_are_counted() -> None:
    four_classes = 4 * 2
    assert facts(models.convolutional()).answer_bytes == four_classes
    model, task = models.convolutional()
    fixed = torch.export.export(model.eval(), task.example_inputs).module()
    assert not lissom.analyze(fixed, task).dynamic_batch
    assert facts((fixed, task)).answer_bytes == four_classes


def test_channels_are_those_of_the_groups() -> None:
    model, task = models.convolutional()
    groups = lissom.analyze(model, task).groups
    found = facts((model, task)).channels
    assert found.total == sum(group.size for group in groups)
    assert found.free == sum(group.size for group in groups if group.reason is None) > 0
    assert found.reason in {group.reason for group in groups}
