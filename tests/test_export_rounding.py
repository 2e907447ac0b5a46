"""Integer weights of rows are chosen so that sums are near to the exact ones; and what rounding floats may change."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_rlx2.export.checks import agreement, rounding
from sb3_rlx2.export.observations import from_environment
from sb3_rlx2.export.quantization import _Calibration
from sb3_rlx2.export.rounding import Inputs, nearest_row, rounded_rows
from sb3_rlx2.export.sparse_policy import Activation, Linear, SparsePolicy, SquashedAction
from sb3_rlx2.trained import load_trained

SEEDS = st.integers(0, 10_000)


def correlated(seed, n, k):
    """Whole numbers that have something in common, as units of a network do."""
    rng = np.random.default_rng(seed)
    return np.rint(1000.0 * rng.normal(size=(n, 1 + k // 2)) @ rng.normal(size=(1 + k // 2, k)))


def layer_of(weights, bias):
    rows, columns = np.nonzero(weights)
    counts = np.bincount(rows, minlength=len(weights))
    values = weights[rows, columns].astype(np.float32)
    return Linear(
        (0,),
        1,
        weights.shape[1],
        values,
        columns.astype(np.uint8),
        counts.astype(np.uint8),
        np.asarray(bias, np.float32),
    )


def sums(layer, made, levels):
    weights = np.zeros((layer.n_out, layer.n_in))
    weights[layer.rows, layer.columns] = made.weights
    return levels @ weights.T * made.scales.astype(np.float64) + made.biases


@given(SEEDS, st.integers(1, 40))
def test_weights_are_integers_in_range(seed, k):
    inputs = Inputs(correlated(seed, 100, k), np.ones(k), np.full(k, 1000.0))
    exact = np.random.default_rng(seed).normal(size=k)
    scale = np.abs(exact).max() / 127
    weights, chosen = nearest_row(exact, inputs.covariance, inputs.factor(np.arange(k)), scale, 127)
    assert (np.abs(weights) <= 127).all()
    assert (weights == np.rint(weights)).all()
    assert 0.8 * scale < chosen < 1.4 * scale


def test_sums_are_twice_as_near_as_by_rounding_each_weight():
    squares = np.zeros(2)
    for seed in range(30):
        inputs = Inputs(correlated(seed, 200, 24), np.ones(24), np.full(24, 1000.0))
        exact = np.random.default_rng(seed).normal(size=24)
        scale = np.abs(exact).max() / 127
        weights, chosen = nearest_row(exact, inputs.covariance, inputs.factor(np.arange(24)), scale, 127)
        for place, off in enumerate((float(chosen) * weights - exact, scale * np.rint(exact / scale) - exact)):
            squares[place] += off @ inputs.covariance @ off
    assert squares[0] < squares[1] / 4


@given(SEEDS)
def test_what_the_layers_before_have_rounded_is_made_good(seed):
    rng, exact = np.random.default_rng(seed), correlated(seed, 400, 12)
    layer = layer_of(rng.normal(size=(3, 12)), rng.normal(size=3))
    outputs = exact @ layer.dense_weight.T.astype(np.float64) + layer.bias
    read = 1.05 * exact + 200.0  # a deviation that weights and biases can undo
    made = rounded_rows(layer, Inputs(read, np.ones(12), np.full(12, 1000.0)), outputs, 2047, 32768, 2**28)
    assert np.abs(sums(layer, made, read) - outputs).max() < 0.01 * np.abs(outputs).max()


def test_where_nothing_varies_weights_stay_the_exact_ones():
    layer = layer_of(np.array([[1.0, -0.5, 0.25]]), [3.0])
    levels = np.zeros((50, 3))
    made = rounded_rows(
        layer, Inputs(levels, np.ones(3), np.full(3, 1000.0)), np.full((50, 1), 3.0), 2047, 32768, 2**28
    )
    np.testing.assert_allclose(made.weights * made.scales, [1.0, -0.5, 0.25], rtol=1e-3)
    np.testing.assert_allclose(made.biases, [3.0])


def test_rows_of_zeros_and_rows_without_connections_are_possible():
    layer = layer_of(np.array([[1.0, 2.0], [0.0, 0.0]]), [0.0, 0.0])
    zeros = Linear((0,), 1, 2, np.zeros(2, np.float32), layer.columns, layer.counts, np.zeros(2, np.float32))
    for some in (layer, zeros):
        levels = correlated(0, 50, 2)
        outputs = levels @ some.dense_weight.T.astype(np.float64)
        made = rounded_rows(some, Inputs(levels, np.ones(2), np.ones(2)), outputs, 127, 32768, 2**28)
        assert np.isfinite(made.scales).all()
        assert (made.scales > 0).all()
        np.testing.assert_allclose(sums(some, made, levels), outputs, atol=0.02 * max(np.abs(outputs).max(), 1.0))


@given(SEEDS, st.sampled_from([50, 300, 2000]))
def test_a_rows_integers_together_stay_below_what_its_sum_can_hold(seed, largest_total):
    rng, levels = np.random.default_rng(seed), correlated(seed, 60, 30)
    layer = layer_of(rng.normal(size=(4, 30)), rng.normal(size=4))
    outputs = levels @ layer.dense_weight.T.astype(np.float64)
    made = rounded_rows(layer, Inputs(levels, np.ones(30), np.full(30, 1000.0)), outputs, 127, largest_total, 2**28)
    totals = np.add.reduceat(np.abs(made.weights), layer.ends - layer.counts)
    assert (totals <= largest_total).all()
    assert (totals > 0.3 * min(largest_total, 127)).all()


# --- single precision ---


def in_single_precision(policy, raw, order):
    """Actions computed in float32 alone, each sum in another order."""
    x = raw if policy.normalization is None else policy.normalization(raw)
    for operation in policy.operations:
        if isinstance(operation, Linear):
            columns = order.permutation(operation.n_in)
            terms = x[:, None, columns] * operation.dense_weight[:, columns]
            x = np.cumsum(terms, axis=-1, dtype=np.float32)[..., -1] + operation.bias
        else:
            x = operation(x)
    return policy.action(x).reshape(len(raw), -1)


@pytest.fixture(scope="module")
def steep():
    policy = load_trained("HalfCheetah-v5")
    assert all(isinstance(operation, Linear | Activation) for operation in policy.operations)
    raw = from_environment(policy, "HalfCheetah-v5", 1000, 0).astype(np.float32)
    expected = in_single_precision(policy, raw, np.random.default_rng(1))
    return policy, raw, expected, in_single_precision(policy, raw, np.random.default_rng(2))


@pytest.mark.parametrize("count", [5, 30, 200])
def test_a_right_export_of_a_steep_policy_is_never_refused(count, steep):
    policy, raw, expected, actions = steep
    generator = np.random.default_rng(0)
    for _ in range(40):
        drawn = generator.choice(len(raw), count, replace=False)
        found = agreement(policy, raw[drawn], actions[drawn], expected[drawn])
        assert found.holds, found


@pytest.mark.parametrize("count", [100, 1000])
def test_a_wrong_export_of_a_steep_policy_is_refused(count, steep):
    policy, raw, expected, _ = steep
    some = raw[:count]
    for place, layer in enumerate(policy.operations):
        if isinstance(layer, Linear):
            values = layer.values.copy()
            values[np.abs(values).argmax()] *= 0.99
            operations = list(policy.operations)
            operations[place] = replace(layer, values=values)
            wrong = replace(policy, operations=tuple(operations)).predict(some)[0].reshape(count, -1)
            assert not agreement(policy, some, wrong, expected[:count]).holds


def test_rounding_changes_flat_policies_less_than_steep_ones(steep):
    policy, raw, expected, _ = steep
    last = policy.operations[-1]
    flat = replace(last, values=last.values * np.float32(1e-3), bias=last.bias * np.float32(1e-3))
    policies = replace(policy, operations=(*policy.operations[:-1], flat)), policy
    of_flat, of_steep = (rounding(one, raw) for one in policies)
    assert of_flat < 1e-6 < of_steep < 1e-4
    assert of_steep > np.abs(expected - policy.predict(raw)[0].reshape(expected.shape)).max()


def narrow(seed):
    """A network of whole weights, which integers hold exactly, so that all error is the rounding of levels."""
    one, zero = np.ones(4, np.float32), np.zeros(1, np.float32)
    values = np.random.default_rng(seed).uniform(0.5, 2, 4).astype(np.float32)
    first = Linear((0,), 1, 1, values, np.zeros(4, np.uint8), np.ones(4, np.uint8), np.zeros(4, np.float32))
    last = Linear((2,), 3, 4, one, np.arange(4, dtype=np.uint8), np.full(1, 4, np.uint8), zero)
    action = SquashedAction(-one[:1], one[:1], (1,))
    return SparsePolicy("x", (1,), None, (first, Activation((1,), 2, "relu", 0.0), last), 3, action, zero, zero)


def test_no_number_is_further_from_the_exact_one_than_is_proven():
    largest = {}
    for seed in range(40):
        policy = narrow(seed)
        observations = np.random.default_rng(seed).normal(size=(400, 1)).astype(np.float32)
        calibration = _Calibration(policy, observations, "int16")
        for operation in policy.operations:
            calibration.add(operation)
        for number in calibration.read:
            off = np.abs(calibration.read[number] * calibration.units[number] - calibration.exact[number])
            share = (off.max(0) / calibration.known[number].error).max()
            largest[number] = max(largest.get(number, 0.0), share)
    assert all(0.3 < share <= 1.0 for share in largest.values())  # proven, and not by a bound that any error keeps
