"""Classifiers of images and of texts as transformers saves them: a folder, or a name on its hub.

Weights are read from safetensors only, and no code that a folder brings is run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lissom.data._sets import generator_for
from lissom.errors import ProjectError, UsageError, first_line
from lissom.reading import json_of, text_of
from lissom.sources.opened import Opened
from lissom.sources.optional import needed
from lissom.sources.pictures import Pictures
from lissom.sources.settings import SourceSettings
from lissom.sources.words import Words
from lissom.task import Task

PREFIX = "hf:"
IMAGES, TEXTS = "ForImageClassification", "ForSequenceClassification"
LENGTH = 128
"""Tokens of the example where neither data nor settings give a length, unless the model takes fewer."""


def open_hugging_face(given: str, settings: SourceSettings) -> Opened:
    """`hf:FOLDER` with config.json and model.safetensors, or `hf:NAME` of the hub.

    Raises:
        UsageError: transformers is not installed, or a setting that means nothing for this model.
        ProjectError: nothing there, another kind of model, weights that are missing, damaged or quantized.
    """
    transformers = needed("transformers", given)
    settings.refuse(given, "weights", "shape")
    place = _Place(given, given.removeprefix(PREFIX))
    configuration = place.load(transformers.AutoConfig, "configuration")
    kind = _kind(given, configuration)
    model = _model(transformers, place, configuration, kind)
    classes = _classes(configuration)
    if isinstance(settings.data, (str, Path)):
        _check_single(given, configuration)
    name = Path(place.name).name
    if kind == IMAGES:
        settings.refuse(given, "text", "length")
        pictures, (height, width), notes = _pictures(transformers, place, configuration)
        channels = int(getattr(configuration, "num_channels", 3))
        example = torch.randn(1, channels, height, width, generator=generator_for("example", 0))
        return Opened(model, Task(example_inputs=(example,), name=name), pictures, classes, notes)
    settings.refuse(given, "size", "mean", "std", "image")
    task = Task(example_kwargs=_example(model, configuration, settings), name=name)
    if not isinstance(settings.data, (str, Path)):
        return Opened(model, task, classes=classes)
    tokenizer = place.load(transformers.AutoTokenizer, "tokenizer")
    taken = inspect.signature(model.forward).parameters
    names = tuple(one for one in tokenizer.model_input_names if one in taken)
    limit = _longest(model, configuration)
    longest = min(int(tokenizer.model_max_length), limit)
    if settings.length is not None and settings.length > limit:
        raise UsageError(f"length={settings.length} is more than {limit}, the tokens that {given} takes. Lower it.")
    return Opened(model, task, Words(tokenizer, names, longest), classes)


@dataclass(frozen=True)
class _Place:
    """
    Raises:
        ProjectError: a folder that is none, or not of this library.
    """

    given: str
    name: str

    def __post_init__(self) -> None:
        folder = Path(self.name)
        if not self.local:
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.name) or self.name.startswith("."):
                raise ProjectError(f"There is no folder {folder}. Give hf:FOLDER, or hf:OWNER/NAME of the hub.")
            return
        file = folder / "config.json"
        try:
            held = json_of(text_of(file))
        except FileNotFoundError:
            raise ProjectError(f"{folder} has no config.json. Save the model with save_pretrained({folder}).") from None
        except (OSError, ValueError) as wrong:
            raise ProjectError(f"{file} cannot be read: {first_line(wrong)}. Save the model again.") from wrong
        if isinstance(held, Mapping) and "architecture" in held and "model_type" not in held:
            raise ProjectError(f"{file} is of timm. Give timm:{folder}.")

    @property
    def local(self) -> bool:
        return Path(self.name).is_dir()

    def load(self, kind: Any, what: str, **more: Any) -> Any:
        """What the library makes of it, without running code from there.

        Raises:
            ProjectError: it is missing, damaged, not to be fetched, or of code of its own.
        """
        try:
            return kind.from_pretrained(self.name, local_files_only=self.local, trust_remote_code=False, **more)
        except Exception as wrong:  # what the library, its hub and the network raise shares no base class
            way_out = (
                "Save it again with save_pretrained, weights as safetensors."
                if self.local
                else "Fetch its files into a folder where there is a network, and give hf:FOLDER."
            )
            raise ProjectError(f"The {what} of {self.given} cannot be loaded: {_said(wrong)}. {way_out}") from wrong


def _said(wrong: BaseException) -> str:
    return first_line(wrong).strip().rstrip(".")[:400]


def _kind(given: str, configuration: Any) -> str:
    architectures: list[str] = list(getattr(configuration, "architectures", None) or ())
    kind = next((kind for kind in (IMAGES, TEXTS) for one in architectures if kind in one), None)
    if kind is None:
        raise ProjectError(
            f"{given} is {' and '.join(architectures) or 'of no stated architecture'}; read are classifiers of images "
            f"(...{IMAGES}) and of texts (...{TEXTS}). Write a project file for it."
        )
    if getattr(configuration, "quantization_config", None):
        raise ProjectError(f"{given} holds quantized weights. Give the model in float.")
    return kind


def _model(transformers: Any, place: _Place, configuration: Any, kind: str) -> nn.Module:
    """In float32 and for evaluation, with every weight from the file."""
    model, found = place.load(
        getattr(transformers, f"AutoModel{kind}"),
        "model",
        config=configuration,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
    )
    lacking = sorted({*found["missing_keys"], *(str(one[0]) for one in found.get("mismatched_keys", ()))})
    if lacking:
        raise ProjectError(
            f"The weights of {place.given} lack {len(lacking)} that {type(model).__name__} has ({lacking[0]}, "
            "for one), which would be random. Give a model that was trained for this task."
        )
    return model.eval()


def _classes(configuration: Any) -> tuple[str, ...]:
    names: dict[int, str] = dict(getattr(configuration, "id2label", None) or {})
    ordered = tuple(str(names.get(number, "")) for number in range(len(names)))
    return () if not all(ordered) or all(re.fullmatch(r"LABEL_\d+", name) for name in ordered) else ordered


def _check_single(given: str, configuration: Any) -> None:
    problem = getattr(configuration, "problem_type", None)
    if problem in ("regression", "multi_label_classification") or getattr(configuration, "num_labels", 2) < 2:
        raise UsageError(
            f"{given} answers with {problem or 'one number'}; data is read for one class an example. Write a project "
            "file for it."
        )


def _example(model: nn.Module, configuration: Any, settings: SourceSettings) -> dict[str, Tensor]:
    """Of random tokens, all of them real."""
    length = settings.length or min(LENGTH, _longest(model, configuration))
    ids = torch.randint(int(configuration.vocab_size), (1, length), generator=generator_for("example", 0))
    made = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    taken = inspect.signature(model.forward).parameters
    return {name: value for name, value in made.items() if name in taken}


def _longest(model: nn.Module, configuration: Any) -> int:
    """Tokens that the table of positions has rows for."""
    rows = int(getattr(configuration, "max_position_embeddings", 0) or 1 << 20)
    padded = [
        part.padding_idx
        for name, part in model.named_modules()
        if isinstance(part, nn.Embedding) and "position" in name and part.padding_idx is not None
    ]
    # Roberta and its kin count positions from behind the one of padding.
    return rows - (padded[0] + 1 if padded else 0)


_NUMBERS = ("do_rescale", "do_normalize", "include_top")
"""Steps that make numbers of pixels; the last is EfficientNet's second normalization."""


