"""Part of L1: data-aware against plain SVD at the same ranks, MiniLM on SST-2, before any training.

The network and its training are those of `benchmarks.minilm`. Each of `RATIOS` gives ranks to all 36 linear layers of
the encoder; plain and data-aware factors are then made for the same plan, without recovery, from `LOOKED_AT` unlabelled
sentences of the training split that are long enough for no padding. Accuracy is on the test split, which nothing has
looked at; intervals are of the paired difference, by bootstrap over sentences. Nothing here has a kernel for Tucker-2.
"""

from __future__ import annotations

from benchmarks import minilm
from benchmarks.context import Context
from benchmarks.equalranks import compared, figure
from benchmarks.results import Figure, Goal, Outcome, Wish
from lissom.task import Task

TITLE = "Data-aware and plain SVD of MiniLM on SST-2 at equal ranks, no training"
NEEDS = minilm.NEEDS
RATIOS = (0.2, 0.35, 0.5)
"""Share of the multiplications of every split layer that is saved."""
LOOKED_AT = 512
LEAST = 85.0


def goal() -> Goal:
    return Goal(
        text=(
            "data-aware SVD keeps more accuracy than plain SVD at three ranks, before training, on a MiniLM that was "
            f"right on more than {LEAST:g} %"
        ),
        wishes=(
            Wish(figure="the original", at_least=LEAST),
            *(Wish(figure=figure("svd", ratio), at_least=0.0) for ratio in RATIOS),
        ),
    )


def run(context: Context) -> Outcome:
    model, train, test = minilm.trained(context)
    full = train.ids[:, -1] != 0
    looked_at = train.ids[full][:LOOKED_AT]
    task = Task(
        example_inputs=(test.ids[:1],),
        calibration=[(piece,) for piece in looked_at.split(64)],
        test=test.batches(64),
        name="minilm-sst2",
    )
    found = compared(
        context,
        model,
        task,
        methods=("svd",),
        ratios=RATIOS,
        exclude=("head",),
        judged=lambda: task.batches("test"),
    )
    return found.outcome(goal(), {"the original": Figure(value=found.original, unit="%")})
