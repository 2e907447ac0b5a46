"""Where runs are made, as ``concurrent.futures.Executor``."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def make_run_in_process(folder: str) -> int:
    """Make a run in a process of its own, which ends with this one.

    :param folder: of the run
    :return: exit status of the process (``sb3_rlx2.studies.run``); negative: the signal that ended it
    """
    command = [sys.executable, "-m", "sb3_rlx2.studies.run", folder, "--with-parent"]
    with (
        (Path(folder) / "output.txt").open("ab") as output,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env={**os.environ, **ONE_THREAD}
        ) as process,
    ):
        try:
            return process.wait()
        finally:
            process.kill()


def local_executor(jobs: int | None = None) -> Executor:
    """Processes of this machine.

    :param jobs: how many at a time; None (default): as many as cores that this process may use
    """
    return ThreadPoolExecutor(jobs or usable_cores())


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
