"""How the pictures look: readable in print, in grey, and for colour-blind eyes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_rlx2.files import replacing

# Okabe and Ito's palette without its yellow, which is too light for lines on white
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "<")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")
WIDTH = 7.0
"""Of a picture, in inches: a page's text."""

SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "hatch.linewidth": 0.6,
    # The same data give the same file
    "svg.hashsalt": "sb3-rlx2",
}


class Look(NamedTuple):
    """How one of several lines looks.

    :param color: of Okabe and Ito's palette
    :param linestyle: solid, or a pattern of dashes
    :param marker: shape of its points
    """

    color: str
    linestyle: Any
    marker: str


def look(place: int) -> Look:
    """The look of a line; neighbours differ in colour, dashes and marker.

    :param place: of the line, from 0
    """
    return Look(COLORS[place % len(COLORS)], DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)])


def new_figure(height: float, rows: int = 1, columns: int = 1, **kwargs: Any) -> tuple[Figure, Any]:
    """A figure of a page's width with a grid of axes.

    :param height: in inches
    :param rows: of the grid
    :param columns: of the grid
    :param kwargs: for ``Figure.subplots``
    :return: the figure, and its axes as an array [rows, columns]
    """
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def step_axis(axes: Axes, label: str = "environment steps") -> None:
    """Write an axis of steps as 200 k, 1 M."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))


def markers_on(count: int, about: int = 10, place: int = 0) -> tuple[int, int]:
    """Which points of a line get a marker: first and every so many.

    :param count: number of points
    :param about: number of markers to have
    :param place: of the line among others, whose markers are to lie elsewhere
    """
    every = max(1, count // about)
    return (place * max(1, every // 3)) % every, every


def legend_below(axes: Axes) -> None:
    """Put the legend below a panel, out of the lines' way.

    :param axes: the panel
    """
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, handlelength=2.6)


def save(figure: Figure, stem: Path, formats: Sequence[str] = ("png", "svg"), dpi: int = 200) -> list[Path]:
    """Write a figure to files.

    :param figure: what to write
    :param stem: path without suffix; its folder is made
    :param formats: suffixes, default PNG and SVG
    :param dpi: dots per inch of PNG, default 200
    :return: the files
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{name}") for name in formats]
    with matplotlib.rc_context(SETTINGS):
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            with replacing(path) as file:
                figure.savefig(file, format=path.suffix[1:], dpi=dpi, metadata=metadata)
    return paths
