"""Whether an export computes what ``predict`` does."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2.export.sparse_policy import Array, GreedyAction, Linear, SparsePolicy, SquashedAction

TOLERANCE = 1e-6
"""Of the size of an action: some ten times what a number of single precision resolves."""
NEAR_TIE = 1e-5
"""Share of the largest value by which two actions' values may differ when rounding chooses between them."""

UNIT = 2.0**-24
"""Rounding to single precision changes a number by at most this share of it."""
DRAWS, MOST_DRAWN = 4, 1000
"""How often rounding errors are drawn, and for how many observations at most."""


class Agreement(NamedTuple):
    """How far two ways to compute actions are from each other.

    :param largest: the largest difference of an action, as a share of the largest size that its bounds allow; of
        discrete actions the largest difference of the values of two of them, as a share of the largest value
    :param allowed: what it may be
    :param n: number of observations
    :param n_other: for how many of them discrete actions are not the same; None: actions are not discrete
    """

    largest: float
    allowed: float
    n: int
    n_other: int | None = None

    @property
    def holds(self) -> bool:
        """Whether they agree."""
        return self.largest <= self.allowed  # not with NaN

    def __str__(self) -> str:
        if self.n_other == 0:
            return f"{self.n} observations: all actions are those of predict"
        if self.n_other is not None:
            return (
                f"{self.n} observations: {self.n_other} actions are not those of predict, whose values differ by at "
                f"most {self.largest:.1e} of the largest value, allowed are {self.allowed:.1e}"
            )
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

    What is allowed is ``TOLERANCE`` (of discrete actions ``NEAR_TIE``), and twice what rounding makes of the policy:
    the larger of ``predict``'s distance from the same network in double precision, which is a matter of luck where
    there are few observations, and ``rounding``.

    :param policy: what was exported
    :param observations: raw ones, [n, ...]
    :param actions: the export's, [n, n_act]
    :param expected: those of ``predict``, [n, n_act]
    """
    outputs = policy.values(observations.reshape(len(observations), -1))[policy.output]
    exact = policy.action(outputs).reshape(expected.shape)
    is_greedy = isinstance(policy.action, GreedyAction)
    tolerance = NEAR_TIE if is_greedy else TOLERANCE
    # Where predict is far from the network that was read, that is no rounding
    of_predict = min(distance(policy, expected, exact, outputs), 10.0 * tolerance)
    allowed = tolerance + 2.0 * max(of_predict, rounding(policy, observations))
    n_other = int((actions != expected).sum()) if is_greedy else None
    return Agreement(distance(policy, actions, expected, outputs), allowed, len(observations), n_other)


def rounding(policy: SparsePolicy, observations: Array) -> float:
    """How far errors of single precision, drawn for every operation, move actions, in the units of ``Agreement``.

    :param policy: the policy
    :param observations: raw ones, [n, ...]
    """
    raw, generator = observations[:MOST_DRAWN].reshape(-1, policy.n_obs), np.random.default_rng(0)
    outputs, largest = policy.values(raw), 0.0
    exact = policy.action(outputs[policy.output]).reshape(len(raw), -1)
    unit_of_input = 0.0 if policy.normalization is None else UNIT
    for _ in range(DRAWS):
        values = {0: outputs[0] * (1.0 + unit_of_input * generator.standard_normal(outputs[0].shape))}
        for operation in policy.operations:
            read = [values[number] for number in operation.inputs]
            value = operation(*read)
            size = np.abs(value)
            if isinstance(operation, Linear):  # partial sums are rounded, each as large as its terms may make it
                size = replace(operation, values=np.abs(operation.values), bias=np.abs(operation.bias))(np.abs(read[0]))
            values[operation.output] = value + UNIT * size * generator.standard_normal(value.shape)
        actions = policy.action(values[policy.output]).reshape(len(raw), -1)
        largest = max(largest, distance(policy, actions, exact, outputs[policy.output]))
    return largest


def distance(policy: SparsePolicy, one: Array, other: Array, outputs: Array) -> float:
    """The largest difference of an action, in the units of ``Agreement``.

    :param policy: whose actions they are
    :param one: [n, n_act]
    :param other: [n, n_act]
    :param outputs: of the network, [n, policy.action.n_in]
    """
    if isinstance(policy.action, GreedyAction):
        differences = np.take_along_axis(outputs, one, 1) - np.take_along_axis(outputs, other, 1)
        size = np.maximum(np.abs(outputs).max(), np.finfo(np.float32).tiny)
    else:
        differences = one.astype(np.float64) - other
        size = _largest_size(policy.action)
    return float((np.abs(differences) / size).max())


def of_half_ranges(policy: SparsePolicy, difference: float) -> float:
    """A difference of actions in half of what their bounds lie apart, in the units of ``Agreement``.

    :param policy: whose actions they are
    :param difference: of discrete actions' values it has the units already
    """
    if isinstance(policy.action, GreedyAction):
        return difference
    return difference * float((policy.action.half_range / _largest_size(policy.action)).max())


def _largest_size(action: SquashedAction) -> Array:
    """Above 0: an action that is always 0 has a size, too."""
    return np.maximum(np.maximum(np.abs(action.low), np.abs(action.high)), np.finfo(np.float32).tiny).astype(np.float64)
