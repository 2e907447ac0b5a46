"""What a checkpoint of a whole training costs: how long training stops, and how many bytes are written.

python benchmarks/checkpoints.py --results benchmarks/results/checkpoints.csv
"""

from __future__ import annotations

import argparse
import csv
import platform
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_rlx2.files import replacing

COLUMNS = ("transitions", "every", "checkpoints", "first_ms", "median_ms", "largest_ms", "first_mib", "mean_mib")


def measure(transitions: int, every: int, checkpoints: int) -> dict[str, object]:
    from stable_baselines3.common.callbacks import EvalCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import Logger

    from sb3_rlx2 import RLx2TD3, TopologyHistoryCallback, TrainingCheckpointCallback

    folder = Path(tempfile.mkdtemp(prefix="checkpoints"))
    stops, sizes = [], []

    class Timed(TrainingCheckpointCallback):
        """Notes each stop, and what was written."""

        def _save(self, finished: bool) -> None:
            super()._save(finished)
            stops.append(1000 * self.seconds_stopped)

        def _write(self, number: int, state: dict[str, Any], rows: dict[str, Any]) -> None:
            before = {path.name for path in self.folder.rglob("*")}
            super()._write(number, state, rows)
            new = [path for path in self.folder.rglob("*") if path.is_file() and path.name not in before]
            sizes.append(sum(path.stat().st_size for path in new) / 2**20)

    env = make_vec_env("Hopper-v5", 1, seed=0, monitor_dir=str(folder / "monitor"))
    model = RLx2TD3("MlpPolicy", env, learning_starts=1000, seed=0, device="cpu")
    model.set_logger(Logger(None, []))
    model.learn(1000)
    fill(model, transitions)
    callbacks = [
        EvalCallback(make_vec_env("Hopper-v5", 1, seed=1), eval_freq=5 * every, n_eval_episodes=1, verbose=0),
        TopologyHistoryCallback(folder / "history.npz"),
        Timed(folder / "checkpoints", every=every),
    ]
    model.learn(every * checkpoints, callbacks, reset_num_timesteps=False)
    shutil.rmtree(folder)
    later = np.array(stops[1:-1])  # the last one is the end of the training
    return {
        "transitions": transitions,
        "every": every,
        "checkpoints": len(later),
        "first_ms": round(stops[0], 1),
        "median_ms": round(float(np.median(later)), 1),
        "largest_ms": round(float(later.max()), 1),
        "first_mib": round(sizes[0], 1),
        "mean_mib": round(float(np.mean(sizes[1:-1])), 2),
    }


def fill(model: object, transitions: int) -> None:
    """Let the replay buffer and Monitor hold what so many steps leave there."""
    buffer, draw = model.replay_buffer, np.random.default_rng(0)
    for name in ("observations", "next_observations", "actions", "noise_free_actions", "rewards"):
        array = vars(buffer)[name]
        array[:transitions] = draw.uniform(-1.0, 1.0, size=array[:transitions].shape)
    buffer.pos, buffer.full = transitions % buffer.buffer_size, transitions >= buffer.buffer_size
    model.num_timesteps = transitions
    monitor, episodes = model.env.envs[0], transitions // 300
    monitor.episode_returns = draw.uniform(size=episodes).tolist()
    monitor.episode_lengths = [300] * episodes
    monitor.episode_times = draw.uniform(size=episodes).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transitions", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--every", type=int, nargs="+", default=[1_000, 5_000])
    parser.add_argument("--checkpoints", type=int, default=9)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    th.set_num_threads(1)
    rows = []
    for every in given.every:
        for transitions in given.transitions:
            rows.append(measure(transitions, every, given.checkpoints))
            print(rows[-1], flush=True)
    if given.results is not None:
        with replacing(given.results, "w", newline="") as file:
            csv.writer(file).writerow(["# python benchmarks/checkpoints.py"])
            csv.writer(file).writerow([f"# {platform.machine()}, torch {th.__version__}, RLx2TD3, Hopper-v5"])
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
