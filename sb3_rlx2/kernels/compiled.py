"""Functions compiled for the user's own CPU, once, and kept on disk."""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import platform
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
from numba.core import caching

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def source_digest() -> str:
    """Digest of all code that compiled functions are made of, and of what compiles it.

    A compiled function holds the code of those that it calls, so an edit in any file must invalidate all of them.
    """
    digest = hashlib.sha256(f"{numba.__version__} {platform.machine()}".encode())
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
            folder.mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except (OSError, RuntimeError):  # a process may have no home, and nowhere to write
            continue
        return folder
    return None


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


class _Cache(caching.FunctionCache):
    """Where the disk fails us (full, damaged files) the function is compiled in memory."""

    _impl_class = _IMPLEMENTATION

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return cast(Any, super()).load_overload(*arguments)
        except (OSError, EOFError, pickle.UnpicklingError):
            return None

    def save_overload(self, *arguments: Any) -> None:
        try:
            cast(Any, super()).save_overload(*arguments)
        except (OSError, EOFError, pickle.UnpicklingError):
            return


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function at its first call, or take it from the disk; it runs without the GIL.

    Division by zero and the like give infinity or NaN as in NumPy.
    """
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    if cache_folder() is not None:
        cache: Any = _Cache
        dispatcher._cache = cache(function)
    return cast(Callable[P, R], dispatcher)


def is_ready(function: Callable[..., Any]) -> bool:
    """Whether a function need not be compiled in this process: it has been, or it is on the disk."""
    folder = cache_folder()
    name = cast(Any, function).py_func.__qualname__
    in_memory = bool(cast(Any, function).signatures)
    return in_memory or (folder is not None and any(folder.glob(f"*.{name}-*.nbi")))
