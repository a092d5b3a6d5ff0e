"""A training as a program: `program.py FOLDER OUT`, to be killed or started several times as one.

Environment: `SLOWLY` seconds are slept per step; `DIES` is the step at which rank 1 of a first start kills itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from loops import EVERYTHING, batches, net, settings, task  # noqa: E402

from lissom.files import save_tensors, write_text  # noqa: E402
from lissom.training import finetune as loop  # noqa: E402


def main(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    loop.SAVE_SECONDS = 0.0
    rank = int(os.environ.get("RANK", "0"))
    steps = 0

    def tick(_: float) -> None:
        nonlocal steps
        steps += 1
        time.sleep(float(os.environ.get("SLOWLY", "0")))
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if rank == 1 and first and steps == int(os.environ.get("DIES", "0")):
            os.kill(os.getpid(), signal.SIGKILL)

    made = trained(folder, tick)
    if rank == 0:
        write_text(out.with_suffix(".json"), made.history.model_dump_json())
        save_tensors(out, made.model.state_dict())


def trained(folder: Path | None = None, tick: Callable[[float], None] = lambda _: None) -> loop.Trained:
    """No dropout, which draws for each process; a batch that is no multiple of two, and one smaller than two."""
    aim = task(batches(16, 15, 1))
    lesson = {"teacher": "original", "losses": ["kl", "hint"], "share": 0.5}
    chosen = settings(**EVERYTHING, **lesson, regularizer="group_lasso", strength=0.002)
    teacher = net(seed=1, dropout=0.0, width=9)
    return loop.finetune(net(dropout=0.0), aim, chosen, folder=folder, tick=tick, seed=3, original=teacher)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
