"""Briefly trained agents, for benchmarks/exports.py: some minutes each, where the paper's take three million steps.

python benchmarks/exports_agents.py FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2 import RLx2TD3


class Agent(NamedTuple):
    """An agent.

    :param env: the task
    :param actor_sparsity: fraction of the actor's weights that are missing
    :param critic_sparsity: the same of the critics
    :param steps: environment steps
    """

    env: str
    actor_sparsity: float
    critic_sparsity: float
    steps: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.env}_{self.actor_sparsity:.0%}".rstrip("%")


AGENTS = [
    *(Agent("Pendulum-v1", sparsity, min(sparsity, 0.95), 15_000) for sparsity in (0.98, 0.95, 0.90, 0.80)),
    Agent("Hopper-v5", 0.98, 0.95, 200_000),
    Agent("Hopper-v5", 0.90, 0.85, 200_000),
]


def make(agent: Agent) -> OffPolicyAlgorithm:
    """An agent before training. RLx2's intervals are in proportion to the training's length."""
    steps, common = agent.steps, {"seed": 0, "device": "cpu", "buffer_size": agent.steps}
    learning: dict[str, Any] = {"learning_starts": steps // 20, "learning_rate": 1e-3 if steps < 50_000 else 3e-4}
    return RLx2TD3(
        "MlpPolicy",
        agent.env,
        actor_sparsity=agent.actor_sparsity,
        critic_sparsity=agent.critic_sparsity,
        topology_interval=max(100, steps // 200),
        n_steps_delay=steps // 4,
        buffer_min_size=steps // 4,
        buffer_check_interval=steps // 40,
        **learning,
        **common,
    )


def main() -> None:
    """Train those that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    th.set_num_threads(1)
    for agent in AGENTS:
        path = folder / f"{agent.name}.zip"
        if not path.exists():
            print(path, flush=True)
            make(agent).learn(agent.steps).save(path)


if __name__ == "__main__":
    main()
