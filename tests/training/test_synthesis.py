"""Made up inputs: every way to make them, the loop that learns from them, and what they are good for elsewhere."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
import torch.nn.functional as F
from loops import Killed, Net, equal, examples, net, settings, weights
from torch import Tensor, nn

import lissom.data
from lissom import metrics
from lissom.errors import DataError, UsageError
from lissom.functional import synthesis as losses
from lissom.measure.quality import evaluate
from lissom.pipeline.transforming import transform
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.training import finetune as loop
from lissom.training.chance import generator_of
from lissom.training.finetune import finetune
from lissom.training.settings import Training
from lissom.training.synthesis.examiner import Examiner, heard
from lissom.training.synthesis.form import form_of
from lissom.training.synthesis.generator import Generator
from lissom.training.synthesis.settings import Method, Synthesis
from lissom.training.synthesis.sheet import png, sheet_of
from lissom.training.synthesis.signs import point_of, signs_of
from lissom.training.synthesis.source import Source
from lissom.training.synthesis.synthesize import synthesize
from lissom.training.teacher import frozen
from lissom.transforms.finetuning import Finetune
from lissom.transforms.folding import Fold
from lissom.transforms.pruning import Prune
from lissom.transforms.quantization import Quantize

METHODS: tuple[Method, ...] = ("noise", "drawings", "inversion", "generator", "adversarial", "meta")
SMALL: dict[str, Any] = {"batch_size": 16, "steps": 4, "width": 4, "latent": 8}
X = torch.zeros(1, 3, 8, 8)


@pytest.fixture(scope="module")
def teacher() -> Net:
    """Trained on real examples, which nothing below sees unless it says so."""
    real = Task(example_inputs=(X,), train=lissom.data.Batches(examples(320), batch_size=32), loss=F.cross_entropy)
    trained = finetune(net(0, dropout=0.0), real, settings(epochs=12, learning_rate=0.2)).model.eval()
    assert isinstance(trained, Net)
    return trained


def empty(**more: Any) -> Task:
    return Task(example_inputs=(X,), **more)


def source(teacher: nn.Module, method: str, seed: int = 0, **more: Any) -> Source:
    brief = {"updates": 5} if method == "inversion" else {}
    chosen = Synthesis.model_validate({**SMALL, **brief, "method": method, **more})
    return Source(chosen, frozen(teacher, torch.device("cpu")), empty(), seed)


def right(model: nn.Module) -> float:
    task = Task(example_inputs=(X,), test=[examples(400, seed=9)])
    with torch.no_grad():
        found = evaluate(lambda batch: model(*batch.args), task.batches("test"), metrics.accuracy, split="test")
    return found.value


@pytest.mark.parametrize("method", METHODS)
def test_batches_follow_from_the_seed_within_bounds_and_leave_no_trace(method: str, teacher: Net) -> None:
    student = net(5)
    before, chance = weights(student), torch.get_rng_state()
    found = [list(source(teacher, method, low=-1.0, high=2.0).batches(0, 0, student)) for _ in range(2)]
    for left, right in zip(*found, strict=True):
        (x,) = left.args
        assert x.shape == (16, 3, 8, 8)
        assert not x.requires_grad
        assert x.amin() >= -1
        assert x.amax() <= 2
        assert torch.equal(x, right.args[0])
        with torch.no_grad():
            assert torch.equal(left.target, teacher(x).argmax(1))
    assert len(found[0]) == 4
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(before[name], value) for name, value in weights(student).items())
    assert all(parameter.grad is None for parameter in (*student.parameters(), *teacher.parameters()))
    other = next(iter(source(teacher, method, seed=1, low=-1.0, high=2.0).batches(0, 0, student)))
    assert not torch.equal(other.args[0], found[0][0].args[0])


@pytest.mark.parametrize("method", METHODS)
def test_goes_on_from_its_state(method: str, teacher: Net) -> None:
    student = net(5).eval()
    unbroken = source(teacher, method, memory=40, replays=1)
    whole = list(unbroken.batches(0, 0, student))
    stopped = source(teacher, method, memory=40, replays=1)
    for _, _ in zip(range(2), stopped.batches(0, 0, student), strict=False):
        pass
    again = source(teacher, method, memory=40, replays=1)
    again.load_({name: value.clone() for name, value in stopped.state().items()})
    rest = list(again.batches(0, 2, student))
    assert [torch.equal(a.args[0], b.args[0]) for a, b in zip(whole[2:], rest, strict=True)] == [True, True]
    state, wanted = again.state(), unbroken.state()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in state)


def test_the_memory_keeps_the_newest_and_shows_them_after_each_new_batch(teacher: Net) -> None:
    made = source(teacher, "noise", memory=32, replays=2, steps=9)
    shown = [batch.args[0] for batch in made.batches(0, 0, None)]
    new = [shown[0], shown[3], shown[6]]
    kept = made.state()["memory/0"]
    assert sorted(kept.flatten(1).sum(1).tolist()) == sorted(torch.cat(new[1:]).flatten(1).sum(1).tolist())
    known = {tuple(row.tolist()) for row in torch.cat(new[:1]).flatten(1)}
    assert all(tuple(row.tolist()) in known for row in torch.cat(shown[1:3]).flatten(1))
    moved = source(teacher, "noise", memory=32, replays=2, steps=9, warp=0.2)
    for index, (batch, still) in enumerate(zip(moved.batches(0, 0, None), shown, strict=True)):
        assert torch.equal(batch.args[0], still) == (index % 3 == 0)
        with torch.no_grad():
            assert torch.equal(batch.target, teacher(batch.args[0]).argmax(1))


def test_inversion_meets_the_statistics_and_every_class(teacher: Net) -> None:
    made = source(teacher, "inversion", batch_size=32, updates=60)
    noise = source(teacher, "noise", batch_size=32)

    def looked_at(one: Source) -> tuple[float, float]:
        values = one.new(32, generator_of("x", 0))
        with heard([teacher.norm]) as inner, torch.no_grad():
            teacher(values[0])
        mean, var = teacher.norm.running_mean, teacher.norm.running_var
        assert mean is not None
        assert var is not None
        signs = signs_of(one.examiner, values)
        assert signs.balance is not None
        return losses.statistics([inner[teacher.norm]], [mean], [var]).item(), signs.balance

    (near, even), (far, uneven) = looked_at(made), looked_at(noise)
    assert near < 0.5 * far
    assert even > 0.95 > uneven
    assert made.point(net(5)).normalizations == 1


def test_drawings_are_as_even_as_the_teachers_classes_allow(teacher: Net) -> None:
    made = source(teacher, "drawings", batch_size=64)
    (values,) = made.new(64, generator_of("x"))
    (many,) = [made.maker._draw(3 * 64, generator_of("x"))]  # type: ignore[attr-defined]
    with torch.no_grad():
        had, chosen = (teacher(x).argmax(1).bincount(minlength=4) for x in (many, values))
    assert int(chosen.sum()) == 64
    for mine, all_of_it in zip(chosen.tolist(), had.tolist(), strict=True):
        assert mine == all_of_it or mine >= 64 // 4
    assert values.mean().abs() < 0.5


def test_a_generator_learns_what_its_losses_say(teacher: Net) -> None:
    made = source(teacher, "generator", batch_size=32, learning_rate=0.01)
    examiner = made.examiner

    def loss(seed: int) -> float:
        values = made.maker.make(32, generator_of("seen", seed), None)
        return examiner(values, None, None).item()

    first = loss(0)
    for seed in range(1, 25):
        made.maker.make(32, generator_of("seen", seed), None)
    assert loss(0) < first - 0.5


def test_an_adversary_finds_where_the_student_disagrees(teacher: Net) -> None:
    student = net(5).eval()
    far: dict[float, float] = {}
    for adversary in (0.0, 20.0):
        made = source(teacher, "adversarial", adversary=adversary, learning_rate=0.01)
        for seed in range(20):
            (values,) = made.maker.make(32, generator_of("seen", seed), student)
        with torch.no_grad():
            far[adversary] = losses.disagreement(student(values), teacher(values)).item()
    assert far[20.0] > 1.2 * far[0.0]


def test_the_learned_start_moves_a_part_of_the_way(teacher: Net) -> None:
    """Reptile with rate 1 / k: k steps of Adam move a weight by k rates at most, the start by one."""
    made = source(teacher, "meta", updates=4, learning_rate=0.01)
    before = {name: value.clone() for name, value in made.state().items() if "convolutions" in name}
    made.maker.make(16, generator_of("x"), None)
    moved = torch.cat([(made.state()[name] - value).flatten() for name, value in before.items()]).abs()
    # A step of Adam is at most rate sqrt(1 - b2) / (1 - b1) relative to its corrected moments; 1 in the first.
    assert 0 < moved.max() < 1.3 * 0.01
    alone = source(teacher, "meta", updates=1, learning_rate=0.01)
    alone.maker.make(16, generator_of("x"), None)
    first = torch.cat([(alone.state()[name] - value).flatten() for name, value in before.items()]).abs()
    assert first.median() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 8, 8), (2, 5), (1, 3, 4, 5)])
@pytest.mark.parametrize("bounded", [False, True])
def test_generators_make_every_size(shape: tuple[int, ...], bounded: bool) -> None:
    made = Generator(shape, 6, 4, bounded=bounded)(torch.randn(5, 6))
    assert made.shape == (5, *shape)
    axes = [axis for axis in range(made.ndim) if axis != 1]
    assert torch.allclose(made.mean(axes), torch.zeros(shape[0]), atol=1e-5)
    assert any(p.shape == (shape[0],) for p in made_norm(shape, bounded)) == bounded


def made_norm(shape: tuple[int, ...], bounded: bool) -> list[nn.Parameter]:
    return list(Generator(shape, 6, 4, bounded=bounded).last[-1].parameters())


class Two(nn.Module):
    """A vector and a mask by keyword; logits of each of three tokens, two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, tokens: Tensor, *, mask: Tensor, scale: Tensor) -> Tensor:
        return self.fc(tokens * scale[:, None, None]) * mask[:, :, None]


