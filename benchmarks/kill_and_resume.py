"""Kills trainings at random moments, resumes them, and compares their ends with those of trainings never killed.

    python benchmarks/kill_and_resume.py --kills 100 --results benchmarks/results/kill_and_resume.csv

Compared are, bit for bit: parameters, connections, moments and counts, what the replay buffer holds, random states,
statistics of VecNormalize, evaluations, the episodes of monitor.csv, and all values in TensorBoard but those of clocks.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sb3_rlx2.files import replacing

ALGORITHMS = ("RLx2TD3", "RLx2SAC")
ENGINES = ("compiled", "torch")
ENVIRONMENTS = {
    # Gymnasium id, number of environments, VecNormalize, class of the vectorized environment
    "HalfCheetah-v5": ("HalfCheetah-v5", 1, False, "DummyVecEnv"),
    "Pendulum-v1": ("Pendulum-v1", 1, False, "DummyVecEnv"),
    "Hopper-v5 x4 DummyVecEnv": ("Hopper-v5", 4, True, "DummyVecEnv"),
    "Hopper-v5 x4 SubprocVecEnv": ("Hopper-v5", 4, True, "SubprocVecEnv"),
}
CLOCKS = ("time/fps", "time/time_elapsed")


def train(folder: Path, algorithm: str, engine: str, environment: str, steps: int, every: int) -> None:
    import torch as th
    from stable_baselines3.common.callbacks import EvalCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

    import sb3_rlx2
    from sb3_rlx2 import TopologyHistoryCallback, TrainingCheckpointCallback
    from sb3_rlx2.resume import has_checkpoint, resume

    th.set_num_threads(1)
    if has_checkpoint(folder / "checkpoints"):
        model = resume(folder / "checkpoints")
    else:
        shutil.rmtree(folder, ignore_errors=True)  # killed before the first step
        folder.mkdir(parents=True)
        env_id, n_envs, normalize, vectorized = ENVIRONMENTS[environment]
        kwargs = {"start_method": "forkserver"} if vectorized == "SubprocVecEnv" else {}
        cls = {"DummyVecEnv": DummyVecEnv, "SubprocVecEnv": SubprocVecEnv}[vectorized]
        env = make_vec_env(
            env_id, n_envs, seed=1, vec_env_cls=cls, vec_env_kwargs=kwargs, monitor_dir=str(folder / "monitor")
        )
        eval_env = make_vec_env(env_id, 1, seed=2, vec_env_cls=cls, vec_env_kwargs=kwargs)
        if normalize:
            env, eval_env = VecNormalize(env), VecNormalize(eval_env, training=False, norm_reward=False)
        model = getattr(sb3_rlx2, algorithm)(
            "MlpPolicy",
            env,
            engine=engine,
            learning_starts=steps // 10,
            buffer_size=steps * 2 // 3,
            batch_size=32,
            policy_kwargs={"net_arch": [32, 32]},
            topology_interval=40,
            n_steps_delay=steps // 3,
            buffer_min_size=steps // 8,
            buffer_check_interval=steps // 12,
            buffer_distance_threshold=0.0,
            seed=3,
            device="cpu",
            verbose=0,
        )
        model.set_logger(configure(str(folder / "log"), ["csv", "json", "log", "tensorboard"]))
        callbacks = [
            EvalCallback(
                eval_env,
                n_eval_episodes=1,
                eval_freq=max(steps // 4 // n_envs, 1),
                log_path=str(folder / "eval"),
                best_model_save_path=str(folder / "eval"),
                verbose=0,
            ),
            TopologyHistoryCallback(folder / "topology_history.npz", save_freq=steps // 3),
            TrainingCheckpointCallback(folder / "checkpoints", every=every),
        ]
        model.learn(steps, callbacks, log_interval=1)
    end = folder / "end.json"
    end.with_suffix(".part").write_text(json.dumps(digests(model, folder)))
    os.replace(end.with_suffix(".part"), end)
    model.env.close()


def digests(model: object, folder: Path) -> dict[str, str]:
    """A digest of each thing that is compared."""
    import torch as th
    from stable_baselines3.common.save_util import recursive_getattr

    from sb3_rlx2.resume.buffer_segments import row_arrays
    from sb3_rlx2.resume.random_states import random_states

    names, tensors = model._get_torch_save_params()
    found = {name: digest(recursive_getattr(model, name).state_dict()) for name in names}
    found |= {name: digest(recursive_getattr(model, name)) for name in tensors}
    buffer = model.replay_buffer
    held = buffer.rows_held() if hasattr(buffer, "rows_held") else np.arange(buffer.size())
    found["replay buffer"] = digest([array[held] for _, array in row_arrays(buffer)])
    found["counts"] = digest([model.num_timesteps, model._n_updates, model._episode_num, model.topology_counters])
    found["random states"] = digest(random_states())
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        found["VecNormalize"] = digest([vars(normalize.obs_rms), vars(normalize.ret_rms), normalize.returns])
    with np.load(folder / "eval" / "evaluations.npz") as evaluations:
        found["evaluations"] = digest({name: evaluations[name] for name in evaluations.files})
    with np.load(folder / "topology_history.npz") as history:
        found["topology history"] = digest({name: history[name] for name in history.files})
    for path in sorted((folder / "monitor").glob("*.csv")):
        rows = path.read_text().splitlines()[1:]
        found[path.name] = digest([row.split(",")[:2] for row in rows])
    table = list(csv.DictReader((folder / "log" / "progress.csv").open()))
    found["progress.csv"] = digest([{k: row[k] for k in sorted(row) if k not in CLOCKS} for row in table])
    lines = [json.loads(line) for line in (folder / "log" / "progress.json").read_text().splitlines()]
    found["progress.json"] = digest([{k: line[k] for k in sorted(line) if k not in CLOCKS} for line in lines])
    found["TensorBoard"] = digest(tensorboard_values(folder / "log"))
    assert th.get_num_threads() == 1
    return found


def tensorboard_values(folder: Path) -> list[tuple[str, int, float]]:
    """All scalars in a folder's event files, in no particular order of files."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    values = []
    for path in folder.glob("events.out.tfevents.*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag not in CLOCKS:
                    values.append((value.tag, event.step, float(value.tensor.float_val[0])))
    return sorted(values)


def digest(value: object) -> str:
    sum_ = hashlib.sha256()
    _add(sum_, value)
    return sum_.hexdigest()[:16]


def _add(sum_: object, value: object) -> None:
    import torch as th

    if isinstance(value, dict):
        for key, entry in value.items():
            sum_.update(str(key).encode())
            _add(sum_, entry)
    elif isinstance(value, (list, tuple)):
        sum_.update(b"%d" % len(value))
        for entry in value:
            _add(sum_, entry)
    elif isinstance(value, (np.ndarray, th.Tensor)):
        array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, th.Tensor) else value)
        sum_.update(f"{array.dtype}{array.shape}".encode())
        sum_.update(array.tobytes())
    else:
        sum_.update(repr(value).encode())


