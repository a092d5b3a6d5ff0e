"""The loop: what it promises about the model it is given, the data it reads, the errors it gives."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loops import EVERYTHING, batches, equal, examples, net, settings, shuffled, task, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

import lissom.data
from lissom import metrics
from lissom.errors import DataError
from lissom.task import Batch, Task
from lissom.training.epochs import epoch_of, refuse_divided, steps_of
from lissom.training.finetune import finetune
from lissom.training.history import Epoch, History, best_of, is_over
from lissom.training.objective import Criterion
from lissom.training.settings import Training
from small_models import fingerprint, same, traced


def test_it_learns() -> None:
    made = finetune(net(), task(batches(*[32] * 8)), settings(epochs=6, learning_rate=0.3))
    assert [epoch.loss for epoch in made.history.epochs][-1] < 0.4 * made.history.epochs[0].loss
    assert made.history.epochs[-1].metric == 1.0
    assert made.history.metric_name == "accuracy"
    assert made.history.chosen == 5
    assert History.model_validate_json(made.history.model_dump_json()) == made.history


def test_the_model_its_modes_and_every_generator_stay_as_they_are() -> None:
    model = net().train()
    model.norm.eval()
    model.fc.bias.requires_grad_(False)
    before = fingerprint(model)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    inputs = batches(16, 16)
    made = finetune(model, task(inputs, validation=shuffled()), settings(**EVERYTHING)).model
    assert same(before, fingerprint(model))
    assert all(p.grad is None for m in (model, made) for p in m.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2][1])  # noqa: NPY002
    assert all(
        torch.equal(a, b) for pair in zip(inputs, batches(16, 16), strict=True) for a, b in zip(*pair, strict=True)
    )
    assert [m.training for m in made.modules()] == [m.training for m in model.modules()]
    assert torch.equal(made.fc.bias, model.fc.bias)
    assert not torch.equal(made.conv.weight, model.conv.weight)
    shared = {p.data_ptr() for p in made.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert not shared


def test_seed_and_settings_decide_everything() -> None:
    runs = [finetune(net(), task(shuffled()), settings(**EVERYTHING), seed=seed) for seed in (0, 0, 1)]
    assert equal(runs[0].model, runs[1].model)
    assert not equal(runs[0].model, runs[2].model)


def test_evaluation_mode_and_memory_order_are_those_of_the_model() -> None:
    made = finetune(net().eval(), task(), settings(channels_last=True)).model
    assert not any(module.training for module in made.modules())
    assert made.conv.weight.is_contiguous()
    assert made.conv.weight.stride() == net().conv.weight.stride()


@pytest.mark.parametrize("ema", [None, 0.5])
def test_an_exported_graph_is_trained_with_frozen_normalizations(ema: float | None) -> None:
    _, example, made = traced("residual")
    before = weights(made.module)
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(9, 3, 8, 8, generator=generator), torch.arange(9) % 5) for _ in range(3)]
    aim = Task(example_inputs=example.args, train=data, validation=data, metric=metrics.accuracy, loss=F.cross_entropy)
    trained = finetune(made.module, aim, settings(epochs=4, patience=4, ema=ema))
    after = weights(trained.model)
    assert all(torch.equal(before[name], value) for name, value in weights(made.module).items())
    for name, value in after.items():
        assert torch.equal(value, before[name]) == ("running" in name or "num_batches" in name), name
    losses = [epoch.loss for epoch in trained.history.epochs]
    assert losses[-1] < losses[0]


def test_every_kind_of_model_can_be_trained() -> None:
    for name in ("transformer", "recurrent", "text", "tied", "keywords", "signal", "fixed batch"):
        model, example, _ = traced(name)
        aim = Task(
            example_inputs=example.args,
            example_kwargs=example.kwargs,
            train=[example],
            loss=lambda outputs, _: next(iter(torch.utils._pytree.tree_leaves(outputs))).square().mean(),
        )
        history = finetune(model, aim, Training(epochs=3, learning_rate=0.01)).history
        assert history.epochs[-1].loss < history.epochs[0].loss, name
        assert history.epochs[-1].metric is None


# Data -------------------------------------------------------------------------------------------------------


def order(loader: Any, seed: int = 0, epoch: int = 0) -> list[Tensor]:
    return [batch.args[0] for batch in epoch_of(task(loader), seed, epoch)]


def identical(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        shuffled,
        lambda: shuffled(generator=torch.Generator().manual_seed(4)),
        lambda: lissom.data.Batches(examples(40), 16, shuffle=True),
    ],
)
def test_a_shuffling_loader_gives_the_same_epochs_again(make: Any) -> None:
    loader = make()
    first = order(loader)
    torch.rand(3)
    assert identical(first, order(loader))
    assert identical(first, order(make()))
    assert not identical(first, order(loader, epoch=1))
    assert not identical(first, order(loader, seed=1))


def test_a_loaders_own_generator_is_put_back() -> None:
    generator = torch.Generator().manual_seed(4)
    state = generator.get_state()
    for _ in epoch_of(task(shuffled(generator=generator)), 0, 0):
        assert torch.equal(generator.get_state(), state)
    assert torch.equal(generator.get_state(), state)


def test_what_a_data_set_draws_is_repeated_too() -> None:
    class Noisy:
        def __iter__(self) -> Any:
            for _ in range(3):
                yield torch.rand(2) + random.random() + np.random.rand(), torch.zeros(2)  # noqa: NPY002

    first = []
    for batch in epoch_of(task(Noisy()), 0, 0):
        first.append(batch.args[0])
        torch.rand(5), random.random()  # between two batches others draw
    assert identical(first, order(Noisy()))
    assert not torch.equal(first[0], first[1])


def test_steps_are_counted_where_a_loader_has_no_length() -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(zip(*examples(10), strict=True))

    assert steps_of(task(shuffled()), 0) == 3
    assert steps_of(task(DataLoader(Endless(), batch_size=4)), 0) == 3
    history = finetune(net(), task(DataLoader(Endless(), batch_size=4)), settings(epochs=2)).history
    assert len(history.epochs) == 2


def test_a_loader_that_divides_the_data_itself_is_refused() -> None:
    data = TensorDataset(*examples(8))
    loader = DataLoader(data, sampler=DistributedSampler(data, num_replicas=2, rank=0))
    refuse_divided(task(loader), 1)
    with pytest.raises(DataError, match=r"has a sampler that divides the data over 2 processes.* without a Distrib"):
        refuse_divided(task(loader), 2)


# Objectives -------------------------------------------------------------------------------------------------


def test_an_objective_sees_the_augmented_batch_and_may_ask_a_teacher() -> None:
    teacher = net(seed=5).eval()
    seen: list[Batch] = []

    def distil(model: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        seen.append(batch)
        outputs = model(*batch.args)
        with torch.no_grad():
            wanted = teacher(*batch.args)
        soft = F.kl_div(F.log_softmax(outputs, 1), F.log_softmax(wanted, 1), log_target=True, reduction="batchmean")
        return 0.5 * soft + 0.5 * criterion(outputs, batch.target)

    plain = batches(16)
    made = finetune(net(), task(plain), settings(epochs=3, mixup=0.5), objective=distil)
    assert len(seen) == 3
    assert not torch.equal(seen[0].args[0], plain[0][0])
    assert not torch.equal(seen[0].args[0], seen[1].args[0])
    assert not equal(made.model, finetune(net(), task(plain), settings(epochs=3, mixup=0.5)).model)


def test_a_penalty_is_added_to_the_loss() -> None:
    def shrink(model: nn.Module) -> Tensor:
        return sum((p.square().sum() for p in model.parameters()), torch.zeros(()))

    made = finetune(net(dropout=0.0), task(batches(16)), settings(epochs=1), penalty=shrink)
    plain = finetune(net(dropout=0.0), task(batches(16)), settings(epochs=1))
    assert made.history.epochs[0].loss == pytest.approx(
        plain.history.epochs[0].loss + float(shrink(net()).detach()), rel=1e-5
    )
    assert shrink(made.model) < shrink(plain.model)


# Early stop -------------------------------------------------------------------------------------------------


class Scripted:
    """A metric that says what it is told, one value per pass over the validation data; test is never read."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.whole = metrics.Metric("scripted", whole=lambda outputs, targets: self.values.pop(0))


