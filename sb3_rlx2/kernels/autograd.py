"""The compiled products behind one autograd function, for sparse layers in any module."""

from __future__ import annotations

import math
from typing import Any, cast

import torch as th

from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import (
    PADDING,
    ROW_BYTES,
    TILE,
    from_tiles,
    input_gradient,
    product,
    product_of_one,
    reorder,
    to_tiles,
    weight_gradient,
)
from sb3_rlx2.kernels.structure import MOST_FEATURES, Structure
from sb3_rlx2.kernels.vectors import FLOAT_BYTES

MIN_SAVING = 200_000
"""Kernels must save at least so many multiplications in a forward pass to be worth their changes of layout …"""
KERNEL_COST = 1.6
"""… where one of theirs counts as much as 1.6 of a dense product …"""
LAYOUT_COST = 10
"""… and bringing a number into another layout as much as ten."""
MAX_SINGLE = 8
"""Without gradients, so many samples at most are multiplied one by one."""


def are_kernels_faster(batch: int, n_in: int, n_out: int, nnz: int) -> bool:
    """Whether compiled kernels beat scattering the weights and a dense product, forward and backward together.

    The figures that the rule comes from: docs/performance.md, made by ``benchmarks/speed.py layers``.

    :param batch: number of samples
    :param n_in: number of inputs
    :param n_out: number of outputs
    :param nnz: number of connections
    """
    per_sample = n_in * n_out - KERNEL_COST * nnz - LAYOUT_COST * (n_in + n_out)
    return batch * per_sample >= MIN_SAVING


def cover(x: th.Tensor, values: th.Tensor, bias: th.Tensor | None, n_in: int, n_out: int) -> bool:
    """Whether ``sparse_linear`` computes this product, and faster than PyTorch does.

    :param x: [..., n_in]
    :param values: [nnz]
    :param bias: [n_out] or None
    :param n_in: number of inputs
    :param n_out: number of outputs
    """
    if is_transformed() or x.device.type != "cpu" or values.device.type != "cpu":
        return False
    if x.dtype != th.float32 or values.dtype != th.float32 or x.dim() == 0 or x.shape[-1] != n_in:
        return False
    if max(n_in, n_out) > MOST_FEATURES:
        return False
    batch = x.numel() // n_in
    is_single = not _needs_grad(x, values, bias) and 0 < batch <= MAX_SINGLE and values.numel() <= n_in * n_out // 2
    if not (is_single or are_kernels_faster(batch, n_in, n_out, values.numel())):
        return False
    if th._C._is_any_autocast_enabled() or _has_tangent(x):
        return False
    stored = [values] if bias is None else [values, bias]
    plain = all(tensor.dtype == th.float32 and tensor.device.type == "cpu" for tensor in stored)
    return plain and all(map(th.Tensor.is_contiguous, stored)) and type(x) in (th.Tensor, th.nn.Parameter)


def is_transformed() -> bool:
    """Whether a computation is being traced or transformed: it must then consist of PyTorch's own operations."""
    return th.compiler.is_compiling() or cast(Any, th.jit).is_tracing() or th._C._are_functorch_transforms_active()


def _needs_grad(*tensors: th.Tensor | None) -> bool:
    return th.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _has_tangent(x: th.Tensor) -> bool:
    return th._C._is_fwd_grad_enabled() and th.autograd.forward_ad._current_level >= 0


def sparse_linear(x: th.Tensor, values: th.Tensor, bias: th.Tensor | None, structure: Structure) -> th.Tensor:
    """``x Wᵀ + b`` by compiled kernels.

    :param x: [..., n_in] float32, on the CPU
    :param values: the present weights, [nnz]
    :param bias: [n_out] or None
    :param structure: where they are
    :return: [..., n_out]
    """
    flat = x.reshape(-1, structure.n_in)
    if len(flat) <= MAX_SINGLE and not _needs_grad(x, values, bias):
        y = _samples(flat, values, bias, structure)
    else:
        y = cast(th.Tensor, _SparseProduct.apply(flat, values, bias, structure))  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], structure.n_out)


@compiled
def _forward_samples(
    count: int, n_in: int, n_out: int, rows: int, columns: int, values: int, bias: int, x: int, y: int
) -> None:
    for i in range(count):
        product_of_one(n_out, rows, columns, values, bias, x + i * n_in * FLOAT_BYTES, y + i * n_out * FLOAT_BYTES)


