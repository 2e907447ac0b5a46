"""Changes to the zoo's surroundings while one of its programs runs, so that nothing of it has to be copied."""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_rlx2.common.saving.model_files import check_model_file
from sb3_rlx2.errors import first_line
from sb3_rlx2.files import replacing
from sb3_rlx2.zoo.algorithms import ALGORITHMS
from sb3_rlx2.zoo.downloads import checked

# Programs that load a model to act with it
ACT = {"enjoy", "record_video", "push_to_hub"}
# Programs that look for the latest run
READ = {*ACT, "record_training", "benchmark"}
# Programs that start others
START_OTHERS = {"record_training", "benchmark"}
# Programs that may download a model
DOWNLOAD = {"load_from_hub", "enjoy", "benchmark"}


@contextmanager
def adapted(name: str, trusts_downloads: bool) -> Iterator[None]:
    """Let a program work with algorithms that are not the zoo's own.

    :param name: name of the program's module, without its package
    :param trusts_downloads: whether what it downloads may run code
    """
    import huggingface_hub.repocard
    import huggingface_sb3
    from rl_zoo3 import utils

    with ExitStack() as stack:
        if name in ACT:
            stack.enter_context(_acting(utils.ALGOS))
        # What follows has no argument, registry or class to derive from
        if name in READ:
            # benchmark takes no number of an experiment
            stack.enter_context(wrapped(utils, "get_latest_run_id", _latest_with_a_model))
        if name in START_OTHERS:
            # They name the zoo's modules, in which our algorithms are unknown
            stack.enter_context(wrapped(subprocess, "call", _starting_our_programs))
        if name == "benchmark":
            # It lists them for all that --log-dir has, and says nothing of --no-hub
            stack.enter_context(wrapped(utils, "get_hf_trained_models", _naming_no_hub))
        if name in DOWNLOAD:
            from rl_zoo3 import load_from_hub

            # It trusts nothing or all
            check = functools.partial(checked, is_trusted=trusts_downloads)
            # The zoo's module keeps the function that it found when it was imported
            for owner in (huggingface_sb3, load_from_hub):
                # Newer versions of huggingface_hub raise another exception than the zoo expects
                stack.enter_context(wrapped(owner, "load_from_hub", _with_the_expected_error))
                stack.enter_context(wrapped(owner, "load_from_hub", check))
        if name == "push_to_hub":
            # Newer versions of huggingface_sb3 lack a function that the zoo imports
            stack.enter_context(_with_generate_metadata())
            # The text of the model card is the zoo's
            stack.enter_context(wrapped(huggingface_hub.repocard, "metadata_save", _with_our_commands))
        yield


@contextmanager
def _acting(algorithms: dict[str, Any]) -> Iterator[None]:
    own = dict(algorithms)
    algorithms.update({name: ActingAlgorithm(algorithm) for name, algorithm in own.items()})
    try:
        yield
    finally:
        algorithms.update(own)


class ActingAlgorithm:
    """Stands for an algorithm where a model is loaded for acting: checks the file and makes no room for transitions.

    The zoo does the latter for the algorithms that it has a list of.

    :param algorithm: the algorithm
    """

    def __init__(self, algorithm: type[BaseAlgorithm]) -> None:
        self.algorithm = algorithm
        self.__name__ = algorithm.__name__

    def load(self, path: str, **kwargs: Any) -> BaseAlgorithm:
        """Load a model, as the algorithm does.

        :param path: path of the file
        :param kwargs: as for the algorithm's ``load``
        :raises ModelFileError: if the file is no model, or not whole
        """
        check_model_file(path)
        if self.algorithm in ALGORITHMS.values():
            kwargs = {"buffer_size": 1, "optimize_memory_usage": False, **kwargs}
        return self.algorithm.load(path, **kwargs)


def _latest_with_a_model(get_latest_run_id: Callable[..., int]) -> Callable[..., int]:
    """The latest run may have failed before it saved a model, or may have been a search."""

    @functools.wraps(get_latest_run_id)
    def wrapper(log_path: str, env_name: str) -> int:
        latest = get_latest_run_id(log_path, env_name)
        for number in range(latest, 0, -1):
            if any(Path(log_path, f"{env_name}_{number}").glob("*.zip")):
                return number
            print(f"Experiment {number} has saved no model")
        return latest

    return wrapper


