"""Policies with integer weights: one scale for each row, 16-bit levels between layers, and a bound on the error.

A weight is ``scale[row] * q`` with an integer q, in [-127, 127] for int8 and [-2047, 2047] for int16. What a layer
reads are levels, integers of 16 bits, each input with a unit of its own, which the weights have taken in; so a row's
sum is exact in 32 bits. A layer whose output goes through ReLU into further layers makes levels by a shift, without
floating-point numbers: the unit of an output is its row's scale times a power of two. Everything else is computed in
floats.

Weights are rounded so that rows, not weights, are nearest to the exact ones on the states of the calibration: those of
a row up or down together (as in Nagel et al., "Up or Down?", ICML 2020, here by coordinate descent).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sb3_rlx2.export.sparse_policy import Action, Activation, Array, GreedyAction, LayerNorm, Linear, SparsePolicy

HEADROOM = 4.0
"""How much larger than in the calibration an observation may be before it is cut off."""
LARGEST_WEIGHTS = {"int8": 127, "int16": 2047}
"""By precision; larger weights would leave less room for levels in sums of 32 bits."""
LARGEST_LEVEL = 32767
LARGEST_SUM = 2**30
"""Of a row's products, and of its bias: both together fit in 32 bits."""
LIPSCHITZ = {"relu": 1.0, "tanh": 1.0, "silu": 1.1, "gelu": 1.13, "gelu_tanh": 1.13}
LOWEST = {"silu": -0.2785, "gelu": -0.17, "gelu_tanh": -0.1701}
"""Minimum of activations that fall before they rise."""
LOOSE = 64.0
"""Up to how many times what a unit was seen to have its levels reach, where interval arithmetic asks for more."""
STEPS = 4
"""Of coordinate descent, for each weight of a row."""
ROUNDING = 1e-6
"""Of floating-point numbers, as a share of the largest one."""


@dataclass(frozen=True)
class QuantizedLayer:
    """A linear layer in integers.

    :param weights: q of each connection, [nnz], int8 or int16
    :param biases: [n_out], int32, in units of the sums
    :param scales: unit of each row's sum, [n_out], float32
    :param shifts: how far sums are shifted to become levels, [n_out], uint8; None: they become floats
    :param limit: the largest level that it makes
    """

    weights: Array
    biases: Array
    scales: Array
    shifts: Array | None
    limit: int


@dataclass(frozen=True)
class Levels:
    """A value as integers.

    :param units: what one level stands for, [n], or [1] if it is the same for all
    :param limit: levels lie in [-limit, limit]
    """

    units: Array
    limit: int


@dataclass(frozen=True)
class Quantization:
    """A policy's layers in integers.

    :param layers: by the number of the value that each makes
    :param levels: of values that are turned from floats into levels, by their numbers
    :param bound: how far actions can be from those of the float policy, in units of half their range, for all
        observations between the least and the largest of the calibration; of discrete actions how far the value of one
        can be below the best one's, as a share of the largest value in the calibration
    :param low: the least observation of the calibration, raw, [n_obs]
    :param high: the largest
    :param bits: of a weight
    """

    layers: dict[int, QuantizedLayer]
    levels: dict[int, Levels]
    bound: float
    low: Array
    high: Array
    bits: int


