"""What can be known of a policy's values without computing them: where they lie, and how far integers can be off.

Interval arithmetic, so it holds for all observations of a range, and is far from what is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sb3_rlx2.export.sparse_policy import Activation, Array, LayerNorm, Linear

LIPSCHITZ = {"relu": 1.0, "tanh": 1.0, "silu": 1.1, "gelu": 1.13, "gelu_tanh": 1.13}
LOWEST = {"silu": -0.2785, "gelu": -0.17, "gelu_tanh": -0.1701}
"""Minimum of activations that fall before they rise."""
ROUNDING = 1e-6
"""Of floating-point numbers, as a share of the largest one."""


@dataclass
class Value:
    """What is known of a value.

    :param low: what it can be at least, [n], for all observations that are not cut off
    :param high: and at most
    :param low_seen: the same for observations like those of the calibration
    :param high_seen: and at most
    :param error: how far the integers' value can be from the exact one then, [n]
    :param largest: the largest size in the calibration, [n]
    """

    low: Array
    high: Array
    low_seen: Array
    high_seen: Array
    error: Array
    largest: Array

    @property
    def size(self) -> Array:
        """What its size can be, [n]."""
        return np.maximum(-self.low, self.high)

    @property
    def size_seen(self) -> Array:
        """The same for observations like those of the calibration."""
        return np.maximum(-self.low_seen, self.high_seen)


def error_of_weights(layer: Linear, weights: Array, biases: Array, source: Value) -> Array:
    """How far a row can be from the exact one because of its rounded weights and bias.

    :param layer: the exact layer
    :param weights: what stands for its weights, [nnz]
    :param biases: what stands for its biases, [n_out]
    :param source: what it reads
    :return: [n_out]
    """
    rows, off = layer.rows, weights - layer.values
    # Deviations times inputs between the least and the largest, around the middle, which the bias partly makes good
    low, high = source.low_seen[layer.columns], source.high_seen[layer.columns]
    middle = biases - layer.bias + np.bincount(rows, off * 0.5 * (low + high), minlength=layer.n_out)
    around = np.abs(off) * (0.5 * (high - low) + source.error[layer.columns])
    error: Array = np.abs(middle) + np.bincount(rows, around, minlength=layer.n_out) + ROUNDING * np.abs(layer.bias)
    return error


def value_of(operation: object, read: list[Value], largest: Array) -> Value:
    """What is known of an operation's result, with the error that comes from what it reads.

    :param operation: of a policy
    :param read: what is known of the values that it reads
    :param largest: the largest size of its result in the calibration, [n]
    """
    if isinstance(operation, Linear):
        (x,) = read
        low, high = _interval(operation, x.low, x.high)
        low_seen, high_seen = _interval(operation, x.low_seen, x.high_seen)
        rows = operation.rows
        brought = np.abs(operation.values) * x.error[operation.columns]
        error: Array = np.bincount(rows, brought, minlength=operation.n_out)
        return Value(low, high, low_seen, high_seen, error, largest)
    if isinstance(operation, Activation):
        (x,) = read
        factor = LIPSCHITZ.get(operation.function) or max(1.0, operation.parameter)
        low, high = _through(operation, x.low, x.high)
        low_seen, high_seen = _through(operation, x.low_seen, x.high_seen)
        return Value(low, high, low_seen, high_seen, factor * x.error + ROUNDING, largest)
    if isinstance(operation, LayerNorm):
        (x,) = read
        reach = np.sqrt(len(operation.weight)) * np.abs(operation.weight) + np.abs(operation.bias)
        # How far a variance can fall is not known
        error = np.full(len(reach), 2.0 * reach.max()) if x.error.any() else np.zeros(len(reach))
        return Value(-reach, reach, -reach, reach, error, largest)
    x, y = read
    return Value(
        x.low + y.low, x.high + y.high, x.low_seen + y.low_seen, x.high_seen + y.high_seen, x.error + y.error, largest
    )


def _interval(layer: Linear, low: Array, high: Array) -> tuple[Array, Array]:
    rows = layer.rows
    ends = layer.values * low[layer.columns], layer.values * high[layer.columns]
    return tuple(  # type: ignore[return-value]
        layer.bias + np.bincount(rows, choose(*ends), minlength=layer.n_out) for choose in (np.minimum, np.maximum)
    )


def _through(activation: Activation, low: Array, high: Array) -> tuple[Array, Array]:
    at_low, at_high = activation(low), activation(high)
    lowest = LOWEST.get(activation.function, np.inf)
    falls = np.where((low < 0.0) & (lowest < 0.0), lowest, np.inf)
    return np.minimum(np.minimum(at_low, at_high), falls), np.maximum(at_low, at_high)
