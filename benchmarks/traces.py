"""Records short runs of every algorithm, and says after a change of the code which of them are still the same.

    python benchmarks/traces.py record FILE     before the change
    python benchmarks/traces.py compare FILE    after it: bit for bit the same, or how far apart

A trace holds parameters, optimizer moments and connections at the end of a run, and its losses. Runs differ from
machine to machine: record and compare on the same one.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from sb3_contrib import QRDQN
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

import sb3_rlx2
from sb3_rlx2.engine.networks import optimizer_of
from sb3_rlx2.files import replacing

STEPS = 420
ALGORITHMS = [name for name in sb3_rlx2.__all__ if name.startswith("RLx2")]
COMPILED = [name for name in ALGORITHMS if getattr(sb3_rlx2, name).updates_class is not None]


class LossLogger(Logger):
    """Keeps every loss that is recorded."""

    def __init__(self) -> None:
        super().__init__(folder=None, output_formats=[])
        self.losses: list[float] = []

    def record(self, key: str, value: Any, exclude: Any = None) -> None:
        """Keep a loss."""
        if key.startswith("train/") and "loss" in key:
            self.losses.append(float(value))


def environment(name: str, n_envs: int, normalize: bool) -> VecEnv:
    """An environment with short episodes."""
    env: VecEnv = DummyVecEnv([lambda: gym.make(name, max_episode_steps=50)] * n_envs)
    return VecNormalize(env) if normalize else env


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and settings of each run."""
    engines = [(name, "torch") for name in ALGORITHMS] + [(name, "compiled") for name in COMPILED]
    for (algorithm, engine), n_steps in itertools.product(engines, (1, 3)):
        yield f"{algorithm} {engine} n={n_steps}", {"algorithm": algorithm, "engine": engine, "n_steps": n_steps}
        yield (
            f"{algorithm} {engine} n={n_steps} VecNormalize 3 environments",
            {"algorithm": algorithm, "engine": engine, "n_steps": n_steps, "n_envs": 3, "normalize": True},
        )
    for algorithm, activation in itertools.product(COMPILED, (th.nn.Tanh, th.nn.ELU)):
        yield (
            f"{algorithm} compiled {activation.__name__}",
            {"algorithm": algorithm, "engine": "compiled", "n_steps": 3, "activation_fn": activation},
        )
    for algorithm in COMPILED:
        yield (
            f"{algorithm} compiled 8 updates a step",
            {"algorithm": algorithm, "engine": "compiled", "n_steps": 3, "gradient_steps": 8},
        )
    for algorithm in ALGORITHMS:
        yield (
            f"{algorithm} dense",
            {"algorithm": algorithm, "engine": "auto", "n_steps": 1, "topology": "dense", "dynamic_buffer": False},
        )


def run(
    algorithm: str,
    n_envs: int = 1,
    normalize: bool = False,
    activation_fn: type[th.nn.Module] = th.nn.ReLU,
    **kwargs: Any,
) -> dict[str, np.ndarray]:
    """Make a short run and return its trace."""
    often = {"topology_interval": 50, "n_steps_delay": 120, "buffer_min_size": 50, "buffer_check_interval": 100}
    cls = getattr(sb3_rlx2, algorithm)
    model = cls(
        "MlpPolicy",
        environment("CartPole-v1" if issubclass(cls, DQN | QRDQN) else "Pendulum-v1", n_envs, normalize),
        seed=3,
        learning_starts=60,
        buffer_size=300,
        batch_size=100,
        policy_kwargs={"net_arch": [48, 40], "activation_fn": activation_fn},
        **{**often, **kwargs},
    )
    logger = LossLogger()
    model.set_logger(logger)
    model.learn(STEPS)
    trace = {f"policy.{name}": tensor.numpy().copy() for name, tensor in model.policy.state_dict().items()}
    for network in model.network_sparsities:
        optimizer = optimizer_of(model.policy, network)
        for i, parameter in enumerate(optimizer.param_groups[0]["params"]):
            trace |= {f"{network}.{i}.{key}": t.numpy().copy() for key, t in optimizer.state[parameter].items()}
    if getattr(model, "log_ent_coef", None) is not None:
        trace["log_ent_coef"] = model.log_ent_coef.detach().numpy().copy()
    trace["losses"] = np.array(logger.losses)
    trace["replay buffer"] = model.replay_buffer.actions.copy()
    return trace


def difference(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> str:
    """In words, how two traces of a run differ."""
    missing = sorted(old.keys() ^ new.keys())
    if missing:
        return f"other contents: {', '.join(missing[:5])}"
    changed = [name for name in old if old[name].shape != new[name].shape or not np.array_equal(old[name], new[name])]
    if not changed:
        return "the same, bit for bit"
    far = max(
        float(np.abs(old[n].astype(float) - new[n]).max()) if old[n].shape == new[n].shape else np.inf for n in changed
    )
    return f"{len(changed)} of {len(old)} arrays differ, by up to {far:.3g}: {', '.join(changed[:4])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", help="a .npz file")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    chosen = {name: settings for name, settings in cases() if arguments.only in name}
    if arguments.action == "record":
        traces = {name: run(**settings) for name, settings in chosen.items()}
        arrays = {f"{name}|{key}": array for name, trace in traces.items() for key, array in trace.items()}
        with replacing(arguments.file) as file:
            np.savez_compressed(file, **arrays)
        print(f"{len(traces)} runs recorded in {arguments.file}")
        return
    with np.load(arguments.file) as file:
        recorded: dict[str, dict[str, np.ndarray]] = {}
        for name in file.files:
            case, _, key = name.partition("|")
            recorded.setdefault(case, {})[key] = file[name]
    for name, settings in chosen.items():
        print(
            f"{name}: {difference(recorded[name], run(**settings)) if name in recorded else 'not recorded'}", flush=True
        )


if __name__ == "__main__":
    main()