def test_inversion_makes_any_floating_point_inputs_and_keeps_the_rest() -> None:
    mask = torch.tensor([[True, True, False]])
    task = Task(example_inputs=(torch.zeros(1, 3, 4),), example_kwargs={"mask": mask, "scale": torch.ones(1)})
    found, signs = synthesize(Two().eval(), task, batch_size=8, updates=10, examples=16, statistics=0.0)
    batch = next(found.batches("calibration"))
    assert batch.args[0].shape == (8, 3, 4)
    assert batch.kwargs["scale"].unique().numel() == 8
    assert torch.equal(batch.kwargs["mask"], mask.expand(8, 3))
    assert batch.target is None
    assert not found.has("validation")
    assert signs.balance is not None
    assert signs.normalizations == 0


def test_collapse_is_seen(teacher: Net) -> None:
    examiner = source(teacher, "noise").examiner
    x, _ = examples(64, seed=2)
    assert signs_of(examiner, [x]).collapsed is None
    one = x[:1] + 0.001 * torch.randn(64, 3, 8, 8, generator=generator_of("x"))
    assert "few classes" in str(signs_of(examiner, [one]).collapsed)
    regression = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    plain = Examiner(regression, form_of(Batch((X,)), None, None), Synthesis(), torch.device("cpu"))
    signs = signs_of(plain, [one])
    assert "nearly the same" in str(signs.collapsed)
    assert signs.balance is None


