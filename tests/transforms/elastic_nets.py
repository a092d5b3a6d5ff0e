"""Small networks whose subnets differ in everything that a supernet can leave out, and their tasks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.transforms.architecture.axes import order_of
from lissom.transforms.architecture.deriving import Bounds, derived, space_of
from lissom.transforms.architecture.space import Space
from lissom.transforms.pruning.scores import Reading, score


class Block(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))), with a kernel of 5 and groups."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 2 * channels, 5, padding=2, bias=False)
        self.one = nn.BatchNorm2d(2 * channels)
        self.second = nn.Conv2d(2 * channels, channels, 3, padding=1, groups=groups)
        self.two = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.two(self.second(F.relu(self.one(self.first(x))))))


class Residual(nn.Module):
    def __init__(self, groups: int = 1, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(*[Block(8, groups) for _ in range(blocks)])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.norm(self.stem(x)))).mean((2, 3)))


class Mobile(nn.Module):
    """Expansion, a depthwise kernel of 7 with a stride, projection."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 12, 1), nn.BatchNorm2d(12), nn.Hardswish(),
            nn.Conv2d(12, 12, 7, stride=2, padding=3, groups=12), nn.BatchNorm2d(12), nn.Hardswish(),
            nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8),
        )  # fmt: skip
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Attention(nn.Module):
    """Four heads of three features, and a residual branch of twice the width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(2, 16, 4, stride=4)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 36)
        self.out = nn.Linear(12, 16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)
        self.head = nn.Linear(16, 4)
        self.heads = 4
        self.width = 3

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        parts = self.qkv(self.norm(x)).reshape(x.shape[0], x.shape[1], 3, self.heads, self.width)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        made = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        x = x + self.out(made.reshape(x.shape[0], x.shape[1], self.heads * self.width))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


NETS = {
    "residual": Residual,
    "grouped": lambda: Residual(groups=2),
    "mobile": Mobile,
    "attention": Attention,
}


def net(name: str, seed: int = 0) -> nn.Module:
    """With statistics and scales that are not those of a fresh one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NETS[name]()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
    return model.eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def task(count: int = 96, batch: int = 16) -> lissom.Task:
    """Four classes that a quadrant's brightness tells apart."""

    def split(seed: int) -> list[tuple[Tensor, Tensor]]:
        y = torch.randint(4, (count,), generator=torch.Generator().manual_seed(seed))
        x = 0.5 * images(count, seed)
        for at, label in enumerate(y.tolist()):
            row, column = divmod(label, 2)
            x[at, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1.0
        return list(zip(x.split(batch), y.split(batch), strict=True))

    return lissom.Task(
        example_inputs=(images(2),),
        train=split(1),
        calibration=split(2),
        validation=split(3),
        test=split(4),
        loss=F.cross_entropy,
        metric=lissom.metrics.accuracy,
    )


def space(
    model: nn.Module,
    *,
    widths: tuple[float, ...] = (0.75, 0.5, 0.25),
    depth: float = 0.7,
    bits: tuple[int, ...] = (),
    resolutions: tuple[float, ...] = (),
    exclude: tuple[str, ...] = (),
    target: str = "torch",
) -> Space:
    example = task(8).example
    traced = trace(model, example)
    bounds = Bounds(widths, depth, True, exclude, None, bits, resolutions)
    found = derived(model, traced, example, load_target(target), bounds)
    names = {name for axis in found.axes if axis.kind == "width" for name in axis.members}
    groups = [group for group in found.channels.groups if group.name in names]
    scores = score(traced, found.channels, groups, Reading("magnitude", "mean", "mean"), lambda: (), None)
    return space_of(traced, found, {name: order_of(own) for name, own in scores.items()})
