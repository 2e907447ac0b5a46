"""Evaluations of finished or running trainings, and their average over seeds."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rliable import library as rly
from scipy import stats

from sb3_rlx2.common.arguments import is_number
from sb3_rlx2.errors import first_line

Array = npt.NDArray[np.float64]

ZOO_FOLDER = re.compile(r"(?P<environment>.+)_(?P<run>\d+)")
CSV_NAME = re.compile(r"learning_(?P<environment>.+-v\d+)_(?P<algorithm>.+)_seed(?P<run>\d+)")
N_LAST = 30
"""The score of a run is the mean of its last so many evaluations (RLx2, section 5)."""


class Run(NamedTuple):
    """Evaluations of one training.

    :param environment: its id
    :param algorithm: its name
    :param name: of the run, such as its seed
    :param steps: environment steps at each evaluation, [evaluations]
    :param returns: mean return of each evaluation's episodes, [evaluations]
    """

    environment: str
    algorithm: str
    name: str
    steps: Array
    returns: Array


class Curve(NamedTuple):
    """Interquartile mean over runs, with its confidence interval.

    :param steps: [evaluations]
    :param iqm: [evaluations]
    :param low: lower end of the interval, [evaluations]
    :param high: upper end of the interval, [evaluations]
    :param n_runs: how many runs there are of each task
    """

    steps: Array
    iqm: Array
    low: Array
    high: Array
    n_runs: int


def read_runs(path: Path, algorithm: str | None = None) -> list[Run]:
    """The evaluations in a file, or in all files below a folder.

    Files are ``evaluations.npz`` of an ``EvalCallback`` (in a folder ``ALGORITHM/ENVIRONMENT_RUN``, as rl-zoo3 has it)
    and ``learning_ENVIRONMENT_ALGORITHM_seedRUN.csv`` (columns: step, mean return).

    :param path: the file or folder
    :param algorithm: name to show; None (default): from the path
    :raises ValueError: if there is none, or one cannot be read
    """
    found = [*path.rglob("evaluations.npz"), *path.rglob("learning_*.csv")] if path.is_dir() else [path]
    runs = [_read(file, algorithm) for file in sorted(found)]
    if not runs:
        raise ValueError(f"{path}: no evaluations.npz and no learning_*.csv below this folder")
    return runs


def _read(path: Path, algorithm: str | None) -> Run:
    try:
        steps, returns = _read_csv(path) if path.suffix == ".csv" else _read_evaluations(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file") from error
    except Exception as error:  # whatever a foreign or damaged file brings about
        raise ValueError(f"{path}: no evaluations can be read from this file ({first_line(error)})") from error
    _check_evaluations(path, steps, returns)
    if path.suffix == ".csv":
        match = CSV_NAME.fullmatch(path.stem)
        folder, own = path.parent.name, path.stem
    else:
        match = ZOO_FOLDER.fullmatch(path.resolve().parent.name)
        folder, own = path.resolve().parent.parent.name, path.resolve().parent.name
    given = match.groupdict() if match else {}
    return Run(
        given.get("environment", own),
        algorithm or given.get("algorithm", folder),
        given.get("run", own),
        steps,
        returns,
    )


def _check_evaluations(path: Path, steps: Array, returns: Array) -> None:
    if not (np.isfinite(steps).all() and np.isfinite(returns).all()):
        raise ValueError(f"{path}: steps and returns must be finite numbers, and some are NaN or infinite")
    falls = np.flatnonzero(np.diff(steps) <= 0.0)
    if len(falls):
        before, after = steps[falls[0] : falls[0] + 2]
        raise ValueError(
            f"{path}: steps must rise, and step {after:.0f} follows step {before:.0f}: are there several trainings in "
            "this file?"
        )


def _read_csv(path: Path) -> tuple[Array, Array]:
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row and not row[0].startswith("#")]
    if rows and not is_number(rows[0][0]):  # its head
        del rows[0]
    if not rows:
        raise ValueError("it has no rows")
    numbers = np.array([row[:2] for row in rows], dtype=np.float64)
    return numbers[:, 0], numbers[:, 1]


def _read_evaluations(path: Path) -> tuple[Array, Array]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        steps, results = archive["timesteps"], archive["results"]
    if steps.ndim != 1 or len(results) != len(steps) or results.size == 0:
        raise ValueError(f"steps of shape {steps.shape}, results of shape {results.shape}")
    return steps.astype(np.float64), results.reshape(len(steps), -1).mean(axis=1)


def group(runs: Iterable[Run]) -> dict[str, dict[str, list[Run]]]:
    """Runs by environment and algorithm, in the order in which they come."""
    grouped: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        grouped.setdefault(run.environment, {}).setdefault(run.algorithm, []).append(run)
    return grouped


def average(runs: Sequence[Run], *, confidence: float = 0.95, reps: int = 2000, seed: int = 0) -> Curve:
    """Interquartile mean over the runs of one algorithm on one task, at the steps that all runs have.

    A warning names evaluations that are left out because not all runs have them.

    :param runs: of one algorithm on one task
    :param confidence: size of the bootstrapped interval, default 0.95
    :param reps: number of bootstrap samples, default 2000
    :param seed: of the bootstrap
    :raises ValueError: if the runs have no step in common
    """
    steps, scores = _aligned(runs)
    return _curve(steps, scores[:, None], confidence, reps, seed)


def average_over_tasks(
    runs: Mapping[str, Sequence[Run]],
    reference: Mapping[str, float],
    *,
    confidence: float = 0.95,
    reps: int = 2000,
    seed: int = 0,
) -> Curve:
    """Interquartile mean over the runs of one algorithm on several tasks, in percent of a reference score of each.

    Runs are resampled within each task (stratified; Agarwal et al., 2021). Where tasks have different numbers of runs,
    the first of each count, as many as the fewest. A warning names what is left out.

    :param runs: by task
    :param reference: score that counts as 100, by task
    :param confidence: size of the bootstrapped interval, default 0.95
    :param reps: number of bootstrap samples, default 2000
    :param seed: of the bootstrap
    :raises ValueError: if the runs have no step in common, or a reference is not above 0
    """
    for task in runs:
        if not reference[task] > 0.0:
            raise ValueError(
                f"the reference's score on {task} is {reference[task]:.4g}, and percentages need one above 0: leave "
                "that task out"
            )
    counts = {task: len(of_task) for task, of_task in runs.items()}
    n_runs = min(counts.values())
    if n_runs < max(counts.values()):
        numbers = ", ".join(f"{count} on {task}" for task, count in counts.items())
        warnings.warn(f"all tasks together: the first {n_runs} runs of each count (there are {numbers})", stacklevel=2)
    chosen = [run for of_task in runs.values() for run in of_task[:n_runs]]
    steps, scores = _aligned(chosen)
    by_task = scores.reshape(len(runs), n_runs, -1).swapaxes(0, 1)
    percent = 100 * by_task / np.array([reference[task] for task in runs])[:, None]
    return _curve(steps, percent, confidence, reps, seed)


def final_score(runs: Sequence[Run]) -> float:
    """Interquartile mean, over runs, of the mean of each run's last evaluations."""
    return float(iqm(np.array([run.returns[-N_LAST:].mean() for run in runs])[:, None, None])[0])


