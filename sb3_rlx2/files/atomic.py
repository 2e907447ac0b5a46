"""Files that are written wholly or not at all."""

from __future__ import annotations

import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

LONGEST = 50
"""Characters of a file's name that the name of its temporary file has."""


@contextmanager
def replacing(
    path: str | os.PathLike[str], mode: str = "wb", *, encoding: str | None = None, newline: str | None = None
) -> Iterator[IO[Any]]:
    """Write a file in such a way that its path always holds a whole one: that from before, or the new one.

    What is written goes to a temporary file beside it, which is synced to the disk and takes the file's name at the end
    of the ``with`` block. On an exception, a full disk included, the temporary file is removed and the path is what it
    was. A process that is killed may leave its temporary file, ``.NAME.….tmp``, which the next write of that file
    removes. What a symbolic link points to is replaced, not the link; what is no ordinary file, such as a pipe or
    ``/dev/stdout``, is written directly.

    :param path: path of the file; its folder must exist
    :param mode: ``"wb"`` (default) or ``"w"``
    :param encoding: of text, as for ``open``, default None
    :param newline: of text, as for ``open``, default None
    :return: the open file
    :raises OSError: if it cannot be written
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with target.open(mode, encoding=encoding, newline=newline) as file:
            yield file
        return
    _remove_debris(target)
    try:
        file = _open_temporary(target, mode, encoding, newline)
    except OSError as error:
        error.filename = str(path)
        raise
    temporary = Path(file.name)
    try:
        with file:
            if target.exists():
                shutil.copymode(target, temporary)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sys.platform != "win32":  # while it is locked
                os.replace(temporary, target)
        if sys.platform == "win32":
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make sure that files that were renamed in a folder, or are new there, keep their names when the power fails.

    :param folder: path of the folder
    """
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # some file systems cannot
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_temporary(target: Path, mode: str, encoding: str | None, newline: str | None) -> IO[Any]:
    """Create the temporary file and lock it, so that nobody takes it for debris while it is written."""
    while True:
        temporary = target.with_name(f"{_prefix(target)}{uuid.uuid4().hex[:8]}.tmp")
        try:
            file = temporary.open(mode.replace("w", "x"), encoding=encoding, newline=newline)
        except FileExistsError:
            continue
        # Before it was locked, it could be removed
        if try_lock(file.fileno()) is not False and temporary.exists():
            return file
        file.close()


def _remove_debris(target: Path) -> None:
    """Remove the temporary files of this file that no process writes any more."""
    prefix = _prefix(target)
    with suppress(OSError):
        for entry in os.scandir(target.parent):
            if entry.name.startswith(prefix) and re.fullmatch(r"[0-9a-f]{8}\.tmp", entry.name[len(prefix) :]):
                descriptor = os.open(entry.path, os.O_RDWR)
                try:
                    if try_lock(descriptor):
                        os.unlink(entry.path)
                finally:
                    os.close(descriptor)


def _prefix(target: Path) -> str:
    return f".{target.name[:LONGEST]}."


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed or its process ends.

    :param descriptor: of the file
    :return: whether this process has the lock now; None: there are no locks here
    """
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
