"""What the zoo's programs are given: found out here where they would find it out too late, or by a KeyError."""

from __future__ import annotations

import argparse
import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import gymnasium
from rl_zoo3.utils import StoreDict

from sb3_rlx2.common.argument_ranges import MOST_SEED
from sb3_rlx2.common.arguments import did_you_mean
from sb3_rlx2.common.saving.model_files import check_model_file
from sb3_rlx2.zoo.report import KNOWN, algorithm_of
from sb3_rlx2.zoo.storage import prepare_storage

# Those that make one environment, named by --env
USE_ENVIRONMENT = {"train", "enjoy", "record_video", "record_training", "push_to_hub"}


class NamedValues(StoreDict):
    """``name:value`` with values in Python, evaluated as the zoo does, with an error that says so."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Store the values.

        :param args: as for ``argparse.Action``
        :param kwargs: as for ``argparse.Action``
        :raises ValueError: if one is no Python
        """
        try:
            cast(Any, super()).__call__(*args, **kwargs)
        except Exception as error:
            raise ValueError(
                f"argument {'/'.join(self.option_strings)}: name:value with a value in Python is expected "
                f"(text needs quotes twice: topology:\"'set'\"): {error}"
            ) from error


def check_program_arguments(name: str, arguments: Sequence[str]) -> None:
    """Check what a program is given.

    :param name: name of the program's module, without its package
    :param arguments: what follows on the command line
    :raises ImportError: if a package of ``--gym-packages`` cannot be imported
    :raises ValueError: for an unknown environment, a model file that is none, or a value that is no Python
    """
    if {"-h", "--help"} & set(arguments):
        return
    if name == "record_training" and shutil.which("ffmpeg") is None:
        raise ValueError("record-training joins videos with the program ffmpeg, which is not installed")
    if name not in USE_ENVIRONMENT:
        return
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--algo")
    parser.add_argument("--env")
    parser.add_argument("--gym-packages", nargs="+", default=[])
    parser.add_argument("-i", "--trained-agent")
    parser.add_argument("--storage")
    parser.add_argument("--seed", type=int, default=-1)
    parser.add_argument("--n-eval-envs", type=int, default=1)
    parser.add_argument("--n-trials", type=int, default=1)
    for flags in (["-params", "--hyperparams"], ["--env-kwargs"], ["--eval-env-kwargs"]):
        parser.add_argument(*flags, nargs="+", action=NamedValues)
    try:
        known = parser.parse_known_args(arguments)[0]
    except argparse.ArgumentError:
        return  # the zoo's own parser says it better
    for package in known.gym_packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(f"--gym-packages {package}: {error}") from error
    if known.env is not None and known.env not in gymnasium.registry:
        raise ValueError(
            f"--env {known.env}: there is no such environment{did_you_mean(known.env, gymnasium.registry)}"
        )
    if known.seed > MOST_SEED:
        raise ValueError(f"--seed {known.seed} is not allowed: it must be at most {MOST_SEED}")
    for flag, value in (("--n-eval-envs", known.n_eval_envs), ("--n-trials", known.n_trials)):
        if name == "train" and value < 1:
            raise ValueError(f"{flag} {value} is not allowed: it must be at least 1")
    if name == "train" and known.trained_agent and "policy_kwargs" in (known.hyperparams or ()):
        raise ValueError(f"-params policy_kwargs: the policy of {known.trained_agent} (-i) stays as it is")
    if name == "train" and known.trained_agent:
        check_model_file(known.trained_agent)
        _check_algorithm(known.algo, known.trained_agent)
    if name == "train" and known.storage and not known.storage.endswith(".log"):  # to the zoo that is a journal
        prepare_storage(known.storage)


def _check_algorithm(algo: str | None, path: str) -> None:
    if algo in KNOWN:
        try:
            saved_by = algorithm_of(Path(path))
        except ValueError:
            saved_by = "another algorithm"
        if saved_by != algo:
            raise ValueError(f"-i {path}: this is a model of {saved_by}, and --algo is {algo}")
