"""An ordinary Stable-Baselines3 script, made sparse: the algorithm's name and one line of settings differ.

n-step targets and the dynamic buffer are switched off at first, so that sparsity is the only change: plain RigL.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

from sb3_rlx2 import RLx2TD3  # was: from stable_baselines3 import TD3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    arguments = parser.parse_args()
    steps = 800 if arguments.short else arguments.steps

    env = make_vec_env("Pendulum-v1", n_envs=1, seed=0)
    evaluation_env = make_vec_env("Pendulum-v1", n_envs=1, seed=1)
    noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    sparse = {"topology_interval": steps // 20, "n_steps": 1, "dynamic_buffer": False}  # was not there
    model = RLx2TD3(
        "MlpPolicy", env, learning_rate=1e-3, learning_starts=100, action_noise=noise, device="cpu", **sparse
    )

    with tempfile.TemporaryDirectory() as folder:
        callbacks = [
            EvalCallback(evaluation_env, eval_freq=steps // 4, best_model_save_path=folder, verbose=1),
            CheckpointCallback(save_freq=steps // 2, save_path=folder, name_prefix="agent"),
        ]
        model.learn(steps, callback=callbacks, log_interval=10)
        files = sorted(Path(folder).glob("*.zip"))
        print("saved:", ", ".join(f"{path.name} ({path.stat().st_size / 1024:.0f} KiB)" for path in files))
        best = RLx2TD3.load(Path(folder) / "best_model", env=evaluation_env)
    print(f"the best agent: {best.num_timesteps} steps, topology {best.topology_counters}")


if __name__ == "__main__":
    main()
