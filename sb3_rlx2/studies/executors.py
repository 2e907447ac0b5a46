"""Where runs are made, as ``concurrent.futures.Executor``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

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


def dask_executor(address: str) -> Executor:
    """Workers of Dask, which share the folder of the results; start each with ``--nthreads 1`` for one run at a time.

    :param address: of the scheduler, such as ``"tcp://10.0.0.1:8786"``, or its ``--scheduler-file``
    :raises ImportError: if Dask is not installed
    :raises ValueError: if there is no scheduler
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'sb3-rlx2[studies]'") from error
    make: Any = Client
    try:
        if address.endswith(".json"):
            address = json.loads(Path(address).read_text(encoding="utf-8"))["address"]
        client = make(address, set_as_default=False, name="rlx2-study")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"there is no Dask scheduler at {address} ({error})") from error
    # The same folder may be given twice, after its worker was lost
    executor: Executor = client.get_executor(pure=False)
    return executor


def slurm_executor(folder: Path, options: Mapping[str, Any], cluster: str = "slurm", jobs: int = 256) -> Executor:
    """Jobs of Slurm, one for each run, by submitit.

    :param folder: where submitit writes its files; the nodes must share it
    :param options: parameters of ``submitit.AutoExecutor``, such as ``timeout_min`` or ``slurm_partition``
    :param cluster: ``"slurm"`` (default), or ``"local"`` for processes of this machine, to try it
    :param jobs: how many at a time, default 256
    :raises ImportError: if submitit is not installed
    :raises ValueError: if an option is unknown, or there is no Slurm
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError(f"{error}: pip install 'sb3-rlx2[studies]'") from error
    try:
        slurm = submitit.AutoExecutor(folder=folder, cluster=cluster)
        slurm.update_parameters(**{"cpus_per_task": 1, "name": "rlx2", **options})
    except (NameError, RuntimeError, ValueError) as error:
        raise ValueError(f"--slurm {' '.join(f'{k}={v}' for k, v in options.items())}: {error}") from error
    return _JobExecutor(lambda function, *args: slurm.submit(function, *args).result(), jobs)


class _JobExecutor(Executor):
    """Waits for each job in a thread.

    :param call: submits a function with its arguments, waits, and returns its result
    :param jobs: how many at a time
    """

    def __init__(self, call: Callable[..., Any], jobs: int) -> None:
        self._call, self._threads = call, ThreadPoolExecutor(jobs)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a job.

        :param fn: what it calls
        :param args: with these arguments
        :param kwargs: not possible
        """
        assert not kwargs
        return self._threads.submit(self._call, fn, *args)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As for every executor.

        :param wait: whether to wait for the jobs
        :param cancel_futures: whether to give up those that have not been submitted
        """
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
