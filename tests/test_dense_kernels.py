"""The compiled products of dense layers against NumPy's."""

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sb3_rlx2.kernels import dense
from sb3_rlx2.kernels.products import TILE
from sb3_rlx2.kernels.vectors import LANES

# Around the sizes of blocks, of vectors, of tiles and of chunks
SIZES = [(1, 1), (3, 5), (14, 256), (17, 13), (64, 6), (65, 64), (131, 19), (256, 3), (300, 40)]


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def results(n_in, n_out):
    """What each product makes of the same numbers, by name."""
    weights, bias, x, g = numbers(n_out, n_in), numbers(n_out), numbers(n_in, TILE), numbers(n_out, TILE)
    at = {name: array.ctypes.data for name, array in (("w", weights), ("b", bias), ("x", x), ("g", g))}
    y, first = np.empty((n_out, TILE), np.float32), n_in // 2
    dense.dense_product(n_in, n_out, at["w"], at["b"], at["x"], y.ctypes.data)
    dx, some_dx = np.empty((n_in, TILE), np.float32), np.ones((n_in - first, TILE), np.float32)
    dense.dense_input_gradient(0, n_in, n_in, n_out, at["w"], at["g"], dx.ctypes.data, False)
    dense.dense_input_gradient(first, n_in, n_in, n_out, at["w"], at["g"], some_dx.ctypes.data, True)
    weight_gradient, bias_gradient = np.ones(n_in * n_out + LANES - 1, np.float32), np.ones(n_out, np.float32)
    room = np.full((n_in + LANES, TILE), np.nan, np.float32)
    outputs = weight_gradient.ctypes.data, bias_gradient.ctypes.data
    dense.dense_weight_gradient(n_in, n_out, at["g"], at["x"], room.ctypes.data, *outputs)
    one, sample = np.empty(n_out, np.float32), x[:, 0].copy()
    dense.dense_product_of_one(n_in, n_out, at["w"], at["b"], sample.ctypes.data, one.ctypes.data)
    np.testing.assert_array_equal(weight_gradient[n_in * n_out :], 1)
    weight_gradient = weight_gradient[: n_in * n_out].reshape(n_out, n_in)
    return {"y": y, "dx": dx, "some dx": some_dx, "weights": weight_gradient, "bias": bias_gradient, "one": one}


@pytest.mark.parametrize(("n_in", "n_out"), SIZES)
def test_products_are_those_of_numpy(n_in, n_out):
    weights, bias, x, g = (
        a.astype(float) for a in (numbers(n_out, n_in), numbers(n_out), numbers(n_in, TILE), numbers(n_out, TILE))
    )
    expected = {
        "y": weights @ x + bias[:, None],
        "dx": weights.T @ g,
        "some dx": weights.T[n_in // 2 :] @ g + 1,
        "weights": g @ x.T + 1,
        "bias": g.sum(axis=1) + 1,
        "one": weights @ x[:, 0] + bias,
    }
    for name, result in results(n_in, n_out).items():
        np.testing.assert_allclose(result, expected[name], rtol=1e-5, atol=1e-4, err_msg=name)


def digest():
    """Width of blocks, and a digest of all tiles that are computed in them."""
    sums = hashlib.sha256()
    for sizes in SIZES:
        for name, result in results(*sizes).items():
            if name != "one":  # its sums are taken in another order where vectors are shorter
                sums.update(result.tobytes())
    return f"{dense.VECTORS} {sums.hexdigest()}"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="it is about AVX")
def test_without_avx_512_blocks_are_narrower_and_results_the_same_bit_for_bit():
    environment = {**os.environ, "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}
    command = [sys.executable, "-c", "import test_dense_kernels; print(test_dense_kernels.digest())"]
    folder = Path(__file__).parent
    process = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    vectors, numbers_digest = process.stdout.split()
    assert vectors == "1"
    assert numbers_digest == digest().split()[1]