@compiled
def _forward(
    batch: int, n_in: int, n_out: int, rows: int, columns: int, values: int, bias: int, x: int, tiles: int, y: int,
    y_tiles: int,
) -> None:  # fmt: skip
    to_tiles(batch, n_in, x, tiles)
    for tile in range((batch + TILE - 1) // TILE):
        to = y_tiles + tile * n_out * ROW_BYTES
        product(n_out, rows, columns, values, bias, tiles + tile * n_in * ROW_BYTES, to, False)
    from_tiles(batch, n_out, y_tiles, y)


@compiled
def _backward_input(
    batch: int, n_in: int, n_out: int, starts: int, outputs: int, sources: int, values: int, ordered: int, nnz: int,
    g_tiles: int, dx_tiles: int, dx: int,
) -> None:  # fmt: skip
    reorder(0, nnz, sources, values, ordered)
    for tile in range((batch + TILE - 1) // TILE):
        g, to = g_tiles + tile * n_out * ROW_BYTES, dx_tiles + tile * n_in * ROW_BYTES
        input_gradient(0, n_in, starts, outputs, ordered, g, 0, to, False)
    from_tiles(batch, n_in, dx_tiles, dx)


@compiled
def _backward_weights(
    batch: int, n_in: int, n_out: int, rows: int, columns: int, g_tiles: int, x_tiles: int, values: int, bias: int
) -> None:
    for tile in range((batch + TILE - 1) // TILE):
        g, x = g_tiles + tile * n_out * ROW_BYTES, x_tiles + tile * n_in * ROW_BYTES
        weight_gradient(n_out, rows, columns, g, x, values, bias)


def _samples(x: th.Tensor, values: th.Tensor, bias: th.Tensor | None, structure: Structure) -> th.Tensor:
    x, y = x.contiguous(), values.new_empty(len(x), structure.n_out)
    offset = values.new_zeros(structure.n_out) if bias is None else bias
    s, addresses = structure, (values.data_ptr(), offset.data_ptr(), x.data_ptr(), y.data_ptr())
    _forward_samples(len(x), s.n_in, s.n_out, s.rows.ctypes.data, s.columns.ctypes.data, *addresses)
    return y


def _tiles(batch: int, features: int) -> th.Tensor:
    return th.empty(math.ceil(batch / TILE), features, TILE, dtype=th.float32, device="cpu")


class _SparseProduct(th.autograd.Function):
    """``x Wᵀ + b``, with gradients at the present connections."""

    @staticmethod
    def forward(ctx: Any, x: th.Tensor, values: th.Tensor, bias: th.Tensor | None, structure: Structure) -> th.Tensor:
        s, batch = structure, len(x)
        x_in, y = x.contiguous(), values.new_empty(batch, s.n_out)
        tiles, y_tiles = _tiles(batch, s.n_in), _tiles(batch, s.n_out)
        offset = values.new_zeros(s.n_out) if bias is None else bias
        addresses = (t.data_ptr() for t in (values, offset, x_in, tiles, y, y_tiles))
        _forward(batch, s.n_in, s.n_out, s.rows.ctypes.data, s.columns.ctypes.data, *addresses)
        ctx.save_for_backward(x, values, bias)
        ctx.tiles, ctx.structure = tiles, structure
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: th.Tensor) -> tuple[th.Tensor | None, ...]:
        x, values, _ = ctx.saved_tensors
        s: Structure = ctx.structure
        needs_x, needs_values, needs_bias, _ = ctx.needs_input_grad
        g = gradients[0]
        if th.is_grad_enabled():  # create_graph=True: these gradients are to be differentiated themselves
            return (*_differentiable(x, values, g, s), g.sum(dim=0) if needs_bias else None, None)
        batch, g = len(g), g.contiguous()
        g_tiles = _tiles(batch, s.n_out)
        to_tiles(batch, s.n_out, g.data_ptr(), g_tiles.data_ptr())
        d_x = d_values = d_bias = None
        if needs_x:
            d_x, ordered, dx_tiles = values.new_empty(x.shape), values.new_empty(s.nnz), _tiles(batch, s.n_in)
            starts, outputs, sources = (array.ctypes.data for array in (s.column_starts, s.outputs, s.sources))
            weights = (values.data_ptr(), ordered.data_ptr(), s.nnz)
            addresses = (g_tiles.data_ptr(), dx_tiles.data_ptr(), d_x.data_ptr())
            _backward_input(batch, s.n_in, s.n_out, starts, outputs, sources, *weights, *addresses)
        if needs_values or needs_bias:
            d_values, d_bias = values.new_zeros(s.nnz + PADDING), values.new_zeros(s.n_out)
            tensors = (t.data_ptr() for t in (g_tiles, ctx.tiles, d_values, d_bias))
            _backward_weights(batch, s.n_in, s.n_out, s.rows.ctypes.data, s.columns.ctypes.data, *tensors)
            d_values = d_values[: s.nnz]
        return d_x, d_values if needs_values else None, d_bias if needs_bias else None, None


def _differentiable(x: th.Tensor, values: th.Tensor, g: th.Tensor, structure: Structure) -> tuple[th.Tensor, th.Tensor]:
    """Gradients of x and values as PyTorch's own operations."""
    places = th.from_numpy(structure.indices)
    weight = values.new_zeros(structure.n_out * structure.n_in).scatter(0, places, values)
    return g @ weight.view(structure.n_out, structure.n_in), (g.T @ x).reshape(-1)[places]
