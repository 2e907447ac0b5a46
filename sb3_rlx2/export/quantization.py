"""Policies with integer weights: one scale for each row, 16-bit levels between layers, and how far actions are off.

A weight is ``scale[row] * q`` with an integer q, in [-127, 127] for int8 and [-2047, 2047] for int16. What a layer
reads are levels, integers of 16 bits, each input with a unit of its own, which the weights have taken in. A row's sum
is exact in 32 bits: where its integers could add up to more, its scale is larger. A layer whose output goes through
ReLU into further layers makes levels by a shift, without floating-point numbers: the unit of an output is its row's
scale times a power of two. Everything else is computed in floats.

An input with a coarse unit has a large weight, which sets the scale of the row and leaves few integers to the others.
So units follow the sizes seen in the calibration, and are finer for inputs that contribute much (as in SmoothQuant:
Xiao et al., ICML 2023, https://arxiv.org/abs/2211.10438, with strength 1/2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sb3_rlx2.export.ranges import ROUNDING, Value, error_of_weights, value_of
from sb3_rlx2.export.rounding import Inputs, rounded_rows
from sb3_rlx2.export.sparse_policy import (
    Action,
    Activation,
    Array,
    GreedyAction,
    Linear,
    Operation,
    SparsePolicy,
)

HEADROOM = 4.0
"""How much larger than in the calibration an input of a layer may be, at least, before it is cut off."""
LOOSE = 64.0
"""Units that were seen small, or never, have at least the range that interval arithmetic asks for, divided by this."""
LARGEST_WEIGHTS = {"int8": 127, "int16": 2047}
"""By precision."""
LIMIT = 32767
"""The largest level."""
LARGEST_SUM = 2**30
"""Of a row's products, and of its bias: both together fit in 32 bits."""
LEAST_SHARE = 1 / 16
"""Of the levels, for an input that contributes little."""
HELD_OUT = 8
"""Of so many observations one is kept out of the calibration, to measure on; of fewer one too, unless it is alone."""
TINY = 1e-30
"""Instead of 0 where something is divided by it."""


@dataclass(frozen=True)
class QuantizedLayer:
    """A linear layer in integers.

    :param weights: q of each connection, [nnz], int8 or int16
    :param biases: [n_out], int32, in units of the sums
    :param scales: unit of each row's sum, [n_out], float32
    :param shifts: how far sums are shifted to become levels, [n_out], uint8; None: they become floats
    """

    weights: Array
    biases: Array
    scales: Array
    shifts: Array | None

    @property
    def half(self) -> Array:
        """What its biases hold so that shifting, which rounds down, rounds to the nearest, [n_out]."""
        if self.shifts is None:
            return np.zeros(len(self.biases))
        return np.where(self.shifts > 0, 2.0 ** (self.shifts.astype(np.float64) - 1.0), 0.0)

    @property
    def units(self) -> Array:
        """What one level of an output stands for, [n_out]."""
        shifts = np.zeros(1) if self.shifts is None else self.shifts.astype(np.float64)
        return self.scales.astype(np.float64) * 2.0**shifts

    def levels(self, sums: Array) -> Array:
        """What its sums become, [..., n_out].

        :param sums: of whole numbers, [..., n_out]
        """
        shifts = np.zeros(1) if self.shifts is None else self.shifts.astype(np.float64)
        return np.minimum(np.floor(np.maximum(sums, 0.0) / 2.0**shifts), LIMIT)


@dataclass(frozen=True)
class Levels:
    """A value as integers.

    :param units: what one level stands for, [n], or [1] if it is the same for all
    """

    units: Array

    def __call__(self, x: Array) -> Array:
        """Turn floats into levels.

        :param x: [..., n]
        """
        return np.clip(np.rint(x / self.units), -LIMIT, LIMIT)


class Measured(NamedTuple):
    """How far actions of integers were from the exact ones, on observations that tables were not fitted to.

    Where there is one observation only, it is the one that they were fitted to.

    :param n: number of observations
    :param largest: difference, in units of half the range of an action; of discrete actions how far the value of one
        was below the best one's, as a share of the largest value
    :param mean: the same, on average
    :param is_of_fit: whether tables were fitted to these observations, default False
    """

    n: int
    largest: float
    mean: float
    is_of_fit: bool = False

    def told(self, action: Action) -> str:
        """What was measured, in a sentence without its full stop.

        :param action: the kind of actions
        """
        what, unit = "actions differed from the exact ones", "half ranges"
        if isinstance(action, GreedyAction):
            what, unit = "the values of actions were below those of the best ones", "of the largest value"
        on = f"on {self.n:,} observation{'s' if self.n > 1 else ''} that the tables were not fitted to"
        if self.is_of_fit:
            on = "on the only observation, which the tables were fitted to,"
        return f"{on} {what} by at most {self.largest:.2g} {unit}, {self.mean:.2g} on average"


