"""Learning curves over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sb3_rlx2.analysis.plots.runs import Curve, Run, average, average_over_tasks, final_score, group
from sb3_rlx2.analysis.plots.style import SETTINGS, look, markers_on, new_figure, step_axis

COLUMNS = 2


def draw_learning_curves(
    runs: Sequence[Run],
    *,
    reference: str | None = None,
    confidence: float = 0.95,
    reps: int = 2000,
    seed: int = 0,
) -> Figure:
    """One panel a task: interquartile mean over runs and its stratified-bootstrap confidence interval.

    :param runs: of any algorithms on any tasks
    :param reference: an algorithm that has runs on every task: a further panel shows all tasks together, in percent of
        its final score; None (default): no such panel
    :param confidence: size of the interval, default 0.95
    :param reps: number of bootstrap samples, default 2000
    :param seed: of the bootstrap, default 0
    :raises ValueError: if there are no runs, or the reference lacks some
    """
    tasks = group(runs)
    if not tasks:
        raise ValueError("there are no runs to draw")
    if reference is not None:
        lacking = [task for task, algorithms in tasks.items() if reference not in algorithms]
        if lacking:
            raise ValueError(f"reference={reference!r} has no runs on {', '.join(lacking)}")
    algorithms = list(dict.fromkeys(run.algorithm for run in runs))
    n_panels = len(tasks) + (reference is not None)
    columns = min(n_panels, COLUMNS)
    rows = -(-n_panels // columns)
    with matplotlib.rc_context(SETTINGS):
        figure, grid = new_figure(4.0 if columns == 1 else 0.8 + 2.4 * rows, rows, columns)
        panels: list[Axes] = list(grid.flat)
        counts: dict[str, set[int]] = {name: set() for name in algorithms}
        for axes, (task, by_algorithm) in zip(panels, tasks.items(), strict=False):
            for name, own in by_algorithm.items():
                curve = average(own, confidence=confidence, reps=reps, seed=seed)
                _draw(axes, curve, algorithms.index(name))
                counts[name].add(len(own))
            axes.set(title=task, ylabel="evaluation return")
        if reference is not None:
            scores = {task: final_score(by_algorithm[reference]) for task, by_algorithm in tasks.items()}
            axes = panels[len(tasks)]
            for name in algorithms:
                of_all = {task: by_algorithm[name] for task, by_algorithm in tasks.items() if name in by_algorithm}
                if len(of_all) == len(tasks):
                    curve = average_over_tasks(of_all, scores, confidence=confidence, reps=reps, seed=seed)
                    _draw(axes, curve, algorithms.index(name))
            axes.set(title=f"all {len(tasks)} tasks", ylabel=f"% of {reference}'s final score")
        for axes in panels[:n_panels]:
            step_axis(axes)
        for axes in panels[n_panels:]:
            axes.remove()
        handles = [
            Line2D([], [], **look(place)._asdict(), label=_label(name, counts[name]))
            for place, name in enumerate(algorithms)
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 4), handlelength=2.6,
            title=f"interquartile mean over runs, {100 * confidence:g}% bootstrap intervals", title_fontsize=8,
        )  # fmt: skip
    return figure


def _label(name: str, counts: set[int]) -> str:
    low, high = min(counts), max(counts)
    number = str(low) if low == high else f"{low} to {high}"
    return f"{name} ({number} run{'s' if high > 1 else ''})"


def _draw(axes: Axes, curve: Curve, place: int) -> None:
    own = look(place)
    axes.fill_between(curve.steps, curve.low, curve.high, color=own.color, alpha=0.18, linewidth=0)
    for edge in (curve.low, curve.high):
        axes.plot(curve.steps, edge, color=own.color, linewidth=0.5, alpha=0.6)
    axes.plot(curve.steps, curve.iqm, **own._asdict(), markevery=markers_on(len(curve.steps), place=place))