def _naming_no_hub(get_hf_trained_models: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Without a network there is nothing wrong with the models of one's own."""

    @functools.wraps(get_hf_trained_models)
    def wrapper(*args: Any, **kwargs: Any) -> dict[str, Any]:
        print("Listing the models on the Hugging Face Hub (--no-hub leaves them out)")
        logger = logging.getLogger("huggingface_hub")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it warns at each of its attempts
        try:
            return get_hf_trained_models(*args, **kwargs)
        except Exception as error:  # of whichever HTTP library huggingface_hub has
            reason = first_line(error)
            raise ConnectionError(
                f"the models on the Hugging Face Hub cannot be listed ({reason}): --no-hub evaluates those of --log-dir"
            ) from error
        finally:
            logger.setLevel(level)

    return wrapper


def _starting_our_programs(call: Callable[..., int]) -> Callable[..., int]:
    """``rlx2`` in the place of the zoo's modules."""

    @functools.wraps(call)
    def wrapper(command: Sequence[str], *args: Any, **kwargs: Any) -> int:
        program = list(command)
        if program[:2] == ["python", "enjoy.py"]:
            program[:2] = [sys.executable, "-m", "sb3_rlx2", "enjoy"]
        elif program[:2] == ["python", "-m"] and program[2].startswith("rl_zoo3."):
            program[:3] = [sys.executable, "-m", "sb3_rlx2", program[2].rpartition(".")[2].replace("_", "-")]
        return call(program, *args, **kwargs)

    return wrapper


def _with_the_expected_error(load_from_hub: Callable[..., str]) -> Callable[..., str]:
    """What older versions of huggingface_hub raised for a missing file."""
    from huggingface_hub.errors import EntryNotFoundError
    from requests.exceptions import HTTPError

    @functools.wraps(load_from_hub)
    def wrapper(*args: Any, **kwargs: Any) -> str:
        try:
            return load_from_hub(*args, **kwargs)
        except EntryNotFoundError as error:
            raise HTTPError(str(error)) from error

    return wrapper


@contextmanager
def _with_generate_metadata() -> Iterator[None]:
    """It has another name, and returns no dictionary."""
    uploads: Any = importlib.import_module("huggingface_sb3.push_to_hub")  # the package has a function of this name
    if hasattr(uploads, "generate_metadata"):
        yield
        return
    uploads.generate_metadata = lambda *args: uploads._generate_metadata(*args).to_dict()
    try:
        yield
    finally:
        del uploads.generate_metadata


def _with_our_commands(metadata_save: Callable[..., None]) -> Callable[..., None]:
    """A model card tells how to run the agent: the zoo alone does not know our algorithms."""

    @functools.wraps(metadata_save)
    def wrapper(path: str | Path, *args: Any, **kwargs: Any) -> None:
        metadata_save(path, *args, **kwargs)
        card = Path(path).read_text(encoding="utf-8")
        if any(f"--algo {name} " in card for name in ALGORITHMS):
            card = card.replace("pip install rl_zoo3", "pip install 'sb3-rlx2[zoo]'")
            card = re.sub(r"python -m rl_zoo3\.(\w+)", lambda m: f"python -m sb3_rlx2 {m[1].replace('_', '-')}", card)
            with replacing(path, "w", encoding="utf-8") as file:
                file.write(card)

    return wrapper


@contextmanager
def replaced(owner: Any, attribute: str, value: object) -> Iterator[None]:
    """Give an attribute another value for a while.

    :param owner: a module or class
    :param attribute: its attribute
    :param value: what the attribute is meanwhile
    """
    original = getattr(owner, attribute)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        setattr(owner, attribute, original)


@contextmanager
def parsed_as(arguments: argparse.Namespace) -> Iterator[None]:
    """Let a program, which has its parser in its one function, find these arguments whatever the command line has.

    :param arguments: what its parser finds; later parsers find their own
    """
    parse_args = argparse.ArgumentParser.parse_args
    given = [arguments]

    def parse(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        return given.pop() if given else parse_args(parser, *args, **kwargs)

    with replaced(argparse.ArgumentParser, "parse_args", parse):
        yield


@contextmanager
def wrapped(owner: Any, attribute: str, wrapper: Callable[[Any], object]) -> Iterator[None]:
    """Wrap a function for a while.

    :param owner: the module that has it
    :param attribute: its name
    :param wrapper: makes what stands in its place of it
    """
    with replaced(owner, attribute, wrapper(getattr(owner, attribute))):
        yield
