"""Speed of single products and layers: ``speed.py kernels`` and ``speed.py layers``."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from peaks import multiply_adds
from timing import best_times, write

from sb3_rlx2.kernels import autograd
from sb3_rlx2.kernels import products as k
from sb3_rlx2.sparse import SparseLinear


def kernels(arguments: argparse.Namespace) -> None:
    """GFLOP/s of useful work of each product of a 256 x 256 layer with 256 samples, and a core's peaks, one thread."""
    th.set_num_threads(1)
    calls, operations = multiply_adds()
    seconds = best_times(calls, arguments.rounds, 0.03)
    peaks = {name: f"{operations / each / 1e9:.0f}" for name, each in seconds.items()}
    rows = [kernels_at(sparsity, arguments.rounds) | peaks for sparsity in (0.85, 0.90, 0.95, 0.98)]
    write("kernels", rows)


def kernels_at(sparsity: float, rounds: int) -> dict[str, Any]:
    """The row of ``kernels`` for one sparsity."""
    n, batch = 256, 256
    tiles = batch // k.TILE
    layer = SparseLinear(n, n, round((1 - sparsity) * n * n), connections="random")
    s, values, bias = layer.structure, layer.values.detach(), layer.bias.detach()
    x, y, dx = (th.randn(tiles, n, k.TILE) for _ in range(3))
    ordered = values[th.from_numpy(s.sources[: layer.nnz]).long()]
    d_values, d_bias = th.zeros(layer.nnz + k.PADDING), th.zeros(n)
    address = {name: array.ctypes.data for name, array in vars(s).items() if isinstance(array, np.ndarray)}
    per_tile = n * k.ROW_BYTES

    def forward() -> None:
        for t in range(tiles):
            k.product(n, address["rows"], address["columns"], values.data_ptr(), bias.data_ptr(),
                      x.data_ptr() + t * per_tile, y.data_ptr() + t * per_tile, True)  # fmt: skip

    def input_gradient() -> None:
        for t in range(tiles):
            k.input_gradient(0, n, address["column_starts"], address["outputs"], ordered.data_ptr(),
                             y.data_ptr() + t * per_tile, x.data_ptr() + t * per_tile,
                             dx.data_ptr() + t * per_tile, False)  # fmt: skip

    def weight_gradient() -> None:
        for t in range(tiles):
            k.weight_gradient(n, address["rows"], address["columns"], y.data_ptr() + t * per_tile,
                              x.data_ptr() + t * per_tile, d_values.data_ptr(), d_bias.data_ptr())  # fmt: skip

    dense_weight, flat = layer.weight.detach().clone(), th.randn(batch, n)
    csr, columns = dense_weight.to_sparse_csr(), th.randn(n, batch)
    calls: dict[str, Callable[[], object]] = {
        "forward": forward,
        "input gradient": input_gradient,
        "weight gradient": weight_gradient,
        "F.linear": lambda: th.nn.functional.linear(flat, dense_weight),
        "CSR": lambda: csr @ columns,
    }
    if importlib.util.find_spec("sparseprop") is not None:
        from sparseprop.modules import SparseLinear as SparseProp

        module = SparseProp.from_dense(dense_layer(dense_weight))
        calls["SparseProp forward"] = lambda: module(flat)
    seconds = best_times(calls, rounds)
    useful, dense = 2 * layer.nnz * batch, 2 * n * n * batch
    row: dict[str, Any] = {"sparsity": sparsity}
    for name in ("forward", "input gradient", "weight gradient", "CSR", "SparseProp forward"):
        row[name] = f"{useful / seconds[name] / 1e9:.1f}" if name in seconds else ""
    row["F.linear (dense work)"] = f"{dense / seconds['F.linear'] / 1e9:.1f}"
    row["forward over F.linear"] = f"{seconds['F.linear'] / seconds['forward']:.1f}"
    return row


def dense_layer(weight: th.Tensor) -> th.nn.Linear:
    """A linear layer with a given weight."""
    linear = th.nn.Linear(weight.shape[1], weight.shape[0])
    with th.no_grad():
        linear.weight.copy_(weight)
    return linear


def layers(arguments: argparse.Namespace) -> None:
    """Forward and backward of one SparseLinear: kernels beside the dense path, and what the rule says."""
    th.set_num_threads(1)
    shapes = ((17, 256), (256, 6), (256, 256), (1024, 1024))
    settings = itertools.product((64, 256, 1024), shapes, (0.02, 0.1, 0.3, 0.5))
    write("layers", [layer_at(*setting, arguments.rounds) for setting in settings])


def layer_at(batch: int, shape: tuple[int, int], density: float, rounds: int) -> dict[str, Any]:
    """The row of ``layers`` for one layer."""
    layer, rule = SparseLinear(*shape, max(int(density * shape[0] * shape[1]), 1)), autograd.are_kernels_faster
    x, g = th.randn(batch, shape[0], requires_grad=True), th.randn(batch, shape[1])

    def step(kernels: bool) -> None:
        autograd.are_kernels_faster = lambda *_: kernels
        th.autograd.grad(layer(x), [x, layer.values, layer.bias], g)

    try:
        seconds = best_times({"dense": lambda: step(False), "kernels": lambda: step(True)}, rounds, 0.03)
    finally:
        autograd.are_kernels_faster = rule
    return {
        "batch": batch,
        "inputs": shape[0],
        "outputs": shape[1],
        "density": density,
        "dense path µs": f"{1e6 * seconds['dense']:.0f}",
        "kernels µs": f"{1e6 * seconds['kernels']:.0f}",
        "ratio": f"{seconds['dense'] / seconds['kernels']:.2f}",
        "the rule takes": "kernels" if rule(batch, *shape, layer.nnz) else "dense",
    }