# --- killing ---


class Training:
    """A training in a process of its own."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        command = [sys.executable, __file__, "--train", str(folder), *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.folder, self.began = folder, time.monotonic()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command, env=environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it ended by itself within so many seconds; if not, it is killed."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        if self.process.returncode != 0:
            self.log.seek(0)
            raise RuntimeError(f"{self.folder}: {self.log.read().decode()[-3000:]}")
        return True

    def wait_until_it_trains(self) -> None:
        """Start-up takes longer than training; a kill in it tells little."""
        mark = self.folder / "log" / "progress.json"
        before = mark.stat().st_mtime_ns if mark.exists() else 0
        checkpoints = self.folder / "checkpoints"
        while self.process.poll() is None:
            if mark.exists() and mark.stat().st_mtime_ns != before and list(checkpoints.glob("checkpoint-*")):
                return
            time.sleep(0.005)

    def kill(self) -> None:
        """Kill it, at whatever it is."""
        # The processes of SubprocVecEnv too
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def compare(
    case: tuple[str, str, str], kills: int, steps: int, every: int, seed: int, folder: Path
) -> dict[str, object]:
    """Train twice, once with kills, and say what differs at the end."""
    draw = random.Random(f"{seed} {case}")
    shutil.rmtree(folder, ignore_errors=True)
    settings = (*case, steps, every)
    whole = Training(folder / "whole", *settings)
    whole.wait_until_it_trains()
    began = time.monotonic()
    whole.wait()
    seconds = time.monotonic() - began
    expected = json.loads((folder / "whole" / "end.json").read_text())
    killed = in_saves = ended = 0
    different: set[str] = set()
    while True:
        training = Training(folder / "killed", *settings)
        if killed < kills:
            training.wait_until_it_trains()
        # A training is killed several times
        if training.wait(draw.uniform(0.0, 0.7 * seconds) if killed < kills else None):
            found = json.loads((folder / "killed" / "end.json").read_text())
            different |= {name for name in expected if expected[name] != found.get(name)}
            ended += 1
            if killed == kills:
                break
            shutil.rmtree(folder / "killed")
        else:
            killed += 1
            in_saves += bool(list((folder / "killed" / "checkpoints").glob(".*.tmp")))
    return {
        "algorithm": case[0],
        "engine": case[1],
        "environment": case[2],
        "steps": steps,
        "every": every,
        "kills": killed,
        "kills_in_a_save": in_saves,
        "trainings": ended,
        "compared": len(expected),
        "different": " ".join(sorted(different)) or "none",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs=6, metavar=("FOLDER", "ALGORITHM", "ENGINE", "ENVIRONMENT", "STEPS", "EVERY"))
    parser.add_argument("--kills", type=int, default=16, help="in total, over all cases")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--every", type=int, default=100, help="environment steps between two checkpoints")
    parser.add_argument("--only", default="", help="only cases with this text in their names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "kill_and_resume")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    if given.train:
        warnings.simplefilter("ignore")
        folder, algorithm, engine, environment, steps, every = given.train
        train(Path(folder), algorithm, engine, environment, int(steps), int(every))
        return
    cases = [(a, e, env) for a in ALGORITHMS for e in ENGINES for env in ENVIRONMENTS]
    cases = [case for case in cases if given.only in " ".join(case)]
    rows = []
    for i, case in enumerate(cases):
        kills = given.kills * (i + 1) // len(cases) - given.kills * i // len(cases)
        row = compare(case, max(kills, 1), given.steps, given.every, given.seed, given.folder / str(i))
        print(row, flush=True)
        rows.append(row)
        if given.results is not None:
            with replacing(given.results, "w", newline="") as file:
                arguments = f"--kills {given.kills} --steps {given.steps} --every {given.every} --seed {given.seed}"
                csv.writer(file).writerow([f"# python benchmarks/kill_and_resume.py {arguments}"])
                csv.writer(file).writerow([f"# {platform.machine()}, torch {version('torch')}"])
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
                writer.writerows(rows)
    print(
        f"{sum(row['kills'] for row in rows)} kills; {sum(row['different'] != 'none' for row in rows)} trainings differ"
    )


if __name__ == "__main__":
    main()
