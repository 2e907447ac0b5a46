"""A training that kills itself, and goes on as if nothing had happened.

One process trains to the end. Another one gets the same command again and again, and is killed with ``kill -9`` now and
then. Both end with the same model.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch as th

from sb3_rlx2 import RLx2TD3, TrainingCheckpointCallback
from sb3_rlx2.resume import has_checkpoint, resume


def train(folder: Path, steps: int) -> None:
    """Train to the end, from wherever the training is.

    :param folder: where its checkpoints are, or will be
    :param steps: number of steps of the whole training
    """
    if has_checkpoint(folder):
        model = resume(folder)
    else:
        model = RLx2TD3(
            "MlpPolicy",
            "Pendulum-v1",
            learning_starts=100,
            topology_interval=steps // 20,
            n_steps_delay=steps // 4,
            buffer_min_size=steps // 4,
            buffer_check_interval=steps // 10,
            policy_kwargs={"net_arch": [64, 64]},
            seed=0,
            device="cpu",
        )
        model.learn(steps, TrainingCheckpointCallback(folder, every=steps // 20))
    model.save(folder / "agent")


def kill_soon(seconds: float) -> None:
    """End this process as a power cut would.

    :param seconds: at most so long from now
    """

    def kill() -> None:
        time.sleep(random.uniform(0.0, seconds))
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()


def start(folder: Path, steps: int, *flags: str) -> bool:
    """Start this program as a process of its own that trains; whether it trained to the end.

    :param folder: as for ``train``
    :param steps: as for ``train``
    :param flags: further ones
    """
    command = [sys.executable, __file__, "--train", str(folder), "--steps", str(steps), *flags]
    return subprocess.run(command).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--train", type=Path, help="only train, in this folder")
    parser.add_argument(
        "--kill-soon", type=float, metavar="SECONDS", help="kill this process after so long, or earlier"
    )
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.steps, arguments.kills = 1_000, 1
    if arguments.train is not None:
        if arguments.kill_soon is not None:
            kill_soon(arguments.kill_soon)
        train(arguments.train, arguments.steps)
        return

    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        start(whole, arguments.steps)
        for number in range(arguments.kills):
            ended = start(killed, arguments.steps, "--kill-soon", "8.0")
            print(f"process {number + 1} {'ended' if ended else 'was killed'}")
        start(killed, arguments.steps)
        models = [RLx2TD3.load(run / "agent", device="cpu") for run in (whole, killed)]
        one, other = (model.policy.state_dict() for model in models)
        same = all(th.equal(one[name], other[name]) for name in one)
        print(f"after {arguments.steps} steps all {len(one)} tensors are {'the same' if same else 'NOT the same'}")


if __name__ == "__main__":
    main()
