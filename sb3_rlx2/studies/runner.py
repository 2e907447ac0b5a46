"""Makes the runs of a study, each once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import NamedTuple

from sb3_rlx2.studies.executors import make_run_in_process
from sb3_rlx2.studies.run import BUSY, FAILED, FINISHED
from sb3_rlx2.studies.run_folder import RunFolder
from sb3_rlx2.studies.study_file import Study, expand, select

ATTEMPTS = 5
"""How often a run is taken up again whose process or worker was lost without having made a step."""
LOOK_SECONDS = 1.0
BUSY_SECONDS = 30.0
PATIENCE_SECONDS = 60.0
"""How long nobody may be seen at work before runs that another command was to make are given up: a run's process takes
seconds to begin, and a command that makes several has such gaps between them."""


class Failure(NamedTuple):
    """A run that could not be made.

    :param folder: of the run
    :param reason: in a line
    """

    folder: RunFolder
    reason: str


def run_folders(study: Study, results: Path, only: Collection[str] = ()) -> list[RunFolder]:
    """The folders of the runs of a study, made where they are not there yet.

    :param study: the study
    :param results: folder of the study's results
    :param only: methods and environments to which the runs must belong; where none is a method, all methods, and the
        same for environments; default: all
    :raises ValueError: if one of them holds a run of other settings, or ``only`` names what the study does not have
    """
    runs = [(RunFolder(results / settings.folder), settings) for settings in select(expand(study), only)]
    for folder, settings in runs:
        folder.check(settings)  # of all of them, before the first is written
    for folder, settings in runs:
        folder.prepare(settings)
    return [folder for folder, _ in runs]


def run_all(
    folders: Sequence[RunFolder],
    executor: Executor,
    look: Callable[[Sequence[RunFolder]], None] = lambda folders: None,
    at_a_time: int | None = None,
) -> list[Failure]:
    """Make all runs that are not finished.

    :param folders: prepared folders of the runs
    :param executor: where they are made
    :param look: called with the folders every second
    :param at_a_time: how many to give to the executor at a time, so that runs which wait for others keep their turn;
        None (default): all
    :return: those that failed, or need one that did; the study run again tries them again
    """
    waiting = [folder for folder in folders if not folder.is_finished]
    attempts = dict.fromkeys((folder.path for folder in waiting), 0)
    running: dict[Future[int], RunFolder] = {}
    not_before: dict[Path, float] = {}
    steps: dict[Path, int] = {}
    failed: list[Failure] = []
    last_work = time.monotonic()
    try:
        while waiting or running:
            for folder in list(waiting):
                if folder.missing:
                    continue
                if at_a_time is not None and len(running) >= at_a_time:
                    break
                if time.monotonic() < not_before.get(folder.path, 0.0):
                    continue
                if folder.is_running:  # by another command
                    not_before[folder.path] = time.monotonic() + BUSY_SECONDS
                else:
                    waiting.remove(folder)
                    running[executor.submit(make_run_in_process, str(folder.path.absolute()))] = folder
            if running or not_before or any(folder.is_running for folder in _neighbors(waiting)):
                last_work = time.monotonic()
            elif not _others_may_make(waiting, folders) or time.monotonic() - last_work > PATIENCE_SECONDS:
                return [*failed, *(Failure(folder, f"it needs {folder.missing[0].path}") for folder in waiting)]
            done, _ = wait(running, LOOK_SECONDS, FIRST_COMPLETED)
            if not running:
                time.sleep(LOOK_SECONDS)
            for future in done:
                folder = running.pop(future)
                not_before.pop(folder.path, None)
                status, reason = _outcome(future)
                if status == FINISHED:
                    continue
                step = folder.progress().step
                if step > steps.get(folder.path, 0):  # a long run may be lost more often
                    attempts[folder.path], steps[folder.path] = 0, step
                attempts[folder.path] += status != BUSY
                if status == FAILED or attempts[folder.path] >= ATTEMPTS:
                    times = f"{attempts[folder.path]} times without a step" if status != FAILED else "at once"
                    lost = f"its process ended {times} ({reason}); {folder.output} has what it said"
                    failed.append(Failure(folder, folder.error or lost))
                    continue
                if status == BUSY:
                    not_before[folder.path] = time.monotonic() + BUSY_SECONDS
                waiting.append(folder)
            look(folders)
    finally:
        for future in running:
            future.cancel()
    return failed


def _neighbors(folders: Sequence[RunFolder]) -> list[RunFolder]:
    """All runs beside some of one study, whoever makes them."""
    results = {folder.path.parents[2] for folder in folders}
    return [RunFolder(path.parent) for folder in results for path in folder.glob("*/*/seed_*/run.json")]


def _others_may_make(waiting: Sequence[RunFolder], own: Sequence[RunFolder]) -> bool:
    """Whether another command may be about to make what a run needs: it is prepared, and has not failed."""
    others = {needed.path: needed for folder in waiting for needed in folder.missing}
    for folder in own:
        others.pop(folder.path, None)
    return any((folder.path / "run.json").is_file() and not folder.error for folder in others.values())


def _outcome(future: Future[int]) -> tuple[int | None, str]:
    """Exit status of a run's process, or None and why there is none."""
    if future.cancelled():
        return None, "cancelled"
    error = future.exception()
    if error is not None:  # of whatever executor there is: a worker that was lost, a folder that it does not share
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
    return future.result(), f"exit status {future.result()}"
