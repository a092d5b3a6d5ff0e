"""What is printed is text, whoever wrote it."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from lissom import terminal
from lissom.console import plain_console
from lissom.report.tables import Column
from lissom.report.tables import Table as ReportTable

HOSTILE = "[bold]layer[/bold] [/] :smile: [link=file:///x]a[/link] \x1b]0;title\x07\x1b[2J\x9b31m\r"
SHOWN = "[bold]layer[/bold] [/] :smile: [link=file:///x]a[/link] \ufffd]0;title\ufffd\ufffd[2J\ufffd31m\ufffd"


def printed(value: object) -> str:
    console = plain_console(soft_wrap=True)
    console.file = io.StringIO()
    console.width = 300
    console.print(value)
    return console.file.getvalue()


def test_names_are_no_markup_and_no_commands() -> None:
    assert printed(HOSTILE) == SHOWN + "\n"
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    assert printed(table).count(SHOWN) == 3


def test_tables_of_the_report_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    column = Column(name="[red]name", kind="text")
    shown = terminal.rich_table(ReportTable(caption="[i]cap", columns=(column,), rows=(("[b]x[/b]",),)))
    text = printed(shown)
    assert "[i]cap" in text
    assert "[red]name" in text
    assert "[b]x[/b]" in text