@dataclass(frozen=True)
class Quantization:
    """A policy's layers in integers.

    :param layers: by the number of the value that each makes
    :param levels: of values that are turned from floats into levels, by their numbers
    :param measured: how far actions were from those of the float policy
    :param seen: the largest difference on the observations of the calibration, in the same units; of discrete actions
        twice the largest one of a value
    :param bound: what is proven, in the same units, for all observations between the least and the largest of the
        calibration
    :param low: the least observation of the calibration, raw, [n_obs]
    :param high: the largest
    :param bits: of a weight
    """

    layers: dict[int, QuantizedLayer]
    levels: dict[int, Levels]
    measured: Measured
    seen: float
    bound: float
    low: Array
    high: Array
    bits: int

    @property
    def allowed(self) -> float:
        """By how much C may differ on the observations of the calibration: it rounds some numbers in another way."""
        return min(self.bound, 1.5 * self.seen)


def relu_readers(policy: SparsePolicy) -> dict[int, int]:
    """Linear layers that make levels: their output goes through ReLU alone, and that into linear layers alone.

    :param policy: the policy
    :return: number of ReLU's value by number of the layer's
    """
    found = {}
    for relu in policy.operations:
        if isinstance(relu, Activation) and relu.function == "relu":
            (source,) = relu.inputs
            makes = [operation for operation in policy.layers if operation.output == source]
            others = [op for op in policy.operations if source in op.inputs and op is not relu]
            readers = [op for op in policy.operations if relu.output in op.inputs]
            is_output = policy.output in (source, relu.output)
            if makes and not others and not is_output and all(isinstance(op, Linear) for op in readers):
                found[source] = relu.output
    return found


def quantize(policy: SparsePolicy, observations: Array, precision: str) -> Quantization:
    """Turn a policy's layers into integers.

    :param policy: the policy
    :param observations: raw observations to calibrate on, [n, n_obs]; the last ones are measured on
    :param precision: of weights, ``"int8"`` or ``"int16"``
    """
    calibration = _Calibration(policy, observations, precision)
    for operation in policy.operations:
        calibration.add(operation)
    exact, computed = calibration.exact[policy.output], calibration.computed[policy.output]
    is_of_fit = calibration.fitted == len(exact)
    measured_on = slice(0 if is_of_fit else calibration.fitted, None)
    raw, error = observations.astype(np.float64), float(calibration.known[policy.output].error.max())
    largest = max(float(np.abs(exact).max()), TINY)
    return Quantization(
        calibration.layers,
        calibration.levels,
        _measured(policy.action, computed[measured_on], exact[measured_on], largest)._replace(is_of_fit=is_of_fit),
        _seen(policy.action, computed, exact, largest) + ROUNDING,
        _bound(policy.action, error, largest) + ROUNDING,
        raw.min(0),
        raw.max(0),
        bits=LARGEST_WEIGHTS[precision].bit_length() + 1,
    )


