"""Runs of a study on workers of Dask and as jobs of Slurm; a worker that is lost is replaced by another."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sb3_rlx2.studies import read_study
from sb3_rlx2.studies.executors import local_executor, make_run_in_process, slurm_executor
from sb3_rlx2.studies.run_folder import RunFolder
from sb3_rlx2.studies.runner import run_all, run_folders

yaml = pytest.importorskip("yaml")

SHORT = {"learning_starts": 100, "batch_size": 16, "buffer_size": 1000, "buffer_min_size": 100}


@pytest.fixture
def study(tmp_path):
    def make(steps, seeds):
        path = tmp_path / "study.yml"
        evaluation = {"every": 100, "episodes": 1}
        methods = {"RLx2": {"algorithm": "rlx2_td3", "hyperparameters": SHORT}}
        content = {"environments": ["Pendulum-v1"], "methods": methods, "evaluation": evaluation}
        path.write_text(yaml.safe_dump({**content, "steps": steps, "seeds": seeds}))
        return read_study(path)

    return make


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it never happened")


def without_clocks(folder):
    return [{name: value for name, value in row.items() if not name.endswith("seconds")} for row in folder.rows()]


@pytest.fixture
def dask_cluster(tmp_path):
    """A scheduler and two workers, each a process; processes by worker."""
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "3"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    processes = []

    def start(kind, *options):
        module = f"distributed.cli.dask_{kind}"
        command = [sys.executable, "-m", module, "--scheduler-file", str(file), "--no-dashboard", *options]
        processes.append(subprocess.Popen(command, **quiet))
        return processes[-1]

    start("scheduler", "--port", "0")
    workers = {name: start("worker", "--name", name, "--nthreads", "1", "--no-nanny") for name in ("first", "second")}
    wait_for(file.is_file)
    yield file, workers
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_runs_of_a_dask_worker_that_is_killed_are_taken_up_by_another(study, tmp_path, dask_cluster):
    from sb3_rlx2.studies.executors import dask_executor

    file, workers = dask_cluster
    folders = run_folders(study(3000, 2), tmp_path / "dask")
    killed = []

    def look(folders):
        """Kill one worker once both work."""
        if killed or not all(folder.rows() for folder in folders):
            return
        process = workers["first"]
        killed.append(process.pid)
        os.kill(process.pid, signal.SIGKILL)

    with dask_executor(str(file)) as executor:
        assert run_all(folders, executor, look) == []
    assert killed
    sessions = [folder.record("sessions.json")["sessions"] for folder in folders]
    assert sorted(map(len, sessions)) == [1, 2]  # one was made again elsewhere
    (alone,) = run_folders(study(3000, [1]), tmp_path / "alone")
    assert make_run_in_process(str(alone.path)) == 0
    assert without_clocks(alone) == without_clocks(folders[1])


def test_runs_as_jobs_of_submitit(study, tmp_path):
    pytest.importorskip("submitit")
    folders = run_folders(study(200, 1), tmp_path / "jobs")
    executor = slurm_executor(tmp_path / "slurm", {"timeout_min": 10}, cluster="local")
    with executor:
        assert run_all(folders, executor) == []
    assert folders[0].is_finished


def test_unknown_options_of_slurm_are_told(tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(ValueError, match="timeout_minutes"):
        slurm_executor(tmp_path, {"timeout_minutes": 10}, cluster="local")


def test_there_is_no_scheduler_at_that_address():
    pytest.importorskip("distributed")
    from sb3_rlx2.studies.executors import dask_executor

    with pytest.raises(ValueError, match=r"no Dask scheduler at nowhere\.json"):
        dask_executor("nowhere.json")


def test_a_process_that_is_killed_is_started_again(study, tmp_path):
    folders = run_folders(study(3000, 1), tmp_path / "r")
    killed = []

    def look(folders: list[RunFolder]):
        sessions = folders[0].record("sessions.json").get("sessions", [])
        if sessions and not killed and folders[0].rows():
            killed.append(sessions[-1]["pid"])
            os.kill(killed[0], signal.SIGKILL)

    with local_executor(1) as executor:
        began = time.monotonic()
        assert run_all(folders, executor, look) == []
    assert killed, time.monotonic() - began
    assert len(folders[0].record("sessions.json")["sessions"]) == 2