def test_what_is_held_out_is_compared_as_numpy_does(teacher: Net) -> None:
    student, (x, _) = net(5).eval(), examples(40, seed=3)
    found = point_of(source(teacher, "noise").examiner, [x], student)
    with torch.no_grad():
        z, t = student(x).double().numpy(), teacher(x).double().numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert found.agreement == pytest.approx((z.argmax(1) == t.argmax(1)).mean())
    assert found.entropy == pytest.approx(-(p * np.log(p)).sum(1).mean() / np.log(4), rel=1e-5)
    assert found.losses["size"] == pytest.approx(np.square(x.numpy()).mean(), rel=1e-5)
    assert point_of(source(teacher, "noise").examiner, [x], teacher).agreement == 1
    alone = point_of(source(teacher, "noise").examiner, [x], None)
    assert (alone.agreement, alone.entropy) == (None, None)


def test_looking_at_what_is_held_out_changes_nothing(teacher: Net) -> None:
    student, made = net(5).eval(), source(teacher, "adversarial")
    made.new(16, generator_of("x"), student)
    before = {name: value.clone() for name, value in made.state().items()}
    assert made.point(student) == made.point(student)
    assert all(torch.equal(before[name], value) for name, value in made.state().items())


def test_targets_are_left_out_where_nothing_reads_them(teacher: Net) -> None:
    student = net(5)
    whole, bare = (list(source(teacher, "noise").batches(0, 0, student, labels=labels)) for labels in (True, False))
    for left, right in zip(whole, bare, strict=True):
        assert torch.equal(left.args[0], right.args[0])
        assert right.target is None
    lesson = {"teacher": "original", "synthesis": "noise"}
    assert not Training.model_validate(lesson).labelled
    assert Training.model_validate({**lesson, "losses": ["decoupled"]}).labelled
    assert Training.model_validate({**lesson, "mixup": 0.2}).labelled


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_shows_each_image_with_its_class(channels: int) -> None:
    """Decoded again by pillow."""
    reader = pytest.importorskip("PIL.Image")
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))
    x = torch.randn(60, channels, 6, 9, generator=generator_of("sheet"))
    examiner = Examiner(model, form_of(Batch((x[:1],)), None, None), Synthesis(method="noise"), torch.device("cpu"))
    sheet = sheet_of(examiner, [x])
    assert sheet is not None
    assert list(sheet.classes) == sorted(sheet.classes)
    picture = reader.open(io.BytesIO(base64.b64decode(sheet.uri.partition(",")[2])))
    pixels = np.asarray(picture)
    assert pixels.shape[:2] == (4 * 6 + 3 * 2, 10 * 9 + 9 * 2)
    tile = torch.tensor(pixels[:6, :9].copy()).reshape(6, 9, channels).permute(2, 0, 1).double()
    scaled = [255 * (one - one.min()) / (one.max() - one.min()) for one in x.double()]
    nearest = min(range(60), key=lambda index: (scaled[index] - tile).abs().max().item())
    assert (scaled[nearest] - tile).abs().max() <= 0.51
    with torch.no_grad():
        assert sheet.classes[0] == model(x).argmax(1)[nearest]
    assert set(sheet.classes) == set(model(x).argmax(1).tolist())
    assert sheet_of(examiner, [torch.randn(4, 7)]) is None


