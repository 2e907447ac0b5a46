"""Scores of runs, and what they say of a method.

The measures are those of rliable (Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", 2021). Unlike there, environments may have different numbers of seeds: each environment counts the same, and
each seed is resampled within its environment (stratified bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
N_LAST = 10
"""The score of a run is the mean of its last so many evaluations; the paper's is that of 30."""


class Estimate(NamedTuple):
    """A number and its confidence interval.

    :param value: the number
    :param low: lower end of the interval; NaN: there is none, for lack of seeds
    :param high: upper end of the interval
    """

    value: float
    low: float
    high: float

    def text(self, form: str | None = None) -> str:
        """``1234 [1200, 1270]``, or the number alone where there is no interval.

        :param form: format of the numbers; None (default): that of the value, or, of 0, of the end that is farther
            from it, see ``score_form``
        """
        form = score_form(self.value or max(self.low, self.high, key=abs)) if form is None else form
        interval = "" if np.isnan(self.low) else f" [{self.low:{form}}, {self.high:{form}}]"
        return f"{self.value:{form}}{interval}"


def score_form(score: float) -> str:
    """The format of a score: a whole number, or three significant digits of one below 10.

    :param score: the score
    """
    size = abs(score)
    return ".0f" if not 0.0 < size < 10.0 else f".{2 - math.floor(math.log10(size))}f"


def run_score(returns: Sequence[float], n_last: int = N_LAST) -> float:
    """The score of a run.

    :param returns: mean return of each evaluation
    :param n_last: how many of the last ones count, default 10
    """
    return float(np.mean(returns[-n_last:]))


class Measure(Protocol):
    """A number that stands for the scores of all environments together."""

    def __call__(self, scores: Sequence[Array]) -> Array:
        """Compute it.

        :param scores: for each environment, which all count the same, those of its seeds: [..., seeds]
        :return: [...]
        """
        ...


def iqm(scores: Sequence[Array]) -> Array:
    """Interquartile mean: of the middle half of all scores, each taken as often as makes environments count the same.

    :param scores: for each environment those of its seeds: [..., seeds]
    :return: [...]
    """
    n_each = math.lcm(*(own.shape[-1] for own in scores))
    copies = np.concatenate([np.full(own.shape[-1], n_each // own.shape[-1]) for own in scores])
    every = np.concatenate(scores, axis=-1)
    order = np.argsort(every, axis=-1)
    ends = np.cumsum(copies[order], axis=-1)  # the ranks of a score's copies are those below its end
    n_ranks = n_each * len(scores)
    first, last = n_ranks // 4, n_ranks - n_ranks // 4
    kept = np.clip(ends, first, last) - np.clip(ends - copies[order], first, last)
    middle: Array = (kept * np.take_along_axis(every, order, axis=-1)).sum(axis=-1) / (last - first)
    return middle


def mean(scores: Sequence[Array]) -> Array:
    """Mean of the means of the environments.

    :param scores: for each environment those of its seeds: [..., seeds]
    :return: [...]
    """
    average: Array = np.mean([own.mean(axis=-1) for own in scores], axis=0)
    return average


def estimate(
    scores: Sequence[Array],
    measure: Measure,
    *,
    confidence: float = 0.95,
    reps: int = 5000,
    seed: int = 0,
) -> Estimate:
    """A measure of all scores together, with its percentile interval by the stratified bootstrap.

    :param scores: for each environment, which all count the same, those of its seeds
    :param measure: ``iqm`` or ``mean``
    :param confidence: size of the interval, default 0.95
    :param reps: number of bootstrap samples, default 5000
    :param seed: of the bootstrap, default 0
    """
    value = float(measure(scores))
    if min(map(len, scores)) < 2:
        return Estimate(value, np.nan, np.nan)
    random = np.random.default_rng(seed)
    samples = measure([_resampled(own, reps, random) for own in scores])
    return Estimate(value, *_interval(samples, confidence))


def probability_of_improvement(
    ours: Sequence[Array], theirs: Sequence[Array], *, confidence: float = 0.95, reps: int = 5000, seed: int = 0
) -> Estimate:
    """How likely a run of one method scores higher than one of another on the same environment; ties count half.

    A score that is no number, of a run that diverged, is below all others.

    :param ours: for each environment the scores of its seeds
    :param theirs: those of the other method, environments in the same order
    :param confidence: size of the interval, default 0.95
    :param reps: number of bootstrap samples, default 5000
    :param seed: of the bootstrap, default 0
    """
    value = float(np.mean([_higher(x[None], y[None])[0] for x, y in zip(ours, theirs, strict=True)]))
    if min(map(len, (*ours, *theirs))) < 2:
        return Estimate(value, np.nan, np.nan)
    random = np.random.default_rng(seed)
    pairs = zip(ours, theirs, strict=True)
    samples = np.mean([_higher(_resampled(x, reps, random), _resampled(y, reps, random)) for x, y in pairs], axis=0)
    return Estimate(value, *_interval(samples, confidence))


def performance_profile(scores: Sequence[Array], thresholds: Array) -> Array:
    """Fraction of runs that score above each threshold.

    :param scores: for each environment, which all count the same, those of its seeds
    :param thresholds: [thresholds]
    :return: [thresholds]
    """
    return mean([np.where(own > thresholds[:, None], 1.0, 0.0) for own in scores])


def percent_of(scores: Mapping[str, Array], reference: Mapping[str, Array]) -> dict[str, Array]:
    """Scores in percent of the reference's mean score on the same environment.

    Left out are environments on which the reference has no runs, or a mean that is not above 0: there a higher
    percentage would be a lower score.

    :param scores: by environment
    :param reference: by environment
    """
    means = {name: float(own.mean()) for name, own in reference.items() if len(own)}
    return {name: 100.0 * own / means[name] for name, own in scores.items() if means.get(name, 0.0) > 0.0}


def _resampled(scores: Array, reps: int, random: np.random.Generator) -> Array:
    chosen: Any = random.integers(len(scores), size=(reps, len(scores)))
    samples: Array = scores[chosen]
    return samples


def _higher(ours: Array, theirs: Array) -> Array:
    ours, theirs = (np.where(np.isnan(scores), -np.inf, scores) for scores in (ours[:, :, None], theirs[:, None, :]))
    fraction: Array = ((ours > theirs) + 0.5 * (ours == theirs)).mean(axis=(1, 2))
    return fraction


def _interval(samples: Array, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
