"""The models whose speed is measured: ours, SB3's dense ones and SBX's, with random transitions in their buffers."""

from __future__ import annotations

import importlib.util
from typing import Any

import gymnasium as gym
import numpy as np
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise

import sb3_rlx2

# The paper's sparsities of actor and critics
TASKS = {
    "td3": {
        "HalfCheetah-v5": (0.90, 0.85), "Hopper-v5": (0.98, 0.95), "Walker2d-v5": (0.97, 0.95), "Ant-v5": (0.96, 0.88),
    },
    "sac": {
        "HalfCheetah-v5": (0.90, 0.80), "Hopper-v5": (0.98, 0.95), "Walker2d-v5": (0.90, 0.90), "Ant-v5": (0.90, 0.75),
    },
    "tqc": {"HalfCheetah-v5": (0.90, 0.90)},  # not in the paper
}  # fmt: skip
DENSE = {"td3": TD3, "sac": SAC, "tqc": TQC}
DENSE_VALUE_BASED = {"dqn": DQN, "qrdqn": QRDQN}


def sparse_class(algo: str) -> Any:
    """Our class of an algorithm; None where an earlier version, with which speeds are compared, has none."""
    return getattr(sb3_rlx2, f"RLx2{algo.upper()}", None)


OURS = {algo: sparse_class(algo) for algo in DENSE}
VALUE_BASED: dict[str, tuple[Any, Any]] = {
    algo: (dense, sparse_class(algo)) for algo, dense in DENSE_VALUE_BASED.items()
}
N_DATA = 5000


def filled(model: Any) -> Any:
    """A model with random transitions in its buffer, ready to train."""
    model.learn(N_DATA)
    model.set_logger(Logger(None, []))
    return model


def sparse_model(
    algo: str,
    env: str | gym.Env,
    sparsities: tuple[float, float],
    engine: str = "auto",
    policy: str = "MlpPolicy",
    **kwargs: Any,
) -> Any:
    """One of ours, with data."""
    kwargs = {"buffer_size": 20_000, "learning_starts": 10**9, "n_steps": 1, "n_steps_delay": 0, **kwargs}
    kwargs |= {"actor_sparsity": sparsities[0], "critic_sparsity": sparsities[1], "engine": engine}
    return filled(OURS[algo](policy, env, seed=0, device="cpu", **kwargs))


def dense_model(algo: str, env: str | gym.Env, policy: str | type = "MlpPolicy", **kwargs: Any) -> Any:
    """SB3's, with data."""
    kwargs = {"buffer_size": 20_000, "learning_starts": 10**9, "policy_kwargs": {"net_arch": [256, 256]}, **kwargs}
    return filled(DENSE[algo](policy, env, seed=0, device="cpu", **kwargs))


def exploration(algo: str, env: gym.Env) -> dict[str, Any]:
    """The noise that RLx2TD3 has by default, for SB3's TD3; SAC has none."""
    n_act = env.action_space.shape[0]
    return {"action_noise": NormalActionNoise(np.zeros(n_act), np.full(n_act, 0.1))} if algo == "td3" else {}


def sbx_model(algo: str, env: str) -> Any | None:
    """SBX's, with data; None without the extra."""
    if importlib.util.find_spec("sbx") is None:
        return None
    import sbx

    kwargs = {"buffer_size": 20_000, "learning_starts": 10**9, "policy_kwargs": {"net_arch": [256, 256]}}
    return filled(
        {"td3": sbx.TD3, "sac": sbx.SAC, "tqc": sbx.TQC}[algo]("MlpPolicy", env, seed=0, device="cpu", **kwargs)
    )
