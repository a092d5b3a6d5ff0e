"""The one way to the terminal: text as it stands, whoever wrote it."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.text import Text

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What moves the cursor, changes colours or sets titles; a tab and a line feed are left."""


class _Plain(Console):
    """Names of layers, files and tasks are no markup, and no commands to the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]  handed on as they are
        return super().render_str(CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text), **options)


def plain_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A console without markup, emoji codes and highlighting; what is to be bold is said by `style` or a `Text`."""
    return _Plain(stderr=stderr, soft_wrap=soft_wrap, highlight=False, markup=False, emoji=False)
