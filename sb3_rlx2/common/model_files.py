"""Files of saved models and replay buffers: whether they are whole, and whether this version can read them."""

from __future__ import annotations

import io
import pathlib
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv

from sb3_rlx2.common.arguments import check_attributes, check_device
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.version import __version__

# Goes up when a model that one version saves can no longer be read by the other
CHECKPOINT_FORMAT = 1

SelfCheckedLoading = TypeVar("SelfCheckedLoading", bound="CheckedLoading")


class CheckedLoading(BaseAlgorithm):
    """Makes ``load`` of an algorithm say what is wrong with a file. Put it before the algorithm's class."""

    checkpoint_format: int

    @classmethod
    def load(
        cls: type[SelfCheckedLoading],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfCheckedLoading:
        """Load a model, as in Stable-Baselines3.

        :param path: path of the file, or the open file
        :param env: the environment to go on with; None (default): the model can predict, but not learn
        :param device: where the networks are put
        :param custom_objects: objects that take the place of saved ones
        :param print_system_info: whether to print the systems that saved and load the model
        :param force_reset: whether the environment is reset before learning goes on
        :param kwargs: arguments of the constructor, or attributes, that replace saved ones
        :raises ModelFileError: if the file is no model, is not whole, or does not fit this version or algorithm
        :raises ValueError: for an unknown argument or a device that cannot be used
        """
        check_device(device)
        check_attributes(cls, kwargs)
        try:
            return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        except (OSError, MemoryError, ModelFileError):
            raise
        # A damaged or foreign file fails wherever its content is first used, with any kind of exception
        except Exception as error:
            if not isinstance(path, io.BufferedIOBase):
                check_model_file(_with_suffix(path))
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise ModelFileError(
                f"{path} cannot be loaded as {cls.__name__}. It does not fit the arguments or the environment, "
                f"or another algorithm or version saved it: {reason}"
            ) from error

    def _check_checkpoint_format(self) -> None:
        if self.checkpoint_format != CHECKPOINT_FORMAT:
            raise ModelFileError(
                f"the checkpoint has format {self.checkpoint_format}, and sb3-rlx2 {__version__} reads format "
                f"{CHECKPOINT_FORMAT}: it was saved by an incompatible version of sb3-rlx2"
            )


def check_model_file(path: str | pathlib.Path) -> None:
    """Check that a file is a model of Stable-Baselines3 or of this package, and whole.

    :param path: path of the file
    :raises ModelFileError: if it is not
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file")
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    if not is_archive:
        raise ModelFileError(f"{path} is no model: model.save() writes a zip archive")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
            # The networks inside are archives too: of a file that was cut short, the last whole one is found
            is_whole = min((member.header_offset for member in archive.infolist()), default=0) == 0
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelFileError(f"{path} is damaged or was cut short") from error
    if not is_whole:
        raise ModelFileError(f"{path} is damaged or was cut short")
    if damaged is not None:
        raise ModelFileError(f"{path} is damaged: {damaged} cannot be read")
    missing = [name for name in ("data", "policy.pth") if name not in names]
    if missing:
        raise ModelFileError(f"{path} is no model: it is a zip archive without {' and '.join(missing)}")


@contextmanager
def reading_replay_buffer(path: object) -> Iterator[None]:
    """Say which file it is that cannot be read as a replay buffer.

    :param path: path of the file, or the open file
    :raises ModelFileError: if it is no replay buffer, or was cut short
    """
    try:
        yield
    except (EOFError, pickle.UnpicklingError, AssertionError, AttributeError, ImportError) as error:
        raise ModelFileError(f"{path} is no replay buffer, or was cut short: {error}") from error


def check_n_envs(buffer: ReplayBuffer, n_envs: int) -> None:
    """Check that a loaded replay buffer can take the transitions of a model.

    :param buffer: the buffer
    :param n_envs: number of environments of the model
    :raises ValueError: if the buffer is for another number of environments
    """
    if buffer.n_envs != n_envs:
        raise ValueError(
            f"the replay buffer is for n_envs={buffer.n_envs}, and the model has n_envs={n_envs}: they must be the same"
        )


def _with_suffix(path: str | pathlib.Path) -> pathlib.Path:
    """The file that Stable-Baselines3 reads when it is given this path."""
    path = pathlib.Path(path)
    return path if path.suffix or path.is_file() else path.with_suffix(".zip")
