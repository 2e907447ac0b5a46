"""The compiled products against PyTorch's dense ones."""

import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib.common.utils import quantile_huber_loss

from sb3_rlx2.kernels import products
from sb3_rlx2.kernels.compiled import cache_folder, compiled, is_on_disk, source_digest
from sb3_rlx2.kernels.products import PADDING, TILE
from sb3_rlx2.kernels.quantiles import quantile_errors, sort_rows
from sb3_rlx2.kernels.structure import Structure
from sb3_rlx2.kernels.vectors import exp_floats, log_floats, tanh_floats
from sb3_rlx2.sparse import SparseLinear


@compiled
def apply_exp(source, target, count):
    exp_floats(source, target, count)


@compiled
def apply_tanh(source, target, count):
    tanh_floats(source, target, count)


@compiled
def apply_log(source, target, count):
    log_floats(source, target, count)


def applied(function, x):
    y = np.empty_like(x)
    function(x.ctypes.data, y.ctypes.data, len(x))
    return y


@pytest.mark.parametrize(
    ("function", "reference", "low", "high"),
    [(apply_exp, np.exp, -87, 88), (apply_tanh, np.tanh, -12, 12), (apply_log, np.log, 1e-6, 20)],
)
def test_functions_are_exact_to_two_units_in_the_last_place(function, reference, low, high):
    x = np.linspace(low, high, 160_000, dtype=np.float32)
    exact = reference(x.astype(np.float64))
    units = np.abs(applied(function, x) - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert units.max() < 2
    assert np.isnan(applied(function, np.full(16, np.nan, np.float32))).all()


@st.composite
def layers(draw):
    n_in, n_out = draw(st.integers(1, 70)), draw(st.integers(1, 40))
    seed = draw(st.integers(0, 2**31))
    nnz = draw(st.integers(1, n_in * n_out))
    th.manual_seed(seed)
    return SparseLinear(n_in, n_out, nnz, connections="random")


@given(layer=layers(), relu=st.booleans(), share_off=st.sampled_from([0.0, 0.5, 1.0]))
def test_products_equal_dense_ones(layer, relu, share_off):
    structure, n_in, n_out = layer.structure, layer.in_features, layer.out_features
    x, g = th.randn(n_in, TILE), th.randn(n_out, TILE)
    # Units that are off for the whole tile, or for all of it but one sample
    for tile, off in ((x, -1.0), (g, 0.0)):
        rows = th.rand(len(tile)) < share_off
        tile[rows] = off * tile[rows].abs()
        some = rows & (th.rand(len(tile)) < 0.3)
        tile[some, th.randint(0, TILE, (int(some.sum()),))] = 1.0
    weight, values, bias = layer.weight.detach().clone(), layer.values.detach(), layer.bias.detach()
    y = th.empty(n_out, TILE)
    rows, columns = structure.rows.ctypes.data, structure.columns.ctypes.data
    products.product(n_out, rows, columns, values.data_ptr(), bias.data_ptr(), x.data_ptr(), y.data_ptr(), relu)
    expected = weight @ x + bias[:, None]
    th.testing.assert_close(y, expected.relu() if relu else expected, rtol=1e-4, atol=1e-4)

    ordered = th.empty(layer.nnz)
    products.reorder(0, layer.nnz, structure.sources.ctypes.data, values.data_ptr(), ordered.data_ptr())
    starts, outputs = structure.column_starts.ctypes.data, structure.outputs.ctypes.data
    first = n_in // 3
    dx = th.ones(n_in - first, TILE)
    for add in (False, True):
        h = x.data_ptr() if relu else 0
        products.input_gradient(
            first, n_in, starts, outputs, ordered.data_ptr(), g.data_ptr(), h, dx.data_ptr(), add
        )  # fmt: skip
        expected = (1 + add) * (weight.T @ g)[first:]
        th.testing.assert_close(dx, expected * (x[first:] > 0) if relu else expected, rtol=1e-4, atol=1e-4)

    d_values, d_bias = th.ones(layer.nnz + PADDING), th.ones(n_out)
    products.weight_gradient(
        n_out, rows, columns, g.data_ptr(), x.data_ptr(), d_values.data_ptr(), d_bias.data_ptr()
    )  # fmt: skip
    expected = (g @ x.T).reshape(-1)[layer.indices.long()]
    th.testing.assert_close(d_values[: layer.nnz], 1 + expected, rtol=1e-4, atol=1e-4)
    th.testing.assert_close(d_values[layer.nnz :], th.ones(PADDING))
    th.testing.assert_close(d_bias, 1 + g.sum(dim=1), rtol=1e-4, atol=1e-4)


def test_a_unit_that_is_off_for_a_whole_tile_costs_no_product():
    layer = SparseLinear(3, 2, 6, connections="random")
    x, g = th.full((3, TILE), math.nan), th.zeros(2, TILE)
    g[1, TILE - 1] = 1.0
    structure, d_values, d_bias = layer.structure, th.zeros(6 + PADDING), th.zeros(2)
    products.weight_gradient(
        2, structure.rows.ctypes.data, structure.columns.ctypes.data, g.data_ptr(), x.data_ptr(), d_values.data_ptr(),
        d_bias.data_ptr(),
    )  # fmt: skip
    assert d_values[:3].eq(0).all()
    assert d_values[3:6].isnan().all()
    assert d_bias.tolist() == [0.0, 1.0]


def test_a_dense_layer_has_all_connections():
    structure = Structure.full(5, 3)
    assert structure.nnz == 15
    assert structure.rows.tolist() == [0, 5, 10, 15]


def test_the_cache_depends_on_every_source_file():
    folder = cache_folder()
    assert folder.name.endswith(source_digest())
    x = np.zeros(16, np.float32)
    applied(apply_exp, x)
    assert is_on_disk(apply_exp.py_func)


@pytest.mark.parametrize("can_write", [True, False])
def test_compiled_code_without_a_home(can_write, tmp_path):
    # A read-only package and home: code is kept in a private folder of the temporary one, or not at all
    blocked = tmp_path / "file"
    blocked.touch()
    environment = {**os.environ, "XDG_CACHE_HOME": str(blocked), "TMPDIR": str(tmp_path if can_write else blocked)}
    environment["MPLCONFIGDIR"] = str(tmp_path)  # older Matplotlib insists on a folder
    environment.pop("NUMBA_CACHE_DIR", None)
    code = (
        "import tempfile; tempfile.tempdir = __import__('os').environ['TMPDIR']\n"
        "from sb3_rlx2.kernels.compiled import cache_folder\n"
        "import numpy as np\n"
        "from sb3_rlx2.kernels.products import reorder\n"
        "reorder(0, 0, 0, 0, 0)\n"
        "print(cache_folder())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip().startswith(str(tmp_path / "sb3_rlx2-")) if can_write else "None" in result.stdout


def test_importing_the_package_writes_nothing(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    environment.pop("NUMBA_CACHE_DIR", None)
    subprocess.run([sys.executable, "-c", "import sb3_rlx2"], env=environment, check=True)
    assert not (tmp_path / "sb3_rlx2").exists()


def test_code_that_no_process_has_used_for_a_month_is_removed(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    environment.pop("NUMBA_CACHE_DIR", None)
    for name, days in (("compiled-old", 31), ("compiled-recent", 29)):
        folder = tmp_path / "sb3_rlx2" / name
        folder.mkdir(parents=True)
        (folder / "code.nbi").touch()
        then = time.time() - days * 24 * 3600
        os.utime(folder, (then, then))
    code = "from sb3_rlx2.kernels.compiled import cache_folder; cache_folder()"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    names = {folder.name for folder in (tmp_path / "sb3_rlx2").iterdir()}
    assert len(names) == 2
    assert "compiled-recent" in names


@compiled
def sort(rows, count):
    sort_rows(rows, count)


@given(count=st.integers(1, 80), seed=st.integers(0, 2**31), few=st.booleans())
def test_rows_are_sorted_sample_by_sample(count, seed, few):
    generator = th.Generator().manual_seed(seed)
    rows = th.randn(count, TILE, generator=generator)
    rows = rows.round() if few else rows
    expected = rows.sort(dim=0).values
    sort(rows.data_ptr(), count)
    assert th.equal(rows, expected)


def test_nan_stays_among_the_numbers_that_are_sorted():
    rows = th.randn(50, TILE)
    rows[17, 3] = math.nan
    sort(rows.data_ptr(), 50)
    assert rows.isnan().sum() == 1
    assert rows[:, 3].isnan().any()


@given(
    n_quantiles=st.integers(1, 30), n_targets=st.integers(1, 60),
    scale=st.sampled_from([0.1, 3.0]), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_quantile_errors_equal_those_of_contrib(n_quantiles, n_targets, scale, seed):
    th.manual_seed(seed)
    q = (scale * th.randn(TILE, 1, n_quantiles)).requires_grad_()
    targets = scale * th.randn(TILE, 1, n_targets)
    expected = quantile_huber_loss(q, targets, sum_over_quantiles=False)
    expected.backward()
    rows = q.detach()[:, 0].T.contiguous()
    target_rows, gradients, losses = targets[:, 0].T.contiguous(), th.empty_like(rows), th.zeros(TILE)
    addresses = rows.data_ptr(), target_rows.data_ptr(), n_targets, gradients.data_ptr(), losses.data_ptr()
    quantile_errors(n_quantiles, *addresses)
    count = TILE * n_quantiles * n_targets
    th.testing.assert_close(losses.sum() / count, expected.detach(), rtol=1e-4, atol=1e-6)
    ours = -gradients.T[:, None] / count
    th.testing.assert_close(ours, q.grad, rtol=1e-4, atol=1e-8)
