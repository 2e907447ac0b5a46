"""Brings a training back in a new process."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

from sb3_rlx2.common.saving.trust import check_trusted
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.resume.buffer_segments import restore_buffer
from sb3_rlx2.resume.checkpoint_callback import TEMPLATE, TrainingCheckpointCallback, versions
from sb3_rlx2.resume.checkpoint_folder import CheckpointFolder
from sb3_rlx2.resume.log_files import make_logger
from sb3_rlx2.resume.recipes import make_callbacks, make_environments
from sb3_rlx2.resume.training_state import check_networks, set_model_attributes, set_training_state

PACKAGES = ("sb3_rlx2", "stable_baselines3", "sb3_contrib")
"""Where algorithms are that a checkpoint may name."""


class Resumed(NamedTuple):
    """A training that can go on.

    :param model: its model
    :param go_on: trains it to the end
    :param saving: the callback that puts the checkpoint back when ``go_on`` begins; None: the training had ended
    """

    model: OffPolicyAlgorithm
    go_on: Callable[[], None]
    saving: TrainingCheckpointCallback | None

    @property
    def is_complete(self) -> bool:
        """Whether the model is that of the checkpoint, in all of its parts."""
        return self.saving is None or not self.saving.is_waiting_to_restore


def has_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has a checkpoint of a ``TrainingCheckpointCallback``.

    :param folder: the folder
    """
    return bool(CheckpointFolder(folder).numbers())


def resume(
    folder: str | os.PathLike[str],
    env: GymEnv | None = None,
    callback: BaseCallback | Sequence[BaseCallback] | None = None,
    *,
    algorithm: type[OffPolicyAlgorithm] | None = None,
    device: th.device | str | None = None,
) -> OffPolicyAlgorithm:
    """Go on with a training from its newest checkpoint to its original end, as if it had never stopped.

    Parameters, moments, evaluations and logs are those of a training that was never stopped, bit for bit, with the same
    versions of packages, on the same kind of processor. Logs, ``monitor.csv`` and evaluations are taken back to the
    checkpoint first: nothing is lost, and nothing is there twice.

    :param folder: that of the ``TrainingCheckpointCallback``
    :param env: the environment, with the same wrappers; None (default): made as it was, from Gymnasium's registry
    :param callback: the callbacks, in the same order, with or without the ``TrainingCheckpointCallback``; None
        (default): made as they were, if their classes are known
    :param algorithm: the class of the model; None (default): that of the checkpoint, if it is of this package or of
        Stable-Baselines3
    :param device: where the networks live; None (default): where they did
    :return: the model at the end of the training; if that had ended, nothing is trained
    :raises ModelFileError: if there is no checkpoint, or none that is whole
    :raises ValueError: if the environment or callbacks must be passed or do not fit, or if another process still trains
    """
    with restored(folder, env, callback, algorithm=algorithm, device=device) as resumed:
        resumed.go_on()
    return resumed.model


@contextmanager
def restored(
    folder: str | os.PathLike[str],
    env: GymEnv | None = None,
    callback: BaseCallback | Sequence[BaseCallback] | None = None,
    *,
    algorithm: type[OffPolicyAlgorithm] | None = None,
    device: th.device | str | None = None,
) -> Iterator[Resumed]:
    """The model of a checkpoint, and a function that trains it to the end; parameters are as for ``resume``.

    :param folder: as for ``resume``
    :param env: as for ``resume``
    :param callback: as for ``resume``
    :param algorithm: as for ``resume``
    :param device: as for ``resume``
    """
    checkpoints = CheckpointFolder(folder)
    if not checkpoints.numbers():
        raise ModelFileError(f"{folder}: there is no checkpoint in this folder")
    with checkpoints.locked():
        yield _restored(checkpoints, env, callback, algorithm, device)


