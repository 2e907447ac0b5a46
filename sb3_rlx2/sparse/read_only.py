"""A tensor that is computed from others and must not be written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th

_IN_PLACE = (
    {"__set__", "__setitem__"}
    | {f"__{name}__" for name in ("iadd", "isub", "imul", "idiv", "itruediv", "ifloordiv", "imod", "ipow")}
    | {f"__{name}__" for name in ("iand", "ior", "ixor", "ilshift", "irshift")}
)


class ReadOnlyTensor(th.Tensor):
    """A tensor that raises when it, or a view of it, is written to. What is computed from it is a plain tensor.

    Autograd goes through it as through any other tensor. NumPy and DLPack see its memory unprotected.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(tensor, cls) for tensor in _written(func, args, kwargs)):
            raise RuntimeError(
                "an inplace update of this tensor would change a copy and nothing else: "
                "write to what it was computed from, or to `.detach().clone()`"
            )
        with th._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            sources = [tensor for tensor in _flat((*args, *kwargs.values())) if isinstance(tensor, cls)]
            if type(result) in (list, tuple):  # such as those of `chunk`
                return type(result)(cls._protected(part, sources) for part in result)
            return cls._protected(result, sources)

    @classmethod
    def _protected(cls, result: Any, sources: Sequence[th.Tensor]) -> Any:
        """The result itself, or as a read-only tensor where it shares memory with one of the sources."""
        if isinstance(result, th.Tensor) and any(_share_memory(result, source) for source in sources):
            return result.as_subclass(cls)
        return result


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments that a function of PyTorch writes to."""
    name = getattr(func, "__name__", "")
    is_in_place = name in _IN_PLACE or (name.endswith("_") and not name.endswith("__")) or kwargs.get("inplace")
    first = args[0] if args else next(iter(kwargs.values()), None)
    return _flat((kwargs.get("out"), *([first] if is_in_place else [])))


def _flat(arguments: Sequence[Any]) -> list[Any]:
    return [
        tensor
        for argument in arguments
        for tensor in (argument if isinstance(argument, (list, tuple)) else (argument,))
    ]


def _share_memory(a: th.Tensor, b: th.Tensor) -> bool:
    if a.layout != th.strided or b.layout != th.strided:
        return False
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)
