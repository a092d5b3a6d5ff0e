"""The data reader, on files made here."""

from __future__ import annotations

import io
import json
import sys
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import lissom.data
from lissom.data import Batches, Images, Sounds, Texts, crop_and_flip, split
from lissom.errors import DataError, UsageError


def picture(
    value: int, *, mode: str = "RGB", width: int = 6, height: int = 4, format: str = "PNG", seed: int = 0
) -> tuple[bytes, np.ndarray]:
    """An encoded image of noise, and its pixels as pillow has them; `value` marks its first pixel."""
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    pixels = np.random.default_rng(seed + value).integers(0, 256, shape, dtype=np.uint8)
    pixels[0, 0] = value
    stream = io.BytesIO()
    Image.fromarray(pixels, mode).save(stream, format, **({"lossless": True} if format == "WEBP" else {}))
    return stream.getvalue(), pixels


def sound(samples: list[int], *, rate: int = 8000, channels: int = 1, width: int = 2) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(np.asarray(samples, dtype=f"<i{width}").tobytes())
    return stream.getvalue()


def write(
    path: Path,
    cells: list[bytes],
    labels: pa.Array | list[int] | list[str],
    *,
    column: str = "image",
    struct: bool = True,
    names: list[str] | None = None,
    group: int = 3,
) -> None:
    data = [{"bytes": cell, "path": None} for cell in cells] if struct else cells
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if struct else pa.binary()
    table = pa.table({column: pa.array(data, kind), "label": labels})
    if names is not None:
        info = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=group)


def tagged(n: int, classes: int = 3) -> Images:
    """Images whose only pixel is their number."""
    pixels = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1)
    return Images(pixels, torch.arange(n) % classes, tuple("abcdefghij"[:classes]))


def ids(batches: Batches) -> list[list[int]]:
    return [(x * 255).round().int().flatten().tolist() for x, _ in batches]


# Parquet ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
@pytest.mark.parametrize("struct", [True, False])
def test_parquet_decodes_every_pixel_in_order(tmp_path: Path, format: str, struct: bool) -> None:
    made = [picture(value, format=format) for value in range(8)]
    write(tmp_path / "train.parquet", [data for data, _ in made], [0, 1, 2, 0, 1, 2, 0, 1], struct=struct)

    images = lissom.data.parquet(tmp_path, "train")

    assert images.pixels.dtype is torch.uint8
    assert images.pixels.stride() == (3 * 4 * 6, 4 * 6, 6, 1)
    assert np.array_equal(images.pixels.numpy(), np.stack([p for _, p in made]).transpose(0, 3, 1, 2))
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert images.classes == ("0", "1", "2")


