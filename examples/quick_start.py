"""Quick start: train a sparse agent, evaluate it, save it, load it, and hand it on as a dense one."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_rlx2 import RLx2TD3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    arguments = parser.parse_args()
    steps = 800 if arguments.short else arguments.steps

    # RLx2TD3("MlpPolicy", "Hopper-v5") is the paper's algorithm for millions of steps; these settings are for thousands
    model = RLx2TD3(
        "MlpPolicy",
        "Pendulum-v1",
        actor_sparsity=0.9,
        critic_sparsity=0.85,
        learning_rate=1e-3,
        learning_starts=steps // 10,
        topology_interval=steps // 20,
        n_steps_delay=steps // 2,
        buffer_min_size=steps // 4,
        buffer_check_interval=steps // 10,
        seed=0,
        device="cpu",
        verbose=1,
    )
    model.learn(steps, log_interval=10)
    mean, std = evaluate_policy(model, Monitor(gym.make("Pendulum-v1")), n_eval_episodes=5)
    print(f"Return over 5 episodes: {mean:.0f} ± {std:.0f}")
    print(f"Topology: {model.topology_counters}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.zip"
        model.save(path)
        print(f"The file takes {path.stat().st_size / 1024:.0f} KiB")
        loaded = RLx2TD3.load(path)
    observation = gym.make("Pendulum-v1").reset(seed=1)[0]
    for name, agent in {"trained": model, "loaded": loaded, "stock TD3": model.to_dense()}.items():
        action, _ = agent.predict(observation, deterministic=True)
        print(f"{name:>10}: action {action}")


if __name__ == "__main__":
    main()
