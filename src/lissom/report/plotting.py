"""What all figures share: colours, axes, hover texts, layout.

A figure is written in plotly's JSON schema and validated by `plotly.graph_objects.Figure`. Backgrounds are
transparent, and the page's style sheet colours the text, for light, dark and paper.
"""

from __future__ import annotations

from collections.abc import Sequence

from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]

Json = dict[str, object]

# Wong 2011 ("Points of view: Color blindness", Nature Methods 8, 441), without its colours that fall below
# 3:1 on white or on the page's dark background.
BLUE, VERMILION, GREEN, PURPLE, GREY = "#1f7ab8", "#d55e00", "#00926b", "#c0679b", "#7c8794"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
HOVER_COLOUR = "#1c2430"
BEFORE_COLOUR, AFTER_COLOUR = GREY, BLUE


def safe(text: str) -> str:
    """Text that plotly shows as it is: it renders tags and links found in labels."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def tail_of(name: str, length: int = 28) -> str:
    """The end of a long layer name, which tells it from its neighbours."""
    return name if len(name) <= length else "…" + name[1 - length :]


def hover_of(*lines: str) -> str:
    return "<br>".join(safe(line) for line in lines)


def axis_of(title: str, **more: object) -> Json:
    # transparent ticks keep the labels off the bars
    ticks: Json = {"ticks": "outside", "ticklen": 5, "tickcolor": "rgba(0,0,0,0)"}
    return {
        "title": {"text": title, "font": {"size": 13}},
        "automargin": True,
        "zeroline": False,
        **ticks,
        **more,
    }


def layer_rows(layers: Sequence[str], letters: int, height: int, reach: float) -> Json:
    """The layout of overlaid horizontal bars of output channels, one row a layer, the first on top.

    Rows are numbered, not named: two long names, of which the last `letters` are shown, may look alike.
    """
    labels: Json = {
        "tickmode": "array",
        "tickvals": list(range(len(layers))),
        "ticktext": [safe(tail_of(one, letters)) for one in layers],
        "showgrid": False,
    }
    return {
        "height": height,
        "barmode": "overlay",
        "xaxis": axis_of("Output channels", range=[0, reach]),
        "yaxis": axis_of("", range=[len(layers) - 0.5, -0.5], **labels),
    }


def row_bars(name: str, rows: list[int], values: list[int], hovers: list[str], colour: str) -> Json:
    """Horizontal bars in these rows."""
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": rows,
        "x": values,
        "marker": {"color": colour},
        "hovertext": hovers,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def figure_of(data: Sequence[Json], layout: Json, top: int = 24) -> go.Figure:
    whole: Json = {
        **layout,
        "template": {},
        "margin": {"l": 8, "r": 8, "t": top, "b": 8},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "itemsizing": "constant"},
        "showlegend": True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13},
        "hoverlabel": {
            "bgcolor": HOVER_COLOUR,
            "bordercolor": GREY,
            "font": {"color": "#ffffff", "family": FONT, "size": 13},
            "align": "left",
        },
        "hovermode": "closest",
        # dragging to zoom would take the scroll gesture away on phones
        "dragmode": False,
    }
    return go.Figure({"data": list(data), "layout": whole})
