"""Several processes as one: every batch is divided, and the numbers are those of a single process.

Under `torchrun` every process reads the same batches, augments them in the same way and computes its own rows. Losses
are means, so each is weighted by its share of the rows; gradients are summed once per step. Batch normalizations see
the moments of the whole batch. (`nn.SyncBatchNorm` needs a GPU. `DistributedDataParallel` would hide the model behind a
wrapper from objectives and penalties that look at its layers, and refuses parameters without gradients.)

Differences to one process: the order of summation, and dropout, which draws for each process.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lissom.task import Batch, sliced


class Team:
    """The processes that train together; `rank` 0 measures, validates and writes for all."""

    def __init__(self, device: torch.device, rank: int = 0, size: int = 1) -> None:
        self.device, self.rank, self.size = device, rank, size

    @property
    def first(self) -> bool:
        return self.rank == 0

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        """What `make` returned on rank 0, on every rank; the others do not call it."""
        if self.size == 1:
            return make()
        held = make() if self.first else b""
        length = torch.tensor([len(held)], device=self.device)
        dist.broadcast(length, 0)
        data = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        if self.first and held:
            data.copy_(torch.frombuffer(bytearray(held), dtype=torch.uint8))
        dist.broadcast(data, 0)
        return bytes(cast(Any, data.cpu().numpy()))

    @torch.no_grad()
    def align_(self, model: nn.Module) -> None:
        """Every process starts from the tensors of rank 0."""
        if self.size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.data, 0)

    def part(self, batch: Batch) -> tuple[Batch, float]:
        """The rows of this process and their share; a batch smaller than the team is computed whole by each."""
        if self.size == 1 or not self.divides(batch):
            return batch, 1.0 / self.size
        start, stop = (batch.size * rank // self.size for rank in (self.rank, self.rank + 1))
        return sliced(batch, start, stop), (stop - start) / batch.size

    def divides(self, batch: Batch) -> bool:
        return self.size > 1 and batch.size >= self.size

    def together(self, batch: Batch) -> contextlib.AbstractContextManager[object]:
        """Batch normalizations inside see the whole batch, of which each process has a part."""
        return _WholeBatch() if self.divides(batch) else contextlib.nullcontext()

    @torch.no_grad()
    def sum_(self, parameters: Iterable[nn.Parameter], losses: Tensor) -> Tensor:
        """Sum the gradients over all processes, in place, and return the sum of `losses`, `(n,)`."""
        if self.size == 1:
            return losses
        found = list(parameters)
        # The losses, and for each parameter how many processes have a gradient.
        head = torch.tensor([*losses.tolist(), *(float(p.grad is not None) for p in found)], dtype=torch.float64)
        head = head.to(self.device)
        dist.all_reduce(head)
        by_type: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter, count in zip(found, head[len(losses) :].tolist(), strict=True):
            if count:
                by_type.setdefault(parameter.dtype, []).append(parameter)
        for same in by_type.values():
            _sum_(same)
        return head[: len(losses)]


def _sum_(parameters: Sequence[nn.Parameter]) -> None:
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])
    dist.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        # In the parameter's own memory order, which optimizers and norms follow.
        parameter.grad = torch.empty_like(parameter).copy_(part.view(parameter.shape))


@contextlib.contextmanager
def joined(device: torch.device, wait: datetime.timedelta | None = None) -> Generator[Team]:
    """The team of this process: that of a process group which exists, of `torchrun`, or itself alone.

    A group made here (gloo on the CPU, NCCL on GPUs) ends with the block. `wait` is how long one process waits for
    another (default: as long as torch does, half an hour).
    """
    if dist.is_available() and dist.is_initialized():
        yield Team(device, dist.get_rank(), dist.get_world_size())
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=wait)
        try:
            yield Team(device, dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()
    else:
        yield Team(device)


class _Sum(torch.autograd.Function):
    """Sum over all processes; so is its gradient, since every process reads the sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class _WholeBatch(TorchFunctionMode):
    """`F.batch_norm` in training mode takes its moments over all processes."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm`, whose signature this is, on `(n, c, ...)` of which every process has some rows."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    axes = [axis for axis in range(input.ndim) if axis != 1]
    shape = [1, -1] + [1] * (input.ndim - 2)
    x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
    count = torch.tensor([x.numel() // x.shape[1]], dtype=torch.float64, device=x.device)
    dist.all_reduce(count)
    n = float(count)
    # In two passes, as the kernel of one process does: a difference of squares would cancel.
    mean = cast(Tensor, _Sum.apply(x.sum(axes))) / n
    centered = x - mean.view(shape)
    variance = cast(Tensor, _Sum.apply(centered.square().sum(axes))) / n
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (n / max(n - 1, 1))).to(running_var.dtype), momentum)
    y = centered * torch.rsqrt(variance + eps).view(shape)
    if weight is not None:
        y = y * weight.view(shape)
    if bias is not None:
        y = y + bias.view(shape)
    return y.to(input.dtype)
