"""Whether tensors have the memory, type, device, shape and strides that they had before, compared in compiled code.

PyTorch tells all of it by DLPack's C exchange API, in some 60 ns. Methods of tensors take three times as long, and they
would be called before each update.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch as th

from sb3_rlx2.engine.python_calls import HoldsAddresses, call_with_none, int_with_two, python_function
from sb3_rlx2.kernels.compiled import compiled_with_gil
from sb3_rlx2.kernels.records import INTEGER, Record
from sb3_rlx2.kernels.vectors import load_int64

DL_TENSOR = Record(  # DLPack's DLTensor
    data=INTEGER,
    device=INTEGER,  # kind and number
    kind=INTEGER,  # number of dimensions, type of the numbers
    shape=INTEGER,
    strides=INTEGER,
    byte_offset=INTEGER,
)
KNOWN = Record(
    tensor=INTEGER,  # address of the object
    data=INTEGER,
    device=INTEGER,
    kind=INTEGER,
    byte_offset=INTEGER,
    n_dimensions=INTEGER,
    sizes=INTEGER,  # address of shape and strides, int64 [2, n_dimensions]
)
dl_tensor_at, known_at = DL_TENSOR.at, KNOWN.at
_KNOWN_BYTES = KNOWN.size

MAJOR_VERSION = 1
"""The version of DLPack whose structs these are."""
DESCRIBE = 5
"""Place, in words, of ``dltensor_from_py_object_no_sync`` in the API's struct."""


@cache
def exchange_function() -> int | None:
    """Address of PyTorch's function that describes a tensor object as a DLTensor; None: this PyTorch has none."""
    capsule = getattr(th.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    api = get_pointer(capsule, b"dlpack_exchange_api")
    words = (ctypes.c_uint64 * (DESCRIBE + 1)).from_address(api)
    is_known = ctypes.c_uint32.from_address(api).value == MAJOR_VERSION
    return words[DESCRIBE] or None if is_known else None


@compiled_with_gil
def _are_as_before(describe: int, clear_error: int, known: int, count: int, description: int) -> bool:
    now = dl_tensor_at(description)
    for i in range(count):
        then = known_at(known + i * _KNOWN_BYTES)
        if int_with_two(describe, then.tensor, description) != 0:
            call_with_none(clear_error)
            return False
        is_same = now.data == then.data and now.device == then.device and now.kind == then.kind
        if not is_same or now.byte_offset != then.byte_offset:
            return False
        n = then.n_dimensions
        for d in range(n):
            if load_int64(now.shape, d) != load_int64(then.sizes, d):
                return False
            if load_int64(now.strides, d) != load_int64(then.sizes, n + d):
                return False
    return True


class SameTensors(HoldsAddresses):
    """Tells whether tensors are still like others. It keeps all of them, and their memory, alive.

    :param tensors: the tensors
    :param likenesses: for each of them one with the memory, type, device, shape and strides that it is to have
    :raises BufferError: if DLPack cannot describe one, or this PyTorch has no C exchange API
    """

    def __init__(self, tensors: Sequence[th.Tensor], likenesses: Sequence[th.Tensor]) -> None:
        function = exchange_function()
        if function is None:
            raise BufferError("this PyTorch has no DLPack C exchange API")
        self._objects = (tuple(tensors), tuple(likenesses))
        self._known, self._sizes = KNOWN.zeros(len(tensors)), []
        self._description = DL_TENSOR.zeros(1)
        at = int(self._description.ctypes.data)
        describe = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)(function)
        for block, tensor, likeness in zip(self._known, tensors, likenesses, strict=True):
            try:
                describe(likeness, at)
            except RuntimeError as error:
                raise BufferError(f"DLPack does not describe this tensor: {error}") from error
            for name in ("data", "device", "kind", "byte_offset"):
                block[name] = self._description[name][0]
            sizes = np.array([*likeness.shape, *likeness.stride()], np.int64)
            self._sizes.append(sizes)
            block["tensor"], block["n_dimensions"], block["sizes"] = id(tensor), likeness.dim(), sizes.ctypes.data
        self._arguments = (
            function,
            python_function("PyErr_Clear"),
            int(self._known.ctypes.data),
            len(self._known),
            at,
        )

    def hold(self) -> bool:
        """Whether all are."""
        return _are_as_before(*self._arguments)