class Untouchable:
    def __iter__(self) -> Any:
        raise AssertionError("training reads no test data")


def test_patience_stops_and_hands_out_the_best_on_validation() -> None:
    script = Scripted(0.1, 0.5, 0.5, 0.4, 0.9)
    aim = task(metric=script.whole, test=Untouchable())
    before_steps: list[dict[str, Tensor]] = []

    def watch(model: nn.Module) -> Tensor:
        before_steps.append(weights(model))
        return torch.zeros(())

    made = finetune(net(), aim, settings(epochs=9, patience=2), penalty=watch)
    assert [epoch.metric for epoch in made.history.epochs] == [0.1, 0.5, 0.5, 0.4]
    assert made.history.chosen == 1
    best = before_steps[6]  # after two epochs of three steps
    assert all(torch.equal(best[name], parameter) for name, parameter in made.model.named_parameters())
    last = finetune(net(), task(metric=Scripted(*range(4)).whole), settings(epochs=4))
    assert last.history.chosen == 3
    assert not equal(made.model, last.model)


def test_without_patience_the_last_epoch_counts() -> None:
    up = finetune(net(), task(metric=Scripted(3, 2, 1).whole, test=Untouchable()), settings(epochs=3))
    down = finetune(net(), task(metric=Scripted(1, 2, 3).whole), settings(epochs=3))
    assert up.history.chosen == 2
    assert equal(up.model, down.model)