def iqm(scores: Array) -> Array:
    """Interquartile mean over runs and tasks as rliable has it, for all evaluations at once.

    :param scores: [runs, tasks, evaluations]
    :return: [evaluations]
    """
    trimmed: Array = stats.trim_mean(scores.reshape(-1, scores.shape[-1]), 0.25, axis=0)
    return trimmed


def _aligned(runs: Sequence[Run]) -> tuple[Array, Array]:
    steps = runs[0].steps
    for run in runs[1:]:
        steps = np.intersect1d(steps, run.steps)
    if len(steps) == 0:
        names = ", ".join(run.name for run in runs)
        raise ValueError(f"{runs[0].algorithm} on {runs[0].environment}: runs {names} have no step in common")
    count = sum(len(run.steps) for run in runs)
    kept = len(runs) * len(steps)
    if kept < count:
        tasks = ", ".join(dict.fromkeys(run.environment for run in runs))
        last = max(run.steps[-1] for run in runs)
        warnings.warn(
            f"{runs[0].algorithm} on {tasks}: left out are {count - kept} of {count} evaluations, at steps that not "
            f"all runs have; the curve ends at step {steps[-1]:.0f} of {last:.0f}",
            stacklevel=3,
        )
    return steps, np.stack([run.returns[np.searchsorted(run.steps, steps)] for run in runs])


def _curve(steps: Array, scores: Array, confidence: float, reps: int, seed: int) -> Curve:
    state: Any = np.random.get_state()
    np.random.seed(seed)  # rliable draws from NumPy's global generator
    try:
        points, intervals = rly.get_interval_estimates(
            {"": scores}, iqm, reps=reps, confidence_interval_size=confidence
        )
    finally:
        np.random.set_state(state)
    low, high = intervals[""]
    return Curve(steps, points[""], low, high, len(scores))
