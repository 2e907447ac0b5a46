"""Files of models: Stable-Baselines3's zip archives, and safetensors files without pickle."""

from __future__ import annotations

import io
import json
import os
import pathlib
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from numbers import Integral
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr, save_to_zip_file

from sb3_rlx2.common.saving.algorithm_names import algorithm_that_saved
from sb3_rlx2.common.saving.opening import File, is_without_pickle, name_of, naming, opened, reason
from sb3_rlx2.common.saving.trust import check_trusted
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.files import read_state
from sb3_rlx2.version import __version__

# Goes up when a model that one version saves can no longer be read by the other
CHECKPOINT_FORMAT = 1

KIND = "model"
SUFFIX = ".zip"
VARIABLES = "pytorch_variables.pth"

FEW = 2**24
POSITIONS_PER_BYTE = 100
"""A network has at most so many positions for each byte of its file, or ``FEW``: a density of 0.04% and more."""


FURTHER_NUMBERS = 32
"""More numbers than layers that ``policy_kwargs`` may have."""

MOST_OF_HER = 10**7
"""Transitions that a ``HerReplayBuffer`` has room for: it makes an object for each at once."""


class SavedNames(NamedTuple):
    """What a model file has.

    :param algorithm: name of the algorithm that saved it; None: one that is not known here
    :param attributes: names of the attributes
    :param variables: tensors beside networks and optimizers, by name
    """

    algorithm: str | None
    attributes: set[str]
    variables: dict[str, Any]


def check_model_file(path: str | os.PathLike[str]) -> None:
    """Check that a file is a model of Stable-Baselines3 or of this package, and whole. Nothing is unpickled.

    :param path: path of the file
    :raises ModelFileError: if it is not
    """
    read_algorithm(path)


def read_algorithm(path: str | os.PathLike[str]) -> str | None:
    """Check that a file is a whole model, and read which algorithm saved it. Nothing is unpickled.

    :param path: path of the file
    :return: name of the algorithm, such as ``"RLx2TD3"``; None: one that is not known here
    :raises ModelFileError: if it is no model, or not whole
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file")
    with naming(path, "is no model"), path.open("rb") as file:
        if is_without_pickle(file):
            return algorithm_that_saved(read_model_state(file)["attributes"])
        check_archive(file, str(path))
        with zipfile.ZipFile(file) as archive:
            return algorithm_that_saved(_attributes(archive))


def read_saved_names(file: Any) -> SavedNames:
    """Read what a model file has.

    :param file: the zip archive, open
    :raises ModelFileError: if it has it in another form
    """
    with zipfile.ZipFile(file) as archive:
        attributes = _attributes(archive)
        variables = {}
        if VARIABLES in archive.namelist():
            variables = th.load(io.BytesIO(archive.read(VARIABLES)), map_location="cpu", weights_only=True)
        if not isinstance(variables, dict):
            raise ModelFileError(f"{VARIABLES} is a {type(variables).__name__}, not a dict")
    return SavedNames(algorithm_that_saved(attributes), set(attributes), variables)


def _attributes(archive: zipfile.ZipFile) -> dict[str, Any]:
    attributes = json.loads(archive.read("data").decode())
    if not isinstance(attributes, dict):
        raise ModelFileError(f"data is a {type(attributes).__name__}, not an object with attributes")
    return attributes


def naming_model(file: File, algorithm: type) -> AbstractContextManager[None]:
    """Say which file it is that cannot be loaded as a model, and why.

    :param file: path of the file, or the open file
    :param algorithm: the class that loads it
    """
    return naming(
        file,
        f"cannot be loaded as {algorithm.__name__}. It does not fit the arguments or the environment, or another "
        "algorithm or version saved it",
    )


@contextmanager
def opened_as_zip(file: File, trusted: bool | None) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a model file as the zip archive that Stable-Baselines3 reads, which is made of one without pickle.

    :param file: path of the file, or the open file
    :param trusted: whether it may hold pickled objects; None: as ``RLX2_TRUSTED`` says
    :return: the archive, open; and the attributes of which it has only the names, since nothing is to be unpickled
    :raises ModelFileError: if it is no model, not whole, or not trusted
    """
    with opened(file, SUFFIX) as found:
        position = found.tell()
        found.seek(0)
        if is_without_pickle(found):
            state = read_model_state(found)
            attributes = state["attributes"]
            names = {name: value if name == "algorithm_name" else None for name, value in attributes.items()}
            archive = io.BytesIO()
            write_zip(archive, {**state, "attributes": names})
            archive.seek(0)
            yield archive, attributes
        else:
            check_archive(found, name_of(file))
            check_trusted(trusted, name_of(file))
            yield found, {}
        found.seek(position)


# --- zip archives ---


def check_archive(file: Any, name: str) -> None:
    """Check that a file is the zip archive of a model, and whole.

    :param file: the file, open at its beginning
    :param name: how to call it
    :raises ModelFileError: if it is not
    """
    if file.read(2) != b"PK":
        raise ModelFileError(f"{name} is no model: model.save() writes a zip archive, or a safetensors file")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
            # The networks inside are archives too: of a file that was cut short, the last whole one is found
            is_whole = min((member.header_offset for member in archive.infolist()), default=0) == 0
    except (NotImplementedError, RuntimeError) as error:  # another method of compression, or a password
        raise ModelFileError(f"{name} is no model: {reason(error)}") from error
    except Exception as error:
        raise ModelFileError(f"{name} is damaged or was cut short: {reason(error)}") from error
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


