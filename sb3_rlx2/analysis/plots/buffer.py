"""The replay buffer's capacity, and the policy distance that rules it."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_rlx2.analysis.plots.style import COLORS, SETTINGS, markers_on, new_figure, step_axis
from sb3_rlx2.analysis.topology_history import TopologyHistory


def draw_buffer(history: TopologyHistory) -> Figure:
    """Capacity and size of the replay buffer, and below them the policy distance where there is one.

    :param history: of a training
    :raises ValueError: if nothing of the buffer was recorded
    """
    if not history.buffer.rows:
        raise ValueError("this history has nothing of the replay buffer")
    has_distance = bool(history.distances.rows)
    with matplotlib.rc_context(SETTINGS):
        figure, grid = new_figure(4.4 if has_distance else 2.8, 1 + has_distance, 1, sharex=True)
        panels: list[Axes] = list(grid[:, 0])
        top = panels[0]
        buffer = history.buffer
        steps = buffer["step"]
        # Between two rows it is what it was at the first of them
        top.plot(steps, buffer["capacity"], color=COLORS[0], label="capacity", drawstyle="steps-post")
        top.plot(
            steps,
            buffer["size"],
            color=COLORS[1],
            linestyle="--",
            marker="s",
            label="size",
            markevery=markers_on(len(steps)),
        )
        top.set(ylabel="transitions", ylim=(0, 1.08 * buffer["capacity"].max()))
        top.yaxis.set_major_formatter(EngFormatter(sep=" "))
        top.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        if has_distance:
            _draw_distance(panels[1], history)
        _mark_n_steps(panels, steps, buffer["n_steps"])
        step_axis(panels[-1])
    return figure


def _draw_distance(axes: Axes, history: TopologyHistory) -> None:
    distances = history.distances
    axes.plot(
        distances["step"], distances["distance"], color=COLORS[2], marker="o", label="policy distance",
        markevery=markers_on(len(distances.rows), 20),
    )  # fmt: skip
    threshold = history.settings.get("buffer_distance_threshold")
    if threshold is not None:
        axes.axhline(threshold, color=COLORS[4], linestyle=":", label=f"threshold {threshold:g}")
    axes.set_ylabel("policy distance D")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _mark_n_steps(panels: list[Axes], steps: np.ndarray, n_steps: np.ndarray) -> None:
    """A line where the TD targets change their number of steps."""
    for place in np.flatnonzero(np.diff(n_steps)) + 1:
        for axes in panels:
            axes.axvline(steps[place], color="0.4", linestyle="-.", linewidth=1)
        panels[0].annotate(
            f"n = {n_steps[place]:.0f}", (steps[place], 1.0), xycoords=("data", "axes fraction"),
            xytext=(3, -2), textcoords="offset points", va="top", fontsize=8,
        )  # fmt: skip
