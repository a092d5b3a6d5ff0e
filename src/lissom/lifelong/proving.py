"""Proof that a task's model is what it was: hashes of everything that it computes with, and of its "
"answers to probes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lissom.graph.agreement import apart, outputs
from lissom.graph.trace import torch_threads
from lissom.measure.environment import available_cores, environment
from lissom.measure.lifelong import TaskProof, TaskRecord
from lissom.task import Batch, Split, Task, sliced
from lissom.training.agreement import PLAIN
from lissom.training.pace import computed, device_of

PROBES = 16


def probe_of(task: Task) -> Batch:
    """The first examples of the task, or its example inputs; no targets."""
    splits: tuple[Split, ...] = ("validation", "train", "test")
    split: Split | None = next((one for one in splits if task.has(one)), None)
    found = next(iter(task.batches(split))) if split else task.example
    cut = sliced(found, 0, PROBES) if found.size > PROBES else found
    return Batch(cut.args, cut.kwargs)


@torch.no_grad()
def answers(model: nn.Module, probe: Batch) -> list[Tensor]:
    """Outputs in evaluation mode on one thread: several could sum in another order. The probe is not written into."""
    with torch_threads(1):
        return [leaf.detach().cpu() for leaf in outputs(model, computed(probe, device_of(model), PLAIN))]


def hash_of(tensors: Iterable[Tensor]) -> str:
    """sha256 of types, shapes and bytes, in order."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def weights_hash(model: nn.Module) -> str:
    """Of the whole state, by name."""
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    names = hashlib.sha256(" ".join(sorted(state)).encode()).hexdigest()
    return hashlib.sha256((names + hash_of(state[name] for name in sorted(state))).encode()).hexdigest()


def machine() -> dict[str, str]:
    """What decides how float32 sums are rounded."""
    here = environment(available_cores())
    return {"cpu": here.cpu, "isa": " ".join(here.isa), "torch": here.versions.get("torch", "")}


def proof_of(task: TaskRecord, model: nn.Module, probe: Batch, stored: list[Tensor]) -> TaskProof:
    """What the model is now beside what was recorded."""
    found = answers(model, probe)
    return TaskProof(
        name=task.name,
        weights_same=weights_hash(model) == task.weights_sha256,
        outputs_same=hash_of(found) == task.outputs_sha256,
        difference=max((apart(a, b) for a, b in zip(stored, found, strict=True)), default=0.0),
        same_machine=machine() == task.answered_by,
    )
