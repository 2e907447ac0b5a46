"""Eight environments and VecNormalize: observations and rewards are normalized, statistics saved beside the agent."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2 import RLx2TD3

ENV = "InvertedPendulum-v5"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    arguments = parser.parse_args()
    steps = 1_600 if arguments.short else arguments.steps

    env = VecNormalize(make_vec_env(ENV, n_envs=8, seed=0))
    model = RLx2TD3(
        "MlpPolicy",
        env,
        learning_rate=1e-3,
        learning_starts=steps // 10,
        gradient_steps=-1,  # as many updates as there were steps, eight each time
        topology_interval=steps // 20,
        n_steps_delay=steps // 2,
        buffer_min_size=steps // 4,
        buffer_check_interval=steps // 10,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
    )
    model.learn(steps)
    print(f"topology: {model.topology_counters}; the buffer holds {model.replay_buffer.n_transitions} transitions")

    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "agent")
        env.save(str(Path(folder) / "vec_normalize.pkl"))

        evaluation_env = VecNormalize.load(str(Path(folder) / "vec_normalize.pkl"), make_vec_env(ENV, seed=1))
        evaluation_env.training, evaluation_env.norm_reward = False, False
        agent = RLx2TD3.load(Path(folder) / "agent")
    mean, std = evaluate_policy(agent, evaluation_env, n_eval_episodes=5)
    print(f"return over 5 episodes: {mean:.0f} ± {std:.0f} (best: 1000)")


if __name__ == "__main__":
    main()
