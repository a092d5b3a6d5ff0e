"""What every page is made of: figures with their words and tables, templates with everything inlined, one file.

Names, reasons and notes are untrusted text: the templates escape them, figures get them as JSON with `<` escaped, and
the page's own content security policy forbids every network request.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]
from plotly.offline import get_plotlyjs  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from lissom.errors import RunFolderError
from lissom.report import tables


@dataclass(frozen=True)
class Figure:
    """A figure as JSON, its words for assistive technology, and the table that holds the same numbers."""

    title: str
    caption: str
    description: str
    json: Markup
    height: int
    table: tables.Table | None = None
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page, in the order of reading; `kind` picks its block of the template."""

    kind: str
    title: str


def filled(template: str, **values: object) -> str:
    """The template with its values, scripts and styles."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        **values,
        style=Markup(_asset("style.css")),
        script=Markup(_asset("page.js")),
        plotly=Markup(get_plotlyjs()),
    )


def write_page(page: str, path: Path) -> Path:
    """Write to `path`; a reader sees the old page or the new one, never half of one.

    Raises:
        RunFolderError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as wrong:
        reason = wrong.strerror or str(wrong)
        raise RunFolderError(
            f"The report cannot be written to {path}: {reason}. Choose another place or free this one."
        ) from wrong
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _asset(name: str) -> str:
    return resources.files("lissom.report").joinpath(name).read_text(encoding="utf-8")


def json_of(figure: go.Figure) -> Markup:
    text = str(figure.to_json())  # pyright: ignore[reportUnknownMemberType]
    # `</script>` or `<!--` inside a name would end or confuse the script element it sits in
    return Markup(text.replace("<", "\\u003c"))
