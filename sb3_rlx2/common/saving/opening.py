"""Opening files: paths as Stable-Baselines3 finds them, whether there is pickle inside, and errors that name them."""

from __future__ import annotations

import io
import os
import pathlib
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sb3_rlx2.errors import ModelFileError

WITHOUT_PICKLE = ".safetensors"
"""Suffix of files that are written without pickle."""

MOST_SAID = 300
"""Characters of an exception's text that are quoted."""

File = str | pathlib.Path | io.BufferedIOBase


def path_to_write(path: str | os.PathLike[str], suffix: str) -> pathlib.Path:
    """Where a file is written, as in Stable-Baselines3, with its warnings: its folder is made.

    :param path: what was given
    :param suffix: what is added to a name without suffix
    """
    path = pathlib.Path(path)
    if path.suffix == "":
        path = pathlib.Path(f"{path}{suffix}")
    if path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2", stacklevel=3)
        path = pathlib.Path(f"{path}_2")
    if not path.parent.exists():
        warnings.warn(f"Path '{path.parent}' does not exist. Will create it.", stacklevel=3)
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def path_to_read(path: str | os.PathLike[str], suffix: str) -> pathlib.Path:
    """The file that is meant by a path: it, or with a suffix.

    :param path: what was given
    :param suffix: what Stable-Baselines3 adds; that of files without pickle is tried after it
    """
    candidates = [pathlib.Path(f"{path}{end}") for end in ("", suffix, WITHOUT_PICKLE)]
    missing = candidates[0 if str(path).endswith((suffix, WITHOUT_PICKLE)) else 1]
    return next((path for path in candidates if path.exists() and not path.is_dir()), missing)


@contextmanager
def opened(file: File, suffix: str) -> Iterator[Any]:
    """The open file; one that was given open stays open.

    :param file: path of the file, or the open file
    :param suffix: what is added if there is no such file
    """
    if isinstance(file, (str, os.PathLike)):
        with path_to_read(file, suffix).open("rb") as found:
            yield found
    else:
        yield file


def is_without_pickle(file: io.BufferedIOBase) -> bool:
    """Whether an open file begins as one in the safetensors format; its position stays.

    That says how to read it. Only ``read_state`` finds whether it is one: the rest may be anything, a pickle too.

    :param file: the file
    """
    position = file.tell()
    first = file.read(9)
    length = file.seek(0, os.SEEK_END) - position
    file.seek(position)
    return len(first) == 9 and first[8:] == b"{" and struct.unpack("<Q", first[:8])[0] <= length - 8


def name_of(file: File) -> str:
    """How an error calls a file.

    :param file: path of the file, or the open file
    """
    return str(file) if isinstance(file, (str, pathlib.Path)) else str(getattr(file, "name", "the open file"))


def reason(error: Exception) -> str:
    """What an exception says, in one line.

    :param error: the exception
    """
    said = " ".join(str(error).split())
    said = said if len(said) < MOST_SAID else f"{said[:MOST_SAID]} …"
    return said if isinstance(error, ValueError) and said else f"{type(error).__name__}: {said}"


@contextmanager
def naming(file: File, problem: str) -> Iterator[None]:
    """Say which file it is that cannot be loaded, and why.

    :param file: path of the file, or the open file
    :param problem: what is wrong, in words that follow the name, if anything but a ModelFileError is raised
    :raises ModelFileError: in place of every exception, but those of the operating system
    """
    name = name_of(file)
    try:
        yield
    except ModelFileError as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error
    except OSError:
        raise
    # A damaged or foreign file fails wherever its content is first used, with any kind of exception
    except Exception as error:
        raise ModelFileError(f"{name} {problem}: {reason(error)}") from error
