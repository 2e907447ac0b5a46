"""Files of saved models and replay buffers: whether they are whole, and whether this version can read them."""

from __future__ import annotations

import io
import json
import pathlib
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import get_device

from sb3_rlx2.common.argument_ranges import COUNTS, NUMBERS, SWITCHES
from sb3_rlx2.common.arguments import check_attributes, check_device
from sb3_rlx2.common.saved_algorithm import algorithm_name, algorithm_that_saved
from sb3_rlx2.common.state_checks import tensor_problem
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.version import __version__

# Goes up when a model that one version saves can no longer be read by the other
CHECKPOINT_FORMAT = 1

VARIABLES = "pytorch_variables.pth"

REQUIRED = (
    "checkpoint_format",
    *(name for name in (*COUNTS, *NUMBERS, *SWITCHES) if name not in ("verbose", "stats_window_size", "start_time")),
    "learning_rate",
    "seed",
    "train_freq",
    "action_noise",
    "target_noise_clip",
    "ent_coef",
    "target_entropy",
    "policy_kwargs",
    "replay_buffer_class",
    "replay_buffer_kwargs",
    "actor_sparsity",
    "critic_sparsity",
    "topology",
    "topology_interval",
    "topology_end",
    "topology_counters",
    "drop_fraction",
    "buffer_distance_threshold",
)
"""Attributes that decide how a model learns: those of them that an algorithm has must be in its file."""

NEVER_SAVED = ("_logger", "_custom_logger", "_vec_normalize_env")

MOST_SAID = 300
"""Characters of an exception's text that are quoted."""

SelfCheckedLoading = TypeVar("SelfCheckedLoading", bound="CheckedLoading")


class CheckedLoading(BaseAlgorithm):
    """Makes ``load`` of an algorithm say what is wrong with a file. Put it before the algorithm's class."""

    checkpoint_format: int
    variable_shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """Shapes of the tensors that are saved beside networks and optimizers."""

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
        :param device: where the networks are put; ``"auto"``: as for the constructor
        :param custom_objects: objects that take the place of saved ones
        :param print_system_info: whether to print the systems that saved and load the model
        :param force_reset: whether the environment is reset before learning goes on
        :param kwargs: arguments of the constructor, or attributes, that replace saved ones
        :raises ModelFileError: if the file is no model, is not whole, or does not fit this version or algorithm
        :raises ValueError: for an unknown argument or a device that cannot be used
        """
        is_auto, device = device == "auto", "cpu" if device == "auto" else device
        check_device(device)
        check_attributes(cls, kwargs)
        with reading_model_file(path, cls.__name__):
            saved = read_saved_names(path)
            if saved.algorithm != algorithm_name(cls):
                raise ModelFileError(
                    f"{name_of(path)} is a model of {saved.algorithm or 'another algorithm'}, not of {cls.__name__}"
                )
            model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
            model._check_saved_names(saved, kwargs)
            if is_auto and (chosen := model._automatic_device()).type != "cpu":
                model = super().load(path, env, chosen, custom_objects, False, force_reset, **kwargs)
        return model

    def _automatic_device(self) -> th.device:
        """The device that ``"auto"`` stands for. The model is on the CPU."""
        return get_device("auto")

    def _check_saved_names(self, saved: SavedNames, given: Collection[str]) -> None:
        """Where something is missing in a file, SB3 goes on with the default."""
        has = {*saved.attributes, *given}
        missing = [name for name in REQUIRED if name in vars(self) and name not in has]
        if missing:
            raise ModelFileError(f"it has no {missing[0]}")
        # A method of this name would be hidden
        strange = [
            name for name in saved.attributes if name in NEVER_SAVED or callable(getattr(type(self), name, None))
        ]
        if strange:
            raise ModelFileError(f"it has a value for {strange[0]}, which is no setting")
        variables = self._get_torch_save_params()[1]
        if sorted(saved.variables) != sorted(variables):
            raise ModelFileError(f"pytorch_variables.pth has {sorted(saved.variables)}, expected {sorted(variables)}")
        for name, variable in saved.variables.items():
            expected = th.zeros(self.variable_shapes[name])
            problem = tensor_problem(variable, expected)
            if problem is None and variable.dtype != expected.dtype:  # SB3 takes the tensor itself
                problem = f"is of type {variable.dtype}, expected {expected.dtype}"
            if problem is not None:
                raise ModelFileError(f"{name} {problem}")

    def _check_checkpoint_format(self) -> None:
        if self.checkpoint_format != CHECKPOINT_FORMAT:
            raise ModelFileError(
                f"the checkpoint has format {self.checkpoint_format}, and sb3-rlx2 {__version__} reads format "
                f"{CHECKPOINT_FORMAT}: it was saved by an incompatible version of sb3-rlx2"
            )


class SavedNames(NamedTuple):
    """What a model file has.

    :param algorithm: name of the algorithm that saved it; None: one that is not known here
    :param attributes: names of the attributes
    :param variables: tensors beside networks and optimizers, by name
    """

    algorithm: str | None
    attributes: set[str]
    variables: dict[str, Any]


@contextmanager
def reading_model_file(path: str | pathlib.Path | io.BufferedIOBase, reader: str) -> Iterator[None]:
    """Say which file it is that cannot be loaded, and why.

    :param path: path of the file, or the open file
    :param reader: the class that loads it
    :raises ModelFileError: in place of every exception, but those of the operating system
    """
    name = name_of(path)
    try:
        yield
    except ModelFileError as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error
    except OSError:
        raise
    # A damaged or foreign file fails wherever its content is first used, with any kind of exception
    except Exception as error:
        raise ModelFileError(
            f"{name} cannot be loaded as {reader}. It does not fit the arguments or the environment, "
            f"or another algorithm or version saved it: {_reason(error)}"
        ) from error


def check_model_file(path: str | pathlib.Path) -> None:
    """Check that a file is a model of Stable-Baselines3 or of this package, and whole.

    :param path: path of the file
    :raises ModelFileError: if it is not
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file")
    with path.open("rb") as file:
        _check_archive(file, str(path))