def test_parquet_reads_all_numbered_files_in_order(tmp_path: Path) -> None:
    for part in range(3):
        cells = [picture(10 * part + row)[0] for row in range(4)]
        write(tmp_path / f"test-{part:05d}-of-00003.parquet", cells, [part] * 4)
    images = lissom.data.parquet(tmp_path, "test")
    assert images.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]

    (tmp_path / "test-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match=r"split 'test' are not one complete set: test-00000-of-00003\.parquet, "):
        lissom.data.parquet(tmp_path, "test")


def test_limit_spreads_over_a_split_sorted_by_class(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [picture(v)[0] for v in range(12)], ["a"] * 4 + ["b"] * 4 + ["c"] * 4)
    images = lissom.data.parquet(tmp_path, "train", limit=6)
    assert images.pixels[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8, 10]
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    few = lissom.data.parquet(tmp_path, "train", limit=1)
    assert few.classes == ("a", "b", "c")
    assert len(lissom.data.parquet(tmp_path, "train", limit=99)) == 12
    with pytest.raises(UsageError, match="limit must be at least 1, got 0"):
        lissom.data.parquet(tmp_path, "train", limit=0)


def test_declared_class_names_are_kept_and_given_ones_come_first(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [picture(v)[0] for v in range(2)], [0, 1], names=["cat", "dog", "emu"])
    assert lissom.data.parquet(tmp_path, "train").classes == ("cat", "dog", "emu")
    assert lissom.data.parquet(tmp_path, "train", classes=["x", "y"]).classes == ("x", "y")
    with pytest.raises(UsageError, match=r"found the label 1, but `classes` names 1 \(0 to 0\)"):
        lissom.data.parquet(tmp_path, "train", classes=["x"])


def test_given_classes_number_a_split_that_lacks_some(tmp_path: Path) -> None:
    write(tmp_path / "test.parquet", [picture(v)[0] for v in range(2)], ["c", "b"])
    images = lissom.data.parquet(tmp_path, "test", classes=["a", "b", "c"])
    assert images.labels.tolist() == [2, 1]
    with pytest.raises(UsageError, match=r"the label 'c' is not among `classes`. Known: a, b"):
        lissom.data.parquet(tmp_path, "test", classes=["a", "b"])


def test_size_covers_and_cuts_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12, 3), dtype=np.uint8)
    pixels[:, 4:8] = 200
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    write(tmp_path / "train.parquet", [stream.getvalue(), picture(0, width=9, height=5)[0]], [0, 1])
    images = lissom.data.parquet(tmp_path, "train", size=4)
    assert images.pixels.shape == (2, 3, 4, 4)
    assert images.pixels[0].unique().tolist() == [200]
    assert lissom.data.parquet(tmp_path, "train", size=(2, 3)).pixels.shape == (2, 3, 2, 3)
    with pytest.raises(DataError, match=r"row 1 is 9x5 pixels, but .*row 0 is 12x4\. Pass size="):
        lissom.data.parquet(tmp_path, "train")
    with pytest.raises(UsageError, match=r"size must be pixels above 0, or .* got 0"):
        lissom.data.parquet(tmp_path, "train", size=0)


def test_channels(tmp_path: Path) -> None:
    colour, grey = picture(0)[0], picture(1, mode="L")[0]
    write(tmp_path / "colour.parquet", [colour, grey, picture(2, mode="RGBA")[0]], [0, 0, 0])
    images = lissom.data.parquet(tmp_path, "colour")
    assert images.pixels.shape == (3, 3, 4, 6)
    assert torch.equal(images.pixels[1, 0], images.pixels[1, 2])

    write(tmp_path / "grey.parquet", [grey, colour], [0, 0])
    with pytest.raises(DataError, match=r"row 1 is in colour, but one channel is wanted .* Pass channels=3"):
        lissom.data.parquet(tmp_path, "grey")
    assert lissom.data.parquet(tmp_path, "grey", channels=3).pixels.shape == (2, 3, 4, 6)
    with pytest.raises(UsageError, match=r"channels must be 1 \(grey\) or 3 \(colour\), got 4"):
        lissom.data.parquet(tmp_path, "grey", channels=4)


def test_palette_with_transparency_reads_without_a_warning(tmp_path: Path) -> None:
    stream = io.BytesIO()
    image = Image.fromarray(np.full((4, 6, 3), 90, dtype=np.uint8)).convert("P")
    image.save(stream, "PNG", transparency=bytes([0, 128, 255]))
    write(tmp_path / "train.parquet", [stream.getvalue()], [0])
    assert lissom.data.parquet(tmp_path, "train").pixels.shape == (1, 3, 4, 6)


def test_sixteen_bit_images_are_refused_instead_of_clipped(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6), 40000, dtype=np.uint16)).save(stream, "PNG")
    write(tmp_path / "train.parquet", [stream.getvalue()], [0])
    with pytest.raises(DataError, match="pixels of mode 'I;16', which do not fit 8 bits"):
        lissom.data.parquet(tmp_path, "train")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not an image", "it is in no format that pillow knows"),
        (picture(0)[0][:80], "truncated"),
    ],
)
def test_an_undecodable_image_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    cells = [picture(v)[0] for v in range(4)] + [data]
    write(tmp_path / "train.parquet", cells, [0] * 5)
    with pytest.raises(DataError, match=rf"train\.parquet, row group 1, row 1 cannot be decoded.*{reason}"):
        lissom.data.parquet(tmp_path, "train")


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [picture(0)[0]], [0])
    with pytest.raises(UsageError, match=r"has no split 'trian': neither .* Did you mean 'train'\?"):
        lissom.data.parquet(tmp_path, "trian")
    with pytest.raises(UsageError, match=r"has no column 'img' among image, label\. Did you mean 'image'\?"):
        lissom.data.parquet(tmp_path, "train", image="img")
    with pytest.raises(UsageError, match=r"has no column 'target' among image, label\."):
        lissom.data.parquet(tmp_path, "train", label="target")
    with pytest.raises(UsageError, match="the column 'label' holds int64, neither bytes nor structs"):
        lissom.data.parquet(tmp_path, "train", image="label")
    with pytest.raises(UsageError, match=r"the column 'image' holds struct.*, labels are whole numbers or names"):
        lissom.data.parquet(tmp_path, "train", label="image")

    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match=r"There is no folder .*imags/cat\. In .*: Did you mean 'images'\?"):
        lissom.data.parquet(tmp_path / "imags" / "cat", "train")
    with pytest.raises(UsageError, match=r"images has no split 'train': .* It holds nothing; no parquet file"):
        lissom.data.parquet(tmp_path / "images", "train")
    with pytest.raises(UsageError, match=r"train\.parquet is a file, a folder is expected"):
        lissom.data.parquet(tmp_path / "train.parquet", "train")


