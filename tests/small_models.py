"""Small models that between them use what people's models use, with the inputs to call them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.graph.trace import Trace, trace
from lissom.task import Batch


class Residual(nn.Module):
    """Convolutions with normalizations, an addition, pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.body(x))
        return self.fc(self.pool(x).flatten(1))


class Mobile(nn.Module):
    """Depthwise and pointwise convolutions with ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU6(inplace=True),
            nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU6(inplace=True),
            nn.Conv2d(6, 4, 1),
            nn.AvgPool2d(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 10, bias=False), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(), nn.Linear(10, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Transformer(nn.Module):
    """Tokens, a position embedding on the root, attention, layer normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 4, 8))
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(attended)


class Recurrent(nn.Module):
    """The first of several results of an operator feeds a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0][:, -1])


class Text(nn.Module):
    """Integer inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.embedding(x)))


class TiedText(nn.Module):
    """The classifier's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.inner = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.inner(self.embedding(x))))


class Branches(nn.Module):
    """Split, concatenation, a value added to itself, a scaled addition."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding="same")
        self.left = nn.Conv2d(4, 4, 3, padding=1)
        self.right = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).chunk(2, 1)
        a = torch.relu(self.left(a))
        b = torch.add(self.right(b), a, alpha=0.5)
        return self.last(torch.cat([a + a, b], 1)) + 1.0


class InPlace(nn.Module):
    """Writes into values, into views of values, and into values that a view has already been taken of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 3, 1)
        self.fc = nn.Linear(4 * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        flat = y.view(y.shape[0], -1)
        y.relu_()
        y[:, 0] = 0.5
        y[:, :, 1].mul_(2.0)
        return self.fc(flat) + self.last(y).mean((1, 2, 3)).unsqueeze(1)


class Shared(nn.Module):
    """One convolution called twice, and parameters on the root."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.weight = nn.Parameter(torch.randn(5, 3))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(torch.relu(self.conv(x))))
        return F.linear(x.mean((2, 3)), self.weight, self.bias)


class Signal(nn.Module):
    """One-dimensional convolutions, a linear layer over 3-D input, padding with a value, a dictionary of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        y = self.conv(F.pad(torch.sigmoid(x) * 0.1, (1, 1), value=1.0))
        return {"scores": self.fc(y.transpose(1, 2)), "rest": [y, x]}


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 4)
        self.right = nn.Linear(4, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.left(a) - self.right(b)


class Variadic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, *parts: Tensor) -> Tensor:
        return self.fc(parts[0]) + parts[1].sum(1, keepdim=True)


class FixedBatch(nn.Module):
    """Only ever works on three examples."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.reshape(3, 4))


def _images(channels: int = 3, size: int = 8) -> Tensor:
    return torch.randn(3, channels, size, size)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Batch]]] = {
    "residual": (Residual, lambda: Batch((_images(),))),
    "mobile": (Mobile, lambda: Batch((_images(),))),
    "mlp": (Mlp, lambda: Batch((torch.randn(3, 6),))),
    "transformer": (Transformer, lambda: Batch((torch.randn(3, 4, 8),))),
    "recurrent": (Recurrent, lambda: Batch((torch.randn(3, 5, 4),))),
    "text": (Text, lambda: Batch((torch.randint(0, 11, (3, 7)),))),
    "tied": (TiedText, lambda: Batch((torch.randint(0, 11, (3, 7)),))),
    "branches": (Branches, lambda: Batch((_images(),))),
    "in place": (InPlace, lambda: Batch((_images(size=6),))),
    "shared": (Shared, lambda: Batch((_images(),))),
    "signal": (Signal, lambda: Batch((torch.randn(3, 2, 9),))),
    "keywords": (TwoInputs, lambda: Batch((), {"b": torch.randn(3, 4), "a": 3 * torch.randn(3, 4)})),
    "variadic": (Variadic, lambda: Batch((torch.randn(3, 4), torch.randn(3, 4)))),
    "fixed batch": (FixedBatch, lambda: Batch((torch.randn(3, 4),))),
}


def build(name: str, seed: int = 0) -> tuple[nn.Module, Batch]:
    """A fresh model in evaluation mode, its normalizations as if trained, and a batch of three for it."""
    make, example = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return settled(make()), example()


def settled(model: nn.Module) -> nn.Module:
    """Normalizations get statistics and parameters that are not neutral."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.normal_(module.bias)
    return model.eval()


@functools.cache
def traced(name: str) -> tuple[nn.Module, Batch, Trace]:
    """A model, its batch and its trace, made once; nobody may change them."""
    model, example = build(name)
    return model, example, trace(model, example)


def call(model: nn.Module, batch: Batch) -> list[Tensor]:
    """The output tensors in order."""
    with torch.no_grad():
        outputs = model(*batch.args, **batch.kwargs)
    return [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def fingerprint(model: nn.Module) -> dict[str, object]:
    """Everything about a model that a transform must leave as it was."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = {name: (type(m), m.training, len(m._forward_hooks)) for name, m in model.named_modules()}
    grads = {name: p.requires_grad for name, p in model.named_parameters()}
    return {"state": state, "modules": modules, "grads": grads}


def same(before: dict[str, object], after: dict[str, object]) -> bool:
    left, right = before["state"], after["state"]
    assert isinstance(left, dict)
    assert isinstance(right, dict)
    tensors = left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    return tensors and before["modules"] == after["modules"] and before["grads"] == after["grads"]
