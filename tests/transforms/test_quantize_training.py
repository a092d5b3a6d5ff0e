"""Quantization-aware training: it helps, it resumes, and what comes out is a plan and a graph like any other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.errors import DataError
from lissom.export.base import run
from lissom.export.catalogue import runtime_of
from lissom.functional.affine import Affine, fake_quantize
from lissom.functional.overflow import worst_pair
from lissom.graph.trace import Trace, trace
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.training.settings import Training
from lissom.transforms.base import Plan, Work
from lissom.transforms.finetuning import Finetune
from lissom.transforms.quantization import QAT, Quantize
from lissom.transforms.quantization.actions import RoundActivation, RoundBias, StoreWeight
from lissom.transforms.quantization.learning import LearnedRounding, rehearsal
from lissom.transforms.quantization.placement import OUTPUT, points
from lissom.transforms.quantization.widths import with_bits
from lissom.transforms.quantization.writing import write

PLAIN: dict[str, Any] = {"precision": "float32", "channels_last": False}
TARGETS = ("openvino", "onnxruntime")


class Net(nn.Module):
    """A sum, a pooling and two ways to read a value: `(b, 3, 8, 8)` to `(b, 4)`."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = F.relu(self.c(F.relu(self.b(x))) + x)
        return self.fc(F.max_pool2d(x, 2).flatten(1))


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    means = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    return torch.randn(count, 3, 8, 8, generator=generator) + 0.4 * means[labels][:, :, None, None], labels


def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
    x, y = images(256, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(8):
        for start in range(0, 256, 32):
            optimizer.zero_grad()
            F.cross_entropy(model(x[start : start + 32]), y[start : start + 32]).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def start() -> tuple[Net, Trace, Task]:
    """Trained, traced; never changed."""
    model = net()
    x, y = images(256, 1)
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 256, 32)]
    task = Task(example_inputs=(x[:1],), train=batches, calibration=[x[:64]], loss=F.cross_entropy)
    return model, trace(model, task.example), task


def aware(**more: Any) -> Quantize:
    training = QAT(**{"epochs": 3, "learning_rate": 0.01, **PLAIN, **more})
    return Quantize(calibration="minmax", corrections=(), activation_bits=4, weight_bits=3, training=training)


def carried_out(
    start: tuple[Net, Trace, Task], quantize: Quantize, target: str, work: Work | None = None
) -> tuple[Plan, Plan, nn.Module, dict[str, Any]]:
    """The plan before and after, the model, the notes."""
    model, made, task = start
    plans: list[Plan] = []
    notes: dict[str, Any] = {}
    work = replace(work or Work(), settle=plans.append, note=notes.__setitem__)
    table = load_target(target)
    plan = quantize.plan(made.graph, quantize.study(model, made, task, table, work), table)
    after = quantize.apply(model, plan, made, task, work)
    return plan, plans[-1] if plans else plan, after, notes


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_it_learns_the_same_rounding(start: tuple[Net, Trace, Task]) -> None:
    made = [carried_out(start, aware(epochs=1, compile=each), "openvino") for each in (True, False)]
    compiled, plain = (notes["history"]["pace"].get("compiled_for") for *_, notes in made)
    assert compiled
    assert not plain
    x, _ = images(64, 9)
    with torch.no_grad():
        fast, slow = (model(x) for _, _, model, _ in made)
    # Where a value lies between two steps, the last bit of a sum decides; such a step changes what follows.
    assert (fast - slow).square().mean() <= 1e-3 * slow.square().mean()


@pytest.fixture(scope="module", params=TARGETS)
def trained(request, start) -> tuple[str, Plan, Plan, nn.Module, dict[str, Any]]:
    return request.param, *carried_out(start, aware(), request.param)


@torch.no_grad()
def loss(model: nn.Module) -> float:
    x, y = images(512, 9)
    return float(F.cross_entropy(model(x), y))


def test_training_is_better_than_rounding_alone(start, trained):
    target, plan, _, after, notes = trained
    alone = aware().model_copy(update={"training": None})
    _, same, before, _ = carried_out(start, alone, target)
    assert [a.numbers for a in same.of(RoundActivation)] == [a.numbers for a in plan.of(RoundActivation)]
    assert loss(after) < loss(before) - 0.1 * (loss(before) - loss(start[0]))
    assert notes["history"]["epochs"][-1]["loss"] < notes["history"]["epochs"][0]["loss"]
    assert notes["distillation"]["teachers"] == ["original"]


