"""Clipping, noise and overflow in words, tables and a figure."""

from __future__ import annotations

from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]

from lissom.measure.records import LayerSaturation, Saturation, ValueSaturation
from lissom.report.plotting import BLUE, VERMILION, Json, axis_of, figure_of, hover_of, safe, tail_of
from lissom.report.tables import Column, Table
from lissom.report.units import plural

HEAVY = 4.0
"""A tail beyond this leaves less than a quarter of the steps to 99.9 % of the values."""
QUIET = "-"


def saturation_text(found: Saturation) -> str:
    """What a reader has to know first: the worst clipping, the loudest layer, the certificate."""
    parts = [
        f"{plural(len(found.values), 'value')} rounded for {found.target}, ranges by {found.calibration} on "
        f"{plural(found.examples, 'example')}."
    ]
    clipped = max(found.values, key=lambda one: one.clipped, default=None)
    if clipped is None or not clipped.clipped:
        parts.append("No value is clipped on the calibration data.")
    else:
        parts.append(f"Most clipped: {clipped.value}, {clipped.clipped:.3%} of its values.")
    heavy = [one.value for one in found.values if one.tail > HEAVY]
    if heavy:
        parts.append(f"Heavy tails (largest magnitude above {HEAVY:g} times the rest): {_few(heavy)}.")
    heard = [one for one in found.layers if one.own_db is not None]
    if heard:
        loudest = min(heard, key=lambda one: one.own_db or 0.0)
        parts.append(f"Most noise of its own: {loudest.layer}, {loudest.own_db:.1f} dB.")
    parts.append(_ends(found))
    parts.append(certificate_text(found))
    return " ".join(part for part in parts if part)


def _ends(found: Saturation) -> str:
    if found.simulated_db is None:
        return ""
    runtime = f", {found.runtime_db:.1f} dB as {found.target} computes them" if found.runtime_db is not None else ""
    return f"Outputs: {found.simulated_db:.1f} dB simulated{runtime}."


def certificate_text(found: Saturation) -> str:
    """'Sums of two neighbouring products stay inside 16 bits in 19 of 20 layers; ...'"""
    risky = [one.layer for one in found.layers if one.rows_at_risk]
    machine = (
        "this machine has VNNI or needs none" if found.vnni else "this machine has no VNNI: they can saturate here"
    )
    if not found.layers:
        return ""
    if not risky:
        return "Sums of two neighbouring products stay inside 16 bits in every layer: safe on processors without VNNI."
    safe_ones = len(found.layers) - len(risky)
    return (
        f"Sums of two neighbouring products stay inside 16 bits in {safe_ones} of "
        f"{plural(len(found.layers), 'layer')}; not certified: {_few(risky)} ({machine})."
    )


def _few(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def values_table(found: Saturation) -> Table:
    columns = (
        Column("Value", "code"),
        Column("Layer", "code"),
        Column("Seen", "number"),
        Column("Grid", "number"),
        Column("Type"),
        Column("Range by"),
        Column("Clipped", "number"),
        Column("Tail", "number"),
        Column("SQNR (dB)", "number"),
    )
    return Table("Rounded values", columns, tuple(_value_row(one) for one in found.values))


def _value_row(one: ValueSaturation) -> tuple[str, ...]:
    return (
        one.value,
        one.layer,
        f"{one.low:.3g} to {one.high:.3g}",
        f"{one.grid_low:.3g} to {one.grid_high:.3g}",
        one.dtype,
        one.method,
        f"{one.clipped:.3%}" if one.clipped else "0",
        f"{one.tail:.1f}",
        _db(one.sqnr_db),
    )


def layers_table(found: Saturation) -> Table:
    columns = (
        Column("Layer", "code"),
        Column("Operator", "code"),
        Column("Own noise (dB)", "number"),
        Column("Accumulated (dB)", "number"),
        Column("Two products", "number"),
        Column("Channels at risk", "number"),
    )
    return Table("Integer products", columns, tuple(_layer_row(one) for one in found.layers))


def _layer_row(one: LayerSaturation) -> tuple[str, ...]:
    return (
        one.layer,
        one.op,
        _db(one.own_db),
        _db(one.accumulated_db),
        f"{one.lowest} to {one.highest}",
        f"{one.rows_at_risk} of {one.rows}" if one.rows_at_risk else "0",
    )


def _db(value: float | None) -> str:
    return QUIET if value is None else f"{value:.1f}"


def noise_height(found: Saturation) -> int:
    return 130 + 24 * len(found.layers)


def noise_figure(found: Saturation) -> go.Figure:
    """SQNR of every product: rounded alone, and with everything before it rounded; less is worse."""
    shown = [one for one in found.layers if one.own_db is not None and one.accumulated_db is not None]
    places = list(range(len(shown)))

    def points(name: str, colour: str, symbol: str, values: list[float | None]) -> Json:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": values,
            "y": places,
            "marker": {"color": colour, "size": 9, "symbol": symbol},
            "hovertext": [hover_of(one.layer, f"{name}: {_db(v)} dB") for one, v in zip(shown, values, strict=True)],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }

    data = [
        points("this layer alone rounded", BLUE, "circle", [one.own_db for one in shown]),
        points("everything rounded", VERMILION, "diamond", [one.accumulated_db for one in shown]),
    ]
    layout: Json = {
        "height": noise_height(found),
        "xaxis": axis_of("Signal to rounding noise of the layer's output, dB"),
        "yaxis": axis_of(
            "", tickvals=places, ticktext=[safe(tail_of(one.layer)) for one in shown], autorange="reversed"
        ),
    }
    return figure_of(data, layout)
