"""A detector of the usual shape (CSP blocks, SPPF, concatenation, upsampling, three heads) for an edge board.

    lissom compress examples/detector.py --set data=FOLDER --set weights=detector.safetensors \
        --recipe recipe.yaml --target openvino --out runs/detector

`data` holds train/, validation/ and test/, each with images/NAME.png and labels/NAME.txt as YOLO tools write them: a
row `class x y w h` per object, centre and size as shares of the image. `weights` is a file: where it is missing, the
network is trained (`epochs`) and the file is written. The metric is the mean average precision at an overlap of 0.5.
Recipe:

    - Prune: {macs_ratio: 2}
    - Finetune: {epochs: 10, learning_rate: 0.002, optimizer: adamw, teacher: original, losses: [squared]}
    - Fold: {}
    - Quantize: {}

Cells near the centre of an object learn it, on the scale that suits its size (FCOS, arXiv:1904.01355); boxes by
generalized IoU (arXiv:1902.09630).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lissom
import lissom.data
from lissom.errors import ProjectError
from lissom.training.finetune import finetune
from lissom.training.settings import Training

STRIDES = (8, 16, 32)
MOST = 16
"""Objects in an image; rows that are not there have class -1."""


class Block(nn.Sequential):
    """Convolution, normalization, SiLU."""

    def __init__(self, given: int, made: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(given, made, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(made), nn.SiLU()
        )


class Csp(nn.Module):
    """Cross-stage partial: one half goes through two convolutions, all stages are concatenated."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.enter, self.leave = Block(given, made), Block(made // 2 * 3, made)
        self.stage = nn.Sequential(Block(made // 2, made // 2, 3), Block(made // 2, made // 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.enter(x).chunk(2, 1)
        return self.leave(torch.cat([first, second, second + self.stage(second)], 1))


class Sppf(nn.Module):
    """The same maximum pooled once, twice and three times, side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave, self.pool = Block(width, width // 2), Block(2 * width, width), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Detector(nn.Module):
    """`(b, 3, h, w)`, sides multiples of 32, to `(b, cells, 4 + classes)`: left, top, right, bottom as log of the
    distance in strides, then logits; the cells of stride 8 first, row by row, then 16, then 32."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        a, b, c, d = width, 2 * width, 4 * width, 8 * width
        self.small = nn.Sequential(Block(3, a, 3, 2), Block(a, b, 3, 2), Csp(b, b), Block(b, b, 3, 2), Csp(b, b))
        self.middle = nn.Sequential(Block(b, c, 3, 2), Csp(c, c))
        self.large = nn.Sequential(Block(c, d, 3, 2), Csp(d, d), Sppf(d))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.join_middle, self.join_small = Csp(d + c, c), Csp(c + b, b)
        self.heads = nn.ModuleList(
            nn.Sequential(Block(k, b, 3), Block(b, b, 3), nn.Conv2d(b, 4 + classes, 1)) for k in (b, c, d)
        )
        for head in self.heads:
            nn.init.constant_(head[-1].bias[4:], -4.0)  # few cells hold an object

    def forward(self, x: Tensor) -> Tensor:
        small = self.small(x)
        middle = self.middle(small)
        large = self.large(middle)
        middle = self.join_middle(torch.cat([self.up(large), middle], 1))
        small = self.join_small(torch.cat([self.up(middle), small], 1))
        found = [head(x).flatten(2) for head, x in zip(self.heads, (small, middle, large), strict=True)]
        return torch.cat(found, 2).transpose(1, 2)


def cells(size: int) -> tuple[Tensor, Tensor]:
    """Centres `(cells, 2)` in pixels and strides `(cells,)` for square images."""
    centres, strides = [], []
    for stride in STRIDES:
        line = (torch.arange(size // stride) + 0.5) * stride
        y, x = torch.meshgrid(line, line, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()], 1))
        strides.append(torch.full((len(line) ** 2,), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def boxes_of(outputs: Tensor, size: int) -> Tensor:
    """`(b, cells, 4)` corners in pixels."""
    centres, strides = cells(size)
    reach = outputs[..., :4].clamp(max=6).exp() * strides[:, None]
    return torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], -1)


def overlap(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalized IoU of corners `(..., 4)`."""
    area = [(box[..., 2:] - box[..., :2]).clamp_min(0).prod(-1) for box in (one, other)]
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    union = (area[0] + area[1] - shared).clamp_min(1e-9)
    hull = (torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])).prod(-1)
    return shared / union, shared / union - (hull - union) / hull.clamp_min(1e-9)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of all cells, 1 - GIoU of those that hold an object; `targets` `(b, MOST, 5)`: class, corners."""
    size = side(outputs)
    centres, strides = cells(size)
    kinds, corners = targets[..., 0], targets[..., 1:]
    middle, longest = (corners[..., :2] + corners[..., 2:]) / 2, (corners[..., 2:] - corners[..., :2]).amax(-1)
    near = (centres[:, None] - middle[:, None]).abs().amax(-1) < 1.5 * strides[:, None]
    inside = (centres[:, None] > corners[:, None, :, :2]).all(-1) & (centres[:, None] < corners[:, None, :, 2:]).all(-1)
    level = torch.where(longest < 32, 8.0, torch.where(longest < 64, 16.0, 32.0))
    fits = strides[:, None] == level[:, None]
    held = near & inside & fits & (kinds >= 0)[:, None]
    # Of several objects in a cell the smallest counts.
    owner = torch.where(held, longest[:, None], torch.inf).argmin(-1)
    taken = held.any(-1)
    wanted = torch.zeros_like(outputs[..., 4:])
    batch, cell = taken.nonzero(as_tuple=True)
    mine = owner[batch, cell]
    wanted[batch, cell, kinds[batch, mine].long()] = 1.0
    count = max(1, len(cell))
    classes = F.binary_cross_entropy_with_logits(outputs[..., 4:], wanted, reduction="sum")
    boxes = 1 - overlap(boxes_of(outputs, size)[batch, cell], corners[batch, mine])[1]
    return (classes + 2 * boxes.sum()) / count


def side(outputs: Tensor) -> int:
    """Of the square image: its cells are s² (1/64 + 1/256 + 1/1024)."""
    return round((outputs.shape[1] * 1024 / 21) ** 0.5)


def kept(corners: Tensor, scores: Tensor, most: int = 50) -> tuple[Tensor, Tensor]:
    """Corners and scores after greedy suppression of overlaps above 0.6, best first."""
    order = scores.argsort(descending=True)[:200]
    corners, scores = corners[order], scores[order]
    over = overlap(corners[:, None], corners[None])[0] > 0.6
    free, chosen = np.ones(len(order), dtype=bool), []
    for index, row in enumerate(over.numpy()):
        if free[index] and len(chosen) < most:
            chosen.append(index)
            free &= ~row
    return corners[chosen], scores[chosen]


def mean_average_precision(outputs: Tensor, targets: Tensor, least: float = 0.01) -> float:
    """Area under precision over recall at IoU 0.5, precision made monotone, averaged over the classes that occur."""
    corners, scores = boxes_of(outputs, side(outputs)), outputs[..., 4:].sigmoid()
    areas = []
    for kind in range(scores.shape[-1]):
        hits: list[tuple[float, bool]] = []
        total = int((targets[..., 0] == kind).sum())
        if not total:
            continue
        for boxes, score, truth in zip(corners, scores[..., kind], targets, strict=True):
            real = truth[truth[:, 0] == kind, 1:]
            free = torch.ones(len(real), dtype=torch.bool)
            for box, sure in zip(*kept(boxes[score > least], score[score > least]), strict=True):
                shared = overlap(real, box)[0] * free if len(real) else torch.zeros(1)
                hit = bool(shared.max() >= 0.5)
                if hit:
                    free[int(shared.argmax())] = False
                hits.append((float(sure), hit))
        right = np.cumsum([hit for _, hit in sorted(hits, key=lambda one: -one[0])])
        precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
        areas.append(float((precision * np.diff(right, prepend=0)).sum() / total))
    return float(np.mean(areas))


def read(folder: Path, size: int) -> tuple[Tensor, Tensor]:
    """uint8 images `(n, 3, size, size)` and `(n, MOST, 5)`: class and corners in pixels.

    Raises:
        ProjectError: there are no images, or an image holds more than `MOST` objects.
    """
    files = sorted(file for file in (folder / "images").glob("*") if file.suffix in (".png", ".jpg", ".jpeg"))
    if not files:
        raise ProjectError(f"{folder}: no images/*.png or *.jpg. Pass --set data=FOLDER with train/ and test/.")
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    targets = torch.full((len(files), MOST, 5), -1.0)
    for index, file in enumerate(files):
        pixels = np.array(Image.open(file).convert("RGB").resize((size, size)))
        images[index] = torch.from_numpy(pixels).permute(2, 0, 1)
        rows = np.loadtxt(folder / "labels" / f"{file.stem}.txt", ndmin=2).reshape(-1, 5)
        if len(rows) > MOST:
            raise ProjectError(f"{file.name} holds {len(rows)} objects, more than MOST={MOST}. Raise MOST.")
        centre, half = rows[:, 1:3] * size, rows[:, 3:] * size / 2
        targets[index, : len(rows)] = torch.from_numpy(np.hstack([rows[:, :1], centre - half, centre + half])).float()
    return images, targets


def build(
    data: str | Path | None = None,
    weights: str | Path | None = None,
    size: int | str = 128,
    epochs: int | str = 30,
    width: int | str = 16,
) -> tuple[nn.Module, lissom.Task]:
    """The trained detector and its task.

    Raises:
        ProjectError: `data` is not given or holds no images, or `size` is no multiple of 32.
    """
    size = int(size)
    if data is None:
        raise ProjectError("data is not given: the folder of train/, validation/ and test/. Pass --set data=FOLDER.")
    if size % 32:
        raise ProjectError(f"size={size}: the images' side has to be a multiple of 32, as in 128 or 640.")
    sets = {name: read(Path(data) / name, size) for name in ("train", "validation", "test")}
    batches = {
        name: lissom.data.Batches(one, batch_size=32, mean=0.45, std=0.25, shuffle=name == "train")
        for name, one in sets.items()
    }
    example, _ = next(iter(batches["test"]))
    task = lissom.Task(
        example_inputs=(example[:1],),
        calibration=replace(batches["train"], data=tuple(part[:256] for part in sets["train"]), shuffle=False),
        loss=loss,
        metric=mean_average_precision,
        name="detector",
        **batches,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Detector(1 + int(max(one[1][..., 0].max() for one in sets.values())), int(width))
    if weights is not None and Path(weights).is_file():
        model.load_state_dict(load_file(weights))
        return model.eval(), task
    settings = Training(epochs=int(epochs), learning_rate=0.003, optimizer="adamw", clip_norm=10.0, warmup=0.1)
    model = finetune(model, replace(task, validation=None), settings, seed=0).model.eval()
    if weights is not None:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    return model, task
