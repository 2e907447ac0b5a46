"""What the tests of the command line share."""

import os
import subprocess
import sys

from sb3_rlx2.zoo.command_line import main

DISCRETE = ("rlx2_dqn", "rlx2_qrdqn")
SHORT = ["learning_starts:20", "batch_size:8", "buffer_size:300", "n_steps_delay:10", "topology_interval:10"]


def environment(algo):
    """A small environment whose actions an algorithm can take."""
    return "CartPole-v1" if algo in DISCRETE else "Pendulum-v1"


def train(folder, *flags, algo="rlx2_td3", steps=60, params=()):
    """Train on Pendulum or CartPole with hardly any steps, without evaluation unless a flag says so."""
    quiet = ["--verbose", "0", "--seed", "1", "--device", "cpu", "--eval-freq", "-1"]
    each_step = ["train_freq:1", "gradient_steps:1"] if algo in DISCRETE else []
    hyperparams = ["-params", *SHORT, *each_step, *params]
    arguments = ["--algo", algo, "--env", environment(algo), "-n", str(steps), "-f", str(folder), *quiet]
    return main(["train", *arguments, *hyperparams, *flags])


def run_folder(folder, algo="rlx2_td3", number=1):
    """Where the zoo puts a run."""
    return folder / algo / f"{environment(algo)}_{number}"


def start(*arguments, cwd, **environment):
    """Start ``python -m sb3_rlx2`` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "sb3_rlx2", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
