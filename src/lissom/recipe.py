"""Ordered transforms: the one description of what is done to a model. YAML and JSON both ways, with a stable id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pydantic
import yaml

from lissom.errors import RecipeError, nearest, shown
from lissom.progression import Progressive
from lissom.reading import text_of, yaml_of
from lissom.settings import Setting
from lissom.transforms.architecture import Supernet
from lissom.transforms.base import Plan, Transform
from lissom.transforms.finetuning import Finetune
from lissom.transforms.folding import Fold
from lissom.transforms.lowrank import Factorize
from lissom.transforms.pruning import Prune, PruneDepth
from lissom.transforms.quantization import Quantize
from lissom.transforms.sparsity import Sparsify

if TYPE_CHECKING:
    from torch import nn

    from lissom.pipeline import Result
    from lissom.task import Task

TRANSFORMS: Mapping[str, type[Transform]] = {
    "Fold": Fold,
    "Prune": Prune,
    "PruneDepth": PruneDepth,
    "Supernet": Supernet,
    "Sparsify": Sparsify,
    "Factorize": Factorize,
    "Finetune": Finetune,
    "Quantize": Quantize,
}


class Recipe(Setting):
    """Transforms in the order in which they are applied.

    Raises:
        RecipeError: empty, not transforms, or an order that cannot work; the message explains the order.
    """

    steps: tuple[pydantic.SerializeAsAny[Transform], ...]

    def __init__(self, steps: Sequence[Transform]) -> None:
        _check(steps)
        super().__init__(steps=tuple(steps))  # type: ignore[call-arg]  pydantic's own signature

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that depend on the steps and their settings alone."""
        data = self.to_data()
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        # Of rules of precision, the later ones win.
        rules = [list(v) for step in data for own in step.values() for v in own.values() if isinstance(v, dict)]
        text += json.dumps(rules) if rules else ""
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        return " > ".join(title_of(step) for step in self.steps)

    def to_data(self) -> list[dict[str, Any]]:
        """`[{"Fold": {}}, {"Quantize": {"mode": "static", ...}}]`."""
        return [{step.name: step.model_dump(mode="json")} for step in self.steps]

    @classmethod
    def from_data(cls, data: object, where: str = "recipe") -> Recipe:
        """
        Raises:
            RecipeError: an unknown transform or field (with the nearest name), or an illegal order.
        """
        if isinstance(data, Mapping) and set(data) == {"steps"}:
            data = data["steps"]
        if not isinstance(data, Sequence) or isinstance(data, str):
            raise RecipeError(
                f"{where}: a recipe is a list of transforms, got {type(data).__name__}. Write `- Fold: {{}}` and "
                "`- Quantize: {mode: static}` on lines of their own."
            )
        return cls([step for i, item in enumerate(data) for step in _steps(item, f"{where}, step {i + 1}")])

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_data(), sort_keys=False)

    def to_json(self) -> str:
        return json.dumps(self.to_data(), indent=2)

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """A recipe from a YAML or JSON file.

        Raises:
            RecipeError: the file is missing, not YAML or JSON, or not a recipe.
        """
        path = Path(path)
        try:
            text = text_of(path)
        except (OSError, ValueError) as wrong:
            raise RecipeError(f"The recipe {path} cannot be read: {wrong}. Give a file of YAML or JSON.") from wrong
        try:
            data = yaml_of(text)
        except ValueError as wrong:
            raise RecipeError(
                f"The recipe {path} is not plain YAML: {wrong}. Write `- Fold: {{}}` and "
                "`- Quantize: {mode: static}` on lines of their own."
            ) from wrong
        return cls.from_data(data, str(path))

    def run(
        self,
        model: nn.Module,
        task: Task,
        *,
        target: str = "onnxruntime",
        out: str | Path | None = None,
        **options: Any,
    ) -> Result:
        """Carry the recipe out, export and measure: `lissom.compress` with this recipe."""
        # The one import that points up: the recipe is the verb's natural home for users, the work is the pipeline's.
        from lissom.pipeline import compress

        return compress(model, task, recipe=self, target=target, out=out, **options)

    def read_plans(self, data: Sequence[dict[str, Any]]) -> tuple[Plan, ...]:
        """Plans of these steps from JSON."""
        return tuple(step.read_plan(plan) for step, plan in zip(self.steps, data, strict=True))


