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
    folders = []
    for settings in select(expand(study), only):
        folders.append(RunFolder(results / settings.folder))
        folders[-1].prepare(settings)
    return folders


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
            needs_others = any(needed.is_running for folder in waiting for needed in folder.missing)
            if not running and not not_before and not needs_others:
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


def _outcome(future: Future[int]) -> tuple[int | None, str]:
    """Exit status of a run's process, or None and why there is none."""
    if future.cancelled():
        return None, "cancelled"
    error = future.exception()
    if error is not None:  # of whatever executor there is: a worker that was lost, a folder that it does not share
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
    return future.result(), f"exit status {future.result()}"
