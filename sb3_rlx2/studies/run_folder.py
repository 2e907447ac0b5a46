"""The folder of a run: what is in it, and how far the run is."""

from __future__ import annotations

import csv
import io
import json
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sb3_rlx2.files.atomic import replacing
from sb3_rlx2.studies.study_file import RunSettings, file_name

if sys.platform != "win32":
    import fcntl

State = Literal["waiting", "running", "stopped", "failed", "finished"]
STALE_SECONDS = 120.0
"""A run on another machine whose status is older than this is not running."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    :param state: ``"stopped"`` is a run that was killed and goes on when its study is run again
    :param step: environment steps that were made
    :param steps_per_second: in the last seconds; 0 if it does not run
    """

    state: State
    step: int = 0
    steps_per_second: float = 0.0


class RunFolder:
    """The folder of a run.

    :param path: the folder; it need not be there
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.evaluations = path / "evaluations.csv"
        self.checkpoints = path / "checkpoint"
        self.model = path / "model.zip"
        self.best = path / "best"
        self.output = path / "output.txt"

    @cached_property
    def settings(self) -> RunSettings:
        """What determines the run."""
        return RunSettings.from_dict(self._read("run.json")["settings"])

    @property
    def needed(self) -> list[RunFolder]:
        """The finished runs that this one needs, of the same environment and seed."""
        return [RunFolder(self.path.parents[1] / file_name(name) / self.path.name) for name in self.settings.after]

    @property
    def missing(self) -> list[RunFolder]:
        """Those of the needed runs that are not finished."""
        return [needed for needed in self.needed if not needed.is_finished]

    def check(self, settings: RunSettings) -> bool:
        """Check that the run in the folder is the one that is meant. One that was never begun may be another.

        :param settings: what determines the run
        :return: whether it is there
        :raises ValueError: if the folder holds a run of other settings that was begun
        """
        if not (self.path / "run.json").is_file():
            return False
        difference = self.settings.difference(settings)
        if difference is not None and (self.path / "sessions.json").is_file():
            raise ValueError(
                f"{self.path} holds a run of other settings ({difference}): remove the folder, or give the method "
                "another name"
            )
        return difference is None

    def prepare(self, settings: RunSettings) -> None:
        """Make the folder, or check that what is in it is the same run.

        :param settings: what determines the run
        :raises ValueError: if the folder holds a run of other settings that was begun
        """
        if not self.check(settings):
            self.path.mkdir(parents=True, exist_ok=True)
            self.write("run.json", {"settings": settings.to_dict()})
            vars(self).pop("settings", None)

    def record(self, name: str) -> dict[str, Any]:
        """What a file of the folder says; empty if there is none.

        :param name: ``"run.json"``, ``"status.json"``, ``"sessions.json"`` or ``"finished.json"``
        """
        return self._read(name) if (self.path / name).is_file() else {}

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file of the folder, wholly or not at all.

        :param name: its name
        :param content: what JSON can hold
        """
        with replacing(self.path / name, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1) + "\n")

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path / name}: this file cannot be read ({error})") from error
        return content

    def remove_agents(self) -> None:
        """Remove the checkpoint, the agents and the error of a run: those of its evaluations are others."""
        for folder in (self.checkpoints, self.best):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (self.model, self.path / "vecnormalize.pkl", self.path / "error.txt"):
            path.unlink(missing_ok=True)

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its last step."""
        return (self.path / "finished.json").is_file()

    @property
    def error(self) -> str:
        """Why the run failed, in a line; empty if it did not."""
        path = self.path / "error.txt"
        return path.read_text(encoding="utf-8").partition("\n")[0] if path.is_file() else ""

    @property
    def is_running(self) -> bool:
        """Whether a process makes the run at this moment."""
        status = self.record("status.json")
        if status and status["host"] != socket.gethostname():
            return bool(time.time() - status["time"] <= STALE_SECONDS)
        path = self.path / "lock"
        if not path.is_file() or sys.platform == "win32":
            return False
        with path.open() as file:  # to look is allowed where one must not write
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from making the same run; a process that is killed lets go.

        :raises BlockingIOError: if another process makes it
        """
        with (self.path / "lock").open("a") as file:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def progress(self) -> Progress:
        """How far the run is."""
        status = self.record("status.json")
        step = int(status.get("step", 0))
        if self.is_finished:
            return Progress("finished", self.settings.steps)
        if self.is_running:
            return Progress("running", step, float(status.get("steps_per_second", 0.0)))
        if self.error:
            return Progress("failed", step)
        return Progress("stopped", step) if status else Progress("waiting")

    def rows(self) -> list[dict[str, float]]:
        """The evaluations so far."""
        if not self.evaluations.is_file():
            return []
        # The last row of a process that was killed may be incomplete
        whole = self.evaluations.read_text(encoding="utf-8").rpartition("\n")[0]
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(whole))]
