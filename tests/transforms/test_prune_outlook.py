"""What other amounts of pruning would cost and save, and the channels of each layer, against networks really cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lissom
import small_models
from lissom.graph.trace import trace
from lissom.pipeline import foresee
from lissom.pipeline.channels import layer_channels
from lissom.pipeline.recording import channel_records, done_text
from lissom.pipeline.transforming import transform
from lissom.target import load_target
from lissom.transforms.pruning import outlook, scores
from lissom.transforms.pruning.prune import Prune

TARGET = load_target("torch")
"""It cuts channel by channel; multiples are for `test_prune_multiples`."""


class Net(nn.Module):
    """Residual, depthwise, grouped, transposed, an embedding beside them: every kind of channel axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.inner = nn.Conv2d(8, 12, 1)
        self.up = nn.ConvTranspose2d(12, 10, 2, stride=2)
        self.hidden = nn.Linear(10, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.inner(self.depthwise(x) + x))
        return self.head(torch.relu(self.hidden(self.up(x).mean((2, 3)))))


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Net().eval()


@pytest.fixture
def task() -> lissom.Task:
    return lissom.Task(example_inputs=(torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1)),))


def test_every_ratio_is_what_a_prune_of_that_ratio_gives(net: Net, task: lissom.Task) -> None:
    (step,) = foresee(net, task, lissom.Recipe([lissom.Prune(macs_ratio=1.5)]), TARGET)
    own, *others = step.outlook
    assert own.ratio is None
    assert own.cost == step.plan.predicted
    assert own.macs_ratio >= 1.5
    assert [one.ratio for one in others] == [tenth / 10 for tenth in range(1, 10)]
    for one in others[::3]:
        assert one.ratio is not None
        (done,) = transform(net, task, lissom.Recipe([lissom.Prune(ratio=one.ratio)]), TARGET)
        graph = trace(done.model, task.example).graph
        assert (one.cost.macs, one.cost.parameters, one.cost.bytes) == (graph.macs, graph.parameters, graph.bytes)
        assert one.macs_ratio == step.before.macs / graph.macs
        assert one.parameters_ratio == step.before.parameters / graph.parameters


def test_more_cut_keeps_less_of_everything(net: Net, task: lissom.Task) -> None:
    (step,) = foresee(net, task, lissom.Recipe([lissom.Prune(ratio=0.2)]), TARGET)
    others = step.outlook[1:]
    for kept in ([one.units_after for one in others], [one.importance for one in others]):
        assert kept == sorted(kept, reverse=True)
    assert all(0 < (one.importance or 0) < 1 for one in others)
    # the least important channels go first: a share of the channels holds more than its share of the importance
    assert all((one.importance or 0) > one.units_after / one.units_before for one in others)


def test_importance_is_the_share_of_the_scores_that_stays(net: Net, task: lissom.Task) -> None:
    prune = Prune(ratio=0.5, scope="local")
    traced = trace(net, task.example)
    study = prune.study(net, traced, task, TARGET)
    own = outlook(prune, traced.graph, study, TARGET, ())[0]
    kept = prune.kept(traced.graph, study, TARGET)
    total = sum(float(study.scores[name].sum()) for name in kept)
    best = sum(float(study.scores[name].sort(descending=True).values[: len(kept[name])].sum()) for name in kept)
    assert own.importance == pytest.approx(best / total)


def test_scores_that_may_be_negative_are_no_share(net: Net, task: lissom.Task) -> None:
    (step,) = foresee(net, task, lissom.Recipe([lissom.Prune(ratio=0.2, normalization="gaussian")]), TARGET)
    assert {one.importance for one in step.outlook} == {None}


def test_the_criterion_runs_once(net: Net, task: lissom.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = scores.score

    def counted(*given: object) -> object:
        calls.append(1)
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("lissom.transforms.pruning.prune.score", counted)
    foresee(net, task, lissom.Recipe([lissom.Prune(ratio=0.2)]), TARGET)
    assert len(calls) == 1


def test_channels_before_and_after_are_those_of_the_layers(net: Net, task: lissom.Task) -> None:
    (done,) = transform(net, task, lissom.Recipe([lissom.Prune(ratio=0.4, scope="local")]), TARGET)
    found = {one.layer: one for one in channel_records([done])}
    assert list(found) == ["stem", "depthwise", "inner", "up", "hidden", "head"]
    for name, one in found.items():
        before, after = net.get_submodule(name), done.model.get_submodule(name)
        linear = isinstance(before, nn.Linear)
        outputs, inputs = ("out_features", "in_features") if linear else ("out_channels", "in_channels")
        assert (one.before, one.after) == (getattr(before, outputs), getattr(after, outputs)), name
        if name != "depthwise":
            assert (one.inputs_before, one.inputs_after) == (getattr(before, inputs), getattr(after, inputs)), name
        assert (one.reason == "") == (one.after < one.before), name
    assert found["depthwise"].inputs_before is None
    assert found["stem"].coupled == ("depthwise",)
    assert found["head"].reason == "it is an output of the model"


def test_two_steps_are_one_before_and_one_after(net: Net, task: lissom.Task) -> None:
    recipe = lissom.Recipe([lissom.Prune(ratio=0.25, scope="local"), lissom.Prune(ratio=0.5, scope="local")])
    first, second = transform(net, task, recipe, TARGET)
    found = {one.layer: one for one in channel_records([first, second])}
    assert (found["inner"].before, found["inner"].after) == (12, 4)
    assert found["inner"].reason == ""
    assert layer_channels(second.trace, second.plan)[2].before == 9


@pytest.mark.parametrize("name", ["recurrent", "text", "tied", "transformer", "branches", "mobile"])
def test_coupled_layers_name_each_other_and_lose_the_same(name: str) -> None:
    model, example = small_models.build(name)
    task = lissom.Task(example_inputs=example.args, example_kwargs=example.kwargs)
    (step,) = foresee(model.eval(), task, lissom.Recipe([lissom.Prune(ratio=0.4, scope="local")]), TARGET)
    found = {one.layer: one for one in step.channels}
    assert any(one.after < one.before for one in found.values())
    for one in found.values():
        for other in one.coupled:
            assert one.layer in found[other].coupled
            assert found[other].after == one.after


def test_hidden_units_of_a_recurrent_layer_are_its_channels() -> None:
    model, example = small_models.build("recurrent")
    task = lissom.Task(example_inputs=example.args)
    (step,) = foresee(model.eval(), task, lissom.Recipe([lissom.Prune(ratio=0.5, scope="local")]), TARGET)
    found = {one.layer: one for one in step.channels}
    assert (found["lstm"].before, found["lstm"].after) == (6, 3)
    assert (found["fc"].inputs_before, found["fc"].inputs_after) == (6, 3)


def test_an_excluded_layer_says_so(net: Net, task: lissom.Task) -> None:
    (step,) = foresee(net, task, lissom.Recipe([lissom.Prune(ratio=0.3, exclude=("inner",))]), TARGET)
    found = {one.layer: one for one in step.channels}
    assert found["inner"].reason == "it is excluded"


def test_steps_in_words(net: Net, task: lissom.Task) -> None:
    fold, prune = foresee(net, task, lissom.Recipe([lissom.Fold(), lissom.Prune(ratio=0.4, scope="local")]), TARGET)
    assert done_text(fold.plan) == "nothing"
    assert fold.channels == fold.outlook == ()
    assert done_text(prune.plan) == "4 groups of channels cut, in 6 layers"