def test_labels_that_are_none(tmp_path: Path) -> None:
    write(tmp_path / "null.parquet", [picture(0)[0]] * 2, pa.array([0, None]))
    with pytest.raises(DataError, match=r"null\.parquet: 1 rows have no 'label'"):
        lissom.data.parquet(tmp_path, "null")
    write(tmp_path / "minus.parquet", [picture(0)[0]] * 2, [-1, -1])
    with pytest.raises(DataError, match="found the label -1, which usually marks an unlabelled split"):
        lissom.data.parquet(tmp_path, "minus")
    write(tmp_path / "empty.parquet", [], pa.array([], pa.int64()))
    with pytest.raises(DataError, match="the split 'empty' has no rows"):
        lissom.data.parquet(tmp_path, "empty")
    write(tmp_path / "path.parquet", [None], [0])
    with pytest.raises(DataError, match=r"row 0 holds no bytes in 'image\.bytes', perhaps only a path"):
        lissom.data.parquet(tmp_path, "path")


def test_a_truncated_parquet_file(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [picture(0)[0]], [0])
    data = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(data[:-20])
    with pytest.raises(DataError, match=r"train\.parquet cannot be read as parquet: "):
        lissom.data.parquet(tmp_path, "train")


@pytest.mark.parametrize(("module", "package"), [("pyarrow", "pyarrow"), ("PIL", "pillow")])
def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    write(tmp_path / "train.parquet", [picture(0)[0]], [0])
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf'{package}, which is not installed\. pip install "lissom\[data\]"'):
        lissom.data.parquet(tmp_path, "train")


def test_parquet_audio(tmp_path: Path) -> None:
    cells = [sound([1, -2, 3]), sound([-32768, 32767]), sound([5, 6, 7, 8])]
    write(tmp_path / "train.parquet", cells, [2, 0, 1], column="audio")

    sounds = lissom.data.parquet_audio(tmp_path, "train")
    assert sounds.samples.tolist() == [[[1, -2, 3, 0]], [[-32768, 32767, 0, 0]], [[5, 6, 7, 8]]]
    assert sounds.samples.dtype is torch.int16
    assert (sounds.lengths.tolist(), sounds.labels.tolist(), sounds.rate_hz) == ([3, 2, 4], [2, 0, 1], 8000)

    cut = lissom.data.parquet_audio(tmp_path, "train", length=2, limit=2)
    assert cut.samples.tolist() == [[[1, -2]], [[-32768, 32767]]]
    assert cut.lengths.tolist() == [2, 2]
    x, y = next(iter(Batches(cut, batch_size=2)))
    assert x[1].tolist() == [[-1.0, 32767 / 32768]]
    assert y.tolist() == [2, 0]
    with pytest.raises(UsageError, match="length must be at least 1 sample, got 0"):
        lissom.data.parquet_audio(tmp_path, "train", length=0)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([sound([1]), sound([1], rate=16000)], "row 1 has 16000 samples per second, but .*row 0 has 8000"),
        ([sound([1, 2], channels=2)], r"row 0 has 2 channel\(s\) of 16 bits; only 16 bit mono is read"),
        ([sound([1], width=4)], r"row 0 has 1 channel\(s\) of 32 bits; only 16 bit mono is read"),
        ([sound([1, 2, 3])[:-3]], r"row 0 is cut off: 1 of 3 samples are there"),
        ([b"RIFFnonsense"], "row 0 cannot be decoded as WAV"),
        ([b""], "row 0 cannot be decoded as WAV: it ends too early"),
    ],
)
def test_sounds_that_do_not_fit(tmp_path: Path, cells: list[bytes], message: str) -> None:
    write(tmp_path / "train.parquet", cells, [0] * len(cells), column="audio")
    with pytest.raises(DataError, match=message):
        lissom.data.parquet_audio(tmp_path, "train")


