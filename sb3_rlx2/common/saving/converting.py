"""From one format to the other: models, replay buffers and running statistics, with and without pickle."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2.common.saving import model_files, replay_buffers, vec_normalize
from sb3_rlx2.common.saving.opening import WITHOUT_PICKLE, is_without_pickle, naming
from sb3_rlx2.common.saving.trust import check_trusted
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.files import read_state, replacing, write_state

SUFFIXES = {
    model_files.KIND: model_files.SUFFIX,
    replay_buffers.KIND: replay_buffers.SUFFIX,
    vec_normalize.KIND: vec_normalize.SUFFIX,
}


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str], trusted: bool | None = None) -> str:
    """Write what a file holds in the format that another file's name asks for.

    :param source: path of a model, a replay buffer, or the statistics of a ``VecNormalize``
    :param target: path to write: ``.safetensors`` is without pickle, ``.zip`` (of a model) and ``.pkl`` (of the others)
        are Stable-Baselines3's
    :param trusted: whether the source may be unpickled, which can run any code; None (default): yes, unless the
        environment variable ``RLX2_TRUSTED`` is 0
    :return: what it is: ``"model"``, ``"replay buffer"`` or ``"VecNormalize"``
    :raises ModelFileError: if the source is none of these, is not whole, or not trusted
    :raises ValueError: if the target has another suffix, or a file without pickle cannot hold something of the source
    """
    source, target = Path(source), Path(target)
    with naming(source, "holds no model, replay buffer or VecNormalize, or was cut short"):
        kind, content = _read(source, trusted)
    if target.suffix not in (WITHOUT_PICKLE, SUFFIXES[kind]):
        raise ValueError(f"{target}: a {kind} is written to a file that ends in {WITHOUT_PICKLE} or {SUFFIXES[kind]}")
    if target.suffix == WITHOUT_PICKLE:
        if kind == replay_buffers.KIND:
            content = replay_buffers.buffer_state(content)
        elif kind == vec_normalize.KIND:
            content = vec_normalize.vec_normalize_state(content)
        write_state(target, content)
        return kind
    with replacing(target) as file:
        if kind == model_files.KIND:
            model_files.write_zip(file, content)
        elif kind == replay_buffers.KIND:
            replay_buffers.write_pickle(file, content)
        else:
            pickle.dump(content, file)
    return kind


def _read(source: Path, trusted: bool | None) -> tuple[str, Any]:
    """Its kind; and the state of a model, a replay buffer, or a ``VecNormalize``."""
    with source.open("rb") as file:
        if is_without_pickle(file):
            return _of_state(file, source)
        is_archive = file.read(2) == b"PK"
        file.seek(0)
        if is_archive:
            model_files.check_archive(file, str(source))
            check_trusted(trusted, str(source))
            return model_files.KIND, model_files.read_zip(file)
        check_trusted(trusted, str(source))
        content = pickle.load(file)
    if isinstance(content, ReplayBuffer):
        return replay_buffers.KIND, content
    if isinstance(content, VecNormalize):
        return vec_normalize.KIND, content
    raise ModelFileError(f"{source} holds a {type(content).__name__}, no model, replay buffer or VecNormalize")


def _of_state(file: Any, source: Path) -> tuple[str, Any]:
    state = read_state(file)
    kind = state.get("kind") if isinstance(state, dict) else None
    if kind == model_files.KIND:
        return kind, model_files.read_model_state(file)
    if kind == replay_buffers.KIND:
        return kind, replay_buffers.buffer_of_state(state)
    if kind == vec_normalize.KIND:
        return kind, vec_normalize.read_vec_normalize(source)
    raise ModelFileError(f"{source} holds {kind or 'something else'}, no model, replay buffer or VecNormalize")
