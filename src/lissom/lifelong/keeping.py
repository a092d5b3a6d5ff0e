"""The commit of a task: its files, its record, and a last look before they count."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

from lissom.errors import VerificationError
from lissom.files import load_tensors, save_tensors, write_bytes
from lissom.inputs import save_example
from lissom.lifelong.backbone import Addition
from lissom.lifelong.ground import Ground, Made, load_
from lissom.lifelong.proving import answers, hash_of, machine, probe_of, weights_hash
from lissom.lifelong.recall import Recall
from lissom.lifelong.settings import METHODS
from lissom.lifelong.store import ANSWERS, MASKS, MEMORY, PRIVATE, PROBE, SHARED, WEIGHTS, Intent
from lissom.measure.lifelong import TaskRecord


def keep(
    recall: Recall, intent: Intent, ground: Ground, made: Made, notes: tuple[str, ...], seconds: float
) -> TaskRecord:
    """Write the task's files, read them back, commit.

    Raises:
        VerificationError: what was stored does not compute what was trained.
        RunFolderError: the folder cannot be written.
    """
    probe = probe_of(ground.task)
    found = answers(made.model, probe)
    staged = recall.store.stage(intent)
    values = 0
    if made.addition is not None:
        write_bytes(staged / MASKS, made.addition.masks)
        save_tensors(staged / WEIGHTS, made.addition.tensors)
        held = [value for name, value in made.addition.tensors.items() if name.startswith("value/")]
        values = sum(value.numel() * value.element_size() for value in held)
    else:
        save_tensors(staged / SHARED, made.shared)
        save_tensors(staged / MEMORY, made.memory)
    save_tensors(staged / PRIVATE, made.private)
    save_example(staged / PROBE, probe)
    save_tensors(staged / ANSWERS, {f"{at:04}": value for at, value in enumerate(found)})
    sizes = {path.name: path.stat().st_size for path in staged.iterdir()}
    goal_met = None if made.goal is None else made.metric is not None and made.metric.value >= made.goal
    record = TaskRecord(
        name=intent.name,
        index=intent.index,
        method=intent.method,
        settings=intent.settings,
        family=METHODS[intent.method].family,
        seed=intent.seed,
        width=made.width,
        classes=ground.classes,
        notes=(*notes, *made.notes),
        metric=made.metric,
        goal=made.goal,
        goal_met=goal_met,
        attempts=made.attempts,
        weights=made.weights,
        own=made.own,
        used=made.used,
        free=made.free,
        mask_bytes=sizes.get(MASKS, 0),
        value_bytes=values,
        private_bytes=sizes[PRIVATE] + sizes.get(WEIGHTS, values) - values,
        probes=probe.size,
        weights_sha256=weights_hash(made.model),
        outputs_sha256=hash_of(found),
        answered_by=machine(),
        seconds=seconds,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files={},
    )
    _check_stored(recall, intent, ground, made, staged)
    return recall.store.commit(staged, record)


def _check_stored(recall: Recall, intent: Intent, ground: Ground, made: Made, staged: Path) -> None:
    """Read the files back before they count."""
    if made.addition is None:
        shared = load_tensors(staged / SHARED)
    else:
        stored = Addition((staged / MASKS).read_bytes(), load_tensors(staged / WEIGHTS))
        before = recall.backbone(recall.store.tasks())
        shared = recall.following(before, stored, made.width, intent.method).state()
    private = load_tensors(staged / PRIVATE)
    model = load_(recall.anatomy.build(made.width, ground.classes), {**shared, **private})
    if weights_hash(model) != weights_hash(made.model):
        shutil.rmtree(staged)
        raise VerificationError(
            f"The task {ground.name!r} reads back with other weights than it was trained to. This is a bug in Lissom: "
            "please report the model."
        )
