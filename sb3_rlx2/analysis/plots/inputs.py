"""Which inputs the agent looks at: connections of each observation dimension."""

from __future__ import annotations

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_rlx2.analysis.plots.style import COLORS, HATCHES, SETTINGS, new_figure
from sb3_rlx2.analysis.topology_history import TopologyHistory

MAX_LABELS = 30


def input_importance(history: TopologyHistory, network: str) -> npt.NDArray[np.float64]:
    """Connections of each input over time, the mean over critics.

    :param history: of a training
    :param network: ``"actor"`` or ``"critic"``
    :return: [records, inputs]; a critic's are the observation's dimensions, then the action's
    """
    parts = [part for part, (owner, _) in history.first_layers.items() if owner == network]
    mean: npt.NDArray[np.float64] = np.stack([history.connections_per_input(part) for part in parts]).mean(axis=0)
    return mean


def draw_inputs(history: TopologyHistory) -> Figure:
    """For actor and critic: connections of each input over time (left) and at the end (right).

    :param history: of a training
    :raises ValueError: if it is not known which layers read the observations
    """
    names = list(dict.fromkeys(owner for owner, _ in history.first_layers.values()))
    if not names:
        raise ValueError(
            "a features extractor, or a module of an own class, stands between observations and layers: inputs have no "
            "connections"
        )
    counts = {name: input_importance(history, name) for name in names}
    heights = [max(1.5, min(0.17 * own.shape[1], 5.0)) for own in counts.values()]
    with matplotlib.rc_context(SETTINGS):
        figure, grid = new_figure(
            0.9 + sum(heights), len(names), 2, width_ratios=(2, 1), height_ratios=heights, sharey="row"
        )
        for row, (name, own) in enumerate(counts.items()):
            labels = [*history.observations]
            labels += [f"action {place}" for place in range(own.shape[1] - len(labels))]
            _draw_over_time(figure, grid[row, 0], history.networks[name].steps, own)
            _draw_at_the_end(grid[row, 1], own[-1], len(history.observations))
            shown = np.arange(0, len(labels), -(-len(labels) // MAX_LABELS))
            grid[row, 0].set_yticks(shown, [labels[place] for place in shown])
            critics = sum(owner == name for owner, _ in history.first_layers.values())
            mean = f" (mean of {critics})" if critics > 1 else ""
            grid[row, 0].set(title=f"{name}{mean}: connections over time", ylabel="input")
            grid[row, 1].set_title("at the end")
        handles, kinds = grid[-1, 1].get_legend_handles_labels()
        if len(kinds) > 1:
            figure.legend(handles, kinds, loc="outside lower right", ncols=2)
        figure.align_ylabels(grid[:, 0])
        grid[-1, 0].set_xlabel("environment steps")
        grid[-1, 1].set_xlabel("connections")
    return figure


def _draw_over_time(figure: Figure, axes: Axes, steps: list[int], counts: npt.NDArray[np.float64]) -> None:
    # A record holds until the next one
    ends = [*steps, steps[-1] + max(1, (steps[-1] - steps[0]) // max(1, len(steps) - 1))]
    edges = np.arange(counts.shape[1] + 1) - 0.5
    image = axes.pcolormesh(ends, edges, counts.T, cmap="cividis", vmin=0, rasterized=True)
    axes.set_ylim(counts.shape[1] - 0.5, -0.5)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    figure.colorbar(image, ax=axes, pad=0.01)


def _draw_at_the_end(axes: Axes, counts: npt.NDArray[np.float64], n_observations: int) -> None:
    is_action = np.arange(len(counts)) >= n_observations
    for kind, color, hatch, label in (
        (~is_action, COLORS[0], HATCHES[0], "observation"),
        (is_action, COLORS[5], HATCHES[1], "action"),
    ):
        if kind.any():
            axes.barh(
                np.flatnonzero(kind), counts[kind], height=0.8 if len(counts) <= MAX_LABELS else 1.0, color=color,
                hatch=hatch, edgecolor="white", linewidth=0, label=label,
            )  # fmt: skip
    axes.margins(y=0.01)
