"""``rlx2 enjoy``: watch a trained agent, one of the user's or one that comes with the package."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import gymnasium

from sb3_rlx2.sparse.checks import check_count
from sb3_rlx2.trained import load_trained, trained_agents
from sb3_rlx2.zoo import programs

FLAG = "--trained"


def main(argv: Sequence[str]) -> int:
    """Watch an agent. Without ``--trained`` this is the zoo's program.

    :param argv: command line
    :return: exit status
    :raises ValueError: if there is no such agent, or no display
    """
    if not any(argument.partition("=")[0] == FLAG for argument in argv):
        try:
            programs.run("rl_zoo3.enjoy", argv, "rlx2 enjoy")
        except SystemExit:
            if {"-h", "--help"} & {*argv}:
                print(f"\nof sb3-rlx2:\n  {FLAG} ENV_ID  an agent that comes with the package: {_known()}")
            raise
        return 0
    arguments = _parser().parse_args(argv)
    check_count(arguments.n_timesteps, "--n-timesteps", 1)
    policy = load_trained(arguments.trained)
    if not arguments.no_render and sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        raise ValueError("there is no display to show it on: --no-render plays without")
    env = gymnasium.make(arguments.trained, render_mode=None if arguments.no_render else "human")
    total, length = 0.0, 0
    try:
        observation, _ = env.reset(seed=arguments.seed)
        for _ in range(arguments.n_timesteps):
            observation, reward, terminated, truncated, _ = env.step(policy.predict(observation)[0])
            total, length = total + float(reward), length + 1
            if terminated or truncated:
                _tell(total, length)
                total, length = 0.0, 0
                observation, _ = env.reset()
        if length:
            _tell(total, length, " so far")
    finally:
        env.close()
    return 0


def _tell(total: float, length: int, what: str = "") -> None:
    print(f"return{what}: {total:.1f} in {length} steps", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlx2 enjoy", description="Watch an agent that comes with the package.")
    parser.add_argument(FLAG, required=True, metavar="ENV_ID", help=_known())
    parser.add_argument("-n", "--n-timesteps", type=int, default=1000, help="environment steps (default: 1000)")
    parser.add_argument("--no-render", action="store_true", help="only print the returns")
    parser.add_argument("--seed", type=int, default=0, help="of the environment (default: 0)")
    return parser


def _known() -> str:
    return ", ".join(trained_agents())
