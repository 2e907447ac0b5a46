"""Integer weights of a linear layer, chosen so that sums of its rows, not weights, are nearest to the exact ones.

A row's inputs are the integers that the layers before really make of the states of the calibration, so the row makes
good what those have rounded too. One weight after the other is rounded, and what that changes is taken over by those
that are still exact (GPTQ: Frantar et al., ICLR 2023, https://arxiv.org/abs/2210.17323); single steps up or down follow
until none gains (as in Nagel et al., "Up or Down?", ICML 2020). All of this for several scales of the row, since where
integers fall beside few weights is a matter of luck.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sb3_rlx2.export.sparse_policy import Array, Linear

RIDGE = 1e-3
"""Strength with which weights are held to the exact ones: states that are unlike those of the calibration need them."""
SCALES = np.linspace(0.9, 1.3, 12)
"""That are tried for a row, times the one with which its largest weight is the largest integer."""
SMALLEST = 1e-30
"""Of scales: that of a row of zeros."""
STEPS = 2
"""Single steps up or down, for each weight of a row."""


class RoundedRows(NamedTuple):
    """Rows with integer weights: ``scale * (weights @ levels) + bias``.

    :param weights: q of each connection, [nnz], float64
    :param scales: [n_out], float32
    :param biases: [n_out], float64
    """

    weights: Array
    scales: Array
    biases: Array


class Inputs:
    """What is known of the integers that a layer reads.

    :param levels: on the states of the calibration, [n, n_in]
    :param units: what one level stands for, [n_in]
    :param common: the largest level that is common, [n_in]
    """

    def __init__(self, levels: Array, units: Array, common: Array) -> None:
        self.units = units
        self.means = levels.mean(0)
        self.centered = levels - self.means
        self.ridge = RIDGE * np.maximum(common, 1.0) ** 2
        self.covariance = self.centered.T @ self.centered / len(levels) + np.diag(self.ridge)
        self.ranks = np.argsort(np.argsort(-self.covariance.diagonal(), kind="stable"))
        """In which order weights are rounded: those whose inputs vary most first."""
        self._shared: tuple[bytes, Array] = (b"", self.means)

    def factor(self, columns: Array) -> Array:
        """Upper triangle ``U`` with ``U.T @ U`` the inverse of the covariance of some inputs, [k, k].

        :param columns: which, [k]
        """
        key = columns.tobytes()
        if self._shared[0] != key:  # rows of a dense layer have it in common
            backwards = self.covariance[np.ix_(columns[::-1], columns[::-1])]
            self._shared = key, np.linalg.inv(np.linalg.cholesky(backwards)[::-1, ::-1])
        return self._shared[1]


def rounded_rows(
    layer: Linear, inputs: Inputs, outputs: Array, largest_weight: int, largest_total: int, largest_bias: int
) -> RoundedRows:
    """The rows of a layer with integer weights.

    :param layer: the layer
    :param inputs: what it reads
    :param outputs: what it makes exactly on the states of the calibration, [n, n_out]
    :param largest_weight: integers lie in [-largest_weight, largest_weight]
    :param largest_total: of the sizes of a row's integers together
    :param largest_bias: of biases, in units of their row's scale
    """
    weights, scales, biases = np.zeros(len(layer.values)), np.zeros(layer.n_out, np.float32), np.zeros(layer.n_out)
    means = outputs.mean(0)
    wanted = inputs.centered.T @ (outputs - means) / len(outputs)
    for row, (end, count) in enumerate(zip(layer.ends, layer.counts, strict=True)):
        connections = np.arange(end - count, end)
        connections = connections[np.argsort(inputs.ranks[layer.columns[connections]])]
        columns, scale = layer.columns[connections], abs(means[row]) / largest_bias
        if count:
            covariance, factor = inputs.covariance[np.ix_(columns, columns)], inputs.factor(columns)
            exact = layer.values[connections] * inputs.units[columns]
            # What is best for the calibration, held to the exact weights by the ridge
            best = factor.T @ (factor @ (wanted[columns, row] + inputs.ridge[columns] * exact))
            bias = means[row] - best @ inputs.means[columns]
            sizes = np.abs(best)
            scale = max(sizes.max() / largest_weight, sizes.sum() / largest_total, abs(bias) / largest_bias, SMALLEST)
            while True:
                weights[connections], chosen = nearest_row(best, covariance, factor, scale, largest_weight)
                if np.abs(weights[connections]).sum() <= largest_total:
                    break
                scale *= 1.1
            scale = chosen
        scales[row] = max(scale, SMALLEST)
        biases[row] = means[row] - float(scales[row]) * (weights[connections] @ inputs.means[columns])
    return RoundedRows(weights, scales, biases)


def nearest_row(
    exact: Array, covariance: Array, factor: Array, scale: float, largest_weight: int
) -> tuple[Array, np.float32]:
    """Integers, and the scale of the row, with which sums vary the least from the exact ones.

    :param exact: weights, [k], in the order in which they are rounded
    :param covariance: of the inputs, [k, k]
    :param factor: upper triangle ``U`` with ``U.T @ U`` the inverse of the covariance
    :param scale: with which the largest weight is the largest integer
    :param largest_weight: no integer is larger
    :return: integers [k], and their scale
    """
    scales = (scale * SCALES).astype(np.float32)
    targets = exact / scales.astype(np.float64)[:, None]
    remaining, weights = targets.copy(), np.empty_like(targets)
    for i in range(len(exact)):
        weights[:, i] = np.clip(np.rint(remaining[:, i]), -largest_weight, largest_weight)
        missed = (remaining[:, i] - weights[:, i]) / factor[i, i]
        remaining[:, i + 1 :] -= missed[:, None] * factor[i, i + 1 :]
    variances, each = covariance.diagonal(), np.arange(len(scales))
    slopes = (weights - targets) @ covariance
    for _ in range(STEPS * len(exact)):
        steps = -np.sign(slopes)
        gains = np.where(np.abs(weights + steps) <= largest_weight, 2.0 * np.abs(slopes) - variances, 0.0)
        best = gains.argmax(1)
        step = np.where(gains[each, best] > 1e-9 * variances[best], steps[each, best], 0.0)
        if not step.any():
            break
        weights[each, best] += step
        slopes += step[:, None] * covariance[best]
    errors = scales.astype(np.float64) ** 2 * ((weights - targets) * slopes).sum(1)
    chosen = int(errors.argmin())
    return weights[chosen], scales[chosen]
