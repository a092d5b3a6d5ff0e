"""A small reader for labelled data: what is on disk, decoded once, as batches of `(x, y)`.

    images = lissom.data.parquet("cifar10", "train")                  # Images, uint8 (n, c, h, w)
    train, validation = lissom.data.split(images, 0.1, seed=0)        # stratified
    batches = lissom.data.Batches(train, batch_size=128, mean=0.5, std=0.25, shuffle=True, seed=0,
                                  augment=lissom.data.crop_and_flip(padding=4))
    for x, y in batches.at_epoch(3): ...                              # float32 (b, c, h, w), int64 (b,)

Everything is held in memory in the type it was stored in; each batch is converted when it is handed out.
There are no workers and no global state, so the same arguments give the same batches. A
`torch.utils.data.DataLoader`, or any other re-iterable of `(x, y)`, serves a `lissom.Task` just as well:
this reader is a convenience, not a requirement.

Reading parquet or images needs `pip install "lissom[data]"`.
"""

from lissom.data._batches import Augment, Batches, crop_and_flip
from lissom.data._folders import image_folder, table, tsv
from lissom.data._parquet import parquet, parquet_audio, parquet_texts
from lissom.data._sets import Images, Sounds, Texts, split

__all__ = [
    "Augment",
    "Batches",
    "Images",
    "Sounds",
    "Texts",
    "crop_and_flip",
    "image_folder",
    "parquet",
    "parquet_audio",
    "parquet_texts",
    "split",
    "table",
    "tsv",
]