def title_of(step: Transform) -> str:
    """`Prune(macs_ratio=2.1)`: a step with the settings that differ from the defaults."""
    settings = step.model_dump(mode="json", exclude_defaults=True)
    mode = {"mode": step.mode} if isinstance(step, Quantize) else {}
    shown = ", ".join(f"{key}={value}" for key, value in {**mode, **settings}.items())
    return f"{step.name}({shown})" if shown else step.name


def _steps(item: object, where: str) -> Sequence[Transform]:
    """The transform that an item names; for `Progressive`, those that it stands for."""
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, Mapping) or len(item) != 1:
        raise RecipeError(f"{where}: a step is one transform with its settings, like `Fold: {{}}`, got {shown(item)}.")
    ((name, settings),) = item.items()
    settings = {} if settings is None else settings
    if name == "Progressive":
        return Progressive.parse(settings, f"{where}, {name}", RecipeError).expand()
    if name not in TRANSFORMS:
        known = (*TRANSFORMS, "Progressive")
        raise RecipeError(f"{where}: unknown transform {shown(name)}. {nearest(str(name)[:80], known)}")
    return [TRANSFORMS[name].parse(settings, f"{where}, {name}", RecipeError)]


def _check(steps: Sequence[object]) -> None:
    if isinstance(steps, (str, bytes)) or not isinstance(steps, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RecipeError(f"A recipe is a list of transforms, got {type(steps).__name__}.")
    if not steps:
        raise RecipeError("A recipe needs at least one transform, got none. Write Recipe([Fold(), Quantize()]).")
    quantized: str | None = None
    for step in steps:
        if not isinstance(step, Transform):
            raise RecipeError(
                f"A recipe holds transforms, got {shown(step)}. Write Recipe([Fold(), Quantize()]), with brackets."
            )
        if quantized and step.stage == "quantize":
            raise RecipeError(
                f"{step.name} comes twice: weights that are already integers cannot be rounded again. Keep one."
            )
        if quantized and step.stage in ("fold", "structure"):
            raise RecipeError(
                f"{step.name} comes after {quantized}: it changes weights that {quantized} has already rounded. Put "
                f"{step.name} before {quantized}."
            )
        if quantized and step.stage == "train":
            raise RecipeError(
                f"{step.name} comes after {quantized}: weights that are already integers cannot be trained. Put "
                f"{step.name} before {quantized}."
            )
        if step.stage == "quantize":
            quantized = step.name
    _check_bits(cast("Sequence[Transform]", steps))


def _check_bits(steps: Sequence[Transform]) -> None:
    """What chooses bits needs what carries them out."""
    if not any(isinstance(step, Supernet) and step.bits for step in steps):
        return
    last = steps[-1]
    if not isinstance(last, Quantize):
        raise RecipeError(
            "Supernet(bits=...) chooses the bits of every layer, and no Quantize carries them out. Put Quantize() "
            "last, or leave bits out."
        )
    whole = {
        "weight_bits": last.weight_bits,
        "precision": last.precision if isinstance(last.precision, str | int) else 8,
    }
    for name, value in whole.items():
        if value != 8:
            raise RecipeError(
                f"Supernet(bits=...) chooses the bits of every layer, and Quantize({name}={value!r}) says them too. "
                "Leave one of the two out; rules of precision for single layers win over what was chosen."
            )
    if last.mode not in ("static", "hybrid"):
        raise RecipeError(
            f"Supernet(bits=...) judges candidates with fixed ranges, and Quantize(mode={last.mode!r}) has none. Use "
            "mode='static' or 'hybrid', or leave bits out."
        )
