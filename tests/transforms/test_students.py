"""Students made of their teacher: they inherit its weights, and are narrower and shorter by what was said."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
from lissom.pipeline.transforming import transform
from lissom.target import load_target
from lissom.transforms.pruning import Cut

WIDTH, BLOCKS = 16, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def teacher() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_width_and_depth_multipliers_keep_the_teachers_own_weights(share: float) -> None:
    large, task = teacher(), lissom.Task(example_inputs=(X[:1],), calibration=[X])
    recipe = lissom.Recipe(
        [
            lissom.PruneDepth(ratio=0.5, recovery="none"),
            lissom.Prune(ratio=share, scope="local", recovery="none"),
        ]
    )
    shorter, narrower = transform(large, task, recipe, load_target("torch"))
    small = narrower.model
    assert isinstance(small, Net)
    gone = [name for name, module in small.blocks.named_children() if isinstance(module, nn.Identity)]
    assert len(gone) == BLOCKS // 2
    width = round(WIDTH * (1 - share))
    assert small.stem.out_channels == width
    assert all(block.first.out_channels == width for block in small.blocks if isinstance(block, Block))
    assert isinstance(shorter.model, Net)
    # Every number of the student is the teacher's at the places that the plan names.
    wanted = {name: value for name, value in large.state_dict().items() if name.split(".")[1] not in gone}
    for cut in narrower.plan.of(Cut):
        wanted[cut.parameter] = wanted[cut.parameter].index_select(cut.axis, torch.tensor(cut.kept))
    found = small.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    assert small(X).shape == (8, 5)