# Plain files ------------------------------------------------------------------------------------------------


def test_image_folder(tmp_path: Path) -> None:
    for name, value in [("dog/2.png", 2), ("dog/10.PNG", 10), ("cat/deep/1.png", 1), ("emu/3.png", 3)]:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(value)[0])
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "dog" / "._2.png").write_bytes(b"left by a file manager")
    (tmp_path / ".cache").mkdir()

    images = lissom.data.image_folder(tmp_path)
    assert images.classes == ("cat", "dog", "emu")
    assert images.labels.tolist() == [0, 1, 1, 2]
    assert images.pixels[:, 0, 0, 0].tolist() == [1, 10, 2, 3]
    assert lissom.data.image_folder(tmp_path, limit=2).labels.tolist() == [0, 1]
    assert lissom.data.image_folder(tmp_path, size=2).pixels.shape == (4, 3, 2, 2)
    assert lissom.data.image_folder(tmp_path, classes=["dog", "cat", "emu"]).labels.tolist() == [1, 0, 0, 2]


def test_image_folder_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(0)[0])
    with pytest.raises(UsageError, match=r"holds a\.png, but no sub-folders\. Expected one sub-folder per class"):
        lissom.data.image_folder(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"cat holds a\.tar, no image\. Read are \.bmp, "):
        lissom.data.image_folder(tmp_path)
    (tmp_path / "cat" / "b.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"cat/b\.jpg cannot be decoded as an image"):
        lissom.data.image_folder(tmp_path)


def test_tsv(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_text("a good\tfilm\t1\nbad\t0\nso so\t10\n", encoding="utf-8")
    texts = lissom.data.tsv(file)
    assert texts.texts == ("a good\tfilm", "bad", "so so")
    assert texts.labels.tolist() == [1, 0, 10]
    assert len(texts.classes) == 11
    file.write_text("x\tpos\ny\tneg", encoding="utf-8")
    assert lissom.data.tsv(file).classes == ("neg", "pos")
    assert lissom.data.tsv(file, limit=1).texts == ("x",)


def test_tsv_errors(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_bytes(b"fine\t1\nno label\n")
    with pytest.raises(DataError, match=r"train\.tsv, line 2: expected text<TAB>label, got 'no label'"):
        lissom.data.tsv(file)
    file.write_bytes(b"caf\xe9\t1\n")
    with pytest.raises(DataError, match="is not UTF-8: "):
        lissom.data.tsv(file)
    file.write_bytes(b"")
    with pytest.raises(DataError, match="line 1: expected text<TAB>label, got ''"):
        lissom.data.tsv(file)
    with pytest.raises(UsageError, match=r"There is no file .*tran\.tsv\. Did you mean 'train\.tsv'\?"):
        lissom.data.tsv(tmp_path / "tran.tsv")


# Sets and splits --------------------------------------------------------------------------------------------


def test_sets_check_what_they_hold() -> None:
    with pytest.raises(UsageError, match=r"Images\.pixels must be uint8 of shape \(n, c, h, w\), got float32"):
        Images(torch.zeros(2, 1, 3, 3), torch.zeros(2, dtype=torch.int64), ("a",))
    with pytest.raises(UsageError, match="Images needs one of each per example, got 2 pixels, 3 labels"):
        Images(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), ("a",))
    whole = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"Sounds\.samples must be int16 of shape \(n, 1, t\), got int16"):
        Sounds(torch.zeros(2, 2, 5, dtype=torch.int16), whole, whole, ("a",), 8000)
    with pytest.raises(UsageError, match="Texts needs one of each per example, got 1 texts, 2 labels"):
        Texts(("a",), torch.zeros(2, dtype=torch.int64), ("a",))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_memory_never_comes_out(channels: int) -> None:
    pixels = torch.zeros(4, 5, 6, channels, dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = torch.zeros(4, dtype=torch.int64)
    images = Images(pixels, labels, ("a",))
    expected = (channels * 30, 30, 6, 1)
    assert images.pixels.stride() == expected
    for data in (images, images.take(torch.tensor([3, 1, 0, 2])), (pixels.float(), labels)):
        x, _ = next(iter(Batches(data, batch_size=4, mean=0.5)))
        assert x.stride() == expected


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(lambda counts: 2 <= sum(counts) <= 200),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_split_is_exact_disjoint_and_stratified(counts: list[int], fraction: float, seed: int) -> None:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    total = len(labels)
    pixels = torch.arange(total, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    images = Images(pixels, labels, tuple(str(i) for i in range(len(counts))))
    if not 0 < round(fraction * total) < total:
        with pytest.raises(UsageError, match="leaves one part empty"):
            split(images, fraction, seed)
        return
    rest, part = split(images, fraction, seed)
    assert len(part) == round(fraction * total)
    rows = [part.pixels.flatten().tolist(), rest.pixels.flatten().tolist()]
    assert sorted(rows[0] + rows[1]) == list(range(total))
    assert all(half == sorted(half) for half in rows)
    drawn = torch.bincount(part.labels, minlength=len(counts))
    for got, count in zip(drawn.tolist(), counts, strict=True):
        assert abs(got - count * len(part) / total) < 1
    assert split(images, fraction, seed)[1].pixels.flatten().tolist() == rows[0]


def test_split_depends_on_its_seed_and_takes_any_set() -> None:
    images = tagged(60)
    assert not torch.equal(split(images, 0.5, 0)[1].pixels, split(images, 0.5, 1)[1].pixels)
    texts = Texts(tuple("abcdefgh"), torch.tensor([0, 1] * 4), ("x", "y"))
    rest, part = split(texts, 0.25, seed=0)
    assert sorted(rest.texts + part.texts) == list("abcdefgh")
    assert part.labels.tolist() == [0, 1] or part.labels.tolist() == [1, 0]
    with pytest.raises(UsageError, match=r"fraction 1\.5 of 60 examples leaves one part empty\. Pass a frac"):
        split(images, 1.5, 0)


# Batches ----------------------------------------------------------------------------------------------------


@given(
    n=st.integers(1, 100),
    batch_size=st.integers(1, 120),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 50),
)
@settings(max_examples=60, deadline=None)
def test_batches_partition_the_data(n: int, batch_size: int, shuffle: bool, seed: int, epoch: int) -> None:
    images = tagged(n)
    batches = Batches(images, batch_size=batch_size, shuffle=shuffle, seed=seed, epoch=epoch)
    seen = ids(batches)
    flat = [row for batch in seen for row in batch]
    assert sorted(flat) == list(range(n))
    assert shuffle or flat == list(range(n))
    assert len(batches) == len(seen)
    assert all(len(batch) == batch_size for batch in seen[:-1])
    assert 1 <= len(seen[-1]) <= batch_size
    assert [row % 3 for row in flat] == torch.cat([y for _, y in batches]).tolist()
    assert ids(batches) == seen


@given(seed=st.integers(0, 1000), epochs=st.sets(st.integers(0, 1000), min_size=2, max_size=4))
@settings(max_examples=30, deadline=None)
def test_an_epoch_has_its_own_order_and_always_the_same(seed: int, epochs: set[int]) -> None:
    batches = Batches(tagged(64), batch_size=16, shuffle=True, seed=seed)
    orders = {epoch: str(ids(batches.at_epoch(epoch))) for epoch in epochs}
    assert len(set(orders.values())) == len(epochs)
    for epoch in epochs:
        again = Batches(tagged(64), batch_size=16, shuffle=True, seed=seed, epoch=epoch)
        assert str(ids(again)) == orders[epoch]
    assert batches.epoch == 0


def test_seed_and_epoch_do_not_add_up() -> None:
    batches = Batches(tagged(64), shuffle=True, seed=0, epoch=1)
    assert ids(batches) != ids(Batches(tagged(64), shuffle=True, seed=1, epoch=0))


def test_iterating_leaves_the_global_generator_and_the_data_alone() -> None:
    images = tagged(20)
    inputs = torch.rand(20, 2)
    kept = images.pixels.clone(), inputs.clone()
    state = torch.random.get_rng_state()
    for data in (images, (inputs, images.labels)):
        for x, y in Batches(data, batch_size=6, shuffle=True):
            x.zero_()
            y.zero_()
        for x, _ in Batches(data, batch_size=6):
            x.zero_()
    split(images, 0.5, 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(images.pixels, kept[0])
    assert torch.equal(inputs, kept[1])
    assert images.labels.tolist() == [row % 3 for row in range(20)]


def test_normalisation_is_per_channel_in_units_of_the_scaled_input() -> None:
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(1, 3, 1, 1)
    images = Images(pixels, torch.zeros(1, dtype=torch.int64), ("a",))
    x, _ = next(iter(Batches(images, mean=(0.5, 0.5, 0.1), std=(0.5, 0.25, 0.1))))
    assert x.dtype is torch.float32
    torch.testing.assert_close(x.flatten(), torch.tensor([-1.0, 2.0, 1.0]))
    x, _ = next(iter(Batches(images, mean=1)))
    torch.testing.assert_close(x.flatten(), torch.tensor([-1.0, 0.0, -0.8]))


def test_token_ids_pass_unchanged() -> None:
    tokens = torch.tensor([[1, 2], [3, 4], [5, 6]])
    labels = torch.tensor([0, 1, 0])
    batches = list(Batches((tokens, labels), batch_size=2))
    assert [x.tolist() for x, _ in batches] == [[[1, 2], [3, 4]], [[5, 6]]]
    assert batches[0][0].dtype is torch.int64
    with pytest.raises(UsageError, match=r"mean and std need pixels, samples or floats, got inputs of torch\.int64"):
        Batches((tokens, labels), mean=0.5)


def test_batches_refuse_what_cannot_be() -> None:
    images = tagged(4)
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        Batches(images, batch_size=0)
    with pytest.raises(UsageError, match=r"mean has 3 numbers, but inputs of shape \(4, 1, 1, 1\) have 1 channels"):
        Batches(images, mean=(0.1, 0.2, 0.3))
    with pytest.raises(UsageError, match="std must be above 0 in every channel, got 0"):
        Batches(images, std=0)
    with pytest.raises(UsageError, match="data has 3 inputs and 4 labels"):
        Batches((torch.zeros(3, 1), images.labels))
    with pytest.raises(UsageError, match="data has 0 inputs and 0 labels"):
        Batches((torch.zeros(0, 1), torch.zeros(0)))


def test_augmentation_draws_from_the_epoch_only() -> None:
    images = tagged(12)

    def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + torch.rand(x.shape, generator=generator)

    batches = Batches(images, batch_size=5, augment=jitter)
    first, again, other = (torch.cat([x for x, _ in b]) for b in (batches, batches, batches.at_epoch(1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@given(padding=st.integers(0, 3), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_crop_and_flip_gives_a_window_of_the_padded_image(padding: int, seed: int) -> None:
    x = torch.arange(1.0, 1 + 5 * 2 * 4 * 3).reshape(5, 2, 4, 3)
    out = crop_and_flip(padding)(x, torch.Generator().manual_seed(seed))
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    for image, got in zip(padded, out, strict=True):
        windows = [
            image[:, top : top + 4, left : left + 3]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        assert any(torch.equal(got, w) or torch.equal(got, w.flip(-1)) for w in windows)
    assert out.is_contiguous()


def test_crop_and_flip_reaches_every_offset_and_both_sides() -> None:
    x = torch.arange(1.0, 5.0).reshape(1, 1, 2, 2).expand(400, 1, 2, 2)
    out = crop_and_flip(1)(x, torch.Generator().manual_seed(0))
    assert len({tuple(image.flatten().tolist()) for image in out}) == 18
    with pytest.raises(UsageError, match="padding must be 0 or more pixels, got -1"):
        crop_and_flip(-1)
