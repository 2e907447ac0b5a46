"""A folder of checkpoints: the newest ones, each whole or not there, and what they share."""

from __future__ import annotations

import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sb3_rlx2.common.saving.model_files import check_kind
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.files import read_state, write_state
from sb3_rlx2.files.atomic import sync_folder, try_lock
from sb3_rlx2.resume.buffer_segments import Segment, read_segment
from sb3_rlx2.resume.log_files import LogCopies
from sb3_rlx2.resume.moved_paths import move_along
from sb3_rlx2.resume.training_state import log_entries

PREFIX, SUFFIX = "checkpoint-", ".safetensors"

KIND, TRAINING_FORMAT = "training", 1
"""Goes up when checkpoints that one version writes can no longer be read by the one before."""


_owners: weakref.WeakValueDictionary[tuple[int, int], CheckpointFolder] = weakref.WeakValueDictionary()
"""Who writes to which folder in this process."""


class CheckpointFolder:
    """Checkpoints in a folder.

    ``checkpoint-N.safetensors`` is all of a training but what checkpoints share: ``rows-….safetensors``, the rows of
    the replay buffer, ``logs``, copies of text files, and ``model.safetensors`` or ``model.zip``, the settings with
    which the model was made (``model-N`` where they have changed since). A checkpoint is there once all that it needs
    is; then what only older ones need goes.

    :param path: of the folder
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.logs = LogCopies(self.path / "logs")
        self._needed: dict[int, set[str]] = {}
        self.writer: threading.Thread | None = None
        self._lock: weakref.finalize[Any, Any] | None = None

    def numbers(self) -> list[int]:
        """Numbers of the checkpoints, oldest first."""
        names = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        middles = [name[len(PREFIX) : -len(SUFFIX)] for name in names if name.startswith(PREFIX)]
        return sorted(int(middle) for middle in middles if middle.isdecimal())

    def file(self, number: int) -> Path:
        """Path of a checkpoint.

        :param number: its number
        """
        return self.path / f"{PREFIX}{number}{SUFFIX}"

    def lock(self) -> None:
        """Keep other processes from writing here until this one ends. Without locks of files there is a warning.

        :raises ValueError: if one does
        """
        if self._lock is not None or sys.platform == "win32":
            return
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / ".lock", os.O_WRONLY | os.O_CREAT, 0o666)
        found = os.fstat(descriptor)
        before = _owners.get((found.st_dev, found.st_ino))
        if before is not None and before._lock is not None:  # this process has it, or a training in it was interrupted
            os.close(descriptor)
            if before.writer is not None and before.writer.ident is not None:  # it was started
                before.writer.join()
            descriptor = before._give()
        else:
            has_lock = try_lock(descriptor)
            if has_lock is False:
                os.close(descriptor)
                raise ValueError(f"{self.path}: another process trains and writes its checkpoints here")
            if has_lock is None:
                warnings.warn(
                    f"{self.path}: files cannot be locked here, so nothing keeps another process from training in this "
                    "folder at the same time",
                    stacklevel=3,
                )
        _owners[found.st_dev, found.st_ino] = self
        self._lock = weakref.finalize(self, os.close, descriptor)

    def unlock(self) -> None:
        """Let other processes write here."""
        if self._lock is not None:
            self._lock()
            self._lock = None

    def _give(self) -> int:
        """The descriptor of the lock, which is another's from now on."""
        assert self._lock is not None
        detached = self._lock.detach()
        self._lock = None
        assert detached is not None
        descriptor: int = detached[2][0]
        return descriptor

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock for a while, or until another object of this process takes the lock over.

        :raises ValueError: if another process writes here
        """
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    def write(self, number: int, state: dict[str, Any], rows: dict[str, Any], keep: int) -> None:
        """Write a checkpoint, then remove older ones and what only they need.

        :param number: of the checkpoint
        :param state: all but what is shared
        :param rows: new rows of the replay buffer by file name
        :param keep: how many checkpoints to keep
        :raises OSError: if it cannot be written; those before are as they were
        """
        try:
            for name, segment in rows.items():
                write_state(self.path / name, segment)
            self.logs.write()
            head = {"kind": KIND, "format": TRAINING_FORMAT, "folder": os.path.realpath(self.path)}
            write_state(self.file(number), {**head, **state})
        except BaseException:
            for name in rows:
                (self.path / name).unlink(missing_ok=True)
            raise
        self._remove_old(keep, number, state)

    def read(self) -> dict[str, Any]:
        """Read the newest checkpoint that is whole, with a warning about newer ones.

        :return: as it was given to ``write``, with its ``number``, the ``content`` of log files, and paths that have
            moved with the folder
        :raises ModelFileError: if there is none
        """
        numbers = self.numbers()
        if not numbers:
            raise ModelFileError(f"{self.path}: there is no checkpoint in this folder")
        problem: ModelFileError | None = None
        for number in reversed(numbers):
            try:
                state = self._read(number)
            except ModelFileError as error:
                problem = problem or error
                continue
            if problem is not None:
                warnings.warn(f"{problem}: going on from the checkpoint before, {self.file(number)}", stacklevel=3)
            return state
        assert problem is not None
        raise ModelFileError(f"{problem}; there is no older checkpoint that is whole")

    def _read(self, number: int) -> dict[str, Any]:
        path = self.file(number)
        state: dict[str, Any] = read_state(path)
        try:
            check_kind(state, KIND, TRAINING_FORMAT)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
        template = self.path / state["recipe"]["template"]
        if not template.is_file():
            raise ModelFileError(f"{template}: there is no such file, of which {path.name} has the settings")
        for segment in state["buffer"]["segments"]:
            read_segment(self.path, Segment(*segment))
        for entry in log_entries(state):
            entry["content"] = self.logs.content(entry)
        move_along(state, self.path)
        return {**state, "number": number}

    def _remove_old(self, keep: int, number: int, state: dict[str, Any]) -> None:
        old = self.numbers()
        kept = [other for other in old if other <= number][-keep:]
        self._needed = {other: self._needed_by(other) for other in kept[:-1]} | {number: _needs(state)}
        for other in set(old) - set(kept):
            self.file(other).unlink(missing_ok=True)
        needed = set().union(*self._needed.values())
        for pattern in ("rows-*.safetensors", "model-*.safetensors", "model-*.zip"):
            for path in self.path.glob(pattern):
                if path.name not in needed:
                    path.unlink(missing_ok=True)
        self.logs.remove_all_but(needed)
        sync_folder(self.path)

    def _needed_by(self, number: int) -> set[str]:
        if number in self._needed:
            return self._needed[number]
        try:
            return _needs(read_state(self.file(number)))
        except (ModelFileError, OSError):  # nothing can go on from it
            return set()


def _needs(state: dict[str, Any]) -> set[str]:
    """Names of the files that a checkpoint shares with others."""
    rows = {name for name, _, _ in state["buffer"]["segments"]}
    return rows | {state["recipe"]["template"]} | {entry["copy"] for entry in log_entries(state)}


def _unlock_in_child() -> None:
    """Workers of environments may outlive the training: what they inherit must not keep its lock."""
    for folder in list(_owners.values()):
        folder.unlock()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_unlock_in_child)
