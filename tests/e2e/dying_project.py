"""A project whose second process kills itself in the middle of its first training, once; alone it is any other."""

from __future__ import annotations

import os
import signal

import tiny
import torch.nn.functional as F

from lissom.pipeline import measuring
from lissom.training import finetune


def build(dies: str = "0"):
    measuring.ROUNDS, finetune.SAVE_SECONDS = 1, 0.0
    measuring.peak_memory = lambda *_: 1_000_000
    first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    steps = 0

    def loss(outputs, target):
        nonlocal steps
        steps += 1
        if os.environ.get("RANK") == "1" and first and steps == int(dies):
            os.kill(os.getpid(), signal.SIGKILL)
        return F.cross_entropy(outputs, target)

    return tiny.tiny(), tiny.task(loss=loss)
