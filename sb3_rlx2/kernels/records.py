"""NumPy structured records that compiled functions read by address, field by field."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import intrinsic as numba_intrinsic

INTEGER, FLOAT = np.dtype(np.int64), np.dtype(np.float64)


class Record:
    """A record type: in Python an element of a structured array, in compiled code a view of the same memory.

    ``at(address)`` is for compiled code only: ``task = task_at(address)`` and then ``task.n_obs``. Modules bind it to a
    name of their own (``task_at = TASK.at``): compiled code resolves global names, not attributes of objects.

    :param fields: the type of each field, ``INTEGER`` (addresses, offsets, counts, flags) or ``FLOAT``, by name
    """

    def __init__(self, **fields: np.dtype[Any]) -> None:
        self.dtype = np.dtype(list(fields.items()), align=True)
        self.size = self.dtype.itemsize
        self.at: Any = _view(self.dtype)

    def zeros(self, count: int) -> npt.NDArray[np.void]:
        """An array of records, all fields zero.

        :param count: number of records
        """
        return np.zeros(count, self.dtype)


def fields_of(block: npt.NDArray[np.void]) -> dict[str, npt.NDArray[Any]]:
    """The fields of records as arrays on the records' memory, by name.

    :param block: records
    """
    return {name: block[name] for name in block.dtype.names or ()}


def _view(dtype: np.dtype[Any]) -> Any:
    record = numba.from_dtype(dtype)

    def view(context: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, _: Any, values: Any) -> Any:
            return builder.inttoptr(values[0], context.get_value_type(record))

        return record(types.int64), codegen

    return numba_intrinsic(view)
