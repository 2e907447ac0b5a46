"""``rlx2 train --checkpoint-every`` and ``--resume``: whole trainings that go on after a kill."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.common.saving.trust import check_trusted
from sb3_rlx2.resume import has_checkpoint
from sb3_rlx2.resume.checkpoint_folder import CheckpointFolder
from sb3_rlx2.resume.resuming import Resumed, restored
from sb3_rlx2.sparse.checks import check_count
from sb3_rlx2.zoo.adapters import parsed_as
from sb3_rlx2.zoo.algorithms import ALGORITHMS
from sb3_rlx2.zoo.downloads import PlainLoader, object_made_by

FOLDER = "checkpoints"
"""Where checkpoints are in the folder of a run."""

MONITOR_HEAD = 2
"""Lines of a ``monitor.csv`` before the first episode."""

HELP = """
of rlx2:
  --checkpoint-every N  save the whole training every N environment steps, to go on with after a kill
  --resume FOLDER       go on with the training of a run's folder, such as logs/rlx2_td3/Hopper-v5_1, to its end
"""


class Checkpoints(NamedTuple):
    """What was asked for.

    :param every: environment steps between two checkpoints; None: none are written
    :param run: the folder of the run to go on with; None: a new one
    """

    every: int | None = None
    run: Path | None = None


def checkpoints_of(arguments: Sequence[str]) -> tuple[Checkpoints, list[str]]:
    """Take the flags about checkpoints out of what ``rlx2 train`` is given.

    :param arguments: what follows on the command line
    :return: what was asked for, and the other arguments
    :raises ValueError: if a flag has no value that can be, or the folder no checkpoint
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--checkpoint-every", type=int)
    parser.add_argument("--resume", type=Path)
    try:
        known, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if known.checkpoint_every is not None:
        check_count(known.checkpoint_every, "--checkpoint-every", 1)
        if any(map(_means_a_search, others)):
            raise ValueError("--checkpoint-every is for a training, not for a search (-optimize)")
        if known.resume is None and _value(others, "--algo") not in ALGORITHMS:
            raise ValueError(
                f"--checkpoint-every is for {', '.join(ALGORITHMS)}, not for --algo {_value(others, '--algo')}"
            )
    if known.resume is not None:
        if others or known.checkpoint_every is not None:
            given = "--checkpoint-every" if not others else others[0]
            raise ValueError(f"--resume goes on as the training was begun: {given} cannot be changed")
        if not has_checkpoint(known.resume / FOLDER):
            raise ValueError(
                f"--resume {known.resume}: there is no checkpoint in its {FOLDER}; --checkpoint-every writes them"
            )
    if known.checkpoint_every is not None:  # --resume needs it wherever it is called
        others = _with_absolute_paths(others, ("-i", "--trained-agent"))
    return Checkpoints(known.checkpoint_every, known.resume), others


def _means_a_search(argument: str) -> bool:
    """The zoo's parser takes what begins like a flag, too."""
    flags = ("-optimize", "--optimize-hyperparameters")
    return any(len(argument) > 3 and flag.startswith(argument) for flag in flags)


def _with_absolute_paths(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    changed = list(arguments)
    for place, (before, given) in enumerate(zip(["", *arguments], arguments, strict=False)):
        flag, _, value = given.partition("=")
        if before in flags:
            changed[place] = str(Path(given).absolute())
        elif flag in flags and value:
            changed[place] = f"{flag}={Path(value).absolute()}"
    return changed


def _value(arguments: Sequence[str], flag: str) -> str | None:
    for given, value in zip(arguments, [*arguments[1:], None], strict=True):
        if given == flag:
            return value
        if given.startswith(f"{flag}="):
            return given.partition("=")[2]
    return None


def arguments_of(run: Path) -> argparse.Namespace:
    """What ``rlx2 train`` was given when a run was begun.

    :param run: the folder of the run
    :raises ValueError: if the folder is none
    """
    files = sorted(run.glob("*/args.yml"))
    if len(files) != 1:
        raise ValueError(f"--resume {run}: this is no folder of a run, there is no ENVIRONMENT/args.yml in it")
    return argparse.Namespace(**dict(read_own_yaml(files[0])))


def read_own_yaml(path: Path) -> Any:
    """What the zoo wrote to a file of a run.

    :param path: the file
    :raises ModelFileError: if it makes objects of its own choice, such as ``nn.ReLU``, and is not trusted
    """
    text = path.read_text("utf-8")
    if object_made_by(text) is None:
        return yaml.load(text, Loader=PlainLoader)
    check_trusted(None, str(path))
    return yaml.load(text, Loader=yaml.UnsafeLoader)


@contextmanager
def resuming(run: Path) -> Iterator[None]:
    """Let the zoo go on with a run, and no other process.

    :param run: the folder of the run
    :raises ValueError: if the folder is none, or another process still trains
    """
    # The zoo makes environments, which empty their monitor.csv, before it trains
    with CheckpointFolder(run / FOLDER).locked(), parsed_as(arguments_of(run)), _refilled(run.glob("*.monitor.csv")):
        yield


@contextmanager
def _refilled(paths: Iterable[Path]) -> Iterator[None]:
    """Give back to files of ``Monitor`` what they had, where nothing but their head is left."""
    before = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, content in before.items():
            if path.is_file() and len(path.read_bytes().splitlines()) <= MONITOR_HEAD < len(content.splitlines()):
                path.write_bytes(content)


class ResumedModel:
    """Stands for a model where the zoo trains it, and goes on with a training instead.

    :param run: the folder of the run
    :param model: the model that the zoo has made, with its environment
    """

    def __init__(self, run: Path, model: OffPolicyAlgorithm) -> None:
        self.run, self.model = run, model
        self._resumed: Resumed | None = None

    @property
    def is_restored(self) -> bool:
        """Whether the model is that of the checkpoint, and not a new one any more."""
        return self._resumed is not None and self._resumed.is_complete

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def learn(self, total_timesteps: int, callback: Sequence[BaseCallback] = (), **kwargs: Any) -> None:
        """Train to the end.

        :param total_timesteps: the checkpoint knows it
        :param callback: the zoo's callbacks, as they were made when the run was begun
        :param kwargs: the checkpoint knows them
        """
        with restored(self.run / FOLDER, self.model.env, callback) as resumed:
            self.model, self._resumed = resumed.model, resumed
            print(f"Going on at step {self.model.num_timesteps} of {self.model._total_timesteps}")
            resumed.go_on()