def test_when_a_training_is_over() -> None:
    def seen(*values: float) -> tuple[Epoch, ...]:
        return tuple(Epoch(loss=1, learning_rate=1, metric=value, seconds=1) for value in values)

    assert best_of(seen(1, 3, 3)) == 1
    assert not is_over((), 3, 1)
    assert is_over(seen(1, 2, 3), 3, None)
    assert not is_over(seen(3, 2), 9, 2)
    assert is_over(seen(3, 2, 3), 9, 2)


# Progress and errors ----------------------------------------------------------------------------------------


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    finetune(net(), task(), settings(epochs=2), tick=shares.append)
    assert shares == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1])


def exploding(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs, target) * float("inf")


def bad_gradient(outputs: Tensor, target: Tensor) -> Tensor:
    return torch.where(outputs > 1e9, outputs, (outputs * 0).abs().sqrt()).sum()


@pytest.mark.parametrize(
    ("more", "loop", "said"),
    [
        (
            {"train": None},
            {},
            "Training needs training data, and the task has none. Give Task(train=...), or let inputs",
        ),
        ({"loss": None}, {}, "the task has no loss. Give Task(loss=...) a function (outputs, targets) -> mean loss"),
        ({"metric": None}, {"patience": 2}, "patience=2 stops by the validation metric, and the task has no a metric"),
        ({"validation": None}, {"patience": 2}, "the task has no validation data. Give Task(validation=..., metric=.."),
        (
            {"loss": exploding},
            {},
            "Training diverged: the loss is inf at epoch 1, step 1 of 3, learning rate 0.05.",
        ),
        ({"loss": bad_gradient}, {"epochs": 1}, "Training diverged: "),
        (
            {"loss": lambda o, t: o.mean(1)},
            {},
            "The loss must be one number, a tensor of shape (), got a tensor of",
        ),
        ({"loss": lambda o, t: 3.0}, {}, "The loss must be one number, a tensor of shape (), got float"),
        ({"loss": lambda o, t: o.detach().mean()}, {}, "The loss does not depend on any trainable parameter"),
    ],
)
def test_what_cannot_work_says_why(more: dict[str, Any], loop: dict[str, Any], said: str) -> None:
    aim = task(**more) if "train" not in more else Task(example_inputs=(torch.zeros(1),), loss=F.cross_entropy)
    with pytest.raises(DataError, match=re.escape(said)):
        finetune(net(), aim, settings(**loop))


def test_weights_that_the_last_step_broke_are_not_handed_out() -> None:
    with pytest.raises(
        DataError, match=r"Training diverged: the parameter 'conv\.weight' is not finite at epoch 1, step 1"
    ):
        finetune(net(), task(batches(16), loss=bad_gradient), settings(epochs=1))


def test_a_frozen_model_is_refused() -> None:
    with pytest.raises(DataError, match=r"There is nothing to train: no parameter of the model requires gradients"):
        finetune(net().requires_grad_(False), task(), settings())


def test_a_penalty_must_be_one_number() -> None:
    with pytest.raises(DataError, match=r"The penalty must be one number, .* got a tensor of shape \(4,\)"):
        finetune(net(), task(), settings(), penalty=lambda model: torch.zeros(4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"warmup": 1.0},
        {"ema": 1.0},
        {"mixup": -1},
        {"label_smoothing": 1.0},
        {"crop": -1},
        {"patience": 0},
        {"precision": "float16"},
        {"optimizer": "adam"},
        {"clip_norm": 0},
        {"channels_last": "yes please"},
    ],
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Training.model_validate(wrong)
