"""Models of timm by name, with its weights, a file of them, or none; images as its configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lissom.data._decode import Frame
from lissom.data._sets import generator_for
from lissom.errors import ProjectError, UsageError, first_line, nearest
from lissom.reading import json_of, text_of
from lissom.sources.files import existing
from lissom.sources.opened import Opened
from lissom.sources.optional import needed
from lissom.sources.pictures import Pictures
from lissom.sources.settings import SourceSettings
from lissom.task import Task

PREFIX = "timm:"
RANDOM = "random"
WEIGHTS = "model.safetensors"


def open_timm(given: str, settings: SourceSettings) -> Opened:
    """`timm:NAME`, or `timm:FOLDER` with config.json and model.safetensors as timm writes them.

    Raises:
        UsageError: timm is not installed, a size that the model does not take.
        ProjectError: an unknown name, weights that cannot be fetched or do not fit.
    """
    timm = needed("timm", given)
    settings.refuse(given, "shape", "text", "length")
    name = given.removeprefix(PREFIX)
    folder = Path(name)
    if folder.is_dir():
        settings.refuse(given, "weights")
        _check_folder(folder)
        model, notes = _with_file(timm, f"local-dir:{folder}", folder / WEIGHTS)
    else:
        _check_name(timm, name)
        model, notes = _by_name(timm, name, settings)
    model = model.eval()
    configuration = _configuration(timm, model, settings, given)
    channels, height, width = configuration["input_size"]
    example = torch.randn(1, channels, height, width, generator=generator_for("example", 0))
    pictures = Pictures(
        mean=tuple(configuration["mean"]), std=tuple(configuration["std"]), frame=_frame(timm, configuration)
    )
    label = folder.name if folder.is_dir() else name
    return Opened(model, Task(example_inputs=(example,), name=label), pictures, _classes(timm, model), notes)


def _frame(timm: Any, configuration: Mapping[str, Any]) -> Frame:
    """timm's own scaling and cutting for evaluation."""
    channels, *_ = configuration["input_size"]
    # With a prefetcher, pixels stay whole numbers: normalizing is left to whoever fetches.
    change = timm.data.create_transform(**configuration, is_training=False, use_prefetcher=True)

    def frame(image: Any) -> NDArray[np.uint8]:
        return np.asarray(change(image.convert("L" if channels == 1 else "RGB")), np.uint8)

    return frame


def _check_name(timm: Any, name: str) -> None:
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        raise ProjectError(f"timm has no model {base!r}. {nearest(base, timm.list_models())[:400]}")
    known = [one.partition(".")[2] for one in timm.list_pretrained(f"{base}.*")] if tag else []
    if tag and tag not in known:
        raise ProjectError(f"timm has no weights {tag!r} of {base!r}. {nearest(tag, known)}")


def _by_name(timm: Any, name: str, settings: SourceSettings) -> tuple[nn.Module, tuple[str, ...]]:
    if settings.weights == RANDOM:
        torch.manual_seed(settings.seed)  # the caller's generator is kept by `source`
        return timm.create_model(name, pretrained=False), (
            "Its weights are random: sizes and times mean something, answers do not.",
        )
    if settings.weights is not None:
        return _with_file(timm, name, Path(settings.weights))
    try:
        return timm.create_model(name, pretrained=True), ()
    except Exception as wrong:  # what timm, its hub and the network raise shares no base class
        raise ProjectError(
            f"The weights of {PREFIX}{name} cannot be fetched: {first_line(wrong)} Give --weights FILE.safetensors, "
            f"or --weights {RANDOM} where answers do not matter."
        ) from wrong


def _with_file(timm: Any, name: str, file: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with as many outputs and input channels as the file has weights for."""
    existing(file)
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as wrong:
        raise ProjectError(
            f"{file} is no file of safetensors: {first_line(wrong)}. Save the weights with "
            "safetensors.torch.save_file(model.state_dict(), FILE)."
        ) from wrong
    try:
        configured: Any = timm.create_model(name, pretrained=False).pretrained_cfg
        model = timm.create_model(name, pretrained=False, **_shape_of(weights, configured))
        model.load_state_dict(weights)
    except RuntimeError as wrong:
        lines = [line.strip() for line in str(wrong).splitlines() if line.strip()]
        raise ProjectError(
            f"{file} does not fit {name.removeprefix('local-dir:')}: {' '.join(lines[:2])[:400]} Give weights that "
            "were saved from it."
        ) from wrong
    return model, ()


def _shape_of(weights: Mapping[str, Tensor], configured: Mapping[str, Any]) -> dict[str, int]:
    """Outputs and input channels, where the weights show them under the names that timm gives."""
    found: dict[str, int] = {}
    for argument, field, axis in (("num_classes", "classifier", 0), ("in_chans", "first_conv", 1)):
        named = configured.get(field)
        first = named[0] if isinstance(named, (tuple, list)) and named else named
        weight = weights.get(f"{first}.weight")
        if weight is not None and weight.ndim > axis:
            found[argument] = weight.shape[axis]
    return found


def _check_folder(folder: Path) -> None:
    file = folder / "config.json"
    try:
        held = json_of(text_of(file))
    except (OSError, ValueError) as wrong:
        raise ProjectError(f"{file} cannot be read: {first_line(wrong)}. Save the model with timm again.") from wrong
    if not isinstance(held, Mapping) or not isinstance(cast(Any, held).get("architecture"), str):
        raise ProjectError(f"{file} is no configuration of timm. For one of transformers, give hf:{folder}.")


def _configuration(timm: Any, model: nn.Module, settings: SourceSettings, given: str) -> dict[str, Any]:
    configured: Any = getattr(model, "pretrained_cfg", {})
    weight = next((one for one in model.parameters() if one.ndim == 4), None)
    channels = int(getattr(model, "in_chans", 0)) or (weight.shape[1] if weight is not None else 3)
    _, *size = configured.get("input_size", (3, 224, 224))
    wanted = settings.size or tuple(size)
    if configured.get("fixed_input_size") and wanted != tuple(size):
        raise UsageError(
            f"size={wanted[0]}x{wanted[1]} does not fit {given}, which takes {size[0]}x{size[1]}. Leave size out."
        )
    found = timm.data.resolve_model_data_config(model, args={"input_size": (channels, *wanted)})
    for name in ("mean", "std"):
        if len(found[name]) != channels:
            found[name] = (sum(found[name]) / len(found[name]),) * channels
    return found


def _classes(timm: Any, model: nn.Module) -> tuple[str, ...]:
    """As the weights' configuration names them; ImageNet's classes by their synsets (`n01440764`)."""
    configured: Any = getattr(model, "pretrained_cfg", {})
    count = getattr(model, "num_classes", 0)
    named = configured.get("label_names")
    if not named and configured.get("num_classes") == count and (subset := timm.data.infer_imagenet_subset(model)):
        named = timm.data.ImageNetInfo(subset).label_names()
    return tuple(named) if named and len(named) == count else ()
