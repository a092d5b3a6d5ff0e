"""Small networks, quantized for a target, and how far apart two outputs are, in quantization steps."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule

from lissom.functional.overflow import saturates_here
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.quantization import Quantize

IMAGE = (3, 8, 8)


def dynamic_precision(target: str) -> str:
    """What a linear layer with a range per run computes in on this machine.

    Without VNNI, OpenVINO only unpacks the weights: the inputs are never rounded.
    """
    if target == "torch" or (target == "openvino" and saturates_here()):
        return "float32"
    return "int8 dynamic"


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        y = F.relu(self.a(x))
        return F.relu(self.b(y) + y)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return F.avg_pool2d(F.relu(self.c(x)), 2)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(F.relu(self.c(x)), 1), 1))


@dataclass(frozen=True)
class Net:
    model: nn.Module
    shape: tuple[int, ...]
    """Of one example."""
    depth: int
    fan_in: int
    """Longest sum in it."""

    def inputs(self, count: int, seed: int = 1) -> torch.Tensor:
        return torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(seed))

    def rounding(self, x: torch.Tensor) -> float:
        """How far two float32 evaluations may be apart.

        A sum of n products in any order is within n * eps * sum |w||x| of the exact one; with weights and inputs made
        positive the network itself computes that sum, layer by layer. Twice, as both sides round.
        """
        positive = copy.deepcopy(self.model)
        with torch.no_grad():
            for parameter in positive.parameters():
                parameter.abs_()
            largest = float(positive(x.abs()).abs().max())
        return 2 * self.depth * (self.fan_in + 1) * torch.finfo(torch.float32).eps * largest


def nets() -> dict[str, Net]:
    torch.manual_seed(0)
    found = {
        "conv": Net(nn.Conv2d(3, 8, 3, padding=1), IMAGE, 1, 27),
        "conv-relu": Net(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU()), IMAGE, 1, 27),
        "depthwise": Net(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6()), (8, 8, 8), 1, 9),
        "conv1d": Net(nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.ReLU()), (4, 16), 1, 12),
        "linear": Net(nn.Linear(48, 10), (48,), 1, 48),
        "mlp": Net(nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 7)), (40,), 2, 40),
        "residual": Net(Residual(), IMAGE, 3, 72),
        "pool": Net(Pooled(), IMAGE, 2, 27),
        "classifier": Net(Classifier(), IMAGE, 3, 36),
        "gelu": Net(nn.Sequential(nn.Linear(40, 32), nn.GELU(), nn.Linear(32, 7)), (40,), 2, 40),
    }
    for net in found.values():
        net.model.eval()
    return found


def quantized(net: Net, target: str, mode: str = "static") -> GraphModule:
    table = load_target(target)
    x = net.inputs(64, seed=2)
    task = Task(example_inputs=(x[:1],), calibration=[x])
    traced = trace(net.model, task.example)
    transform = Quantize(mode=mode)
    plan = transform.plan(traced.graph, transform.study(net.model, traced, task, table), table)
    result = transform.apply(net.model, plan, traced, task)
    assert isinstance(result, GraphModule)
    return result


def example(net: Net) -> Batch:
    return Batch((net.inputs(1),))


def steps_apart(model: GraphModule, simulated: torch.Tensor, measured: torch.Tensor) -> float:
    """The largest difference in steps: of the output's own quantizer, else 255 of them over its range."""
    last = next(node for node in model.graph.nodes if node.op == "output")
    source = last.all_input_nodes[0]
    if "dequantize_per_tensor" in str(source.target) and isinstance(source.args[1], float):
        step = source.args[1]
    else:
        step = float(simulated.max() - simulated.min()) / 255
    return float((simulated - measured).abs().max()) / step