class _Calibration:
    """Turns one operation after the other into integers, and computes with them what C does.

    :param policy: the policy
    :param observations: raw observations, [n, n_obs]
    :param precision: of weights
    """

    def __init__(self, policy: SparsePolicy, observations: Array, precision: str) -> None:
        self.policy, self.largest_weight, self.dtype = policy, LARGEST_WEIGHTS[precision], precision
        self.fitted = max(len(observations) - max(len(observations) // HELD_OUT, 1), 1)
        """Number of observations that tables are fitted to, the first ones."""
        self.exact = policy.values(observations)
        self.computed = {0: self.exact[0]}
        """Values, as the integers make them."""
        self.read: dict[int, Array] = {}
        """Levels of those that layers read."""
        self.units: dict[int, Array] = {}
        """Of these levels."""
        self.known: dict[int, Value] = {}
        self.layers: dict[int, QuantizedLayer] = {}
        self.levels: dict[int, Levels] = {}
        self.relus = relu_readers(policy)
        self.read_by_layers = {layer.inputs[0] for layer in policy.layers}
        seen, largest = self.exact[0], np.abs(self.exact[0]).max(0)
        size = np.where(largest > 0.0, HEADROOM * largest, 1.0)
        self.known[0] = Value(-size, size, seen.min(0), seen.max(0), ROUNDING * largest, largest)
        if 0 in self.read_by_layers:
            self._read_as_levels(0)

    def add(self, operation: Operation) -> None:
        """The next operation.

        :param operation: of the policy
        """
        output, reads = operation.output, operation.inputs
        largest = np.abs(self.exact[output]).max(0)
        self.known[output] = value_of(operation, [self.known[number] for number in reads], largest)
        if output in self.read:  # a ReLU that its layer has computed
            return
        if isinstance(operation, Linear):
            self._add_layer(operation)
        else:
            self.computed[output] = operation(*(self.computed[number] for number in reads))
        if output in self.read_by_layers:
            self._read_as_levels(output)

    def _add_layer(self, layer: Linear) -> None:
        (source,), output, relu = layer.inputs, layer.output, self.relus.get(layer.output)
        before, value = self.known[source], self.known[output]
        common = np.maximum(before.largest, before.size / LOOSE) / self.units[source]
        inputs = Inputs(self.read[source][: self.fitted], self.units[source], common)
        rows = rounded_rows(
            layer,
            inputs,
            self.exact[output][: self.fitted],
            self.largest_weight,
            LARGEST_SUM // LIMIT,
            LARGEST_SUM // 4,
        )
        shifts = None
        if relu is not None:
            reach = np.maximum(self.exact[relu].max(0), np.maximum(value.high, 0.0) / LOOSE)
            reach = reach * HEADROOM / self._shares(relu, reach)
            shifts = np.ceil(np.log2(np.maximum(reach / rows.scales / LIMIT, 1.0))).astype(np.uint8)
        biases = np.rint(np.clip(rows.biases / rows.scales, -(LARGEST_SUM // 2), LARGEST_SUM // 2)).astype(np.int32)
        made = QuantizedLayer(rows.weights.astype(self.dtype), biases, rows.scales, shifts)
        made = self.layers[output] = replace(made, biases=biases + made.half.astype(np.int32))
        numbers, scales = layer.rows, rows.scales.astype(np.float64)
        weights = np.zeros((layer.n_out, layer.n_in))
        weights[numbers, layer.columns] = rows.weights
        sums = self.read[source] @ weights.T + made.biases
        self.computed[output] = scales * sums
        value.error = value.error + error_of_weights(
            layer, rows.weights * scales[numbers] / self.units[source][layer.columns], biases * scales, before
        )
        if relu is not None:
            self.units[relu], self.read[relu] = made.units, made.levels(sums)
            value.error = value.error + made.units
            value.error = value.error + np.maximum(value.high_seen + value.error - made.units * LIMIT, 0.0)

    def _read_as_levels(self, number: int) -> None:
        """Levels of a value that exists as floats."""
        value = self.known[number]
        if number == 0:
            reach = value.size / self._shares(0, value.largest)
        else:
            reach = np.array([HEADROOM * np.maximum(value.largest, value.size / LOOSE).max()])
        unit = (np.maximum(reach, TINY) / LIMIT).astype(np.float32).astype(np.float64)
        self.levels[number] = Levels(unit)
        self.units[number] = np.broadcast_to(unit, self.policy.widths[number])
        self.read[number] = self.levels[number](self.computed[number])
        value.error = value.error + 0.5 * unit + np.maximum(value.size_seen + value.error - unit * LIMIT, 0.0)

    def _shares(self, number: int, common: Array) -> Array:
        """Which share of the levels a value's elements get: more if they contribute more, [n].

        :param number: of the value
        :param common: size up to which its elements are common, [n]
        """
        largest = np.full(len(common), TINY)
        for layer in self.policy.layers:
            if layer.inputs[0] == number:
                rows = layer.rows
                brought = np.abs(layer.values) * common[layer.columns]
                sizes = np.sqrt(np.bincount(rows, brought**2, minlength=layer.n_out))
                np.maximum.at(largest, layer.columns, brought / np.maximum(sizes, TINY)[rows])
        shares: Array = np.clip(np.sqrt(largest / largest.max()), LEAST_SHARE, 1.0)
        return shares


def _measured(action: Action, computed: Array, exact: Array, largest: float) -> Measured:
    """Of outputs of the network."""
    if isinstance(action, GreedyAction):
        chosen = np.take_along_axis(exact, action(computed)[:, None], 1)
        differences = (exact.max(1, keepdims=True) - chosen) / largest
    else:
        differences = np.abs(np.tanh(computed) - np.tanh(exact))
    return Measured(len(exact), float(differences.max()), float(differences.mean()))


def _seen(action: Action, computed: Array, exact: Array, largest: float) -> float:
    if isinstance(action, GreedyAction):  # the best one's value may fall as much as another one's rises
        return 2.0 * float(np.abs(computed - exact).max()) / largest
    return float(np.abs(np.tanh(computed) - np.tanh(exact)).max())


def _bound(action: Action, error: float, largest: float) -> float:
    return 2.0 * error / largest if isinstance(action, GreedyAction) else 2.0 * float(np.tanh(0.5 * error))