def test_the_settled_plan_holds_what_was_learned(start, trained):
    target, plan, final, after, _ = trained
    assert Quantize().read_plan(json.loads(final.model_dump_json())) == final
    assert any(a.learned.scale != a.numbers.scale for a in final.of(RoundActivation))
    assert all(a.learned.bits == a.numbers.bits for a in final.of(RoundActivation))
    assert all(a.fit == "learned" for a in final.of(StoreWeight))
    for before, now in zip(plan.actions, final.actions, strict=True):
        varying = {"learned", "scale"}
        assert before.model_dump(exclude=varying) == now.model_dump(exclude=varying)
    if target == "onnxruntime":
        scales = {reader: a.learned.scale for a in final.of(RoundActivation) for reader in a.readers}
        assert [b.scale for b in final.of(RoundBias)] == [
            scales[n, 0] for n in ("conv2d", "conv2d_1", "conv2d_2", "linear")
        ]
    # A fresh original, the plan, the weights, no data: what a run folder is read back from.
    model, made, task = start
    again = Quantize().restructure(model, final, made, Task(example_inputs=task.example_inputs))
    again.load_state_dict(after.state_dict())
    x, _ = images(16, 5)
    assert torch.equal(again(x), after(x))
    # Learning starts from the calibrated numbers again.
    again = carried_out(start, aware(), target)
    repeated = aware().apply(model, final, made, task)
    assert torch.equal(repeated(x), again[2](x))


def test_what_is_trained_computes_what_is_written(start, trained):
    """With weights on their steps and biases that nothing rounds, the two graphs differ by float rounding alone."""
    _, made, _ = start
    _, plan, _, _, _ = trained
    student = rehearsal(made, plan, {}, 0).eval()
    x, _ = images(64, 6)
    kept = tuple(action for action in plan.actions if not isinstance(action, RoundBias))
    with torch.no_grad():
        wanted = write(made, plan.model_copy(update={"actions": kept}))(x)
        gap = (student(x) - wanted).abs()
    # A value next to a boundary may fall on either side of it.
    assert float(gap.median()) < 1e-5 * float(wanted.abs().max())


def test_weights_are_on_few_steps_and_activations_too(trained):
    _, _, _, after, _ = trained
    stored = {name: t for name, t in after.state_dict().items() if name.endswith("_int8")}
    assert len(stored) == 4
    assert all(set(t.unique().tolist()) <= set(range(-3, 4)) for t in stored.values())
    seen: dict[str, int] = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n):
            args, _ = self.fetch_args_kwargs_from_env(n)
            if n.name.startswith(("conv2d", "linear")):
                seen[n.name] = len(args[0].unique())
            return super().run_node(n)

    x, _ = images(64, 6)
    Watch(after).run(x, enable_io_processing=False)
    assert 16 < seen.pop("conv2d") <= 256  # the image
    assert seen.keys() == {"conv2d_1", "conv2d_2", "linear"}
    assert all(8 < count <= 16 for count in seen.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_runtime_computes_what_was_simulated(trained, tmp_path):
    target, _, _, after, _ = trained
    runtime = runtime_of(load_target(target))
    if not runtime.availability().found:
        pytest.skip(runtime.availability().detail)
    x, _ = images(48, 7)
    artifact = runtime.export(after, Batch((x[:1],)), target, tmp_path, "trained")
    (found,) = run(runtime.load(artifact, tmp_path, 1), artifact, Batch((x,)))
    with torch.no_grad():
        wanted = after(x)
    step = float(wanted.max() - wanted.min()) / 255
    # A value half way between two of 16 steps may fall on either side.
    apart = (wanted - found).abs().amax(1) / step
    assert float(apart.median()) < 0.01
    assert int((apart > 1).sum()) <= 1


def test_killed_and_continued_ends_with_the_same_weights(start, trained, tmp_path):
    target, _, final, after, _ = trained

    class Killed(BaseException):
        pass

    def kill(share: float) -> None:
        if share > 0.6:
            raise Killed

    with pytest.raises(Killed):
        carried_out(start, aware(), target, Work(folder=tmp_path, tick=kill))
    assert (tmp_path / "training.safetensors").is_file()
    _, again, model, _ = carried_out(start, aware(), target, Work(folder=tmp_path))
    assert again == final
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in after.state_dict().items())


def test_averaged_weights_take_their_step_sizes_along(start):
    _, plain, _, _ = carried_out(start, aware(epochs=1), "openvino")
    _, averaged, _, _ = carried_out(start, aware(epochs=1, ema=0.9), "openvino")
    pairs = zip(plain.of(RoundActivation), averaged.of(RoundActivation), strict=True)
    moved = [(abs(a.learned.scale - a.numbers.scale), abs(b.learned.scale - b.numbers.scale)) for a, b in pairs]
    assert sum(b for _, b in moved) < sum(a for a, _ in moved)


