"""Networks that an experiment trains itself before it makes them smaller."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from benchmarks.context import Context
from lissom.files import load_tensors, save_tensors
from lissom.task import Task
from lissom.training.finetune import finetune
from lissom.training.settings import Training


def trained_once(context: Context, model: nn.Module, task: Task, training: Training, name: str = "float") -> nn.Module:
    """`model` with the weights of one training on all of the training split, which are kept; a killed one goes on."""
    file = context.kept / f"{name}.safetensors"
    if not file.is_file():
        context.say("training")
        alone = replace(task, validation=None)
        made = finetune(model, alone, training, folder=context.kept / "training", seed=0)
        save_tensors(file, made.model.state_dict())
    model.load_state_dict(load_tensors(file))
    return model.eval()
