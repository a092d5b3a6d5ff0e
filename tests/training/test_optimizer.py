"""Who decays, what a step does, the averaged weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from loops import batches, examples, net, settings, task, weights
from torch import Tensor, nn

from lissom.training import finetune as loop
from lissom.training.finetune import finetune
from lissom.training.optimizer import average_, decays, optimizer_of, trainable
from small_models import traced


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 1)
        self.batch, self.group, self.rms = nn.BatchNorm1d(3), nn.GroupNorm(1, 3), nn.RMSNorm((2, 2))
        self.layer = nn.LayerNorm((2, 2))
        self.attention = nn.MultiheadAttention(4, 2)
        self.position = nn.Parameter(torch.zeros(1, 4, 8))
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def test_weights_decay_and_biases_normalizations_and_vectors_do_not() -> None:
    model = Parts()
    found = trainable(model)
    decayed = {name for name, parameter in found.items() if decays(model, name, parameter)}
    assert decayed == {"conv.weight", "attention.in_proj_weight", "attention.out_proj.weight", "position"}
    assert "frozen" not in found
    assert {"layer.weight", "rms.weight", "batch.bias", "temperature"} <= found.keys()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_groups_hold_every_trainable_parameter_once(kind: str) -> None:
    model = Parts()
    optimizer = optimizer_of(model, settings(optimizer=kind, weight_decay=0.3))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in trainable(model).values())


def test_tied_weights_are_trained_once() -> None:
    model, _, _ = traced("tied")
    optimizer = optimizer_of(model, settings())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_an_exported_graph_has_the_same_groups_as_its_model() -> None:
    model, _, made = traced("residual")
    sides = [{n for n, p in trainable(m).items() if decays(m, n, p)} for m in (model, made.module)]
    assert sides[0] == sides[1]


def test_one_step_is_nesterov_with_decay_on_weights_alone() -> None:
    """First step: the momentum is the gradient, so `w -= rate (1 + momentum) (g + decay w)`."""
    model, (batch,) = net(dropout=0.0), batches(16)
    start = weights(model)
    model.train()
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.load_state_dict(start)
    made = finetune(model, task([batch]), settings(epochs=1, learning_rate=0.1, weight_decay=0.5)).model
    for name, parameter in made.named_parameters():
        decay = 0.5 if name in ("conv.weight", "fc.weight") else 0.0
        wanted = start[name] - 0.1 * 1.9 * (gradients[name] + decay * start[name])
        torch.testing.assert_close(parameter, wanted, rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped_to_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[Tensor] = []
    step = torch.optim.SGD.step

    def watched(self: torch.optim.SGD) -> None:
        found = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        norms.append(torch.cat(found).norm())
        step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    finetune(net(), task(), settings(epochs=1))
    free = list(norms)
    norms.clear()
    finetune(net(), task(), settings(epochs=1, clip_norm=0.05))
    assert min(free) > 0.06
    torch.testing.assert_close(torch.stack(norms), torch.full((3,), 0.05), rtol=1e-3, atol=0)


def test_the_average_is_the_closed_form() -> None:
    """`a_t = d^t w_0 + (1 - d) Σ_k d^(t-k) w_k`, statistics of normalizations included."""
    model = net()
    average = net()
    seen = [weights(model)]
    for step in range(1, 6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(step)
        model.norm.running_mean.fill_(float(step))
        model.norm.num_batches_tracked.fill_(step)
        seen.append(weights(model))
        average_(average, model, 0.7)
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            wanted = 0.7**5 * seen[0][name] + 0.3 * sum(0.7 ** (5 - k) * seen[k][name] for k in range(1, 6))
            torch.testing.assert_close(value, wanted)
        else:
            assert value == 5


def test_the_loop_hands_out_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Tensor]] = []

    def watched(average: nn.Module, model: nn.Module, decay: float) -> None:
        average_(average, model, decay)
        seen.append(weights(model))

    monkeypatch.setattr(loop, "average_", watched)
    start = weights(net())
    made = weights(finetune(net(), task(), settings(ema=0.6)).model)
    assert len(seen) == 6
    name = "fc.weight"
    wanted = 0.6**6 * start[name] + 0.4 * sum(0.6 ** (5 - k) * seen[k][name] for k in range(6))
    torch.testing.assert_close(made[name], wanted)
    assert not torch.equal(made[name], seen[-1][name])


def test_label_smoothing_and_examples_are_those_of_torch() -> None:
    x, y = examples(16)
    model = net(dropout=0.0)
    smoothed = finetune(model, task([(x, y)]), settings(label_smoothing=0.2)).model

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(outputs, target, label_smoothing=0.2)

    wanted = finetune(model, task([(x, y)], loss=loss), settings()).model
    for a, b in zip(smoothed.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a, b)