def read_saved_names(path: str | pathlib.Path | io.BufferedIOBase) -> SavedNames:
    """Check that a file is a whole model, and read what it has.

    :param path: path of the file, or the open file
    :raises ModelFileError: if it is no model, or not whole
    """
    with _opened(path) as file:
        _check_archive(file, name_of(path))
        with zipfile.ZipFile(file) as archive:
            attributes = _attributes(archive)
            variables = {}
            if VARIABLES in archive.namelist():
                variables = th.load(io.BytesIO(archive.read(VARIABLES)), map_location="cpu", weights_only=True)
            if not isinstance(variables, dict):
                raise ModelFileError(f"{VARIABLES} is a {type(variables).__name__}, not a dict")
    return SavedNames(algorithm_that_saved(attributes), set(attributes), variables)


def read_algorithm(path: str | pathlib.Path) -> str | None:
    """Check that a file is a whole model, and read which algorithm saved it.

    :param path: path of the file
    :return: name of the algorithm, such as ``"RLx2TD3"``; None: one that is not known here
    :raises ModelFileError: if it is no model, or not whole
    """
    check_model_file(path)
    with reading_model_file(path, "a model"), zipfile.ZipFile(path) as archive:
        return algorithm_that_saved(_attributes(archive))


def _attributes(archive: zipfile.ZipFile) -> dict[str, Any]:
    attributes = json.loads(archive.read("data").decode())
    if not isinstance(attributes, dict):
        raise ModelFileError(f"data is a {type(attributes).__name__}, not an object with attributes")
    return attributes


@contextmanager
def _opened(path: str | pathlib.Path | io.BufferedIOBase) -> Iterator[Any]:
    """The file that Stable-Baselines3 reads when it is given this path; an open one is left where it stands."""
    if isinstance(path, (str, pathlib.Path)):
        found = pathlib.Path(path)
        with (found if found.exists() else pathlib.Path(f"{found}.zip")).open("rb") as file:
            yield file
    else:
        position = path.tell()
        path.seek(0)
        try:
            yield path
        finally:
            path.seek(position)


def _check_archive(file: Any, name: str) -> None:
    if file.read(2) != b"PK":
        raise ModelFileError(f"{name} is no model: model.save() writes a zip archive")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
            # The networks inside are archives too: of a file that was cut short, the last whole one is found
            is_whole = min((member.header_offset for member in archive.infolist()), default=0) == 0
    except (NotImplementedError, RuntimeError) as error:  # another method of compression, or a password
        raise ModelFileError(f"{name} is no model: {_reason(error)}") from error
    except Exception as error:
        raise ModelFileError(f"{name} is damaged or was cut short: {_reason(error)}") from error
    if not is_whole:
        raise ModelFileError(f"{name} is damaged or was cut short")
    if damaged is not None:
        raise ModelFileError(f"{name} is damaged: {damaged} cannot be read")
    missing = [member for member in ("data", "policy.pth") if member not in names]
    if missing:
        raise ModelFileError(f"{name} is no model: it is a zip archive without {' and '.join(missing)}")
    if len(set(names)) < len(names):
        twice = next(member for member in names if names.count(member) > 1)
        raise ModelFileError(f"{name} is no model: it has {twice} more than once")


def name_of(path: str | pathlib.Path | io.BufferedIOBase) -> str:
    """How an error calls a file.

    :param path: path of the file, or the open file
    """
    return str(path) if isinstance(path, (str, pathlib.Path)) else str(getattr(path, "name", "the open file"))


def _reason(error: Exception) -> str:
    """What an exception says, in one line."""
    said = " ".join(str(error).split())
    said = said if len(said) < MOST_SAID else f"{said[:MOST_SAID]} …"
    return said if isinstance(error, ValueError) and said else f"{type(error).__name__}: {said}"


@contextmanager
def reading_replay_buffer(path: str | pathlib.Path | io.BufferedIOBase) -> Iterator[io.BufferedIOBase]:
    """Open a file, close it again whatever happens, and say which one it is that cannot be read as a replay buffer.

    :param path: path of the file, as Stable-Baselines3 finds it, or the open file
    :raises ModelFileError: if it is no replay buffer, or was cut short
    """
    try:
        file = open_path(path, "r", suffix="pkl")
        with nullcontext() if file is path else file:
            yield file
    except (OSError, ModelFileError):
        raise
    # A foreign pickle may fail with any kind of exception
    except Exception as error:
        raise ModelFileError(f"{name_of(path)} is no replay buffer, or was cut short: {_reason(error)}") from error
