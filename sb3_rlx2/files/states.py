"""States (numbers, arrays, tensors and what they are nested in) in a safetensors file. No pickle, no code.

A file in the safetensors format is the length of a header, the header in JSON, and the bytes of its tensors. Here
arrays and tensors are such tensors. What they are nested in, and all else, is JSON in the header's metadata, with a
checksum of the whole file. What is no plain value is there by the name of its class (``named_objects``).
"""

from __future__ import annotations

import base64
import json
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.files import named_objects
from sb3_rlx2.files.atomic import replacing

STATE_FORMAT = 1
"""Goes up when files that one version writes can no longer be read by the one before."""

Path = str | os.PathLike[str]
Array = npt.NDArray[Any]

# What other programs read too; arrays and tensors of all other types are bytes to them
NUMPY_TYPES = {
    "BOOL": np.dtype("bool"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
TORCH_TYPES = {
    name: getattr(th, dtype.name) for name, dtype in NUMPY_TYPES.items() if name not in ("U16", "U32", "U64")
}
TORCH_TYPES["BF16"] = th.bfloat16
ITEM_SIZES = {name: dtype.itemsize for name, dtype in NUMPY_TYPES.items()} | {"BF16": 2}
NUMPY_NAMES = {dtype: name for name, dtype in NUMPY_TYPES.items()}
TORCH_NAMES = {dtype: name for name, dtype in TORCH_TYPES.items()}
TORCH_DTYPES = {dtype for dtype in vars(th).values() if isinstance(dtype, th.dtype)}

DEEPEST = 100
"""How deep states may be nested."""

UNCHECKED = "00000000"


class Stored(NamedTuple):
    """A tensor of the file.

    :param type_name: the format's name of its type
    :param shape: its shape
    :param data: its bytes, [size], uint8
    """

    type_name: str
    shape: tuple[int, ...]
    data: Array


def write_state(file: Path | IO[bytes], state: Any) -> None:
    """Write a state, wholly or not at all.

    A state is None, a bool, int, float, str, bytes, NumPy array, NumPy scalar or type, PyTorch tensor, type or device,
    an object of a registered class, a registered class or function, or a dict (of str and int keys), list, tuple or set
    of states. What is read equals what was written: types, shapes, and each bit of each number. Arrays are C-contiguous
    after that, tensors are on the CPU and need no gradient, and an object that occurs twice becomes two.

    :param file: path of the file, or a file that is open for writing
    :param state: the state
    :raises ValueError: for what no state can hold; nothing has been written then
    :raises OSError: if the file cannot be written; it is what it was then
    """
    stored: dict[str, Stored] = {}
    tree = json.dumps(_encoded(state, (), stored), allow_nan=False, separators=(",", ":"))
    # Large numbers first, so that all are aligned
    order = sorted(stored, key=lambda name: -ITEM_SIZES[stored[name].type_name])
    metadata = {"sb3_rlx2_format": str(STATE_FORMAT), "checksum": UNCHECKED, "state": tree}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in order:
        start, end = end, end + stored[name].data.size
        entry = {"dtype": stored[name].type_name, "shape": stored[name].shape, "data_offsets": (start, end)}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    checksum = zlib.crc32(text)
    for name in order:
        checksum = zlib.crc32(stored[name].data.data, checksum)
    text = _with_checksum(text, UNCHECKED, f"{checksum:08x}")
    if isinstance(file, (str, os.PathLike)):
        with replacing(file) as opened:
            _write(opened, text, [stored[name].data for name in order])
    else:
        _write(file, text, [stored[name].data for name in order])


def read_state(file: Path | IO[bytes]) -> Any:
    """Read a state. Nothing in the file is run, and no more memory is taken than the file has bytes.

    :param file: path of the file, or a file that is open for reading, whose rest is read
    :raises ModelFileError: if the file is not one of ``write_state``, is damaged, was cut short, was written by a later
        version, or needs a class or function that is not registered
    :raises OSError: if the file cannot be read
    """
    name = str(file) if isinstance(file, (str, os.PathLike)) else str(getattr(file, "name", "the open file"))
    try:
        with _opened(file) as opened:
            tree, stored = _read(opened)
        state = _decoded(tree, stored)
        if stored:
            raise ModelFileError(f"it has a tensor {next(iter(stored))!r} that belongs nowhere")
    except OSError:
        raise
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from error
    except Exception as error:  # whatever a foreign file leads to
        reason = " ".join(str(error).split())[:300]
        raise ModelFileError(f"{name} is damaged: {type(error).__name__}: {reason}") from error
    return state


# --- the file ---


def _write(file: IO[bytes], header: bytes, data: list[Array]) -> None:
    file.write(struct.pack("<Q", len(header)))
    file.write(header)
    for array in data:
        file.write(array.data)


@contextmanager
def _opened(file: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            yield opened
    else:
        yield file


def _read(file: IO[bytes]) -> tuple[Any, dict[str, Stored]]:
    first = file.tell()
    length = file.seek(0, os.SEEK_END) - first
    file.seek(first)
    n_header = struct.unpack("<Q", file.read(8))[0] if length >= 8 else length
    if n_header > length - 8 or (text := file.read(n_header))[:1] != b"{":
        raise ModelFileError("it is no file in the safetensors format, or it is damaged or was cut short")
    header = json.loads(text)
    metadata = header.pop("__metadata__", {})
    version = metadata.get("sb3_rlx2_format")
    if version is None:
        raise ModelFileError("it is a safetensors file, but none that sb3-rlx2 wrote, or it is damaged")
    if version != str(STATE_FORMAT):
        raise ModelFileError(
            f"it has format {version!r}, and this version of sb3-rlx2 reads format {STATE_FORMAT}: update sb3-rlx2"
        )
    stored, end = {}, 0
    checksum = zlib.crc32(_with_checksum(text, metadata["checksum"], UNCHECKED))
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape, offsets = tuple(entry["shape"]), tuple(entry["data_offsets"])
        if not all(type(number) is int and number >= 0 for number in (*shape, *offsets)):
            raise ModelFileError(f"it is damaged: its tensor {name!r} has no shape or position that can be")
        size = math.prod(shape) * ITEM_SIZES[entry["dtype"]]
        if offsets != (end, end + size) or offsets[1] > length - 8 - n_header:
            raise ModelFileError(f"it is damaged or was cut short: its tensor {name!r} is not where it must be")
        data = np.empty(size, np.uint8)
        if _read_into(file, data) != size:
            raise ModelFileError("it is damaged or was cut short")
        checksum = zlib.crc32(data.data, checksum)
        stored[name] = Stored(entry["dtype"], shape, data)
        end = offsets[1]
    if end != length - 8 - n_header:
        raise ModelFileError("it is damaged: it is longer than its content")
    if f"{checksum:08x}" != metadata["checksum"]:
        raise ModelFileError("it is damaged: its checksum does not fit its content")
    return json.loads(metadata["state"]), stored


def _read_into(file: IO[bytes], data: Array) -> int:
    """Fill an array with the next bytes of a file; how many there were."""
    view, count = data.data, 0
    while count < len(view) and (read := file.readinto(view[count:])):  # type: ignore[attr-defined]
        count += read
    return count


def _with_checksum(header: bytes, old: str, new: str) -> bytes:
    # Quotation marks within strings are escaped, so that it is found nowhere else
    return header.replace(b'"checksum":"%s"' % old.encode(), b'"checksum":"%s"' % new.encode(), 1)


# --- what is in it ---


def _encoded(value: Any, path: tuple[str, ...], stored: dict[str, Stored]) -> Any:
    """A state as JSON. What JSON does not know is an object with one key, which begins with $."""
    if len(path) > DEEPEST:
        raise ValueError(f"{_text(path[:3])}… is nested deeper than {DEEPEST}, or contains itself")
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": struct.pack("<d", value).hex()}
    if type(value) is bytes:
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if type(value) is list:
        return _items(value, path, stored)
    if type(value) is tuple:
        return {"$tuple": _items(value, path, stored)}
    if type(value) is set:
        return {"$set": _items(sorted(value, key=repr), path, stored)}
    if type(value) is dict:
        return _encoded_dict(value, path, stored)
    if isinstance(value, np.dtype):
        return {"$dtype": _dtype_name(value, path)}
    if isinstance(value, th.dtype):
        return {"$torch_dtype": str(value).removeprefix("torch.")}
    if isinstance(value, th.device):
        return {"$device": str(value)}
    if type(value) is np.ndarray:
        return {"$array": _store_array(value, path, stored)}
    if isinstance(value, np.generic):
        return {"$scalar": _store_array(np.asarray(value), path, stored)}
    if isinstance(value, th.Tensor):
        return {"$tensor": _store_tensor(value, path, stored)}
    name = named_objects.name_of(value)
    if name is not None:
        return {"$named": name}
    described = named_objects.describe(value)
    if described is not None:
        name, state = described
        return {"$object": [name, _encoded(state, path, stored)]}
    raise ValueError(_cannot_be_written(value, path))


def _cannot_be_written(value: Any, path: tuple[str, ...]) -> str:
    is_class_or_function = isinstance(value, type) or hasattr(value, "__qualname__")
    cls = value if is_class_or_function else type(value)
    name = getattr(cls, "__qualname__", repr(cls))
    own_name = ", 'a name of yours'" if "<" in name else ""
    what = f"{name}" if is_class_or_function else f"an object of class {name}"
    return (
        f"{_text(path)} is {what}, which is written without pickle only by a name that is known: "
        f"call sb3_rlx2.files.register({name.rpartition('.')[2]}{own_name}) before saving and before loading"
    )


def _items(values: Any, path: tuple[str, ...], stored: dict[str, Stored]) -> list[Any]:
    return [_encoded(value, (*path, str(index)), stored) for index, value in enumerate(values)]


def _encoded_dict(value: dict[Any, Any], path: tuple[str, ...], stored: dict[str, Stored]) -> Any:
    for key in value:
        if type(key) not in (str, int):
            raise ValueError(f"{_text(path)} has the key {key!r}: without pickle, keys are of type str or int")
    items = {key: _encoded(entry, (*path, str(key)), stored) for key, entry in value.items()}
    if all(type(key) is str and not key.startswith("$") for key in items):
        return items
    return {"$dict": [*items.items()]}


def _store_array(value: Array, path: tuple[str, ...], stored: dict[str, Stored]) -> Any:
    if value.dtype.hasobject or value.dtype.itemsize == 0:
        raise ValueError(f"{_text(path)} is an array of {value.dtype}, which is not written without pickle")
    data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    type_name = NUMPY_NAMES.get(value.dtype)
    if type_name is not None:
        return _store(Stored(type_name, value.shape, data), path, stored)
    name = _store(Stored("U8", data.shape, data), path, stored)
    return [name, _dtype_name(value.dtype, path), value.shape]


def _dtype_name(dtype: np.dtype[Any], path: tuple[str, ...]) -> str:
    if dtype.fields or np.dtype(dtype.str) != dtype:
        raise ValueError(f"{_text(path)} has the type {dtype}, which is not written without pickle")
    return dtype.str


def _store_tensor(value: th.Tensor, path: tuple[str, ...], stored: dict[str, Stored]) -> Any:
    if value.layout != th.strided or value.is_quantized or value.device.type == "meta":
        raise ValueError(f"{_text(path)} is no ordinary tensor ({value.layout}, {value.dtype}, on {value.device})")
    value = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    data = value.reshape(-1).view(th.uint8).numpy()
    shape, type_name = tuple(value.shape), TORCH_NAMES.get(value.dtype)
    if type_name is not None:
        return _store(Stored(type_name, shape, data), path, stored)
    name = _store(Stored("U8", data.shape, data), path, stored)
    return [name, str(value.dtype).removeprefix("torch."), shape]


def _store(tensor: Stored, path: tuple[str, ...], stored: dict[str, Stored]) -> str:
    base = "/".join(path).encode("ascii", "replace").decode("ascii")
    name, count = base, 0
    while name in stored or name in ("", "__metadata__"):
        count += 1
        name = f"{base}~{count}"
    stored[name] = tensor
    return name


def _text(path: tuple[str, ...]) -> str:
    return ".".join(path) or "the state"


def _decoded(tree: Any, stored: dict[str, Stored]) -> Any:
    if isinstance(tree, list):
        return [_decoded(item, stored) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kind = next(iter(tree), "")
    if not kind.startswith("$"):
        return {key: _decoded(item, stored) for key, item in tree.items()}
    (content,) = tree.values()
    if kind == "$float":
        return struct.unpack("<d", bytes.fromhex(content))[0]
    if kind == "$bytes":
        return base64.b64decode(content, validate=True)
    if kind == "$tuple":
        return tuple(_decoded(item, stored) for item in content)
    if kind == "$set":
        return {_decoded(item, stored) for item in content}
    if kind == "$dict":
        return {key: _decoded(item, stored) for key, item in content}
    if kind == "$dtype":
        return _numpy_dtype(content)
    if kind == "$torch_dtype":
        return _torch_dtype(content)
    if kind == "$device":
        return th.device(content)
    if kind == "$array":
        return _array(content, stored)
    if kind == "$scalar":
        return _array(content, stored)[()]
    if kind == "$tensor":
        return _tensor(content, stored)
    if kind == "$named":
        return named_objects.named(content)
    if kind == "$object":
        name, state = content
        return named_objects.restore(name, _decoded(state, stored))
    raise ModelFileError(f"it has something of the kind {kind!r}, which this version of sb3-rlx2 does not know")


def _taken(
    content: Any, stored: dict[str, Stored], types: Mapping[str, Any], other_type: Callable[[Any], Any], truth: Any
) -> tuple[Any, Any, Any]:
    """Bytes, type and shape of what a file stores for an array or a tensor.

    :param content: its name, or name, type and shape where the format has no such type
    :param stored: what the file stores, from which it is taken
    :param types: types by the format's names
    :param other_type: a type by our name
    :param truth: the type of truth values
    """
    if isinstance(content, str):
        tensor = stored.pop(content)
        dtype, shape = types[tensor.type_name], tensor.shape
    else:
        name, type_name, shape = content
        tensor, dtype = stored.pop(name), other_type(type_name)
    if dtype == truth and (tensor.data > 1).any():
        raise ModelFileError("it has truth values that are neither 0 nor 1")
    return tensor.data, dtype, shape


def _array(content: Any, stored: dict[str, Stored]) -> Array:
    data, dtype, shape = _taken(content, stored, NUMPY_TYPES, _numpy_dtype, np.bool_)
    return cast(Array, data.view(dtype).reshape(shape))


def _tensor(content: Any, stored: dict[str, Stored]) -> th.Tensor:
    data, dtype, shape = _taken(content, stored, TORCH_TYPES, _torch_dtype, th.bool)
    flat = th.from_numpy(data).view(dtype) if data.size else th.empty(0, dtype=dtype)
    return flat.reshape(tuple(shape))


def _numpy_dtype(name: Any) -> np.dtype[Any]:
    dtype = np.dtype(name) if isinstance(name, str) else None
    if dtype is None or dtype.hasobject:
        raise ModelFileError(f"it has the type {name!r}, which is not allowed")
    return dtype


def _torch_dtype(name: Any) -> th.dtype:
    for dtype in TORCH_DTYPES:
        if str(dtype) == f"torch.{name}":
            return dtype
    raise ModelFileError(f"it has the type {name!r}, which this version of PyTorch does not have")