def test_the_original_stays_as_it_was(start):
    model, made, _ = start
    before = {name: value.clone() for name, value in (*model.state_dict().items(), *made.module.state_dict().items())}
    carried_out(start, aware(epochs=1), "openvino")
    after = {**model.state_dict(), **made.module.state_dict()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_free_zero_point_is_learned_and_stays_whole():
    grid = Affine(dtype="uint8", scale=0.1, zero_point=5, bits=4)
    module = LearnedRounding(grid, free=True)
    x = torch.linspace(-2, 0.2, 50)[None]
    assert torch.equal(module(x), fake_quantize(x, grid))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    for _ in range(1000):
        optimizer.zero_grad()
        (module(x) - x).square().sum().backward()
        optimizer.step()
    found = module.numbers()
    assert found.zero_point > 10
    assert float((fake_quantize(x, found) - x).square().sum()) < 0.1 * float(
        (fake_quantize(x, grid) - x).square().sum()
    )
    fixed = LearnedRounding(grid, free=False)
    assert [name for name, _ in fixed.named_parameters()] == ["scale"]


def test_a_scale_stays_positive_and_can_come_back():
    module = LearnedRounding(Affine(dtype="int8", scale=0.1, zero_point=0), free=False)
    with torch.no_grad():
        module.scale.fill_(-3.0)
    assert 0 < module.numbers().scale < 0.1
    module(torch.ones(1, 4)).sum().backward()
    assert float(module.scale.grad) != 0


@pytest.mark.parametrize("target", ["openvino", "onnxruntime", "executorch"])
def test_products_get_few_steps_and_sums_eight_bits(start, target):
    _, made, _ = start
    table = load_target(target)
    chosen, _ = Quantize()._chosen(made.graph, table)
    names = {node.name for node in chosen}
    found = points(made.graph, chosen, table)
    widths = with_bits(made.graph, found, names, 4)
    bits = {(r.node, r.position): bits for point, bits in widths for r in point.readers}
    assert len(bits) == sum(len(point.readers) for point in found)
    assert bits["conv2d", 0] == 8  # the model's input
    assert bits["conv2d_1", 0] == bits["conv2d_2", 0] == 4
    assert {bits[key] for key in bits if key[0] == "add"} == {8}
    assert all(bits[key] == 8 for key in bits if key[0] == OUTPUT)
    assert {width for (node, _), width in bits.items() if node in ("linear", "flatten", "view", "max_pool2d")} == {4}
    assert with_bits(made.graph, found, names - {"conv2d_1"}, 4) != widths
    assert {width for _, width in with_bits(made.graph, found, names, 8)} == {8}


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="mode='dynamic' has none"):
        Quantize(mode="dynamic", training=QAT())
    with pytest.raises(ValueError, match="activation_bits=4 has fixed steps"):
        Quantize(mode="dynamic", activation_bits=4)
    with pytest.raises(ValueError, match="'gptq' fits what training learns anew"):
        Quantize(training=QAT(), corrections=("smooth", "gptq"))
    with pytest.raises(ValueError, match="prepares a Prune"):
        QAT(regularizer="slimming")
    with pytest.raises(ValueError, match="rounds=2 teaches the next generation"):
        QAT(rounds=2)
    with pytest.raises(ValueError, match=r"Make them with lissom\.synthesize"):
        QAT(synthesis="generator")
    with pytest.raises(ValueError, match="begins when the bits of every layer are known"):
        Quantize(training=QAT(), max_drop=0.01)
    with pytest.raises(ValueError, match="unknown teacher 'me'"):
        QAT(teacher="me")


def test_settings_are_plain_data_and_recipes_without_them_keep_their_ids():
    one = Quantize(activation_bits=4, weight_bits=4, training={"epochs": 15})
    assert one.training == QAT(epochs=15)
    assert one.training.teachers == ("original",)
    recipe = Recipe([one])
    assert Recipe.from_data(json.loads(json.dumps(recipe.to_data()))) == recipe
    alone = Quantize(training=QAT(teacher=None))
    assert Quantize.model_validate_json(alone.model_dump_json()).training.teachers == ()
    assert not {"training", "activation_bits"} & Quantize().model_dump().keys()
    assert issubclass(QAT, Training)
    assert Finetune().teachers == ()
    assert one.needs() == {"calibration", "train"}
    assert Quantize(training=QAT(patience=2)).needs() == {"calibration", "train", "validation"}


def test_missing_data_are_named_before_anything_is_calibrated(start):
    model, made, task = start
    with pytest.raises(DataError, match=r"Give Task\(loss="):
        aware().study(model, made, replace(task, loss=None), load_target("openvino"))


def test_trained_weights_keep_out_of_overflow_and_stay_where_they_do(start):
    states: list[dict[str, Tensor]] = []
    outputs: list[Tensor] = []
    for fix in ("on", "off"):
        training = QAT(epochs=1, learning_rate=0.01, **PLAIN)
        setting = Quantize(calibration="minmax", corrections=(), overflow_fix=fix, training=training)
        plan, _, after, _ = carried_out(start, setting, "openvino")
        assert {action.pairs_fit for action in plan.of(StoreWeight)} == {fix == "on"}
        states.append(dict(after.state_dict()))
        with torch.no_grad():
            outputs.append(after(images(64, 9)[0]))
    fixed, plain = states
    names = [name for name in plain if name.endswith("_int8")]
    assert names
    changed = 0
    for name in names:
        assert worst_pair(fixed[name], 255).rows == 0
        scale = name.removesuffix("int8") + "scale"
        for row in range(len(plain[name])):
            if worst_pair(plain[name][row : row + 1], 255).rows:
                changed += 1
                assert float(fixed[scale][row]) > float(plain[scale][row])
            else:
                assert torch.equal(fixed[name][row], plain[name][row])
                assert float(fixed[scale][row]) == float(plain[scale][row])
    assert changed
    assert float((outputs[0] - outputs[1]).norm() / outputs[1].norm()) < 0.05
