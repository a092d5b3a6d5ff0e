"""Resolution as an axis of a supernet: against images that are brought down by hand, and what it is refused for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tests.transforms.elastic_nets import images, net, space, task
from torch import Tensor, nn

import lissom
from lissom.errors import RecipeError
from lissom.graph.agreement import apart
from lissom.graph.trace import trace
from lissom.pipeline.reload import replay
from lissom.pipeline.transforming import dry_run, transform
from lissom.report.architectures import text
from lissom.target import load_target
from lissom.task import Batch
from lissom.training.settings import Training
from lissom.transforms.architecture import Choose, Supernet
from lissom.transforms.architecture.extracting import extracted
from lissom.transforms.architecture.programs import Programs, tensors_of

ONCE = Training(epochs=1, learning_rate=0.05, precision="float32")
SHARES = (0.75, 0.5)


def settings(**given: object) -> Supernet:
    own = {"macs_ratio": 6.0, "resolutions": SHARES, "training": ONCE, "candidates": 6, "samples": 32, "kernels": False}
    return Supernet.model_validate({**own, **given})


@pytest.mark.parametrize("name", ["residual", "grouped", "mobile"])
def test_a_subnet_sees_the_image_that_was_brought_down_and_nothing_else_changes(name: str) -> None:
    model, found = net(name), space(net(name), resolutions=SHARES)
    (axis,) = (axis for axis in found.axes if axis.kind == "resolution")
    assert axis.choices == (8, 6, 4)
    x = images(5, 3)
    for choice, side in enumerate(axis.choices):
        subnet = tuple(choice if own is axis else 0 for own in found.axes)
        made = extracted(model, Programs(found), subnet, task(8).example)
        smaller = x if side == 8 else F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
        with torch.no_grad():
            assert apart(model(smaller), made.module(x)) < 1e-6
        assert made.own, made.reason
        assert list(made.module.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("seed", range(4))
def test_with_other_axes_it_is_the_program_at_the_cost_that_is_foretold(seed: int) -> None:
    model, found = net("residual"), space(net("residual"), resolutions=SHARES)
    subnet = (*found.drawn(torch.Generator().manual_seed(seed))[:-1], 1 + seed % 2)
    programs, x = Programs(found), images(5, seed)
    made = extracted(model, programs, subnet, task(8).example).module
    with torch.no_grad():
        assert apart(made(x), programs.of(subnet).run(tensors_of(model), Batch((x,), {}, None))) < 1e-5
    costs, graph = found.cost(subnet), trace(made, task(8).example).graph
    assert (costs.macs, costs.parameters) == (graph.macs, graph.parameters)
    assert graph.input_shapes == trace(model, task(8).example).graph.input_shapes


def test_it_is_searched_quantized_and_agrees_with_the_runtime(tmp_path) -> None:
    recipe = lissom.Recipe([settings(depth=0.0, widths=(0.5,)), lissom.Quantize()])
    result = lissom.compress(net("residual"), task(), recipe=recipe, target="onnxruntime", out=tmp_path / "run")
    (chosen,) = (one.chosen for one in result.plans[0].of(Choose) if one.axis == "resolution")
    assert chosen < 8  # half of all channels come to a third of the multiplications at most
    step = next(one for one in result.record.steps if one.architecture is not None)
    assert f"reads images {chosen} pixels high, of 8" in text(step.architecture)
    assert result.record.after.macs * 6 <= result.record.before.macs


def test_the_run_is_replayed_from_its_plan() -> None:
    recipe = lissom.Recipe([settings(macs_ratio=3.0)])
    (step,) = transform(net("residual"), task(), recipe, load_target("torch"))
    made = replay(net("residual"), task(8).example, recipe, [step.plan])
    made.load_state_dict(step.model.state_dict())
    x = images(4, 7)
    assert torch.equal(made(x), step.model(x))


def test_a_pruning_that_follows_keeps_the_size() -> None:
    recipe = lissom.Recipe([settings(macs_ratio=3.0, widths=(1.0,), depth=0.0), lissom.Prune(ratio=0.25, round_to=1)])
    first, second = transform(net("residual"), task(), recipe, load_target("torch"))
    assert [one.chosen for one in first.plan.of(Choose)] == [4]
    x = images(4, 7)
    smaller = F.interpolate(x, size=(4, 4), mode="bilinear", align_corners=False)
    with torch.no_grad():
        whole = second.model.head(
            second.model.blocks(F.relu(second.model.norm(second.model.stem(smaller)))).mean((2, 3))
        )
        assert apart(whole, second.model(x)) < 1e-6


class Flat(nn.Module):
    """Its linear layer knows how many places the map has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3, padding=1)
        self.head = nn.Linear(8 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).flatten(1))


class Folded(nn.Module):
    """Four pixels by four become channels: a side of six does not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(F.pixel_unshuffle(x, 4))).mean((2, 3)))


@pytest.mark.parametrize("model", [Flat(), net("attention")])
def test_a_network_that_knows_its_places_is_refused_with_the_reason(model: nn.Module) -> None:
    with pytest.raises(RecipeError, match=r"no smaller image goes through this network: at 6 x 6"):
        list(dry_run(model, task(8), lissom.Recipe([settings(macs_ratio=1.5)]), load_target("torch")))


def test_a_size_that_does_not_go_is_left_out_and_named() -> None:
    (step,) = dry_run(Folded(), task(8), lissom.Recipe([settings(macs_ratio=1.5)]), load_target("torch"))
    (axis,) = (one for one in step.plan.of(Choose) if one.axis == "resolution")
    assert axis.choices == (8, 4)
    (skip,) = (one for one in step.plan.skipped if one.layer == "image of 6")
    assert "at 6 x 6" in skip.reason


def test_images_need_not_be_square() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 8, 3, padding=1)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.conv(x)).mean((2, 3)))

    x = torch.randn(4, 2, 8, 20)
    given = lissom.Task(
        example_inputs=(x,), train=[(x, torch.zeros(4, dtype=torch.int64))], validation=[(x, torch.zeros(4))],
        loss=F.cross_entropy, metric=lissom.metrics.accuracy,
    )  # fmt: skip
    model, recipe = Wide().eval(), lissom.Recipe([settings(macs_ratio=3.9, widths=(1.0,))])
    (step,) = dry_run(model, given, recipe, load_target("torch"))
    made = replay(model, given.example, recipe, [step.plan])
    smaller = F.interpolate(x, size=(4, 10), mode="bilinear", align_corners=False)
    assert apart(model(smaller).detach(), made(x).detach()) < 1e-6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"resolutions": (0.4,)}, "greater than or equal to 0.5"),
        ({"resolutions": (1.0,)}, "less than 1"),
        ({"macs_ratio": None, "parameters_ratio": 2.0}, "save multiplications and time"),
        ({"macs_ratio": None, "size_ratio": 2.0}, "save multiplications and time"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(**given)


def test_inputs_without_an_image_are_refused() -> None:
    x = torch.randn(4, 6)
    given = lissom.Task(
        example_inputs=(x,), train=[(x, torch.zeros(4, dtype=torch.int64))], validation=[(x, torch.zeros(4))],
        loss=F.cross_entropy, metric=lissom.metrics.accuracy,
    )  # fmt: skip
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    with pytest.raises(RecipeError, match=r"needs one input of images.*got 0 among inputs of shape"):
        list(dry_run(model, given, lissom.Recipe([settings(macs_ratio=1.5)]), load_target("torch")))
