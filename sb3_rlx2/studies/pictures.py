"""Pictures of a study."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sb3_rlx2.analysis.plots.style import SETTINGS, look, new_figure
from sb3_rlx2.studies.statistics import Array, estimate, iqm, performance_profile

COLUMNS = 2
N_THRESHOLDS = 200


def draw_scores(scores: Mapping[str, Mapping[str, Array]], confidence: float = 0.95) -> Figure:
    """Every run as a dot, the interquartile mean of each method with its interval: a panel for each environment.

    :param scores: by environment and method
    :param confidence: size of the intervals, default 0.95
    """
    columns = min(len(scores), COLUMNS)
    rows = -(-len(scores) // columns)
    methods = list(dict.fromkeys(method for by_method in scores.values() for method in by_method))
    with matplotlib.rc_context(SETTINGS):
        figure, grid = new_figure(rows * (0.9 + 0.28 * len(methods)), rows, columns)
        for axes, (environment, by_method) in zip(grid.flat, scores.items(), strict=False):
            names = [method for method in methods if method in by_method]
            for row, name in enumerate(names):
                own, color = by_method[name], look(methods.index(name)).color
                found = estimate([own], iqm, confidence=confidence)
                if not np.isnan(found.low):
                    axes.plot([found.low, found.high], [row, row], color=color, linewidth=6, alpha=0.25)
                axes.plot(found.value, row, "|", color=color, markersize=14, markeredgewidth=2)
                axes.plot(own, [row] * len(own), "o", color=color, markersize=3.5, markerfacecolor="none")
            axes.set(title=environment, yticks=range(len(names)), yticklabels=names, xlabel="score of a run")
            axes.set_ylim(len(names) - 0.5, -0.5)
        for axes in list(grid.flat)[len(scores) :]:
            axes.remove()
    return figure


def draw_profiles(percent: Mapping[str, Mapping[str, Mapping[str, Array]]], reference: str) -> Figure:
    """Performance profiles: the fraction of runs above each score, over all environments of a panel.

    :param percent: scores in percent of the reference, by title of the panel, method and environment
    :param reference: its name
    """
    methods = list(dict.fromkeys(method for by_method in percent.values() for method in by_method))
    with matplotlib.rc_context(SETTINGS):
        figure, grid = new_figure(3.2 * len(percent), len(percent))
        for axes, (title, by_method) in zip(grid.flat, percent.items(), strict=True):
            highest = max(float(own.max()) for by_environment in by_method.values() for own in by_environment.values())
            thresholds = np.linspace(0.0, max(highest, 100.0) * 1.02, N_THRESHOLDS)
            for method, by_environment in by_method.items():
                own = look(methods.index(method))
                profile = performance_profile(list(by_environment.values()), thresholds)
                axes.plot(thresholds, profile, color=own.color, linestyle=own.linestyle, label=method)
            axes.set(title=title, ylabel="fraction of runs above it", ylim=(-0.02, 1.02))
            axes.legend(loc="lower left")
        axes.set(xlabel=f"score, % of {reference}")
    return figure
