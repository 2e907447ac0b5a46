"""Topology over time: which connections there are, how long they live, where they grow."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sb3_rlx2.analysis.plots.style import COLORS, SETTINGS, legend_below, look, markers_on, new_figure, step_axis
from sb3_rlx2.analysis.topology_history import TopologyHistory
from sb3_rlx2.sparse.recording import TopologyRecord

KINDS = {"absent": "#FFFFFF", "present from the first": COLORS[0], "grown since": COLORS[5]}
N_GENERATIONS = 4
FEW_UNITS = 8


def sparse_layer_names(record: TopologyRecord) -> list[str]:
    """The layers of a record that lack a connection."""
    return [name for name in record.shapes if len(record) and not record.mask(name, 0).all()]


def connection_kinds(record: TopologyRecord, layer: str, place: int) -> npt.NDArray[np.int64]:
    """0 where a connection is absent, 1 where it was there from the first record on, 2 where it grew since.

    :param record: of a network
    :param layer: name of a layer
    :param place: of a record
    :return: [out_features, in_features]
    """
    now = record.mask(layer, place)
    always = now.copy()
    for before in range(place):
        always &= record.mask(layer, before)
    return now.astype(np.int64) + (now & ~always)


def nearest_records(record: TopologyRecord, steps: Sequence[int] | None, count: int = 4) -> list[int]:
    """Records nearest to the given steps, each once; without steps, so many that are spread evenly over time."""
    own = np.array(record.steps)
    wanted = np.linspace(own[0], own[-1], count) if steps is None else np.array(steps)
    return sorted({int(np.abs(own - step).argmin()) for step in wanted})


def draw_connectivity(history: TopologyHistory, network: str = "actor", steps: Sequence[int] | None = None) -> Figure:
    """Connectivity matrices of a network's layers (rows) at chosen steps (columns).

    :param history: of a training
    :param network: ``"actor"`` or ``"critic"``, default ``"actor"``
    :param steps: environment steps; the nearest records are shown; None (default): four, from first to last
    :raises ValueError: if the history has no such network, or nothing in it is sparse
    """
    record = _record(history, network)
    layers, places = sparse_layer_names(record), nearest_records(record, steps)
    with matplotlib.rc_context(SETTINGS):
        heights = [1.6 if record.shapes[layer][0] > FEW_UNITS else 0.7 for layer in layers]
        figure, grid = new_figure(0.8 + sum(heights), len(layers), len(places), height_ratios=heights)
        for row, layer in enumerate(layers):
            for column, place in enumerate(places):
                axes: Axes = grid[row, column]
                axes.imshow(
                    connection_kinds(record, layer, place), cmap=ListedColormap(list(KINDS.values())), vmin=0, vmax=2,
                    aspect="auto", interpolation="nearest",
                )  # fmt: skip
                axes.spines[:].set_visible(True)
                axes.set(xticks=[], yticks=[])
                if row == 0:
                    axes.set_title(f"step {record.steps[place]:,}")
                if column == 0:
                    out, in_ = record.shapes[layer]
                    axes.set_ylabel(f"{layer}\n{out} unit{'s' if out > 1 else ''}")
                    axes.set_xlabel(f"{in_} inputs")
        handles = [
            Patch(facecolor=color, edgecolor="black", linewidth=0.5, label=kind) for kind, color in KINDS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        figure.suptitle(f"Connections of the {network}")
    return figure


def draw_survival(history: TopologyHistory) -> Figure:
    """Which share of the first connections, and of those grown later, is still there; a panel for each network.

    :param history: of a training
    :raises ValueError: if nothing in it is sparse
    """
    names = _sparse_networks(history)
    with matplotlib.rc_context(SETTINGS):
        figure, grid = new_figure(3.8, 1, len(names), sharey=True)
        for axes, name in zip(grid[0], names, strict=True):
            _draw_survival(axes, history.networks[name])
            axes.set_title(name)
            step_axis(axes)
        grid[0, 0].set(ylabel="share still present", ylim=(-0.02, 1.04))
    return figure


def survival(record: TopologyRecord) -> npt.NDArray[np.float64]:
    """Share of each generation's connections that are alive at each record, [records, records]; NaN before it grew.

    :param record: of a network; dense layers do not count
    """
    alive = _alive(record)
    sizes = np.diagonal(alive)
    shares = np.full(alive.shape, np.nan)
    np.divide(alive, sizes, out=shares, where=np.tri(len(alive), dtype=bool) & (sizes > 0))
    return shares


def _alive(record: TopologyRecord) -> npt.NDArray[np.int64]:
    """Connections alive of each generation, [records, records], over all layers that are not dense."""
    alive: npt.NDArray[np.int64] = np.stack([record.generations(layer) for layer in sparse_layer_names(record)]).sum(
        axis=0
    )
    return alive


def _draw_survival(axes: Axes, record: TopologyRecord) -> None:
    alive, steps = _alive(record), np.array(record.steps)
    shares = survival(record)
    later = [place for place in range(1, len(steps) - 1) if not np.isnan(shares[place, place])]
    chosen = [later[place] for place in np.linspace(0, len(later) - 1, min(N_GENERATIONS, len(later))).astype(int)]
    axes.plot(steps, shares[:, 0], color="black", linewidth=2.2, label=f"first {alive[0, 0]:,}")
    for place, generation in enumerate(chosen):
        own = look(place)
        axes.plot(
            steps[generation:], shares[generation:, generation], color=own.color, linestyle=own.linestyle,
            marker=own.marker, markevery=markers_on(len(steps) - generation, 6),
            label=f"{alive[generation, generation]:,} grown at {steps[generation]:,}",
        )  # fmt: skip
    legend_below(axes)


def draw_growth(history: TopologyHistory) -> Figure:
    """Share of each layer's connections that are new at each record; a panel for each network.

    :param history: of a training
    :raises ValueError: if nothing in it is sparse
    """
    names = _sparse_networks(history)
    with matplotlib.rc_context(SETTINGS):
        figure, grid = new_figure(3.8, 1, len(names), sharey=True)
        for axes, name in zip(grid[0], names, strict=True):
            record = history.networks[name]
            for place, layer in enumerate(sparse_layer_names(record)):
                own = look(place)
                share = record.grown(layer) / record.connections(layer)
                axes.plot(
                    record.steps[1:], share[1:], color=own.color, linestyle=own.linestyle, marker=own.marker,
                    markevery=markers_on(len(share), 8, place), label=layer,
                )  # fmt: skip
            axes.set_title(name)
            legend_below(axes)
            step_axis(axes)
        grid[0, 0].set_ylabel("connections exchanged, share of layer")
        grid[0, 0].set_ylim(bottom=0)
    return figure


def _record(history: TopologyHistory, network: str) -> TopologyRecord:
    if network not in history.networks:
        raise ValueError(f"network={network!r} is not in this history: it has {', '.join(history.networks)}")
    record = history.networks[network]
    if not sparse_layer_names(record):
        raise ValueError(f"the {network} has no sparse layer: there is no topology to draw")
    return record


def _sparse_networks(history: TopologyHistory) -> list[str]:
    names = [name for name, record in history.networks.items() if sparse_layer_names(record)]
    if not names:
        raise ValueError("nothing in this history is sparse: there is no topology to draw")
    return names
