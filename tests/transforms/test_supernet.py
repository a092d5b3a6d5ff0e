"""A supernet: its subnets against the plain modules that they are extracted to, its training, its statistics."""

from __future__ import annotations

import copy
import itertools
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.transforms.elastic_nets import NETS, images, net, space, task
from torch import Tensor, nn

from lissom.graph.agreement import apart
from lissom.graph.trace import trace
from lissom.task import Batch
from lissom.transforms.architecture.extracting import extracted
from lissom.transforms.architecture.programs import Programs, Trained, recalibrate, tensors_of
from lissom.transforms.architecture.sandwich import Sandwich

CLOSE = 1e-5


@lru_cache
def programs_of(name: str) -> Programs:
    return Programs(space(net(name)))


@pytest.mark.parametrize("name", NETS)
def test_the_space_has_every_kind_of_axis_that_the_network_has(name: str) -> None:
    axes = {axis.kind for axis in programs_of(name).space.axes}
    assert (
        axes
        == {
            "residual": {"width", "depth", "kernel"},
            "grouped": {"width", "depth", "kernel"},
            "mobile": {"width", "kernel"},
            "attention": {"width"},
        }[name]
    )


def test_heads_are_an_axis() -> None:
    found = space(net("attention"))
    sizes = {size for axis in found.axes for size in axis.whole}
    assert 4 in sizes


@pytest.mark.parametrize("name", NETS)
@settings(deadline=None, max_examples=2, phases=[Phase.generate])
@given(seed=st.integers(0, 2**20))
def test_a_subnet_is_its_extracted_module(name: str, seed: int) -> None:
    model, programs = net(name), programs_of(name)
    subnet = programs.space.drawn(torch.Generator().manual_seed(seed))
    made = extracted(model, programs, subnet, task(8).example)
    x = images(5, seed)
    program = programs.of(subnet)
    with torch.no_grad():
        assert apart(made.module(x), program.run(tensors_of(model), Batch((x,), {}, None))) < CLOSE
    assert made.own, made.reason
    assert type(made.module) is type(model)
    costs = programs.space.cost(subnet)
    assert sum(p.numel() for p in made.module.parameters()) == costs.parameters
    assert trace(made.module, task(8).example).graph.macs == costs.macs


@pytest.mark.parametrize("name", NETS)
def test_the_largest_subnet_is_the_network_and_the_smallest_is_smaller_in_everything(name: str) -> None:
    model, found = net(name), programs_of(name).space
    x = images(3)
    with torch.no_grad():
        made = programs_of(name).of(found.largest).run(tensors_of(model), Batch((x,), {}, None))
    assert apart(model(x).detach(), made) < CLOSE
    whole, least = found.cost(found.largest), found.cost(found.smallest)
    graph = trace(model, task(8).example).graph
    assert (whole.macs, whole.parameters) == (graph.macs, graph.parameters)
    assert least.macs < whole.macs
    assert least.parameters < whole.parameters


def test_a_narrower_subnet_keeps_channels_that_a_wider_one_keeps() -> None:
    found = programs_of("residual").space
    for at, axis in enumerate(found.axes):
        if axis.kind == "width":
            kept = [
                {n: set(p.tolist()) for n, p in found.kept(subnet).items()}
                for choice in range(1, len(axis.choices))
                for subnet in [tuple(choice if i == at else 0 for i in range(len(found.axes)))]
            ]
            for wide, narrow in itertools.pairwise(kept):
                assert all(narrow[name] < wide[name] for name in narrow)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("distill", [True, False])
def test_gradients_of_a_sandwich_are_the_sum_of_separate_ones(distill: bool) -> None:
    model, programs = net("residual").train(), programs_of("residual")
    x, y = images(6), torch.arange(6) % 4
    sandwich, batch = Sandwich(programs, random=2, distill=distill), Batch((x,), {}, y)
    torch.manual_seed(5)
    together = gradients(model, sandwich(model, batch, F.cross_entropy))

    torch.manual_seed(5)
    subnets = sandwich.drawn()
    assert len(set(subnets)) == 3
    largest = model(x)
    total = gradients(model, F.cross_entropy(largest, y))
    p = torch.softmax(largest.detach(), 1)
    for subnet in subnets:
        # The plain module of that subnet computes the same; its gradients belong to slices, so the program is asked.
        z = programs.of(subnet).run(tensors_of(model), batch, "batch")
        loss = F.kl_div(torch.log_softmax(z, 1), p, reduction="batchmean") if distill else F.cross_entropy(z, y)
        for name, gradient in gradients(model, loss).items():
            total[name] = total.get(name, torch.zeros_like(gradient)) + gradient
    assert total.keys() == together.keys()
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, total[name], rtol=1e-4, atol=1e-5)


def test_gradients_reach_only_the_slices_of_the_subnet_and_are_those_of_the_plain_module() -> None:
    model, programs = net("residual").train(), programs_of("residual")
    subnet = programs.space.smallest
    x, y = images(6), torch.arange(6) % 4
    z = programs.of(subnet).run(tensors_of(model), Batch((x,), {}, y), "batch")
    found = gradients(model, F.cross_entropy(z, y))
    plain = extracted(net("residual"), programs, subnet, task(8).example).module.train()
    wanted = gradients(plain, F.cross_entropy(plain(x), y))
    for name, gradient in wanted.items():
        full = found[name]
        assert int((full != 0).sum()) <= gradient.numel()
        torch.testing.assert_close(full.sum(), gradient.sum(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(full.square().sum(), gradient.square().sum(), rtol=1e-3, atol=1e-7)


def test_recalibrated_statistics_are_those_of_the_plain_module_over_the_same_batches() -> None:
    model, programs = net("residual"), programs_of("residual")
    subnet = programs.space.uniform(0.5)
    batches = [Batch((images(16, seed),), {}, None) for seed in range(3)]
    found = recalibrate(programs.of(subnet), tensors_of(model), batches)
    plain = extracted(model, programs, subnet, task(8).example).module
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # torch's own cumulative mean
    plain.train()
    for batch in batches:
        plain(*batch.args)
    wanted = {n: b for n, b in plain.named_buffers() if "running" in n}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    again = extracted(model, programs, subnet, task(8).example, found).module
    plain.eval()
    x = images(4, 9)
    assert apart(plain(x).detach(), again(x).detach()) < CLOSE
    trained = Trained(programs, tensors_of(model), tuple(batches))
    assert apart(trained.run(subnet, Batch((x,), {}, None), found), again(x).detach()) < CLOSE


def test_nothing_that_is_given_is_changed() -> None:
    model, programs = net("residual"), programs_of("residual")
    before = copy.deepcopy(model.state_dict())
    subnet = programs.space.smallest
    extracted(model, programs, subnet, task(8).example)
    recalibrate(programs.of(subnet), tensors_of(model), [Batch((images(8),), {}, None)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