@dataclass(frozen=True, eq=False)
class _Frame:
    """The model's own scaling and cutting, without what makes numbers of pixels."""

    processor: Any
    mode: str

    def __call__(self, image: Any) -> NDArray[np.uint8]:
        steps = [name for name in _NUMBERS if hasattr(self.processor, name)]
        made = _processed(self.processor, image.convert(self.mode), **dict.fromkeys(steps, False))
        return np.rint(made).clip(0, 255).astype(np.uint8)


def _processed(processor: Any, image: Any, **settings: Any) -> NDArray[np.float64]:
    return np.asarray(processor(images=image, return_tensors="np", **settings)["pixel_values"][0], np.float64)


def _pictures(
    transformers: Any, place: _Place, configuration: Any
) -> tuple[Pictures, tuple[int, int], tuple[str, ...]]:
    """How images are read, the size that comes out, and what there is to tell.

    Raises:
        ProjectError: a way of preparing images that is not scaling, cutting, and a line per channel.
    """
    if place.local and not (Path(place.name) / "preprocessor_config.json").is_file():
        size: Any = getattr(configuration, "image_size", None) or 224
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        note = (
            "It comes without preprocessor_config.json: images are scaled to cover the model's size and not "
            "normalized, unless mean and std are set."
        )
        return Pictures(), (int(height), int(width)), (note,)
    processor = place.load(transformers.AutoImageProcessor, "preprocessing", backend="pil")
    from PIL import Image

    mode = "L" if getattr(configuration, "num_channels", 3) == 1 else "RGB"
    frame = _Frame(processor, mode)
    noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    black, white, probe = (Image.fromarray(pixels).convert(mode) for pixels in (0 * noise, 0 * noise + 255, noise))
    try:
        low, high = _processed(processor, black), _processed(processor, white)
        middle = (slice(None), low.shape[1] // 2, low.shape[2] // 2)
        std = 1 / (high[middle] - low[middle])
        mean = 0.0 - low[middle] * std
        wanted, pixels = _processed(processor, probe), frame(probe)
        followed = np.abs((pixels / 255 - mean[:, None, None]) / std[:, None, None] - wanted)
        close = bool((followed <= 1 / 255 / std[:, None, None]).all())
    except Exception as wrong:  # processors differ in what they take and return
        raise ProjectError(f"Images cannot be prepared as {place.given} asks: {_said(wrong)}. {_FILE}") from wrong
    if not close:
        raise ProjectError(
            f"Images cannot be prepared as {place.given} asks: {type(processor).__name__} does more than scale, cut "
            f"and normalize. {_FILE}"
        )
    return Pictures(tuple(mean.tolist()), tuple(std.tolist()), frame), (low.shape[1], low.shape[2]), ()


_FILE = "Write a project file for it."
