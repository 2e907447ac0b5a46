"""Writes hyperparameters that follow from RLx2's, hyperparams/baselines/*.yml: the paper's baselines, and ``fast``.

Change hyperparams/rlx2_*.yml and run ``python benchmarks/baselines.py``.
"""

import argparse
import math
import sys
from pathlib import Path

import gymnasium
import numpy as np
import yaml

from sb3_rlx2.files import replacing

HYPERPARAMS = Path(__file__).parents[1] / "hyperparams"
FAST = {"n_steps_delay": 0, "normalize": True}
FAST20 = {**FAST, "actor_sparsity": 0.8, "critic_sparsity": 0.8}
GROWING_HORIZON = {"sb3_rlx2.DiscountScheduleCallback": {"final_gamma": 0.997, "start": 0.6, "end": 0.9}}
FIXED_BUFFER = {"n_steps": 1, "dynamic_buffer": False}
BASELINES = {
    "fast": (
        "fast: RLx2 for a million steps, with 3-step targets from the start and normalized observations and rewards",
        FAST,
    ),
    "fast20": (
        "fast20: fast with 20% of the weights; the paper's sparsities are made for 3 million steps",
        FAST20,
    ),
    "steady": (
        "steady: fast20 for half a million steps, with a learning rate that falls to 0 and a horizon that grows",
        {**FAST20, "callback": GROWING_HORIZON},
    ),
    "rigl": ("RigL: topology evolution alone", {"topology": "rigl", **FIXED_BUFFER}),
    "set": ("SET: drop by magnitude, grow at random", {"topology": "set", **FIXED_BUFFER}),
    "ss": ("SS: static sparse networks", {"topology": "static", **FIXED_BUFFER}),
    "tiny": ("Tiny: dense networks with as many weights as the sparse ones", {"topology": "dense", **FIXED_BUFFER}),
}
# What has no effect in a baseline
BUFFER = {"n_steps_delay", "buffer_min_size", "buffer_check_interval", "buffer_distance_threshold"}
EVOLUTION = {"topology_interval", "drop_fraction"}
SPARSITY = {"actor_sparsity", "critic_sparsity"}
WITHOUT_EFFECT = {
    "fast": set(),
    "fast20": SPARSITY,
    "steady": SPARSITY,
    "rigl": BUFFER,
    "set": BUFFER,
    "ss": BUFFER | EVOLUTION,
    "tiny": BUFFER | EVOLUTION | SPARSITY,
}
# Steps of the settings that learn sooner, at most
STEPS = {"fast": 1e6, "fast20": 1e6, "steady": 5e5}
WIDTH = 256
DEFAULT_SPARSITY = {"td3": (0.90, 0.85), "sac": (0.90, 0.80)}
# Of those that are not for the paper's algorithms alone
ALGORITHMS = {"fast": (*DEFAULT_SPARSITY, "tqc"), "steady": ("tqc",)}
FILES = [(name, algorithm) for name in BASELINES for algorithm in ALGORITHMS.get(name, DEFAULT_SPARSITY)]


def weights(inputs, width, outputs):
    """Number of weights of a network with two hidden layers."""
    return inputs * width + width * width + width * outputs


def tiny_width(inputs, outputs, sparsity):
    """Width of the dense network whose number of weights is nearest to that of the sparse one."""
    target = (1 - sparsity) * weights(inputs, WIDTH, outputs)
    ends = inputs + outputs
    exact = (math.sqrt(ends * ends + 4 * target) - ends) / 2
    return min((math.floor(exact), math.ceil(exact)), key=lambda width: abs(weights(inputs, width, outputs) - target))


def tiny_net_arch(env_id, algorithm, entry):
    """Hidden layers of actor and critics."""
    # Environments not listed have spaces of any size; a typical task stands for them
    env = gymnasium.make("HalfCheetah-v5" if env_id == "default" else env_id)
    observations, actions = (int(np.prod(space.shape)) for space in (env.observation_space, env.action_space))
    env.close()
    default = dict(zip(("actor_sparsity", "critic_sparsity"), DEFAULT_SPARSITY[algorithm], strict=True))
    sparsity = {**default, **entry}
    heads = 2 if algorithm == "sac" else 1  # mean and standard deviation
    actor = tiny_width(observations, heads * actions, sparsity["actor_sparsity"])
    critic = tiny_width(observations + actions, 1, sparsity["critic_sparsity"])
    return {"pi": [actor, actor], "qf": [critic, critic]}


def baseline_file(name, algorithm):
    """Text of a baseline's file."""
    title, changes = BASELINES[name]
    entries = yaml.safe_load((HYPERPARAMS / f"rlx2_{algorithm}.yml").read_text())
    lines = [f"# {title}.", f"# Made from rlx2_{algorithm}.yml by benchmarks/baselines.py."]
    for env_id, entry in entries.items():
        kept = {key: value for key, value in entry.items() if key not in WITHOUT_EFFECT[name]}
        kept["n_timesteps"] = min(kept["n_timesteps"], STEPS.get(name, math.inf))
        if name == "steady":
            kept["learning_rate"] = f"lin_{kept.get('learning_rate', 3e-4)}"
        extra = {"policy_kwargs": {"net_arch": tiny_net_arch(env_id, algorithm, entry)}} if name == "tiny" else {}
        # One mapping in braces for each environment: there are many, and all are much alike
        body = yaml.safe_dump({**kept, **changes, **extra}, default_flow_style=True, sort_keys=False, width=110)
        lines += ["", f"{env_id}:", *(f"  {line}" for line in body.splitlines())]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file would change")
    check = parser.parse_args().check
    outdated = []
    for name, algorithm in FILES:
        path = HYPERPARAMS / "baselines" / f"{name}_{algorithm}.yml"
        text = baseline_file(name, algorithm)
        if not path.is_file() or path.read_text() != text:
            outdated.append(path)
            if not check:
                with replacing(path, "w") as file:
                    file.write(text)
    for path in outdated:
        print(path, "is out of date" if check else "written")
    return 1 if check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
