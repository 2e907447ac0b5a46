"""Learning curves: train on a task, evaluate as the paper does, write CSV as it goes, and draw.

    python benchmarks/learning.py train --algo rlx2_td3 --env HalfCheetah-v5 --steps 150000 --seed 0 \
        --hyperparameters '{"actor_sparsity": 0.90, "critic_sparsity": 0.85}'
    python benchmarks/learning.py train --algo td3 --env HalfCheetah-v5 --steps 150000 --seed 0
    python benchmarks/learning.py plot --env HalfCheetah-v5

A run that was interrupted goes on from its last checkpoint when the same command is given again (the environment starts
a new episode then).
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2 import RLx2SAC, RLx2TD3
from sb3_rlx2.files import replacing
from sb3_rlx2.sparse import summarize

RESULTS = Path(__file__).parent / "results"
ALGORITHMS: dict[str, type[OffPolicyAlgorithm]] = {"rlx2_td3": RLx2TD3, "rlx2_sac": RLx2SAC, "td3": TD3, "sac": SAC}
COLORS = {"rlx2_td3": "#0072B2", "rlx2_sac": "#0072B2", "td3": "#D55E00", "sac": "#D55E00"}
LABELS = {
    "rlx2_td3": "RLx2TD3 (sparse)",
    "rlx2_sac": "RLx2SAC (sparse)",
    "td3": "SB3 TD3 (dense)",
    "sac": "SB3 SAC (dense)",
}
# The paper's protocol, which is RLx2's default, spelled out for the dense algorithms
DENSE_AS_IN_THE_PAPER = {
    "learning_rate": 3e-4,
    "learning_starts": 25_000,
    "batch_size": 256,
    "policy_kwargs": {"net_arch": [256, 256]},
}


def make_model(arguments: argparse.Namespace, env: gym.Env) -> OffPolicyAlgorithm:
    """The algorithm with the paper's hyperparameters and those given on the command line."""
    kwargs: dict[str, Any] = {"seed": arguments.seed, "device": "cpu"}
    if arguments.algo in ("td3", "sac"):
        kwargs |= DENSE_AS_IN_THE_PAPER
    if arguments.algo == "td3":
        size = env.action_space.shape[0]
        kwargs["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, 0.1))
    return ALGORITHMS[arguments.algo]("MlpPolicy", env, **kwargs, **arguments.hyperparameters)


class Clocks:
    """Seconds of training on the wall's clock and on the processor's (which others on the machine do not disturb)."""

    def __init__(self) -> None:
        self.seconds = [0.0, 0.0]
        self.start()

    def start(self) -> None:
        """Let both run."""
        self._started = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """Stop both."""
        now = (time.perf_counter(), time.process_time())
        self.seconds = [s + x - y for s, x, y in zip(self.seconds, now, self._started, strict=True)]


class Evaluation(BaseCallback):
    """Evaluates every so many steps, appends a row to the CSV and, now and then, saves a checkpoint."""

    def __init__(self, path: Path, checkpoint: Path, arguments: argparse.Namespace, clocks: Clocks) -> None:
        super().__init__()
        self.path, self.checkpoint, self.arguments = path, checkpoint, arguments
        self.env = Monitor(gym.make(arguments.env))
        self.clocks = clocks

    def _on_training_start(self) -> None:
        self.clocks.start()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.arguments.eval_every:
            return True
        self.clocks.stop()
        # Evaluation episodes depend on seed and step alone, so that a resumed run has the same
        self.env.reset(seed=self.arguments.seed * 1_000_003 + self.num_timesteps)
        returns, _ = evaluate_policy(self.model, self.env, self.arguments.eval_episodes, return_episode_rewards=True)
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(
                [
                    self.num_timesteps,
                    f"{np.mean(returns):.2f}",
                    f"{np.std(returns):.2f}",
                    self.model._n_updates,
                    *(f"{seconds:.1f}" for seconds in self.clocks.seconds),
                ]
            )
        if self.num_timesteps % self.arguments.checkpoint_every == 0:
            self.model.save(self.checkpoint / "model.zip")
            self.model.save_replay_buffer(self.checkpoint / "buffer.pkl")
            with replacing(self.checkpoint / "clocks.json", "w") as file:
                json.dump(self.clocks.seconds, file)
        self.clocks.start()
        return True


def train(arguments: argparse.Namespace) -> None:
    """Run one seed of one algorithm on one task."""
    th.set_num_threads(1)
    name = f"{arguments.env}_{arguments.algo}_seed{arguments.seed}"
    path = arguments.out / f"learning_{name}.csv"
    checkpoint = arguments.checkpoints / name
    checkpoint.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    env = Monitor(gym.make(arguments.env))
    clocks = Clocks()
    if (checkpoint / "clocks.json").exists():
        clocks.seconds = json.loads((checkpoint / "clocks.json").read_text())
        model = ALGORITHMS[arguments.algo].load(checkpoint / "model.zip", env=env, device="cpu")
        model.load_replay_buffer(checkpoint / "buffer.pkl")
        rows = list(csv.reader(path.open(newline="")))
        rows = [row for row in rows if not row[0].isdigit() or int(row[0]) <= model.num_timesteps]
        with replacing(path, "w", newline="") as file:
            csv.writer(file).writerows(rows)
    else:
        model = make_model(arguments, env)
        with replacing(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([f"# python {shlex.join(sys.argv)}"])
            writer.writerow([f"# {platform.processor() or platform.machine()}, one thread, torch {th.__version__}"])
            writer.writerow(["step", "mean_return", "std_return", "updates", "wall_seconds", "cpu_seconds"])
    callback = Evaluation(path, checkpoint, arguments, clocks)
    model.learn(
        arguments.steps - model.num_timesteps, callback, reset_num_timesteps=False, progress_bar=arguments.progress
    )
    for network in ("actor", "critic"):
        layers = summarize(getattr(model.policy, network))
        kept, dense = sum(layer.connections for layer in layers), sum(layer.dense_connections for layer in layers)
        print(f"{network}: {kept} of {dense} weights ({kept / dense:.1%})")


def plot(arguments: argparse.Namespace) -> None:
    """Draw all runs of a task (one seed: spread over episodes; several: mean, and each seed thinly); print scores."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for algorithm in ALGORITHMS:
        runs = []
        for path in sorted(arguments.out.glob(f"learning_{arguments.env}_{algorithm}_seed*.csv")):
            rows = [row for row in csv.reader(path.open(newline="")) if row[0].isdigit()]
            runs.append(np.array(rows, dtype=float))
        if not runs:
            continue
        length = min(len(run) for run in runs)
        steps, returns = runs[0][:length, 0], np.stack([run[:length, 1] for run in runs])
        if len(runs) == 1:
            spread = runs[0][:length, 2]
            axes.fill_between(
                steps, returns[0] - spread, returns[0] + spread, color=COLORS[algorithm], alpha=0.15, lw=0
            )
        else:
            axes.plot(steps, returns.T, color=COLORS[algorithm], alpha=0.35, lw=0.8)
        scores = returns[:, -arguments.last :].mean(axis=1)
        each = ", ".join(f"{score:.0f}" for score in scores)
        print(f"{LABELS[algorithm]}: {scores.mean():.0f} ({each}), the mean of the last {arguments.last} evaluations")
        label = f"{LABELS[algorithm]}, {len(runs)} seed{'s' if len(runs) > 1 else ''}"
        axes.plot(steps, returns.mean(axis=0), color=COLORS[algorithm], lw=2, label=label)
    axes.set(xlabel="environment steps", ylabel="evaluation return (10 episodes)", title=arguments.env)
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path = arguments.out / f"learning_{arguments.env}.png"
    with replacing(path) as file:
        figure.savefig(file, dpi=150)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("train", train), ("plot", plot)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--env", required=True)
        command.add_argument("--out", type=Path, default=RESULTS)
        if function is plot:
            command.add_argument("--last", type=int, default=6, help="number of last evaluations that make a score")
        if function is train:
            command.add_argument("--algo", choices=ALGORITHMS, required=True)
            command.add_argument("--steps", type=int, required=True)
            command.add_argument("--seed", type=int, default=0)
            command.add_argument("--hyperparameters", type=json.loads, default={}, help="JSON, passed to the algorithm")
            command.add_argument("--eval-every", type=int, default=5000)
            command.add_argument("--eval-episodes", type=int, default=10)
            command.add_argument("--checkpoint-every", type=int, default=25_000)
            command.add_argument("--checkpoints", type=Path, default=Path("/tmp/sb3_rlx2_checkpoints"))
            command.add_argument("--progress", action="store_true")
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
