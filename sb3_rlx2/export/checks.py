"""Whether an export computes what ``predict`` does."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2.export.sparse_policy import Array, SparsePolicy

TOLERANCE = 1e-6
"""Of the size of an action: some ten times what a number of single precision resolves."""


class Agreement(NamedTuple):
    """How far two ways to compute actions are from each other.

    :param largest: the largest difference of an action, as a share of the largest size that its bounds allow
    :param allowed: what it may be
    :param n: number of observations
    """

    largest: float
    allowed: float
    n: int

    @property
    def holds(self) -> bool:
        """Whether they agree."""
        return self.largest <= self.allowed  # not with NaN

    def __str__(self) -> str:
        return (
            f"{self.n} observations: actions differ from predict's by at most {self.largest:.1e} of their largest "
            f"size, allowed are {self.allowed:.1e}"
        )


def predictions(model: OffPolicyAlgorithm, vec_normalize: VecNormalize | None, observations: Array) -> Array:
    """Actions of a model for raw observations, without noise.

    :param model: the model
    :param vec_normalize: what normalizes its observations
    :param observations: [n, ...]
    :return: [n, n_act]
    """
    normalized = observations if vec_normalize is None else vec_normalize.normalize_obs(observations)
    actions, _ = model.predict(normalized, deterministic=True)
    return actions.reshape(len(observations), -1)


def agreement(policy: SparsePolicy, observations: Array, actions: Array, expected: Array) -> Agreement:
    """How far an export is from ``predict``.

    What is allowed is ``TOLERANCE``, and twice what rounding makes of ``predict`` itself: its distance from the same
    network in double precision.

    :param policy: what was exported
    :param observations: raw ones, [n, ...]
    :param actions: the export's, [n, n_act]
    :param expected: those of ``predict``, [n, n_act]
    """
    exact = policy.predict(observations)[0].reshape(expected.shape)
    rounding = distance(policy, expected, exact)
    # Where predict is far from the network that was read, that is no rounding
    allowed = TOLERANCE + 2.0 * min(rounding, 10.0 * TOLERANCE)
    return Agreement(distance(policy, actions, expected), allowed, len(observations))


def distance(policy: SparsePolicy, one: Array, other: Array) -> float:
    """The largest difference of an action, as a share of the largest size that its bounds allow.

    :param policy: whose actions they are
    :param one: [n, n_act]
    :param other: [n, n_act]
    """
    size = np.maximum(np.abs(policy.action.low), np.abs(policy.action.high)).astype(np.float64)
    return float((np.abs(one.astype(np.float64) - other) / np.maximum(size, np.finfo(np.float32).tiny)).max())
