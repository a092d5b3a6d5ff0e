"""What tasks share, whose the head is, and models made wider without another function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.errors import UsageError
from lissom.graph.trace import trace
from lissom.lifelong.anatomy import Anatomy, check_plain, grows, head_of, shared_of
from lissom.task import Batch


class Pictures(nn.Module):
    """A residual network with a grouped convolution, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 12, 3, padding=1)
        self.back = nn.Conv2d(12, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.last = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.fc = nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.back(F.relu(self.inner(x)))
        return self.fc(F.relu(self.last(self.grouped(x))).flatten(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x))))).log_softmax(1)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.body(x))
        return self.left(x), self.right(x)


def made(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                module.running_mean.normal_()
    return model


EXAMPLES = {Pictures: torch.randn(2, 3, 8, 8), Tied: torch.randn(2, 4), Two: torch.randn(2, 4)}


def anatomy(kind: type[nn.Module], head: str | None = None) -> Anatomy:
    model = made(kind)
    traced = trace(model, Batch((EXAMPLES[kind],)))
    return Anatomy(model, head_of(model, traced.graph, head), grows(model, traced), 0)


def test_the_head_makes_the_output() -> None:
    assert anatomy(Pictures).head == "fc"
    assert anatomy(Tied).head == "c"
    with pytest.raises(UsageError, match="left and right do"):
        anatomy(Two)
    assert anatomy(Two, "left").head == "left"
    with pytest.raises(UsageError, match=r"no such module\. Did you mean 'left'"):
        anatomy(Two, "lft")
    with pytest.raises(UsageError, match="is a BatchNorm2d"):
        anatomy(Pictures, "norm")


def test_matrices_are_shared_and_the_rest_is_each_tasks_own() -> None:
    pictures, tied = anatomy(Pictures), anatomy(Tied)
    names = {"stem.weight", "inner.weight", "back.weight", "grouped.weight", "last.weight"}
    assert set(pictures.shared("masks")) == names
    assert set(pictures.shared("drifting")) == names | {
        "norm.weight", "norm.bias", "inner.bias", "back.bias", "grouped.bias", "last.bias",
    }  # fmt: skip
    with pytest.raises(UsageError, match="no weight that tasks could share"):
        tied.shared("masks")
    assert set(tied.shared("drifting")) == {"a.bias", "b.bias"}
    assert shared_of(nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.Flatten(), nn.Linear(4, 2)), "2", "masks") == {
        "0.weight": 1
    }


@pytest.mark.parametrize("width", [1.25, 2.0, 1.1])
def test_a_wider_model_with_idle_channels_is_the_model(width: float) -> None:
    found = anatomy(Pictures)
    x = EXAMPLES[Pictures]
    wide = found.build(width, 5, idle=True)
    assert torch.allclose(wide(x), found.model(x), atol=1e-5)
    shapes = found.shapes(width, "masks")
    assert {name: tuple(wide.get_parameter(name).shape) for name in shapes} == shapes
    # What the grouped convolution ties keeps its size; the others grow, the flattened one by whole channels.
    assert shapes["grouped.weight"] == (8, 2, 3, 3)
    assert shapes["inner.weight"][0] == -(-round(12 * width, 9) // 1) == wide.get_submodule("inner").out_channels
    assert wide.get_submodule("fc").in_features == 16 * wide.get_submodule("last").out_channels


def test_new_channels_are_random_alike_and_the_old_are_there() -> None:
    found = anatomy(Pictures)
    one, two = found.build(1.5, 7), found.build(1.5, 7)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert torch.equal(one.get_parameter("inner.weight")[:12], found.model.get_parameter("inner.weight"))
    assert (one.get_parameter("inner.weight")[12:] != 0).all()
    assert one(EXAMPLES[Pictures]).shape == (2, 7)
    assert found.model(EXAMPLES[Pictures]).shape == (2, 5)


def test_weights_that_are_computed_are_refused() -> None:
    model = made(Tied)
    torch.nn.utils.parametrizations.weight_norm(model.get_submodule("a"))
    with pytest.raises(UsageError, match="a is parametrized"):
        check_plain(model)
    with pytest.raises(UsageError, match="got an exported graph"):
        check_plain(trace(made(Tied), Batch((EXAMPLES[Tied],))).module)
