"""A goal task with hindsight experience replay: flip bits until they match the goal.

HER brings a replay buffer of its own, so n-step targets and the dynamic buffer are switched off; the networks are
sparse and evolve all the same.
"""

from __future__ import annotations

import argparse

from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_rlx2 import RLx2SAC

N_BITS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    arguments = parser.parse_args()
    steps = 600 if arguments.short else arguments.steps

    model = RLx2SAC(
        "MultiInputPolicy",
        BitFlippingEnv(n_bits=N_BITS, continuous=True, max_steps=N_BITS),
        actor_sparsity=0.8,
        critic_sparsity=0.7,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "future"},
        n_steps=1,
        dynamic_buffer=False,
        buffer_size=50_000,
        learning_rate=1e-3,
        gamma=0.9,
        ent_coef=0.05,
        learning_starts=200,
        topology_interval=steps // 20,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
    )
    # max_steps as in training: an episode without success returns -N_BITS
    env = Monitor(BitFlippingEnv(n_bits=N_BITS, continuous=True, max_steps=N_BITS))
    before, _ = evaluate_policy(model, env, n_eval_episodes=50)
    model.learn(steps)
    after, _ = evaluate_policy(model, env, n_eval_episodes=50)
    print(f"mean return over 50 goals: {before:.1f} before, {after:.1f} after (never there: {-N_BITS}, best: 0)")
    print(f"topology: {model.topology_counters}")


if __name__ == "__main__":
    main()