def test_large_images_are_averaged_down() -> None:
    tall = torch.zeros(1, 1, 128, 64)
    tall[:, :, :64] = 1
    model = nn.Sequential(nn.Flatten(), nn.Linear(128 * 64, 1))
    examiner = Examiner(model, form_of(Batch((tall,)), None, None), Synthesis(method="noise"), torch.device("cpu"))
    sheet = sheet_of(examiner, [tall])
    assert sheet is not None
    assert sheet.classes == ()
    halves = torch.zeros(32, 16, 1, dtype=torch.uint8)
    halves[:16] = 255
    assert base64.b64decode(sheet.uri.partition(",")[2]) == png(halves)


def test_a_student_learns_without_an_example(teacher: Net) -> None:
    made: dict[str, float] = {}
    for method in ("noise", "inversion"):
        lesson = settings(
            epochs=4, learning_rate=0.1, teacher="original", temperature=2.0,
            synthesis={"method": method, "batch_size": 32, "steps": 24, "updates": 40} if method != "noise"
            else {"method": method, "batch_size": 32, "steps": 24},
        )  # fmt: skip
        trained, history = finetune(net(7, dropout=0.0, width=4), empty(), lesson, original=teacher)
        assert history.epochs[-1].parts["task"] == 0
        assert history.synthesis is not None
        assert history.synthesis.signs.collapsed is None
        assert history.synthesis.examples == 32 * (96 if method == "noise" else 8)
        points = [epoch.synthesis for epoch in history.epochs]
        assert tuple(points) == history.synthesis.history
        first, last = points[0], points[-1]
        assert first is not None
        assert last is not None
        assert first.losses == last.losses  # the same inputs are held out throughout
        assert first.agreement is not None
        assert last.agreement is not None
        assert last.agreement >= first.agreement
        assert last.entropy is not None
        assert 0 < last.entropy < 1
        made[method] = right(trained.eval())
    assert right(teacher) > 0.9
    assert made["inversion"] > 0.85
    assert made["inversion"] > made["noise"] + 0.1


