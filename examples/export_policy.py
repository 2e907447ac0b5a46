"""From training to C: train a sparse agent, export it, compile it, and let the C code play the episodes."""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np

from sb3_rlx2 import RLx2TD3
from sb3_rlx2.export.c_compiler import find_compiler


def compiled(folder: Path, compiler: str) -> Callable[[np.ndarray], np.ndarray]:
    """Compile ``policy.c`` and call it through ctypes."""
    library = folder / "policy.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", folder / "policy.c", "-o", library], check=True)
    policy_act = ctypes.CDLL(str(library)).policy_act

    def act(observation: np.ndarray) -> np.ndarray:
        raw, action = observation.astype(np.float32), np.empty(1, np.float32)
        policy_act(raw.ctypes.data_as(ctypes.c_void_p), action.ctypes.data_as(ctypes.c_void_p))
        return action

    return act


def mean_return(act: Callable[[np.ndarray], np.ndarray], episodes: int) -> float:
    """Of episodes with the same starts for everyone."""
    env, total = gym.make("Pendulum-v1"), 0.0
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        is_over = False
        while not is_over:
            observation, reward, terminated, truncated, _ = env.step(act(observation))
            total, is_over = total + float(reward), terminated or truncated
    return total / episodes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    arguments = parser.parse_args()
    steps, episodes = (800, 2) if arguments.short else (arguments.steps, 20)

    model = RLx2TD3(
        "MlpPolicy",
        "Pendulum-v1",
        actor_sparsity=0.98,
        critic_sparsity=0.95,
        learning_rate=1e-3,
        learning_starts=steps // 10,
        topology_interval=steps // 20,
        n_steps_delay=steps // 2,
        buffer_min_size=steps // 4,
        buffer_check_interval=steps // 10,
        seed=0,
        device="cpu",
    )
    model.learn(steps)
    predicted = mean_return(lambda observation: model.predict(observation, deterministic=True)[0], episodes)
    print(f"predict: return {predicted:.2f}")

    with tempfile.TemporaryDirectory() as name:
        for precision in ("float32", "int8"):
            # The states of the replay buffer calibrate int8, and check both
            report = model.export(Path(name) / precision, "c", precision=precision)
            compiler = find_compiler()
            if compiler is None:
                print("there is no C compiler: cc, gcc or clang")
                return
            found = mean_return(compiled(Path(name) / precision, compiler), episodes)
            print(f"C, {precision}: return {found:.2f}, {report.table_bytes} bytes of tables")
            print(f"  checked on {report.agreement}")


if __name__ == "__main__":
    main()
