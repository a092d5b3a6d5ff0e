"""What the page on moving says is accepted as it stands."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import lissom

PAGE = Path(__file__).parents[2] / "docs" / "moving.md"
NAMES = ("Fold", "Prune", "PruneDepth", "Sparsify", "Factorize", "Finetune", "Quantize")


def told() -> list[str]:
    """Every setting of ours in code on the page, `Prune(ratio=0.5)`, once."""
    text = re.sub(r"```.*?```", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    code = re.findall(r"`([^`]+)`", text)
    return sorted({one for one in code if re.fullmatch(rf"({'|'.join(NAMES)})\(.*\)", one) and "..." not in one})


def test_the_page_says_something() -> None:
    assert len(told()) > 15


@pytest.mark.parametrize("said", told())
def test_every_setting_on_the_page_is_one(said: str) -> None:
    call = ast.parse(said, mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Name)
    fields = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    if call.func.id == "Prune" and not {"ratio", "macs_ratio"} & set(fields):
        fields["ratio"] = 0.5  # the page names what differs, and how much has to be said
    if fields.get("regularizer") == "growing":
        fields["ratio"] = 0.5
    getattr(lissom, call.func.id)(**fields)
