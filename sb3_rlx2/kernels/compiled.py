"""Functions compiled for the user's own CPU, once, and kept on disk."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import llvmlite
import numba
import numpy as np
from numba.core import caching, types

P = ParamSpec("P")
R = TypeVar("R")

UNUSED_SECONDS = 30 * 24 * 3600


@functools.cache
def source_digest() -> str:
    """Digest of all code that compiled functions are made of, and of what compiles it.

    A compiled function holds the code of those that it calls, so an edit in any file must invalidate all of them. What
    is no constant of these files is not to be frozen into machine code, but passed in a parameter block.
    """
    versions = (numba.__version__, llvmlite.__version__, np.__version__, platform.machine())
    digest = hashlib.sha256(" ".join(versions).encode())
    package = Path(__file__).parents[1]
    for folder in ("kernels", "engine"):
        for path in sorted((package / folder).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def cache_folder() -> Path | None:
    """The folder of compiled code: below NUMBA_CACHE_DIR, the user's cache folder or, last, the temporary folder.

    :return: None if none of them can be written; everything is compiled anew then in each process
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    finders: list[Callable[[], Path]] = [_user_folder, _temporary_folder]
    for find in finders:
        try:
            parent = Path(chosen) if chosen else find()
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if find is _temporary_folder and not chosen and not _is_private(parent):
                continue
            folder = parent / f"compiled-{source_digest()}"
            is_new = not folder.exists()
            folder.mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            if is_new:
                _remove_unused(parent)
            os.utime(folder)
        except (OSError, RuntimeError):  # a process may have no home, and nowhere to write
            continue
        return folder
    return None


def _remove_unused(parent: Path) -> None:
    """Remove what other versions compiled and no process has used for a month."""
    for folder in parent.glob("compiled-*"):
        if time.time() - folder.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _user_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sb3_rlx2"


def _temporary_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"sb3_rlx2-{getattr(os, 'getuid', lambda: 'user')()}"


def _is_private(folder: Path) -> bool:
    """Whether nobody else can put code into a folder that we would run."""
    status = folder.lstat()
    own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return stat.S_ISDIR(status.st_mode) and own and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


class _Locator(caching._CacheLocator):
    """Where Numba keeps a function of ours; Numba's own locators look at the function's file only."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file = file
        self._lineno = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> _Locator:
        return cls(function, file)

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        return source_digest()

    def get_disambiguator(self) -> str:
        return str(self._lineno)


_IMPLEMENTATION: Any = type("_Implementation", (caching.CompileResultCacheImpl,), {"_locator_classes": [_Locator]})


class _FunctionCache(caching.FunctionCache):
    _impl_class = _IMPLEMENTATION


class _Cache(caching._Cache):
    """The machine code of a function on the disk, which is not looked at before the function is needed.

    Where the disk fails us (full, damaged files, nowhere to write) the function is compiled in memory.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @functools.cached_property
    def _opened(self) -> Any:
        cache: Any = _FunctionCache
        return caching.NullCache() if cache_folder() is None else cache(self._function)

    @property
    def cache_path(self) -> Any:
        return self._opened.cache_path

    def enable(self) -> None:
        self._opened.enable()

    def disable(self) -> None:
        self._opened.disable()

    def flush(self) -> None:
        self._opened.flush()

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return self._opened.load_overload(*arguments)
        except (OSError, EOFError, pickle.UnpicklingError):
            return None

    def save_overload(self, *arguments: Any) -> None:
        try:
            self._opened.save_overload(*arguments)
        except (OSError, EOFError, pickle.UnpicklingError):
            return


def cached(dispatcher: Any, function: Callable[..., Any]) -> Any:
    """Let a function that Numba compiles keep its machine code on the disk.

    :param dispatcher: what Numba made of it
    :param function: the function itself
    :return: ``dispatcher``
    """
    cache: Any = _Cache
    dispatcher._cache = cache(function)
    return dispatcher


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function at its first call, or take it from the disk; it runs without the GIL.

    It is compiled anew for each constant that it is called with, which saves time in the many short calls of sparse
    products. Division by zero and the like give infinity or NaN as in NumPy.
    """
    return cast(Callable[P, R], _dispatcher(function, nogil=True))


def compiled_once(function: Callable[P, R]) -> Callable[P, R]:
    """The same for a function in which constants save no time, but whose compilation takes long."""
    dispatcher = _dispatcher(function, nogil=True)
    resolve = dispatcher.get_call_template

    def resolve_any_number(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        plain = {name: types.unliteral(kind) for name, kind in keywords.items()}
        return resolve(tuple(map(types.unliteral, arguments)), plain)

    dispatcher.get_call_template = resolve_any_number
    return cast(Callable[P, R], dispatcher)


def compiled_with_gil(function: Callable[P, R]) -> Callable[P, R]:
    """The same as ``compiled`` for a function that calls Python's C API: it holds the GIL while it runs."""
    return cast(Callable[P, R], _dispatcher(function, nogil=False))


def _dispatcher(function: Callable[..., Any], nogil: bool) -> Any:
    njit = cast(Any, numba.njit)  # whose annotations lack no_cfunc_wrapper
    return cached(njit(nogil=nogil, error_model="numpy", no_cfunc_wrapper=True)(function), function)


def is_on_disk(function: Callable[..., Any]) -> bool:
    """Whether the machine code of a function is on the disk, so that it need not be compiled.

    :param function: the function itself, not what Numba made of it
    """
    folder = cache_folder()
    return folder is not None and any(folder.glob(f"*.{function.__qualname__}-*.nbi"))
