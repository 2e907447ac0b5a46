"""``rlx2``: one command for training, watching and looking into sparse agents."""

from __future__ import annotations

import argparse
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium

from sb3_rlx2.version import __version__
from sb3_rlx2.zoo import programs
from sb3_rlx2.zoo.algorithms import ALGORITHMS

TRACEBACK = "RLX2_TRACEBACK"
OF_THE_ZOO = ("huggingface_sb3", "matplotlib", "moviepy", "optuna", "pandas", "requests", "rl_zoo3", "seaborn", "yaml")
"""Modules that come with the extra of that name."""


@dataclass(frozen=True)
class Command:
    """A command of ``rlx2``.

    :param summary: what it does, in a line
    :param target: a module of the zoo, run as a program; or ``"module:function"``, called with the arguments
        (a list of strings), which returns the exit status
    """

    summary: str
    target: str


COMMANDS = {
    "train": Command("train an agent, or search for hyperparameters", "rl_zoo3.train"),
    "enjoy": Command("watch a trained agent, or one that comes along", "sb3_rlx2.zoo.enjoy:main"),
    "plot-train": Command("plot rewards while training", "rl_zoo3.plots.plot_train"),
    "all-plots": Command("plot evaluations, make a table of results", "rl_zoo3.plots.all_plots"),
    "plot-from-file": Command("plot what all-plots has saved", "rl_zoo3.plots.plot_from_file"),
    "record-video": Command("make a video of an agent", "rl_zoo3.record_video"),
    "record-training": Command("make a video of an agent's checkpoints", "rl_zoo3.record_training"),
    "benchmark": Command("evaluate all trained agents of a folder", "rl_zoo3.benchmark"),
    "push-to-hub": Command("upload an agent to the Hugging Face Hub", "rl_zoo3.push_to_hub"),
    "load-from-hub": Command("download an agent from the Hugging Face Hub", "rl_zoo3.load_from_hub"),
    "study": Command("many trainings from one file", "sb3_rlx2.zoo.study:main"),
    "report": Command("what a saved model is made of", "sb3_rlx2.zoo.report:main"),
    "export": Command("a saved model's policy as C, ONNX, safetensors or NumPy file", "sb3_rlx2.zoo.export:main"),
    "convert": Command("a model, replay buffer or statistics without pickle, and back", "sb3_rlx2.zoo.convert:main"),
    "plot": Command("draw learning curves, topology, buffer and inputs over time", "sb3_rlx2.zoo.plot:main"),
}

# How each package says that what it was given is wrong, with a raise or assert statement of its own
SAID_ON_PURPOSE: dict[str, tuple[type[Exception], ...]] = {
    "sb3_rlx2": (ValueError, ImportError),
    "rl_zoo3": (ValueError, ImportError, AssertionError),
    "stable_baselines3": (ValueError, ImportError, AssertionError),
    "sb3_contrib": (ValueError, ImportError, AssertionError),
    "huggingface_sb3": (ValueError,),
    "gymnasium": (TypeError,),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Bad input (an unknown environment, a file that is no model, a misspelt hyperparameter) is told on stderr, with
    exit status 2. Set the environment variable RLX2_TRACEBACK to see where it was found.

    :param arguments: the command and what follows it; None: those of the process
    :return: exit status
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = _parser().parse_args(arguments[:1]).command
    try:
        return _run(COMMANDS[name].target, arguments[1:], f"rlx2 {name}")
    except Exception as error:
        if os.environ.get(TRACEBACK) or not is_bad_input(error):
            raise
        missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        extra = "studies" if name == "study" else "zoo"
        hint = f" (pip install 'sb3-rlx2[{extra}]' brings what is missing)" if missing in OF_THE_ZOO else ""
        print(f"rlx2 {name}: error: {error}{hint}", file=sys.stderr)
        return 2


def is_bad_input(error: Exception) -> bool:
    """Whether an exception tells the user about what was given, not the developer about a bug.

    :param error: an exception that was raised
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (OSError, ModuleNotFoundError, gymnasium.error.Error)) or _is_network_error(cause):
            return True  # a missing file or package, no network, an environment that cannot be made
        cause = cause.__cause__
    (last,) = traceback.extract_tb(error.__traceback__, limit=-1) or [None]
    # The last line of a bug's traceback calls what fails: int("seven")
    if last is None or not re.match(r"(raise|assert)\b", last.line or "") or not str(error):
        return False
    return any(
        isinstance(error, exceptions) and _is_file_of(package, last.filename)
        for package, exceptions in SAID_ON_PURPOSE.items()
    )


def _is_file_of(package: str, path: str) -> bool:
    folders = sys.modules[package].__path__ if package in sys.modules else []
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _is_network_error(error: BaseException) -> bool:
    """Whether httpx, which newer versions of huggingface_hub are made with, could not reach a server."""
    names = {(base.__module__.partition(".")[0].rstrip("2"), base.__name__) for base in type(error).__mro__}
    return ("httpx", "TransportError") in names


def _run(target: str, arguments: list[str], prog: str) -> int:
    if ":" not in target:
        programs.run(target, arguments, prog)
        return 0
    try:
        status = int(pkgutil.resolve_name(target)(arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads (head, less) has seen enough; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {name:<18}{command.summary}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="rlx2",
        description=f"Sparse deep reinforcement learning: RL Baselines3 Zoo with {', '.join(ALGORITHMS)}.",
        epilog="\n".join(["commands:", *lines, "", "rlx2 COMMAND --help tells about one of them."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sb3-rlx2 {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    return parser