@pytest.mark.parametrize("method", ["inversion", "adversarial", "meta"])
def test_killed_anywhere_it_is_the_same_training(
    method: str, teacher: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    lesson = settings(
        crop=1, flip=True, channels_last=True, teacher="original",
        synthesis={**SMALL, "method": method, "updates": 2, "memory": 40, "replays": 1},
    )  # fmt: skip
    unbroken = finetune(net(7), empty(), lesson, original=teacher)
    for step in (1, 3, 6):
        left = step

        def stop(_: float) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Killed

        folder = tmp_path / f"{step}"
        with pytest.raises(Killed):
            finetune(net(7), empty(), lesson, original=teacher, folder=folder, tick=stop)
        again = finetune(net(7), empty(), lesson, original=teacher, folder=folder)
        assert equal(again.model, unbroken.model), step
        assert again.history.synthesis == unbroken.history.synthesis


def test_a_task_gets_data_and_keeps_what_it_has(teacher: Net) -> None:
    def feed(batch: Any) -> Batch:
        return Batch((batch["x"],), target=batch["y"])

    task, signs = synthesize(teacher, empty(), examples=50, updates=20, batch_size=16)
    sizes = {split: [b.size for b in task.batches(split)] for split in ("train", "calibration", "validation")}
    assert sizes == {"train": [16, 16, 8], "calibration": [16, 16, 8], "validation": [10]}
    assert not task.has("test")
    assert signs.examples == 50
    with torch.no_grad():
        own = evaluate(lambda b: teacher(*b.args), task.batches("validation"), task.metric, split="validation")
    assert (own.value, task.metric.name) == (1.0, "agreement")

    x, y = examples(8)
    held = empty(validation=[{"x": x, "y": y}], metric=metrics.accuracy, feed=feed)
    task, _ = synthesize(teacher, held, Synthesis(method="noise"), examples=20)
    assert torch.equal(next(task.batches("validation")).args[0], x)
    assert task.metric is metrics.accuracy
    assert next(task.batches("train")).size == 16


def outputs(model: nn.Module) -> Tensor:
    x, _ = examples(256, seed=9)
    with torch.no_grad():
        return model(x)


def test_integers_calibrated_without_data_come_near_those_calibrated_with(teacher: Net) -> None:
    recipe = Recipe([Fold(), Quantize(calibration="minmax")])
    wanted, far = outputs(teacher), {}
    tasks = {
        "real": empty(calibration=lissom.data.Batches(examples(256), batch_size=32)),
        "inversion": synthesize(teacher, empty(), examples=320, updates=60, batch_size=32).task,
        # What is far from the data: ranges of other numbers.
        "wrong": empty(calibration=[20 * torch.randn(256, 3, 8, 8, generator=generator_of("wrong"))]),
    }
    for name, task in tasks.items():
        model = transform(teacher, task, recipe, load_target("torch"))[-1].model
        far[name] = ((outputs(model) - wanted).square().mean() / wanted.square().mean()).item()
        if name != "wrong":
            agree = (outputs(model).argmax(1) == wanted.argmax(1)).double().mean().item()
            assert agree > 0.97, name
    assert far["inversion"] < 4 * far["real"]
    assert far["inversion"] < 0.2 * far["wrong"]


def test_a_pruned_network_recovers_without_data(teacher: Net) -> None:
    task = synthesize(teacher, empty(), examples=256, updates=60, batch_size=64).task
    wanted, far = outputs(teacher), {}
    for recovery in ("none", "reconstruct"):
        recipe = Recipe([Prune(ratio=0.34, criterion="magnitude", recovery=recovery)])
        model = transform(teacher, task, recipe, load_target("torch"))[-1].model
        far[recovery] = (outputs(model) - wanted).square().mean().item()
    assert far["reconstruct"] < 0.7 * far["none"]


def test_a_recipe_trains_without_data(teacher: Net) -> None:
    step = Finetune(epochs=1, teacher="original", synthesis="generator", precision="float32", channels_last=False)
    assert step.needs() == frozenset()
    recipe = Recipe.from_data(Recipe([step]).to_data())
    assert recipe.steps[0] == step
    small = step.model_copy(update={"synthesis": Synthesis(method="generator", **SMALL)})
    (done,) = transform(teacher, empty(), Recipe([small]), load_target("torch"))
    assert not equal(done.model, teacher)
    notes: Any = done.notes["history"]
    assert notes["synthesis"]["examples"] == 4 * 16
    assert notes["synthesis"]["sheet"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "dream"}, "'noise', 'drawings', 'inversion', 'generator', 'adversarial' or 'meta'"),
        ({"low": 0.0}, "low and high are given together, got low=0.0, high=None"),
        ({"low": 1.0, "high": 1.0}, "low must be below high, got low=1, high=1"),
        ({"method": "noise", "confidence": 1.0}, "method='noise' optimizes nothing: leave confidence out"),
        ({"method": "generator", "replays": 2}, "replays=2 come from the memory, and there is none"),
        ({"method": "generator", "warp": 0.1}, "warp=0.1 moves replayed images, and there are none"),
        ({"memory": 100}, "memory=100 and batch_size=128"),
    ],
)
def test_settings_that_cannot_work(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=said):
        Synthesis.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "made up for one teacher, 'original' or 'task', got teacher=None"),
        ({"teacher": "self", "ema": 0.9}, "got teacher='self'"),
        ({"teacher": "original", "share": 0.5}, "share=0.5 leaves the rest to the task's loss"),
        ({"teacher": "original", "views": 2}, "views=2 keeps answers to inputs that come again"),
    ],
)
def test_trainings_that_cannot_do_without_data(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=said):
        Training.model_validate({"synthesis": "inversion", **fields})


