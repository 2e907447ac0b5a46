"""Files that training writes to as it goes: nothing in them is lost after a kill, and nothing is there twice."""

from __future__ import annotations

import os
import uuid
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO, cast

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    JSONOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
    make_output_format,
)

from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.resume.plain_data import attributes_of, set_attributes

KINDS: dict[type, str] = {
    HumanOutputFormat: "log",
    CSVOutputFormat: "csv",
    JSONOutputFormat: "json",
    TensorBoardOutputFormat: "tensorboard",
}
EVENTS = "events.out.tfevents."


class LogCopies:
    """Copies of text files that grow: who opens such a file anew empties it, as SB3's loggers and Monitor do.

    Only what is new is copied. Each checkpoint knows the length and checksum of its part.

    :param folder: where copies are; made when it is needed
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[str, dict[str, Any]] = {}
        self._pending: list[tuple[str, int, bytes]] = []

    def note(self, entry: dict[str, Any]) -> None:
        """Read what a file has now, and add to an entry what ``content`` needs to find it.

        Of a file that is gone what it had last stays.

        :param entry: has ``path``, and ``version`` if what was written once may have been rewritten since
        """
        path = entry["path"]
        before = self._entries.get(path)
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if (
                    before is None
                    or size < before["length"]
                    or entry.get("version") != before.get("version")
                    or not self._has_copy(before)
                ):
                    before = _new_copy(path)
                file.seek(before["length"])
                new = file.read(size - before["length"])
        except FileNotFoundError:
            before, new = before or _new_copy(path), b""
        entry |= {
            "copy": before["copy"],
            "length": before["length"] + len(new),
            "checksum": zlib.crc32(new, before["checksum"]),
        }
        self._entries[path] = dict(entry)
        if new or not before["length"]:
            self._pending.append((before["copy"], before["length"], new))

    def _has_copy(self, entry: dict[str, Any]) -> bool:
        """Whether the copy is there, unless it is about to be written."""
        is_pending = any(name == entry["copy"] for name, _, _ in self._pending)
        return is_pending or (self.folder / entry["copy"]).is_file()

    def write(self) -> None:
        """Write the parts that were noted.

        :raises OSError: if that fails; they are written next time then
        """
        while self._pending:
            name, start, new = self._pending[0]
            self.folder.mkdir(exist_ok=True)
            with (self.folder / name).open("r+b" if start else "wb") as file:
                file.truncate(start)
                file.seek(start)
                file.write(new)
                file.flush()
                os.fsync(file.fileno())
            del self._pending[0]

    def content(self, entry: dict[str, Any]) -> bytes:
        """The part of a copy that a checkpoint knows.

        :param entry: as ``note`` completed it
        :raises ModelFileError: if the copy is damaged
        """
        path = self.folder / entry["copy"]
        try:
            with path.open("rb") as file:
                content: bytes = file.read(entry["length"])
        except FileNotFoundError as error:
            raise ModelFileError(f"{path}: there is no such file") from error
        if len(content) != entry["length"] or zlib.crc32(content) != entry["checksum"]:
            raise ModelFileError(f"{path} is damaged: its checksum does not fit its content")
        return content

    def go_on_from(self, entries: Iterable[dict[str, Any]]) -> None:
        """Append to the copies of a checkpoint from now on.

        :param entries: those of the checkpoint
        """
        for entry in entries:
            self._entries[entry["path"]] = {key: value for key, value in entry.items() if key != "content"}

    def remove_all_but(self, names: set[str]) -> None:
        """Remove copies that no checkpoint needs.

        :param names: the others
        """
        if self.folder.exists():
            for path in self.folder.iterdir():
                if path.name not in names:
                    path.unlink()


def _new_copy(path: str) -> dict[str, Any]:
    return {"copy": f"{uuid.uuid4().hex[:8]}-{Path(path).name}", "length": 0, "checksum": 0}


# --- of environments ---


def log_file(monitor: Any) -> str | None:
    """The file that a ``Monitor`` or ``VecMonitor`` writes to, with all that was written; None: none.

    :param monitor: it, or any other wrapper
    """
    writer = vars(monitor).get("results_writer")
    if writer is None or writer.file_handler.closed:
        return None
    writer.file_handler.flush()
    return str(os.path.realpath(writer.file_handler.name))


def rewrite_log_file(monitor: Any, content: bytes) -> None:
    """Let a file have what it had.

    :param monitor: a ``Monitor`` or ``VecMonitor``; without a file it stays without
    :param content: all of the file
    """
    writer = vars(monitor).get("results_writer")
    if writer is not None:
        _rewrite(writer.file_handler, content)


def _rewrite(file: TextIO, content: bytes) -> None:
    file.seek(0)
    file.truncate()
    file.write(content.decode("utf-8"))
    file.flush()


# --- of loggers ---


def logger_state(logger: Logger) -> dict[str, Any]:
    """What a logger has not written yet, and which files it writes, which then have all that was written.

    :param logger: the logger
    :return: plain data
    """
    return {
        "values": attributes_of(SimpleNamespace(**logger.name_to_value)),  # without pictures and the like
        "counts": dict(logger.name_to_count),
        "excluded": dict(logger.name_to_excluded),
        "level": logger.level,
        "dir": None if logger.dir is None else os.path.realpath(logger.dir),
        "formats": [_format_state(output) for output in logger.output_formats],
    }


def _format_state(output: KVWriter) -> dict[str, Any]:
    if isinstance(output, TensorBoardOutputFormat):
        output.writer.flush()
        folder = os.path.realpath(output.writer.log_dir)
        return {"kind": "tensorboard", "folder": folder, "files": event_files(folder)}
    kind = KINDS.get(type(output))
    if kind is None or (isinstance(output, HumanOutputFormat) and not output.own_file):
        return {"kind": "stdout" if kind == "log" else None, "class": type(output).__name__}
    file = cast(Any, output).file
    file.flush()
    log = {"path": os.path.realpath(file.name)}
    if isinstance(output, CSVOutputFormat):
        return {"kind": kind, "keys": list(output.keys), "log": {**log, "version": len(output.keys)}}
    return {"kind": kind, "log": log}


def event_files(folder: str) -> dict[str, int]:
    """TensorBoard's files in a folder, with their lengths; none if the folder is gone.

    :param folder: the folder
    """
    if not os.path.isdir(folder):
        return {}
    return {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.name.startswith(EVENTS)}


def make_logger(state: dict[str, Any]) -> Logger:
    """Make a logger that writes where another one wrote. A folder that is gone is made, with a warning.

    :param state: of the other one
    """
    outputs: list[KVWriter] = []
    for saved in state["formats"]:
        kind = saved["kind"]
        folder = os.path.dirname(saved["log"]["path"]) if "log" in saved else saved.get("folder", ".")
        if not os.path.isdir(folder):
            os.makedirs(folder)
            warnings.warn(
                f"{folder}, where the logger wrote a log of kind {kind}, is not there any more: it is made again, and "
                "the log goes on in it",
                stacklevel=3,
            )
        if kind is None:
            warnings.warn(
                f"the logger had an output of class {saved['class']}, which is not known here: it gets nothing from "
                "now on",
                stacklevel=3,
            )
        elif kind == "log":
            outputs.append(HumanOutputFormat(saved["log"]["path"]))
        elif kind == "csv":
            outputs.append(CSVOutputFormat(saved["log"]["path"]))
        elif kind == "json":
            outputs.append(JSONOutputFormat(saved["log"]["path"]))
        else:
            outputs.append(make_output_format(kind, saved.get("folder", ".")))
    return Logger(state["dir"], outputs)


def set_logger_state(logger: Logger, state: dict[str, Any]) -> None:
    """Let a logger and its files be as they were.

    :param logger: a logger with the same outputs
    :param state: what ``logger_state`` returned, with the ``content`` of log files
    """
    values = SimpleNamespace()
    set_attributes(values, state["values"])
    for own, saved in (
        (logger.name_to_value, vars(values)),
        (logger.name_to_count, state["counts"]),
        (
            logger.name_to_excluded,
            {name: excluded for name, excluded in state["excluded"].items() if name in vars(values)},
        ),
    ):
        own.clear()
        cast(Any, own).update(saved)
    logger.level = state["level"]
    known = [saved for saved in state["formats"] if saved["kind"] is not None]
    outputs = [output for output in logger.output_formats if type(output) in KINDS]
    if [_kind(output) for output in outputs] != [saved["kind"] for saved in known]:
        warnings.warn("the logger has other outputs than that of the checkpoint, so its files are new", stacklevel=2)
        return
    for output, saved in zip(outputs, known, strict=True):
        if isinstance(output, TensorBoardOutputFormat):
            _cut_events(output, saved)
        elif "log" in saved:
            _rewrite(cast(Any, output).file, saved["log"]["content"])
            if isinstance(output, CSVOutputFormat):
                output.keys = list(saved["keys"])


def _kind(output: KVWriter) -> str:
    return "stdout" if isinstance(output, HumanOutputFormat) and not output.own_file else KINDS[type(output)]


def _cut_events(output: TensorBoardOutputFormat, saved: dict[str, Any]) -> None:
    """Remove what was logged after the checkpoint: it will be logged once more."""
    folder = output.writer.log_dir
    if os.path.realpath(folder) != os.path.realpath(saved["folder"]):
        return
    output.writer.close()
    for name in event_files(folder):
        path = os.path.join(folder, name)
        if name not in saved["files"]:
            os.unlink(path)
        elif os.path.getsize(path) > saved["files"][name]:
            os.truncate(path, saved["files"][name])
    output.writer = type(output.writer)(log_dir=folder)
