"""Labelled texts for a model of texts, by the tokenizer that belongs to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from lissom.data import Batches, Texts, parquet_texts, table
from lissom.data._sets import Labelled
from lissom.errors import UsageError
from lissom.sources.settings import SourceSettings
from lissom.task import Batch, Task


@dataclass(frozen=True, eq=False)
class Words:
    """
    Attributes:
        tokenizer: of the transformers library, as the model comes with it.
        names: the model's inputs, of those that the tokenizer makes.
        longest: tokens that the model takes at most.
    """

    tokenizer: Any
    names: tuple[str, ...]
    longest: int
    suffixes: tuple[str, ...] = (".parquet", ".tsv", ".csv")
    folders: bool = False

    def read(
        self, place: Path, split: str | None, task: Task, settings: SourceSettings, classes: tuple[str, ...] | None
    ) -> Texts:
        """
        Raises:
            UsageError: no such file or column.
            DataError: a row without text or label.
        """
        columns: dict[str, Any] = {
            "text": settings.text,
            "label": settings.label,
            "classes": classes,
            "limit": settings.limit,
        }
        if split is None:
            if place.is_dir():
                raise UsageError(f"{place} holds no texts. Expected are train.tsv, train.csv or train.parquet in it.")
            return table(place, **columns)
        for suffix in (".tsv", ".csv"):
            if (place / f"{split}{suffix}").is_file():
                return table(place / f"{split}{suffix}", **columns)
        return parquet_texts(place, split, **columns)

    def fed(
        self, task: Task, splits: Mapping[str, Labelled], settings: SourceSettings
    ) -> tuple[Task, Mapping[str, Iterable[Any]], tuple[str, ...]]:
        """
        Raises:
            UsageError: the tokenizer cannot pad.
        """
        if self.tokenizer.pad_token is None:
            raise UsageError(
                "The tokenizer has no padding token, and texts of a batch have to be of one length. Set pad_token in "
                "its tokenizer_config.json and pad_token_id in the model's config.json."
            )
        sets = {name: cast(Texts, texts) for name, texts in splits.items()}
        lengths = [length for texts in sets.values() for length in self._lengths(texts.texts)]
        length = settings.length or min(max(lengths), self.longest)
        cut = sum(one > length for one in lengths)
        note = f"Texts are padded to {length} tokens, {'as asked' if settings.length else 'the longest found'}" + (
            f"; {cut} of {len(lengths)} are longer and cut." if cut else "."
        )
        fed = {
            name: Batches(
                (self._tokens(texts.texts, length), texts.labels),
                settings.batch,
                shuffle=name == "train",
                seed=settings.seed,
            )
            for name, texts in sets.items()
        }
        feed = partial(_fed, self.names)
        example = feed(next(iter(next(iter(fed.values())))))
        kwargs = {name: value[:1] for name, value in example.kwargs.items()}
        return replace(task, example_inputs=(), example_kwargs=kwargs, feed=feed), fed, (note,)

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]]

    def _tokens(self, texts: Sequence[str], length: int) -> Tensor:
        """int64 (texts, inputs, length)."""
        made = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return torch.stack([made[name].to(torch.int64) for name in self.names], dim=1)


def _fed(names: Sequence[str], batch: tuple[Tensor, Tensor]) -> Batch:
    tokens, labels = batch
    return Batch((), {name: tokens[:, place] for place, name in enumerate(names)}, labels)
