"""The zoo's own programs, run with this package's algorithms registered."""

from __future__ import annotations

import argparse
import importlib
import runpy
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import gymnasium

from sb3_rlx2.common.arguments import did_you_mean
from sb3_rlx2.common.model_files import check_model_file
from sb3_rlx2.zoo.adapters import adapted, replaced
from sb3_rlx2.zoo.registration import check_installed, register
from sb3_rlx2.zoo.report import ALGORITHMS as SAVING_ALGORITHMS
from sb3_rlx2.zoo.report import algorithm_of
from sb3_rlx2.zoo.storage import prepare_storage

# Those that make one environment, named by --env
USE_ENVIRONMENT = {"train", "enjoy", "record_video", "record_training", "push_to_hub"}


def run(module: str, arguments: Sequence[str], prog: str) -> None:
    """Run a module of the zoo as ``python -m`` would, with ``rlx2_td3`` and ``rlx2_sac`` registered.

    :param module: name of the module, such as ``"rl_zoo3.train"``
    :param arguments: what follows on the command line
    :param prog: what its help calls the program
    :raises ImportError: if rl-zoo3 is not installed
    :raises ValueError: for an unknown environment, or a model file that is none
    """
    check_installed()
    register()
    name = module.rpartition(".")[2]
    _check_arguments(name, arguments)
    with adapted(name), replaced(sys, "argv", [prog, *arguments]), warnings.catch_warnings():
        # rl_zoo3.plots has imported its programs already
        warnings.filterwarnings("ignore", "'rl_zoo3.* found in sys.modules", RuntimeWarning)
        runpy.run_module(module, run_name="__main__")


def _check_arguments(name: str, arguments: Sequence[str]) -> None:
    """Find out what the zoo would find out too late, or by a KeyError."""
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
    if name == "train" and known.trained_agent:
        check_model_file(known.trained_agent)
        _check_algorithm(known.algo, known.trained_agent)
    if name == "train" and known.storage and not known.storage.endswith(".log"):  # to the zoo that is a journal
        prepare_storage(known.storage)


def _check_algorithm(algo: str | None, path: str) -> None:
    if algo in SAVING_ALGORITHMS:
        try:
            saved_by = algorithm_of(Path(path))
        except ValueError:
            saved_by = "another algorithm"
        if saved_by != algo:
            raise ValueError(f"-i {path}: this is a model of {saved_by}, and --algo is {algo}")
