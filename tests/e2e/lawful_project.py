"""A project whose search is small and whose latencies follow a law: two searches can be compared figure by figure.

What is evaluated is written down, a line each, in the file that the setting `log` names.
"""

from __future__ import annotations

import os
from pathlib import Path

import tiny
import torch.nn.functional as F

from lissom.pipeline import evaluating, measuring
from lissom.pipeline.evaluating import Evaluator
from lissom.recipe import Recipe
from lissom.search import Measurement, opening

MACS = 14912.0
"""More than any candidate has."""
_measured = Evaluator.__call__


def build(log: str):
    evaluating.ROUNDS = measuring.ROUNDS = 1
    measuring.peak_memory = lambda *_: 1_000_000
    opening.PRUNE, opening.RANK, opening.EPOCHS = (1.0, 1.5), (1.0,), (0, 1)
    opening._precisions = lambda *_, **__: ("float32", "float16")

    def lawful(self: Evaluator, recipe: Recipe) -> Measurement:
        found = _measured(self, recipe)
        ratio = (MACS / found.macs) ** 0.7
        law = {"latency_ms": 1.0 / ratio, "latency_ratio": ratio, "latency_low": ratio, "latency_high": ratio}
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()} {recipe.id}\n")
        return found.model_copy(update={**law, "epoch_seconds": 0.01 if found.epoch_seconds else None})

    Evaluator.__call__ = lawful
    return tiny.tiny(), tiny.task(loss=F.cross_entropy)
