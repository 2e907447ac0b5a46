"""Compiling exported C for this machine, and calling it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sb3_rlx2.export.sparse_policy import Array

COMPILERS = ("cc", "gcc", "clang")
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Wconversion")


def find_compiler() -> str | None:
    """A C compiler of this machine; None if there is none."""
    return next((found for name in COMPILERS if (found := shutil.which(name))), None)


def compiled_policy(
    source: Path,
    library: Path,
    n_act: int,
    compiler: str,
    flags: tuple[str, ...] = ("-O2",),
    dtype: type = np.float32,
) -> Callable[[Array], Array]:
    """Compile an exported policy, and a function that calls it.

    :param source: the C file; its name is what the function's name begins with
    :param library: the shared library to make
    :param n_act: number of action dimensions
    :param compiler: the compiler
    :param flags: for the compiler
    :param dtype: of actions in C, default float32; discrete ones: int32
    :return: actions [n, n_act] for raw observations [n, ...]
    :raises ValueError: if it does not compile
    """
    command = [compiler, *WARNINGS, *flags, "-shared", "-fPIC", str(source), "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0 or result.stderr:
        raise ValueError(f"{compiler} does not compile {source.name}: {' '.join(result.stderr.split())[:300]}")
    act = getattr(ctypes.CDLL(str(library.absolute())), f"{source.stem}_act")
    act.argtypes, act.restype = [ctypes.c_void_p, ctypes.c_void_p], None

    def actions(observations: Array) -> Array:
        inputs = np.ascontiguousarray(observations, np.float32).reshape(len(observations), -1)
        outputs: Array = np.empty((len(inputs), n_act), dtype)
        for observation, action in zip(inputs, outputs, strict=True):
            act(observation.ctypes.data, action.ctypes.data)
        return outputs

    return actions
