"""The speed of this version beside that of an earlier commit and of dense SB3; all three take turns in one run.

    python benchmarks/speed_since.py 403ea29                 gradient updates and environment steps of TD3 and SAC
    python benchmarks/speed_since.py HEAD~1 --rounds 20      for small differences

Each runs in a process of its own, on one thread. Writes benchmarks/results/speed_since.csv; best times count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from speed_models import TASKS, dense_model, exploration, sparse_model

ROOT = Path(__file__).parent.parent
SECONDS = 0.25
"""How long each is timed before it is the next one's turn."""


def functions(version: str, algo: str, env_name: str) -> dict[str, Any]:
    """What is timed, by name: a function that does something so many times."""
    env = gym.make(env_name)
    if version == "dense":
        model = dense_model(algo, env, **exploration(algo, env))
    else:
        model = sparse_model(algo, env, TASKS[algo][env_name])

    def updates(count: int) -> None:
        for _ in range(count):
            model.train(1, 256)

    def steps(count: int) -> None:
        model.learning_starts = 0
        model.learn(count, reset_num_timesteps=False, log_interval=10**9)

    return {"update": updates, "step": steps}


def serve(version: str, algo: str, env_name: str) -> None:
    """Time what is asked for on standard input, as "NAME COUNT"; seconds of one go to standard output."""
    warnings.simplefilter("ignore")
    th.set_num_threads(1)
    timed = functions(version, algo, env_name)
    print("ready", flush=True)
    for line in sys.stdin:
        name, count = line.split()
        start = time.perf_counter()
        timed[name](int(count))
        print((time.perf_counter() - start) / int(count), flush=True)


class Served:
    """A process that times one version."""

    def __init__(self, package: Path, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(package)}
        command = [sys.executable, __file__, "--serve", *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=package
        )
        self.name = " ".join(arguments)

    def answer(self) -> str:
        """The next line that it writes.

        :raises RuntimeError: if it has ended
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process for {self.name} has ended with status {self._process.wait()}")
        return line.strip()

    def seconds(self, name: str, count: int) -> float:
        """Seconds of one update or step."""
        assert self._process.stdin is not None
        print(name, count, file=self._process.stdin, flush=True)
        return float(self.answer())

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", folder, commit], cwd=ROOT, check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=ROOT, check=True)


def row_of(algo: str, env: str, earlier: Path, commit: str, rounds: int) -> dict[str, str]:
    """Milliseconds of an update and of a step for one algorithm and environment, and their ratios."""
    with ExitStack() as processes:
        served = {}
        for name, version, package in (("dense", "dense", ROOT), (commit, "sparse", earlier), ("now", "sparse", ROOT)):
            served[name] = Served(package, version, algo, env)
            processes.callback(served[name].close)
        for process in served.values():
            while process.answer() != "ready":  # what compiling says comes before
                pass
        row = {"algorithm": algo, "environment": env}
        for what in ("update", "step"):
            counts = {name: max(1, int(SECONDS / process.seconds(what, 50))) for name, process in served.items()}
            best = dict.fromkeys(served, float("inf"))
            for _ in range(rounds):
                for name, process in served.items():
                    best[name] = min(best[name], process.seconds(what, counts[name]))
            row |= {f"{what}, {name} ms": f"{1e3 * seconds:.3f}" for name, seconds in best.items()}
            row |= {f"{what}, dense over {name}": f"{best['dense'] / best[name]:.1f}" for name in (commit, "now")}
            row[f"{what}, {commit} over now"] = f"{best[commit] / best['now']:.2f}"
    print(row, flush=True)
    return row


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the earlier version")
    parser.add_argument("--algos", nargs="+", choices=list(TASKS), default=["td3", "sac"])
    parser.add_argument("--rounds", type=int, default=10, help="rounds in which all take turns")
    arguments = parser.parse_args()
    from timing import write  # it imports from this version

    with checked_out(arguments.commit) as earlier:
        tasks = [(algo, env) for algo in arguments.algos for env in TASKS[algo]]
        write("since", [row_of(*task, earlier, arguments.commit, arguments.rounds) for task in tasks])


if __name__ == "__main__":
    main()