def _restored(
    checkpoints: CheckpointFolder,
    env: GymEnv | None,
    callback: BaseCallback | Sequence[BaseCallback] | None,
    algorithm: type[OffPolicyAlgorithm] | None,
    device: th.device | str | None,
) -> Resumed:
    state = checkpoints.read()
    recipe, learn = state["recipe"], state["learn"]
    if algorithm is None:
        algorithm = _algorithm(recipe["algorithm"])
    if th.get_num_threads() != recipe["threads"]:
        th.set_num_threads(recipe["threads"])  # sums of more or fewer parts are not the same
    env = make_environments(recipe["environments"]) if env is None else env
    _warn_of_other_versions(recipe["versions"])
    if not TEMPLATE.fullmatch(recipe["template"]):
        raise ModelFileError(f"{checkpoints.path}: the checkpoint names {recipe['template']!r} as its model")
    if not recipe["template"].endswith(".safetensors"):
        check_trusted(None, str(checkpoints.path / recipe["template"]))
    model = cast(Any, algorithm).load(
        checkpoints.path / recipe["template"],
        env=env,
        device=recipe["device"] if device is None else device,
        force_reset=False,
    )
    check_networks(model, state)
    restore_buffer(model.replay_buffer, state["buffer"], checkpoints.path)
    if learn["finished"]:
        set_training_state(model, None, state)
        return Resumed(model, lambda: None, None)
    if state["problem"] is not None:
        warnings.warn(
            f"the training begins a new episode and is no longer the same bit for bit, since {state['problem']}",
            stacklevel=5,
        )
    callbacks = _callbacks(checkpoints, recipe["callbacks"], callback)
    own = next(each for each in _flat(callbacks) if isinstance(each, TrainingCheckpointCallback))
    own.restore_at_start(checkpoints, state)
    set_model_attributes(model, state)
    model.set_logger(make_logger(state["logger"]))

    def go_on() -> None:
        model.learn(
            learn["total_timesteps"] - model.num_timesteps,
            callbacks,
            reset_num_timesteps=False,
            **{name: learn[name] for name in ("log_interval", "tb_log_name", "progress_bar")},
        )

    return Resumed(model, go_on, own)


def _callbacks(
    checkpoints: CheckpointFolder, recipes: list[Any], given: BaseCallback | Sequence[BaseCallback] | None
) -> list[BaseCallback]:
    """All callbacks, with the one that writes checkpoints where it was."""
    if given is None:
        return make_callbacks(recipes)
    callbacks = [given] if isinstance(given, BaseCallback) else list(given)
    own = [callback for callback in _flat(callbacks) if isinstance(callback, TrainingCheckpointCallback)]
    for callback in own:
        if not (callback.folder.exists() and callback.folder.samefile(checkpoints.path)):
            raise ValueError(
                f"callback: a TrainingCheckpointCallback has folder={str(callback.folder)!r}, and the training to go "
                f"on with is in {str(checkpoints.path)!r}: it must be the same"
            )
    if not own:
        names = [recipe["class"] for recipe in recipes]
        place = names.index(TrainingCheckpointCallback.__name__)
        callbacks.insert(place, *make_callbacks([recipes[place]]))
    return callbacks


def _flat(callbacks: Sequence[BaseCallback]) -> list[BaseCallback]:
    flat: list[BaseCallback] = []
    for callback in callbacks:
        flat += _flat(callback.callbacks) if isinstance(callback, CallbackList) else [callback]
    return flat


def _algorithm(name: str) -> type[OffPolicyAlgorithm]:
    module, _, class_name = name.rpartition(".")
    if module.partition(".")[0] not in PACKAGES:
        raise ValueError(f"the checkpoint is of {name}, which is not of this package: pass algorithm={class_name}")
    found = getattr(importlib.import_module(module), class_name, None)
    if not (isinstance(found, type) and issubclass(found, OffPolicyAlgorithm)):
        raise ModelFileError(f"the checkpoint is of {name}, which is no algorithm")
    return found


def _warn_of_other_versions(saved: dict[str, str]) -> None:
    now = versions()
    others = [
        f"{name} {saved[name]}, now {now[name]}" for name in saved.keys() & now.keys() if saved[name] != now[name]
    ]
    if others:
        warnings.warn(
            f"the checkpoint is of other versions ({'; '.join(sorted(others))}): the training goes on, but may not be "
            "the same bit for bit",
            stacklevel=6,
        )
