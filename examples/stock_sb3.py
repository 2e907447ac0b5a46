"""The parts on their own: stock Stable-Baselines3 TD3 with a sparse policy, the topology callback and the buffer."""

from __future__ import annotations

import argparse

from stable_baselines3 import TD3

from sb3_rlx2 import DynamicBufferCallback, DynamicReplayBuffer, TopologyEvolutionCallback
from sb3_rlx2.sparse import density
from sb3_rlx2.td3 import MlpPolicy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    arguments = parser.parse_args()
    steps = 800 if arguments.short else arguments.steps

    model = TD3(
        MlpPolicy,
        "Pendulum-v1",
        policy_kwargs={"actor_sparsity": 0.9, "critic_sparsity": 0.85},
        replay_buffer_class=DynamicReplayBuffer,
        replay_buffer_kwargs={"n_steps": 3, "n_steps_delay": steps // 2, "min_size": 500},
        learning_starts=100,
        seed=0,
        device="cpu",
    )
    callbacks = [
        TopologyEvolutionCallback("rigl", topology_interval=steps // 20, verbose=1),
        DynamicBufferCallback(buffer_check_interval=500),
    ]
    model.learn(steps, callback=callbacks)
    print(f"actor density {density(model.actor):.1%}, critic density {density(model.critic):.1%}")
    print(f"topology: {model.topology_counters}; the buffer holds {model.replay_buffer.n_transitions} transitions")


if __name__ == "__main__":
    main()
