"""What `make demo` runs: train a sparse agent on a MuJoCo task, evaluate it, show what was saved, draw the curve."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import gymnasium as gym
import matplotlib
import numpy as np
import torch as th
from rich.console import Console
from rich.table import Table
from stable_baselines3 import TD3
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_rlx2 import RLx2TD3
from sb3_rlx2.sparse import summarize

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def layer_table(model: RLx2TD3) -> Table:
    """Layer by layer: shape, connections, density, and what dense networks would have."""
    table = Table(title="What the agent is made of (weights; biases are dense)")
    for column in ("network", "layer", "shape", "connections", "of (dense)", "density"):
        table.add_column(column, justify="left" if column in ("network", "layer") else "right")
    total = dense = 0
    for network in ("actor", "critic"):
        for layer in summarize(getattr(model, network)):
            shape = f"{layer.in_features} → {layer.out_features}"
            row = (layer.name, shape, f"{layer.connections:,}", f"{layer.dense_connections:,}", f"{layer.density:.1%}")
            table.add_row(network, *row)
            total, dense = total + layer.connections, dense + layer.dense_connections
        table.add_section()
    table.add_row("total", "", "", f"{total:,}", f"{dense:,}", f"{total / dense:.1%}", style="bold")
    return table


def draw(steps: np.ndarray, returns: np.ndarray, title: str, path: Path) -> None:
    """The learning curve: mean evaluation return, with the range over episodes."""
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.fill_between(steps, returns.min(axis=1), returns.max(axis=1), alpha=0.2, lw=0, label="range over episodes")
    axes.plot(steps, returns.mean(axis=1), lw=2, marker="o", ms=3, label="mean")
    axes.set(xlabel="environment steps", ylabel="evaluation return", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="InvertedDoublePendulum-v5")
    parser.add_argument("--steps", type=int, default=18_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    arguments = parser.parse_args()
    steps = 1_500 if arguments.short else arguments.steps
    console = Console()
    arguments.output.mkdir(parents=True, exist_ok=True)

    # The paper's settings are for millions of steps; everything that counts steps is scaled to a short run
    model = RLx2TD3(
        "MlpPolicy",
        arguments.env,
        actor_sparsity=0.90,
        critic_sparsity=0.85,
        learning_rate=1e-3,
        learning_starts=1_000,
        topology_interval=steps // 24,
        topology_end=steps * 3 // 4,
        n_steps_delay=steps // 18,
        buffer_min_size=steps // 4,
        buffer_check_interval=steps // 12,
        policy_kwargs={"net_arch": [128, 128]},
        seed=arguments.seed,
        device="cpu",
    )
    th.set_num_threads(1)  # for networks of this size the faster
    console.print(f"Training RLx2TD3 on {arguments.env} for {steps:,} steps …")
    evaluation = EvalCallback(
        Monitor(gym.make(arguments.env)),
        n_eval_episodes=5,
        eval_freq=steps // 12,
        log_path=str(arguments.output),
        verbose=0,
    )
    model.learn(steps, callback=evaluation, progress_bar=True)

    mean, std = evaluate_policy(model, Monitor(gym.make(arguments.env)), n_eval_episodes=10)
    console.print(layer_table(model))
    model.save(arguments.output / "sparse_agent")
    dense = TD3("MlpPolicy", arguments.env, policy_kwargs={"net_arch": [128, 128]}, learning_starts=10, device="cpu")
    dense.learn(20)  # so that its optimizers have state, as a trained agent's have
    dense.save(arguments.output / "dense_agent")
    sizes = {name: os.path.getsize(arguments.output / f"{name}_agent.zip") / 1024 for name in ("sparse", "dense")}
    (arguments.output / "dense_agent.zip").unlink()
    for name, counters in model.topology_counters.items():
        console.print(f"{name}: {counters['updates']:,} updates, topology evolved {counters['evolutions']} times")
    console.print(f"Return over 10 episodes: {mean:.1f} ± {std:.1f}")
    console.print(
        f"Saved {arguments.output / 'sparse_agent.zip'}: {sizes['sparse']:,.0f} KiB "
        f"(a dense agent takes {sizes['dense']:,.0f} KiB)"
    )
    history = np.load(arguments.output / "evaluations.npz")
    title = f"RLx2TD3 on {arguments.env}, 90/85% sparse"
    draw(history["timesteps"], history["results"], title, arguments.output / "learning_curve.png")
    console.print(f"Learning curve: {arguments.output / 'learning_curve.png'}")


if __name__ == "__main__":
    main()
