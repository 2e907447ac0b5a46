"""The connections of a layer in the order in which the kernels walk them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_rlx2.kernels.products import PADDING, ROW_BYTES

Array = npt.NDArray[Any]


MOST_FEATURES = np.iinfo(np.int32).max // ROW_BYTES
"""Inputs or outputs of which an int32 can hold the place in bytes."""


class Structure:
    """Row-wise and column-wise index arrays of a set of connections, see ``kernels``.

    :param indices: flat positions [nnz], sorted
    :param n_in: number of inputs
    :param n_out: number of outputs
    :raises ValueError: if one of them is above ``MOST_FEATURES``
    """

    def __init__(self, indices: Array, n_in: int, n_out: int) -> None:
        if max(n_in, n_out) > MOST_FEATURES:
            raise ValueError(f"a layer of {n_in} -> {n_out} is too large for the kernels: at most {MOST_FEATURES:,}")
        row, column = np.divmod(indices.astype(np.int64), n_in)
        self.n_in, self.n_out, self.nnz = n_in, n_out, len(indices)
        self.indices = indices.astype(np.int64)
        self.rows = _starts(row, n_out)
        self.columns = _in_bytes(column)
        by_column = np.argsort(column, kind="stable")
        self.column_starts = _starts(column, n_in)
        self.outputs = _in_bytes(row[by_column])
        self.sources = _padded(by_column.astype(np.int32))

    @classmethod
    def full(cls, n_in: int, n_out: int) -> Structure:
        """All connections that a layer can have."""
        return cls(np.arange(n_in * n_out), n_in, n_out)


def _starts(numbers: Array, count: int) -> Array:
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(numbers, minlength=count), out=starts[1:])
    return starts


def _in_bytes(numbers: Array) -> Array:
    return _padded((numbers * ROW_BYTES).astype(np.int32))


def _padded(numbers: Array) -> Array:
    return np.concatenate([numbers, np.zeros(PADDING, np.int32)])
