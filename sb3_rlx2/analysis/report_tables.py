"""A report on a model as text, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sb3_rlx2.analysis.model_report import ModelReport

MAX_INPUTS = 40


class Table(NamedTuple):
    """A table of text.

    :param title: what it shows
    :param columns: heads
    :param rows: as many cells as there are columns
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def to_json(report: ModelReport) -> str:
    """The report as JSON: all fields, with densities, totals and ratios.

    :param report: of a model
    """
    return json.dumps(report.to_dict(), indent=2)


def to_text(report: ModelReport) -> str:
    """The report as tables of plain text.

    :param report: of a model
    """
    return "\n\n".join([heading(report), *map(_text_table, tables(report))])


def to_markdown(report: ModelReport) -> str:
    """The report as Markdown, for a model card.

    :param report: of a model
    """
    return "\n\n".join([f"## {heading(report)}", *map(_markdown_table, tables(report))])


def print_report(report: ModelReport) -> None:
    """Print the report, with the library ``rich`` where it is installed.

    :param report: of a model
    """
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table as RichTable
    except ImportError:
        print(to_text(report))
        return
    console = Console()
    console.print(heading(report), style="bold")
    for table in tables(report):
        console.print(table.title, style="italic")
        drawn = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for place, column in enumerate(table.columns):
            drawn.add_column(column, justify="left" if place < _text_columns(table) else "right")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)


def heading(report: ModelReport) -> str:
    """One line that says what the model is.

    :param report: of a model
    """
    return f"{report.algorithm} after {report.timesteps:,} environment steps"


def tables(report: ModelReport) -> list[Table]:
    """The tables that every format shows.

    :param report: of a model
    """
    found = [_overview(report), _update(report), _layers(report), _units(report)]
    return [*found, _inputs(report)] if report.inputs else found


def _overview(report: ModelReport) -> Table:
    weights, dense_weights = report.total("weight_bytes"), report.total("dense_weight_bytes")
    optimizer, dense_optimizer = report.total("optimizer_bytes"), report.total("dense_optimizer_bytes")
    dense_checkpoint = report.checkpoint_bytes - weights - optimizer + dense_weights + dense_optimizer
    rows = [
        ("connections, networks and targets", report.total("connections"), report.total("dense_connections"), _count),
        ("bytes, networks and targets", weights, dense_weights, _kib),
        ("bytes, optimizer state", optimizer, dense_optimizer, _kib),
        ("bytes, checkpoint", report.checkpoint_bytes, dense_checkpoint, _kib),
        ("FLOPs of an action", report.flops.action, report.flops.dense_action, _count),
        (
            f"FLOPs of an update, batch of {report.flops.batch_size}",
            report.flops.update.total,
            report.flops.dense_update.total,
            _count,
        ),
    ]
    return Table(
        "Against dense",
        ("", "this model", "dense", "of dense"),
        [(name, write(own), write(dense), f"{own / dense:.1%}" if dense else "") for name, own, dense, write in rows],
    )


def _update(report: ModelReport) -> Table:
    own, dense = report.flops.update, report.flops.dense_update
    names = {
        "target": "TD target",
        "critic": "critics" if dense.actor else "its loss",
        **({"actor": "actor (by the policy delay)"} if dense.actor else {}),
        "evolution": "evolution (by its interval)",
    }
    return Table(
        "FLOPs of an update",
        ("", "this model", "dense"),
        [(label, _count(getattr(own, key)), _count(getattr(dense, key))) for key, label in names.items()],
    )


def _layers(report: ModelReport) -> Table:
    rows = [
        (
            network.name.split(".")[0],
            layer.name,
            " x ".join(map(str, layer.shape)),
            _count(layer.connections),
            f"{layer.density:.1%}",
            f"{layer.weight_bytes / 1024:,.1f}",
            f"{layer.optimizer_bytes / 1024:,.1f}",
            _count(layer.flops),
        )
        for network in report.networks
        for layer in network.layers
    ]
    columns = ("network", "layer", "shape", "weights", "density", "KiB", "state", "FLOPs")
    return Table("Layers (weights and optimizer state in KiB, FLOPs of one sample forward)", columns, rows)


def _units(report: ModelReport) -> Table:
    """Units that do nothing, in the online networks: targets have the same connections."""
    rows = [
        (
            network.name.split(".")[0],
            layer.name,
            _count(layer.units),
            _optional(layer.units_without_inputs),
            _optional(layer.units_without_outputs),
            "" if layer.dormant_units is None else f"{layer.dormant_units} ({layer.dormant_units / layer.units:.1%})",
            _optional(layer.unreachable_outputs),
        )
        for network in report.networks
        for layer in network.layers
        if "_target" not in network.name
    ]
    batch = "no replay buffer at hand"
    if report.n_samples:
        batch = f"dormant: τ = {report.dormant_threshold}, {report.n_samples} transitions drawn"
    columns = ("network", "layer", "units", "no inputs", "no outputs", "dormant", "no path")
    return Table(f"Units that do nothing ({batch})", columns, rows)


def _inputs(report: ModelReport) -> Table:
    """Inputs by connections, the actor's most connected first."""
    networks = list(dict.fromkeys(name for given in report.inputs for name in given.connections))
    order = sorted(report.inputs, key=lambda given: [-given.connections.get(name, -1) for name in networks])
    shown = list(order)
    title = "Connections of each input in the first layers"
    if len(order) > MAX_INPUTS:
        half = MAX_INPUTS // 2
        shown = [*order[:half], *order[-half:]]
        title += f" (the {half} most and the {half} least connected of {len(order)})"
    rows = [(given.name, *(_optional(given.connections.get(name)) for name in networks)) for given in shown]
    return Table(title, ("input", *networks), rows)


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _kib(value: float) -> str:
    return f"{value / 1024:,.1f} KiB"


def _optional(value: int | None) -> str:
    return "" if value is None else _count(value)


def _text_columns(table: Table) -> int:
    """How many columns hold names."""
    return 2 if table.columns[0] == "network" else 1


def _text_table(table: Table) -> str:
    widths = [max(len(row[place]) for row in (table.columns, *table.rows)) for place in range(len(table.columns))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if place < _text_columns(table) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([table.title, line(table.columns), rule, *map(line, table.rows)])


def _markdown_table(table: Table) -> str:
    def lines() -> Iterator[str]:
        yield f"### {table.title}\n"
        yield f"| {' | '.join(table.columns)} |"
        names = _text_columns(table)
        yield f"|{'---|' * names}{'---:|' * (len(table.columns) - names)}"
        for row in table.rows:
            yield f"| {' | '.join(row)} |"

    return "\n".join(lines())
