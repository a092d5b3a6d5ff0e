"""The page of `lissom inspect --html`: layers, channel groups, sensitivity. One file that opens offline."""

from __future__ import annotations

from pathlib import Path

from lissom._version import __version__
from lissom.graph.graph import Graph
from lissom.measure.records import Saturation, Sensitivity
from lissom.report import groups, saturation
from lissom.report.page import Figure, Section, filled, json_of, write_page
from lissom.report.tables import Column, Table
from lissom.report.units import bytes_text, count_text, plural


def render(graph: Graph, name: str, found: Sensitivity | None = None, integers: Saturation | None = None) -> str:
    """The page of one model; with `found`, its sensitivity to cuts, with `integers`, what rounding does to it."""
    sections = (
        ("groups", "Channel groups", bool(graph.groups)),
        ("sensitivity", "Sensitivity", found is not None),
        ("saturation", "Saturation", integers is not None),
        ("layers", "Layers", True),
    )
    return filled(
        "inspect.html.j2",
        title=name,
        lissom=__version__,
        facts=_facts(graph),
        sections=tuple(Section(kind, title) for kind, title, present in sections if present),
        groups_text=groups.groups_text(graph),
        groups_table=groups.groups_table(graph),
        groups_figure=_groups(graph),
        whole_text=groups.whole_text(found) if found else "",
        sensitivity_text=groups.sensitivity_text(found) if found else "",
        sensitivity_figure=_sensitivity(found) if found and found.groups else None,
        saturation_text=saturation.saturation_text(integers) if integers else "",
        saturation_notes=integers.notes if integers else (),
        noise_figure=_noise(integers) if integers and integers.layers else None,
        values_table=saturation.values_table(integers) if integers else None,
        layers_table=layers_table(graph),
        uncounted=", ".join(sorted(graph.uncounted)),
    )


def write(
    graph: Graph,
    name: str,
    path: Path,
    found: Sensitivity | None = None,
    integers: Saturation | None = None,
) -> Path:
    """Render to `path`.

    Raises:
        RunFolderError: the file cannot be written.
    """
    return write_page(render(graph, name, found, integers), path)


def layers_table(graph: Graph) -> Table:
    columns = (
        Column("Layer", "code"),
        Column("Operator", "code"),
        Column("Output"),
        Column("MACs", "number"),
        Column("Parameters", "number"),
        Column("Size", "number"),
    )
    rows = tuple(
        (
            layer.name,
            layer.op,
            " x ".join(map(str, layer.output_shape)),
            count_text(layer.macs),
            count_text(layer.parameters),
            bytes_text(layer.bytes),
        )
        for layer in graph.layers
    )
    return Table("Layers in the order they run", columns, rows)


def _facts(graph: Graph) -> tuple[tuple[str, str], ...]:
    batch = "any batch size" if graph.dynamic_batch else f"batches of {graph.fixed_batch} only"
    return (
        ("Layers", str(len(graph.layers))),
        ("MACs per example", count_text(graph.macs)),
        ("Parameters", count_text(graph.parameters)),
        ("Size", bytes_text(graph.bytes)),
        ("Takes", batch),
    )


def _groups(graph: Graph) -> Figure:
    return Figure(
        title="What depends on each group",
        caption="Multiply-accumulates of one example that would go if all of a group's channels went. A product of"
        " two groups counts for both.",
        description=f"Bars of the multiply-accumulates that depend on each of {plural(len(graph.groups), 'group')} of"
        f" channels. {groups.groups_text(graph)} The table below holds the numbers.",
        json=json_of(groups.groups_figure(graph)),
        height=groups.groups_height(graph),
        wide=len(graph.groups) > groups.MANY,
    )


def _sensitivity(found: Sensitivity) -> Figure:
    return Figure(
        title=f"{groups.change_title(found)}, when one group alone is cut",
        caption=f"Least important channels by {found.criterion}, nothing fitted again, nothing trained: the figures"
        " rank the groups, they do not foretell what a recovered network reaches.",
        description=f"Heat map of {plural(len(found.groups), 'group')} of channels by"
        f" {plural(len(found.ratios), 'share')} cut. {groups.sensitivity_text(found)}",
        json=json_of(groups.sensitivity_figure(found)),
        height=groups.sensitivity_height(found),
        table=groups.sensitivity_table(found),
        wide=len(found.groups) > groups.MANY,
    )


def _noise(found: Saturation) -> Figure:
    return Figure(
        title="Where the rounding noise comes from",
        caption="Each integer product twice: with its own input and weights rounded only, and with everything before"
        " it rounded too. A layer far to the left of its neighbours in the first is one to keep in float.",
        description=f"Signal to noise ratios of {plural(len(found.layers), 'layer')}."
        f" {saturation.saturation_text(found)} The table holds the numbers.",
        json=json_of(saturation.noise_figure(found)),
        height=saturation.noise_height(found),
        table=saturation.layers_table(found),
        wide=len(found.layers) > groups.MANY,
    )
