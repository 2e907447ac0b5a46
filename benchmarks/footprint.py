"""What a sparse agent takes: parameters, optimizer state and checkpoint beside SB3's dense TD3.

python benchmarks/footprint.py
"""

from __future__ import annotations

import csv
import platform
import tempfile
from pathlib import Path

import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2 import RLx2TD3
from sb3_rlx2.files import replacing

RESULTS = Path(__file__).parent / "results" / "footprint.csv"
COMMON = {"env": "HalfCheetah-v5", "learning_starts": 10, "buffer_size": 1000, "seed": 0, "device": "cpu"}
COLUMNS = ("agent", "networks_kib", "optimizer_kib", "checkpoint_kib", "of_dense")


def kib(tensors: list[th.Tensor]) -> float:
    """Size in KiB."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1024


def measure(model: OffPolicyAlgorithm) -> tuple[float, float, float]:
    """KiB of the networks (targets and indices included), of the optimizers' state, and of the checkpoint."""
    model.learn(20)  # optimizers make their state at the first step
    networks = kib(list(model.policy.state_dict().values()))
    state = [
        entry
        for network in (model.actor, model.critic)
        for entries in network.optimizer.state.values()
        for entry in entries.values()
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.zip"
        model.save(path)
        return networks, kib(state), path.stat().st_size / 1024


def main() -> None:
    """Measure, print a table and write it as CSV."""
    th.set_num_threads(1)
    agents = {"SB3 TD3, dense": TD3("MlpPolicy", policy_kwargs={"net_arch": [256, 256]}, **COMMON)}
    for sparsity in (0.80, 0.90, 0.95, 0.98):
        agents[f"RLx2TD3, {sparsity:.0%} sparse"] = RLx2TD3(
            "MlpPolicy", actor_sparsity=sparsity, critic_sparsity=sparsity, **COMMON
        )
    rows = []
    for name, model in agents.items():
        sizes = measure(model)
        dense = sizes[2] if not rows else rows[0][3]
        rows.append((name, *sizes, sizes[2] / dense))
        print("{:22} networks {:7.0f}  optimizers {:7.0f}  checkpoint {:7.0f} KiB  {:5.1%} of dense".format(*rows[-1]))
    with replacing(RESULTS, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["# python benchmarks/footprint.py"])
        writer.writerow([f"# {platform.machine()}, torch {th.__version__}, HalfCheetah-v5, hidden layers 256, 256"])
        writer.writerow(COLUMNS)
        writer.writerows([row[0], *(f"{value:.1f}" for value in row[1:4]), f"{row[4]:.4f}"] for row in rows)


if __name__ == "__main__":
    main()