def write_zip(file: Any, state: dict[str, Any]) -> None:
    """Write a model as Stable-Baselines3 does.

    :param file: the file, open for writing
    :param state: a model's state
    """
    save_to_zip_file(file, state["attributes"], state["parameters"], state["variables"])


def read_zip(file: Any) -> dict[str, Any]:
    """Read the state of a model from a zip archive, which may run code.

    :param file: the archive, open
    """
    attributes, parameters, variables = load_from_zip_file(file, device="cpu")
    return {**_head(), "attributes": attributes, "parameters": parameters, "variables": variables or {}}


# --- files without pickle ---


def model_state(
    model: BaseAlgorithm, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
) -> dict[str, Any]:
    """What a model file holds.

    :param model: the model
    :param exclude: names of further attributes to leave out
    :param include: names of attributes that are not to be left out
    """
    names, variables = model._get_torch_save_params()
    left_out = {*(exclude or ()), *model._excluded_save_params()} - {*(include or ())}
    left_out |= {name.partition(".")[0] for name in (*names, *variables)}
    return {
        **_head(),
        "attributes": {name: value for name, value in vars(model).items() if name not in left_out},
        "parameters": model.get_parameters(),
        "variables": {name: recursive_getattr(model, name) for name in variables},
    }


def _head() -> dict[str, Any]:
    versions = {"sb3_rlx2": __version__, "stable_baselines3": stable_baselines3.__version__, "torch": th.__version__}
    versions |= {"gymnasium": gymnasium.__version__}
    return {"kind": KIND, "format": CHECKPOINT_FORMAT, "versions": {name: str(text) for name, text in versions.items()}}


def read_model_state(file: Any) -> dict[str, Any]:
    """Read the state of a model from a file without pickle. No code of the file runs.

    :param file: the file, open
    :raises ModelFileError: if it is no model, is not whole, is of a newer format, or its networks would be too large
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    state = read_state(file)
    check_kind(state, KIND, CHECKPOINT_FORMAT)
    for name in ("attributes", "parameters", "variables"):
        if not (isinstance(state.get(name), dict) and all(isinstance(key, str) for key in state[name])):
            raise ModelFileError(f"its {name} are missing, or no dict of names")
    _check_sizes(state["attributes"], state["parameters"], length)
    return cast(dict[str, Any], state)


def check_kind(state: Any, kind: str, newest: int) -> None:
    """Check what a state is of.

    :param state: the state
    :param kind: what it must be of
    :param newest: the newest format that this version reads
    :raises ModelFileError: if it is of something else, or of a newer format
    """
    found = state.get("kind") if isinstance(state, dict) else None
    if found != kind:
        raise ModelFileError(f"it holds {f'a {found}' if isinstance(found, str) else 'something else'}, not a {kind}")
    if state.get("format") != newest:
        raise ModelFileError(format_problem(kind, state.get("format"), newest))


def format_problem(kind: str, found: Any, newest: int) -> str:
    """Say why a format cannot be read.

    :param kind: what the file is of
    :param found: the file's format
    :param newest: the newest format that this version reads
    """
    advice = "update sb3-rlx2" if isinstance(found, int) and found > newest else "it is damaged"
    return f"the {kind} has format {found}, and sb3-rlx2 {__version__} reads format {newest}: {advice}"


def _check_sizes(attributes: Mapping[str, Any], parameters: Mapping[str, Any], length: int) -> None:
    """Networks are made before their parameters are put in: of a small file, they must be small."""
    policy = parameters.get("policy")
    policy_kwargs = attributes.get("policy_kwargs", {})
    if not (isinstance(policy, dict) and isinstance(policy_kwargs, dict)):
        raise ModelFileError("it has no parameters or no arguments of a policy")
    n_critics = policy_kwargs.get("n_critics", 1)
    if isinstance(n_critics, Integral) and int(n_critics) > len(policy):
        raise ModelFileError(f"policy_kwargs['n_critics']={n_critics}, and it has {len(policy)} tensors")
    widths = [*_numbers(policy_kwargs), 1, 1]
    if len(widths) > len(policy) + FURTHER_NUMBERS:
        raise ModelFileError(f"its policy_kwargs have {len(widths)} numbers, and it has {len(policy)} tensors")
    if isinstance(actions := attributes["action_space"], spaces.Discrete):
        widths.append(int(actions.n) * max(1, *_numbers(policy_kwargs.get("n_quantiles", 1))))
    widths.append(get_flattened_obs_dim(attributes["observation_space"]) + get_action_dim(attributes["action_space"]))
    largest, second = sorted(widths, reverse=True)[:2]
    buffer_class, buffer_size = attributes.get("replay_buffer_class"), attributes.get("buffer_size")
    if buffer_class is HerReplayBuffer and isinstance(buffer_size, Integral) and int(buffer_size) > MOST_OF_HER:
        raise ModelFileError(f"buffer_size={buffer_size}: without pickle, a HerReplayBuffer has at most {MOST_OF_HER}")
    if largest * second > max(FEW, POSITIONS_PER_BYTE * length):
        raise ModelFileError(f"its networks would have layers of {second} x {largest}, and it has {length} bytes")


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, Integral):
        yield int(value)
    elif isinstance(value, dict):
        yield from (number for part in value.values() for number in _numbers(part))
    elif isinstance(value, (list, tuple, set, deque)):
        yield from (number for part in value for number in _numbers(part))
    elif isinstance(value, (np.ndarray, th.Tensor)):
        yield from _numbers(value.reshape(-1).tolist())
