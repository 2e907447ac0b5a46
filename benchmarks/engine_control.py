"""Does the engine compute what SB3's ``train`` computes late in a run, too? From a checkpoint, the same by both.

    python benchmarks/engine_control.py CHECKPOINT --updates 200

CHECKPOINT is a folder with model.zip and buffer.pkl, as ``save`` and ``save_replay_buffer`` write them. Prints the
largest difference of parameters, beside their largest change, and the losses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch as th
from stable_baselines3.common.logger import Logger

from sb3_rlx2 import RLx2TD3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--updates", type=int, default=200)
    arguments = parser.parse_args()
    th.set_num_threads(1)
    models, losses = {}, {}
    for engine in ("compiled", "torch"):
        model = RLx2TD3.load(arguments.checkpoint / "model.zip", device="cpu", engine=engine)
        model.load_replay_buffer(arguments.checkpoint / "buffer.pkl")
        model.set_logger(Logger(None, []))
        start = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
        model.set_random_seed(0)
        model.train(arguments.updates, 256)
        models[engine] = model.policy.state_dict()
        losses[engine] = [model.logger.name_to_value[f"train/{name}"] for name in ("critic_loss", "actor_loss")]
    change = max((models["torch"][name].double() - start[name].double()).abs().max().item() for name in start)
    names = [name for name in start if not name.endswith("indices")]
    apart = max((models["torch"][name] - models["compiled"][name]).abs().max().item() for name in names)
    first, n_steps = model._n_updates - arguments.updates, model.replay_buffer.n_steps_in_use
    print(f"{arguments.updates} updates from update {first}, n = {n_steps}")
    print(f"largest change of a parameter {change:.2e}, largest difference between the engines {apart:.2e}")
    print(f"critic and actor loss: compiled {losses['compiled']}, torch {losses['torch']}")


if __name__ == "__main__":
    main()
