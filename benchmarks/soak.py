"""Trains for hours with checkpoints every minute, and watches memory, files, threads and disk: they must stay flat.

    python benchmarks/soak.py /work/soak --hours 2        # begins, or goes on after a kill
    python benchmarks/soak.py /work/soak --read           # whether it is flat so far

Beside checkpoints it evolves, forgets transitions and evaluates. One row a minute goes to ``soak.csv``.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
import warnings
from pathlib import Path

import numpy as np

COLUMNS = (
    "seconds",
    "process",
    "steps",
    "rss_mib",
    "files",
    "threads",
    "checkpoints_mib",
    "checkpoint_files",
    "stop_ms",
)
WATCHED = {"rss_mib": 0.03, "files": 0.0, "threads": 0.0, "checkpoints_mib": 0.1, "checkpoint_files": 0.25}
"""What must stay flat, and how much of it the means of the last two thirds may differ by."""
WARM_UP = 600.0
"""Seconds of a process before it is compared: code is loaded, and the replay buffer fills."""


class TimeUpError(Exception):
    """The end of a soak, which can go on."""


def soak(folder: Path, hours: float, every: int, row_seconds: float) -> None:
    import torch as th
    from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import configure

    from sb3_rlx2 import RLx2TD3, TopologyHistoryCallback, TrainingCheckpointCallback
    from sb3_rlx2.resume import has_checkpoint, resume

    class Watch(BaseCallback):
        """Writes a row at an interval."""

        def __init__(self) -> None:
            super().__init__()
            self.began = self.next = time.monotonic()

        def get_state(self) -> None:
            """It begins anew with each process."""

        def set_state(self, state: None) -> None:
            """It begins anew with each process."""

        def _on_step(self) -> bool:
            now = time.monotonic()
            if now >= self.next:
                self.next = now + row_seconds
                row = (round(now - self.began, 1), os.getpid(), self.num_timesteps, *usage(folder / "checkpoints"))
                with (folder / "soak.csv").open("a", newline="") as file:
                    csv.writer(file).writerow((*row, round(1000 * checkpoints.seconds_stopped, 1)))
            if now - self.began > 3600 * hours:
                raise TimeUpError
            return True

    th.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "soak.csv").exists():
        (folder / "soak.csv").write_text(",".join(COLUMNS) + "\n")
    checkpoints = TrainingCheckpointCallback(folder / "checkpoints", every=every)
    eval_env = make_vec_env("Hopper-v5", 1, seed=2)
    callbacks = [
        EvalCallback(eval_env, n_eval_episodes=2, eval_freq=10_000, log_path=str(folder / "eval"), verbose=0),
        TopologyHistoryCallback(folder / "topology_history.npz"),
        checkpoints,
        Watch(),
    ]
    env = make_vec_env("Hopper-v5", 1, seed=1, monitor_dir=str(folder / "monitor"))
    try:
        if has_checkpoint(folder / "checkpoints"):
            resume(folder / "checkpoints", env, callbacks)
        else:
            model = RLx2TD3(
                "MlpPolicy",
                env,
                learning_starts=5_000,
                buffer_size=200_000,
                topology_interval=2_000,
                n_steps_delay=20_000,
                buffer_min_size=50_000,
                buffer_check_interval=5_000,
                buffer_distance_threshold=0.02,
                seed=0,
                device="cpu",
            )
            model.set_logger(configure(str(folder / "log"), ["csv", "json", "log", "tensorboard"]))
            model.learn(100_000_000, callbacks)
    except TimeUpError:
        checkpoints.wait()


def usage(folder: Path) -> tuple[float, int, int, float, int]:
    """Memory, open files and threads of this process; size of a folder and number of files in it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return (
        round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
        round(sum(files) / 2**20, 2),
        len(files),
    )


def read(path: Path) -> bool:
    """Print the curve of the newest process; whether it is flat."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row["process"] == rows[-1]["process"] and float(row["seconds"]) >= WARM_UP]
    if len(rows) < 6:
        print(f"{len(rows)} rows after the first {WARM_UP / 60:.0f} minutes: too few")
        return False
    hours = (float(rows[-1]["seconds"]) - float(rows[0]["seconds"])) / 3600
    print(f"{hours:.2f} hours, steps {rows[0]['steps']} to {rows[-1]['steps']}")
    flat = True
    for name in COLUMNS[3:]:
        numbers = np.array([float(row[name]) for row in rows])
        thirds = [part.mean() for part in np.array_split(numbers, 3)]
        line = f"{name:>17}: {' -> '.join(f'{mean:.1f}' for mean in thirds)} (largest {numbers.max():.1f})"
        if name in WATCHED:
            grows = thirds[2] > thirds[1] * (1 + WATCHED[name]) + 0.5
            flat &= not grows
            line += "  GROWS" if grows else "  flat"
        print(line)
    print("flat" if flat else "not flat")
    return flat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument(
        "--every", type=int, default=20_000, help="environment steps between checkpoints, about a minute"
    )
    parser.add_argument("--row-seconds", type=float, default=60.0)
    parser.add_argument("--read", action="store_true", help="only say whether what is there is flat")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if not given.read:
        soak(given.folder, given.hours, given.every, given.row_seconds)
    read(given.folder / "soak.csv")


if __name__ == "__main__":
    main()
