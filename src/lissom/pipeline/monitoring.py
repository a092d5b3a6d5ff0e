"""A monitor for the artifact of a run: where its inputs and outputs are clipped, from the run's own plan."""

from __future__ import annotations

from pathlib import Path

from lissom.functional.affine import Affine
from lissom.functional.clipping import edges
from lissom.measure.monitor import ALLOWED, Monitor, Watched
from lissom.pipeline.reload import read_plans
from lissom.recipe import Recipe
from lissom.runfolder import verify
from lissom.transforms.quantization.actions import RoundActivation
from lissom.transforms.quantization.placement import OUTPUT


def monitor(folder: str | Path, *, allowed: float = ALLOWED) -> Monitor:
    """Counts clipping of what the exported model of a run is given and gives; `allowed` is the share that is fine.

    Raises:
        RunFolderError: the folder is unfinished or altered.
        UsageError: `allowed` is not a share.
    """
    place = Path(folder)
    manifest = verify(place)
    assert manifest.artifact is not None  # verify looked
    plans = read_plans(place, Recipe.read(place / "recipe.yaml"))
    rounded = [action for plan in plans for action in plan.of(RoundActivation)]
    by_value = {action.value: action.numbers for action in rounded}
    by_place = {index: one.numbers for one in rounded for node, index in one.readers if node == OUTPUT}
    return Monitor(
        inputs=tuple(_watched(one.name, by_value.get(one.name)) for one in manifest.artifact.inputs),
        outputs=tuple(_watched(one.name, by_place.get(i)) for i, one in enumerate(manifest.artifact.outputs)),
        allowed=allowed,
    )


def _watched(name: str, numbers: Affine | None) -> Watched:
    if numbers is None:
        return Watched(name=name)
    low, high = edges(numbers)
    return Watched(name=name, low=low, high=high)