@dataclass
class _Value:
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
        return np.maximum(-self.low, self.high)

    @property
    def size_seen(self) -> Array:
        return np.maximum(-self.low_seen, self.high_seen)


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
    :param observations: raw observations to calibrate on, [n, n_obs]
    :param precision: of weights, ``"int8"`` or ``"int16"``
    """
    seen = policy.values(observations)
    relus = relu_readers(policy)
    values, levels, layers = {0: _observation(policy, seen[0])}, {}, {}
    units: dict[int, Levels] = {}
    read_by_layers = {layer.inputs[0] for layer in policy.layers}

    def float_to_levels(number: int) -> None:
        """Levels of a value that exists as floats."""
        value = values[number]
        reach = np.minimum(value.size, LOOSE * value.largest)
        if number != 0:
            reach = np.array([reach.max()])
        limit = _limit(policy, number, precision)
        unit = (np.maximum(reach, np.finfo(np.float32).tiny * 1e6) / limit).astype(np.float32).astype(np.float64)
        levels[number] = units[number] = Levels(unit, limit)
        value.error = value.error + 0.5 * unit + np.maximum(value.size_seen + value.error - unit * limit, 0.0)

    if 0 in read_by_layers:
        float_to_levels(0)
    for operation in policy.operations:
        value = _result(
            operation, [values[number] for number in operation.inputs], np.abs(seen[operation.output]).max(0)
        )
        values[operation.output] = value
        if isinstance(operation, Linear):
            (source,) = operation.inputs
            relu = relus.get(operation.output)
            limit = 0 if relu is None else _limit(policy, relu, precision)
            layer = _quantized_layer(operation, units[source], value, limit, seen[source], precision)
            layers[operation.output] = layer
            value.error = value.error + _weight_error(operation, layer, units[source], values[source])
            if layer.shifts is not None and relu is not None:
                unit = layer.scales.astype(np.float64) * 2.0**layer.shifts
                value.error = value.error + unit + np.maximum(value.high_seen + value.error - unit * limit, 0.0)
                units[relu] = Levels(unit, limit)
        is_levels = operation.output in units or operation.output in relus
        if operation.output in read_by_layers and not is_levels:
            float_to_levels(operation.output)
    error = float(values[policy.output].error.max())
    raw, bound = observations.astype(np.float64), _bound(policy.action, error, seen[policy.output])
    bits = LARGEST_WEIGHTS[precision].bit_length() + 1
    return Quantization(layers, levels, bound + ROUNDING, raw.min(0), raw.max(0), bits)


def _bound(action: Action, error: float, outputs: Array) -> float:
    if isinstance(action, GreedyAction):  # the best one's value may fall as much as another one's rises
        return 2.0 * error / max(float(np.abs(outputs).max()), float(np.finfo(np.float32).tiny))
    return 2.0 * float(np.tanh(0.5 * error))


def _observation(policy: SparsePolicy, seen: Array) -> _Value:
    largest = np.abs(seen).max(0)
    reach = np.where(largest > 0.0, HEADROOM * largest, 1.0)
    if policy.normalization is not None:
        reach = np.minimum(reach, policy.normalization.clip)
    return _Value(-reach, reach, seen.min(0), seen.max(0), ROUNDING * largest, reach)


def _limit(policy: SparsePolicy, number: int, precision: str) -> int:
    """The largest level of a value with which no sum of those that read it can overflow."""
    most = max(int(layer.counts.max()) for layer in policy.layers if layer.inputs[0] == number)
    return min(LARGEST_LEVEL, LARGEST_SUM // (LARGEST_WEIGHTS[precision] * max(most, 1)))


def _quantized_layer(
    layer: Linear, read: Levels, value: _Value, limit: int, seen: Array, precision: str
) -> QuantizedLayer:
    largest_weight = LARGEST_WEIGHTS[precision]
    rows = np.repeat(np.arange(layer.n_out), layer.counts)
    units = np.broadcast_to(read.units, layer.n_in)
    in_levels = layer.values * units[layer.columns]
    largest = np.zeros(layer.n_out)
    np.maximum.at(largest, rows, np.abs(in_levels))
    # The tables hold scales in single precision: weights are rounded to multiples of those
    scales = np.maximum(largest / largest_weight, np.abs(layer.bias) / (LARGEST_SUM // 4))
    scales = np.maximum(scales * (1.0 + 1e-6), 1e-30).astype(np.float32)
    exact, means = in_levels / scales[rows], seen.mean(0) / units
    covariance = np.cov(seen / units, rowvar=False, bias=True).reshape(layer.n_in, layer.n_in)
    weights = np.rint(exact)
    for end, count in zip(layer.ends, layer.counts, strict=True):
        row = slice(end - count, end)
        columns = layer.columns[row]
        weights[row] = _nearest_row(exact[row], covariance[np.ix_(columns, columns)], largest_weight)
    # What is left of the error is zero on average
    left = np.bincount(rows, (exact - weights) * means[layer.columns], minlength=layer.n_out)
    biases = np.rint(np.clip(layer.bias / scales + left, -(LARGEST_SUM // 2), LARGEST_SUM // 2))
    shifts = None
    if limit:
        reach = np.minimum(np.maximum(value.high, 0.0), LOOSE * value.largest) / scales
        shifts = np.ceil(np.log2(np.maximum(reach / limit, 1.0))).astype(np.uint8)
    biases += _half(shifts)
    return QuantizedLayer(weights.astype(precision), biases.astype(np.int32), scales, shifts, limit)


def _half(shifts: Array | None) -> Array:
    """What makes shifting, which rounds down, round to the nearest."""
    return np.zeros(1) if shifts is None else np.where(shifts > 0, 2.0 ** (shifts.astype(np.float64) - 1.0), 0.0)


def _nearest_row(exact: Array, covariance: Array, largest_weight: int) -> Array:
    """Integers with which a row's sums vary the least from the exact ones, by coordinate descent from rounding.

    :param exact: weights in units of the row's scale, [count]
    :param covariance: of the inputs in the calibration, [count, count]
    :param largest_weight: no weight is larger
    """
    weights = np.rint(exact)
    variances = covariance.diagonal()
    slope = covariance @ (weights - exact)
    for _ in range(STEPS * len(weights)):
        step = -np.sign(slope)
        allowed = (np.abs(weights + step) <= largest_weight) & (np.abs(weights + step - exact) < 1.5)
        gain = np.where(allowed, 2.0 * np.abs(slope) - variances, 0.0)
        best = int(gain.argmax())
        if gain[best] <= 1e-9 * variances[best]:
            break
        weights[best] += step[best]
        slope += step[best] * covariance[best]
    return weights


def _weight_error(layer: Linear, quantized: QuantizedLayer, read: Levels, source: _Value) -> Array:
    """How far a row can be from the exact one because of its rounded weights and bias."""
    rows = np.repeat(np.arange(layer.n_out), layer.counts)
    units = np.broadcast_to(read.units, layer.n_in)[layer.columns]
    scales = quantized.scales.astype(np.float64)
    off = quantized.weights * scales[rows] / units - layer.values
    # Deviations times inputs between the least and the largest, around the middle, which the bias partly makes good
    low, high = source.low_seen[layer.columns], source.high_seen[layer.columns]
    bias_off = (quantized.biases - _half(quantized.shifts)) * scales - layer.bias
    middle = bias_off + np.bincount(rows, off * 0.5 * (low + high), minlength=layer.n_out)
    around = np.abs(off) * (0.5 * (high - low) + source.error[layer.columns])
    return np.abs(middle) + np.bincount(rows, around, minlength=layer.n_out) + ROUNDING * np.abs(layer.bias)


def _result(operation: object, read: list[_Value], largest: Array) -> _Value:
    """What is known of an operation's result, with the error that comes from what it reads."""
    if isinstance(operation, Linear):
        (x,) = read
        low, high = _interval(operation, x.low, x.high)
        low_seen, high_seen = _interval(operation, x.low_seen, x.high_seen)
        rows = np.repeat(np.arange(operation.n_out), operation.counts)
        brought = np.abs(operation.values) * x.error[operation.columns]
        error: Array = np.bincount(rows, brought, minlength=operation.n_out)
        return _Value(low, high, low_seen, high_seen, error, largest)
    if isinstance(operation, Activation):
        (x,) = read
        factor = LIPSCHITZ.get(operation.function) or max(1.0, operation.parameter)
        low, high = _through(operation, x.low, x.high)
        low_seen, high_seen = _through(operation, x.low_seen, x.high_seen)
        return _Value(low, high, low_seen, high_seen, factor * x.error + ROUNDING, largest)
    if isinstance(operation, LayerNorm):
        (x,) = read
        reach = np.sqrt(len(operation.weight)) * np.abs(operation.weight) + np.abs(operation.bias)
        # How far a variance can fall is not known
        error = np.full(len(reach), 2.0 * reach.max()) if x.error.any() else np.zeros(len(reach))
        return _Value(-reach, reach, -reach, reach, error, largest)
    x, y = read
    return _Value(
        x.low + y.low, x.high + y.high, x.low_seen + y.low_seen, x.high_seen + y.high_seen, x.error + y.error, largest
    )


def _interval(layer: Linear, low: Array, high: Array) -> tuple[Array, Array]:
    rows = np.repeat(np.arange(layer.n_out), layer.counts)
    ends = layer.values * low[layer.columns], layer.values * high[layer.columns]
    return tuple(  # type: ignore[return-value]
        layer.bias + np.bincount(rows, choose(*ends), minlength=layer.n_out) for choose in (np.minimum, np.maximum)
    )


def _through(activation: Activation, low: Array, high: Array) -> tuple[Array, Array]:
    at_low, at_high = activation(low), activation(high)
    lowest = LOWEST.get(activation.function, np.inf)
    falls = np.where((low < 0.0) & (lowest < 0.0), lowest, np.inf)
    return np.minimum(np.minimum(at_low, at_high), falls), np.maximum(at_low, at_high)
