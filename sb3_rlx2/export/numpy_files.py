"""Policies as files that need NumPy alone: safetensors with JSON, or ``.npz``. ``SparsePolicy.load`` reads both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sb3_rlx2.export import sparse_policy
from sb3_rlx2.export.sparse_policy import Array, SparsePolicy
from sb3_rlx2.files import replacing

_TYPES = {"float64": "F64", "float32": "F32", "int64": "I64", "uint32": "U32", "uint16": "U16", "uint8": "U8"}
_ALIGNMENT = 8


def write_npz(policy: SparsePolicy, folder: Path, name: str) -> Path:
    """Write ``NAME.npz`` and the module that reads it.

    :param policy: the policy
    :param folder: where
    :param name: of the file
    :return: the file
    """
    description, arrays = policy.describe()
    path = folder / f"{name}.npz"
    with replacing(path) as file:
        np.savez_compressed(file, policy=np.array(json.dumps(description)), **arrays)  # type: ignore[arg-type]
    _copy_reader(folder)
    return path


def write_safetensors(policy: SparsePolicy, folder: Path, name: str) -> Path:
    """Write ``NAME.safetensors``, ``NAME.json`` and the module that reads them.

    :param policy: the policy
    :param folder: where
    :param name: of the files
    :return: the first of them
    """
    description, arrays = policy.describe()
    path = folder / f"{name}.safetensors"
    with replacing(path) as file:
        file.write(safetensors(arrays))
    with replacing(path.with_suffix(".json"), "w", encoding="utf-8") as file:
        file.write(json.dumps(description, indent=1) + "\n")
    _copy_reader(folder)
    return path


def safetensors(arrays: Mapping[str, Array]) -> bytes:
    """Arrays in the safetensors format (https://github.com/huggingface/safetensors#format).

    :param arrays: by name
    """
    # The largest types first, so that each array is aligned
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    header, offset = {}, 0
    for name, array in ordered:
        offsets = [offset, offset + array.nbytes]
        header[name] = {"dtype": _TYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    numbers = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for _, array in ordered]
    return b"".join([len(text).to_bytes(8, "little"), text, *numbers])


def _copy_reader(folder: Path) -> None:
    shutil.copyfile(sparse_policy.__file__, folder / Path(sparse_policy.__file__).name)