def test_a_control_needs_answers() -> None:
    with pytest.raises(pydantic.ValidationError, match=r"made up inputs have no other answers. Leave one out"):
        Finetune(teacher="original", synthesis=Synthesis(), control=True)


def test_inputs_that_cannot_be_made_are_named(teacher: Net) -> None:
    ids = Task(example_inputs=(torch.zeros(1, 5, dtype=torch.int64),))
    with pytest.raises(DataError, match=r"input 0 is torch.int64 of shape \(1, 5\): token ids.*takes embeddings"):
        synthesize(nn.Embedding(9, 4), ids)
    flat = Task(example_inputs=(torch.zeros(1, 6),))
    with pytest.raises(DataError, match=r"has the shape \(6,\) for each example. Take method='inversion'"):
        synthesize(nn.Linear(6, 3), flat, method="generator")
    with pytest.raises(DataError, match=r"warp=0.1 moves images .* shape \(6,\) for each example"):
        synthesize(nn.Linear(6, 3), flat, warp=0.1, statistics=0.0)
    with pytest.raises(DataError, match=r"method='drawings' makes one input of images .* the model takes \(6,\)"):
        synthesize(nn.Linear(6, 3), flat, method="drawings")
    for fields, method in (({}, "inversion"), ({"method": "generator", "statistics": 2.0}, "generator")):
        with pytest.raises(DataError, match=rf"method='{method}'.*the teacher has none.*Take method='generator'"):
            synthesize(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), empty(), **fields)
    lesson = settings(teacher="task", synthesis="inversion")
    with pytest.raises(DataError, match=r"Task\(teacher=...\) is a function. Give one module"):
        finetune(net(), empty(teacher=lambda x: x.mean((2, 3))), lesson)
    with pytest.raises(UsageError, match="settings or their fields, got both: leave 'low' out"):
        synthesize(teacher, empty(), Synthesis(), low=0.0)
    with pytest.raises(UsageError, match="at least 10 examples, got examples=3"):
        synthesize(teacher, empty(), examples=3)
    with pytest.raises(UsageError, match=r"unknown field 'metod'. Did you mean 'method'"):
        synthesize(teacher, empty(), metod="noise")
