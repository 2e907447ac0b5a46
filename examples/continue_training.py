"""Training that goes on after a restart: the same call starts it, or goes on from what the folder holds.

What a model file does not hold is the replay buffer; it is saved beside it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import gymnasium as gym

from sb3_rlx2 import RLx2TD3


def train(folder: Path, steps: int, total: int) -> None:
    """Train for some steps of a training, and save.

    :param folder: where the agent is, or will be
    :param steps: number of steps to take now
    :param total: number of steps of the whole training, however often it is cut in two
    """
    if (folder / "agent.zip").exists():
        model = RLx2TD3.load(folder / "agent", env=gym.make("Pendulum-v1"), device="cpu")
        model.load_replay_buffer(folder / "buffer")
        print(f"going on from step {model.num_timesteps}: {model.replay_buffer.n_transitions} transitions")
    else:
        model = RLx2TD3(
            "MlpPolicy",
            "Pendulum-v1",
            learning_starts=100,
            topology_interval=total // 20,
            topology_end=total,  # else evolution would anneal to nothing at the end of this part
            n_steps_delay=total // 4,
            buffer_min_size=total // 4,
            buffer_check_interval=total // 10,
            policy_kwargs={"net_arch": [64, 64]},
            seed=0,
            device="cpu",
        )
    model.learn(steps, reset_num_timesteps=False)
    print(f"step {model.num_timesteps}: topology {model.topology_counters}")
    model.save(folder / "agent")
    model.save_replay_buffer(folder / "buffer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    arguments = parser.parse_args()
    steps = 800 if arguments.short else arguments.steps

    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder), steps // 2, steps)
        train(Path(folder), steps // 2, steps)  # as after a restart: nothing is left but the folder


if __name__ == "__main__":
    main()
