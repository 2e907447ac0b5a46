"""Saves a whole training at an interval."""

from __future__ import annotations

import functools
import io
import os
import re
import sys
import threading
import time
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.common.saving.algorithm import SavedAlgorithm
from sb3_rlx2.files import replacing
from sb3_rlx2.resume.buffer_segments import BufferSegments, unsaved_attributes
from sb3_rlx2.resume.callback_states import refuse_callbacks_with_threads, unknown_attributes
from sb3_rlx2.resume.checkpoint_folder import CheckpointFolder
from sb3_rlx2.resume.environments import vectorized_problem
from sb3_rlx2.resume.recipes import recipe_of_callbacks, recipe_of_environments, register_callback
from sb3_rlx2.resume.training_state import log_entries, set_training_state, training_state
from sb3_rlx2.sparse.checks import check_count

TEMPLATE = re.compile(r"model(-\d+)?\.(safetensors|zip)")
"""Names of files with the settings of the model, without pickle if that is possible."""

PACKAGES = ("sb3-rlx2", "torch", "numpy", "numba", "stable-baselines3", "gymnasium", "mujoco")
"""Those whose versions decide about the last bit."""


class TrainingCheckpointCallback(BaseCallback):
    """Save the whole training every so many environment steps, so that ``resume`` goes on as if nothing had happened.

    A checkpoint has networks, moments, counters, replay buffer, schedules, random states, environments in the midst of
    their episodes, callbacks and logs. It is taken between two rollouts, the first one before the first step. Files are
    written by a thread of its own while training goes on; of the replay buffer only what is new. If a checkpoint cannot
    be written (a full disk), a warning says so, training goes on, and those before stay.

    It works with RLx2's algorithms and with stock SB3 ``TD3``, ``DDPG`` and ``SAC``. Pass it in the list of callbacks
    itself, not inside of another callback.

    :param folder: where checkpoints go, for one training
    :param every: environment steps between two checkpoints
    :param keep: how many checkpoints to keep, default 2, so that a damaged one is not the only one
    :param verbose: 1 prints a line for each checkpoint, default 0
    :raises ValueError: if an argument is out of range, or the folder has checkpoints of another training
    """

    def __init__(self, folder: str | os.PathLike[str], every: int, keep: int = 2, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.folder = Path(folder)
        self.every = check_count(every, "every", 1)
        self.keep = check_count(keep, "keep", 1)
        self.seconds_stopped = 0.0
        self._checkpoints = CheckpointFolder(self.folder)
        self._segments = BufferSegments(self.folder)
        self._failed: Exception | None = None
        self._to_restore: dict[str, Any] | None = None
        self._number = self._saved_at = -1
        self._problem: str | None = None
        self._template = ""
        self._in_template: list[Any] = []

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback."""
        return {"saved_at": self._saved_at}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what ``get_state`` returned.

        :param state: what it returned
        """
        self._saved_at = state["saved_at"]

    @property
    def is_waiting_to_restore(self) -> bool:
        """Whether a checkpoint is to be put back that has not been yet."""
        return self._to_restore is not None

    def restore_at_start(self, checkpoints: CheckpointFolder, state: dict[str, Any]) -> None:
        """Let the next ``learn`` begin with a checkpoint.

        :param checkpoints: the folder
        :param state: what its ``read`` returned
        """
        self.folder, self._checkpoints, self._to_restore = checkpoints.path, checkpoints, state
        self._segments = BufferSegments(checkpoints.path)

    # --- moments ---

    def _init_callback(self) -> None:
        if not isinstance(self.model, OffPolicyAlgorithm):
            raise ValueError(f"{type(self).__name__} works with off-policy algorithms, not {type(self.model).__name__}")
        if self._number < 0 and self._to_restore is None and self._checkpoints.numbers():
            raise ValueError(
                f"folder={str(self.folder)!r} has checkpoints of another training: sb3_rlx2.resume.resume(folder) goes "
                "on with it. Give another folder, or remove it"
            )
        self._checkpoints.lock()

    @property
    def _off_policy(self) -> OffPolicyAlgorithm:
        assert isinstance(self.model, OffPolicyAlgorithm)
        return self.model

    def _on_training_start(self) -> None:
        if "callback" not in self.locals:
            raise ValueError(f"{type(self).__name__} must be in the list of callbacks itself")
        if self._to_restore is not None:
            self._problem = self._to_restore["problem"]
            return
        self._saved_at = -1  # a checkpoint of this learn() before anything can happen to it
        self._problem = vectorized_problem(self.training_env)
        if self._problem is not None:
            warnings.warn(
                f"{type(self).__name__}: the state of the environment cannot be saved, since {self._problem}. A "
                "resumed training begins a new episode, and is then no longer the same bit for bit; see "
                "sb3_rlx2.resume.register_environment",
                stacklevel=2,
            )
        buffer = self._off_policy.replay_buffer
        if isinstance(buffer, HerReplayBuffer) and buffer.copy_info_dict:
            warnings.warn(
                f"{type(self).__name__}: infos that a HerReplayBuffer copies (copy_info_dict=True) are not saved: "
                "those of earlier transitions are empty once a training is resumed",
                stacklevel=2,
            )
        if unsaved := unsaved_attributes(buffer):
            warnings.warn(
                f"{type(self).__name__}: {', '.join(unsaved)}: a replay buffer begins anew with these when a training "
                "is resumed. Numbers, text, arrays and lists of them are saved",
                stacklevel=2,
            )
        refuse_callbacks_with_threads(self.locals["callback"])
        unknown = unknown_attributes(self.locals["callback"], self._off_policy)
        if unknown:
            warnings.warn(
                f"{type(self).__name__}: {', '.join(unknown)}: callbacks start afresh with these when a training is "
                "resumed, unless they have get_state() and set_state(state)",
                stacklevel=2,
            )

    def _on_rollout_start(self) -> None:
        if self._to_restore is not None:
            self._restore(self._to_restore)
            self._to_restore = None
        elif self._saved_at < 0 or self._saved_at // self.every < self.model.num_timesteps // self.every:
            self._save(finished=False)

    def _on_step(self) -> bool:
        if self._number < 0:
            raise ValueError(f"{type(self).__name__} must be in the list of callbacks itself, not inside of another")
        return True

    def _on_training_end(self) -> None:
        if _is_called_by_learn(self._off_policy):
            self._save(finished=True)
        self.wait()
        self._checkpoints.unlock()

    # --- saving ---

    def _save(self, finished: bool) -> None:
        began = time.perf_counter()
        self.wait()
        model = self._off_policy
        self._number, self._saved_at = self._number + 1, model.num_timesteps
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            is_there = self._template and (self.folder / self._template).is_file()
            if not is_there or not all(map(_is_same, self._in_template, _settings(model))):
                name = f"model-{self._number}" if self._number else "model"
                self._template = _save_template(model, self.folder, name)
                self._in_template = _settings(model)
            self._begin_to_write(finished)
        except BaseException as error:
            self._segments.forget()  # what was collected may not be written
            # A folder in which nothing can be written is known before the first step
            if self._number == 0 or not isinstance(error, OSError):
                raise
            self._warn_of(error)
        if self._number == 0:
            self.wait()  # what cannot be saved is known before the first step
        self.seconds_stopped = time.perf_counter() - began

    def _begin_to_write(self, finished: bool) -> None:
        model, root = self._off_policy, self.locals["callback"]
        assert model.replay_buffer is not None
        state = training_state(model, root)
        state["buffer"], rows = self._segments.collect(model.replay_buffer, model.num_timesteps)
        for entry in log_entries(state):
            self._checkpoints.logs.note(entry)
        state["learn"] = {
            "finished": finished,
            "total_timesteps": self.locals["total_timesteps"],
            **{name: self.locals[name] for name in ("log_interval", "tb_log_name", "progress_bar")},
        }
        state["problem"] = self._problem
        state["recipe"] = {
            "template": self._template,
            "versions": versions(),
            "algorithm": f"{type(model).__module__}.{type(model).__qualname__}",
            "device": str(model.device),
            "threads": th.get_num_threads(),
            "custom_logger": model._custom_logger,
            "environments": recipe_of_environments(self.training_env),
            "callbacks": recipe_of_callbacks(root),
        }
        # It must end even if the program does not wait
        self._checkpoints.writer = threading.Thread(target=self._write, args=(self._number, state, rows), daemon=False)
        self._checkpoints.writer.start()

    def _write(self, number: int, state: dict[str, Any], rows: dict[str, Any]) -> None:
        try:
            self._checkpoints.write(number, state, rows, self.keep)
        except Exception as error:
            self._failed = error

    def wait(self) -> None:
        """Wait until the newest checkpoint is written. A warning says if it could not be."""
        writer, self._checkpoints.writer = self._checkpoints.writer, None
        if writer is None or writer.ident is None:  # none, or Ctrl-C came before it was started
            return
        try:
            writer.join()
        except BaseException:
            self._checkpoints.writer = writer
            raise
        failed, self._failed = self._failed, None
        if failed is not None:
            self._segments.forget()
            if not isinstance(failed, OSError):
                raise failed
            self._warn_of(failed)
        elif self.verbose >= 1:
            print(f"Checkpoint at step {self._saved_at}: {self._checkpoints.file(self._number)}")

    def _warn_of(self, error: OSError) -> None:
        warnings.warn(
            f"the checkpoint at step {self._saved_at} could not be written ({error}): those before it stay",
            stacklevel=3,
        )

    # --- restoring ---

    def _restore(self, state: dict[str, Any]) -> None:
        model, root = self._off_policy, self.locals["callback"]
        set_training_state(model, root, state, is_exact=self._problem is None)
        model._custom_logger = state["recipe"]["custom_logger"]
        self._number, self._template = state["number"], state["recipe"]["template"]
        self._in_template = _settings(model)
        assert model.replay_buffer is not None
        self._segments.go_on_from(model.replay_buffer, state["buffer"], model.num_timesteps)
        self._checkpoints.logs.go_on_from(log_entries(state))


def _is_called_by_learn(model: OffPolicyAlgorithm) -> bool:
    """Whether ``learn`` has come to its end: the zoo tells its callbacks so after Ctrl-C or an error, too."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is OffPolicyAlgorithm.learn.__code__ and frame.f_locals.get("self") is model:
            return True
        frame = frame.f_back
    return False


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide about the last bit."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _settings(model: OffPolicyAlgorithm) -> list[Any]:
    """What a model file keeps, may change between two checkpoints, and is no plain data."""
    return [model, model.lr_schedule, model.learning_rate, model.train_freq]


def _is_same(before: Any, now: Any) -> bool:
    return before is now or (isinstance(before, (int, float, tuple)) and before == now)


def _save_template(model: OffPolicyAlgorithm, folder: Path, name: str) -> str:
    without_pickle, with_pickle = f"{name}.safetensors", f"{name}.zip"
    if isinstance(model, SavedAlgorithm):
        with suppress(ValueError):  # a class or function that is known by no name, such as a lambda
            model.save(folder / without_pickle)
            return without_pickle
    with replacing(folder / with_pickle) as file:
        model.save(cast(io.BufferedIOBase, file))
    return with_pickle


register_callback(TrainingCheckpointCallback, dict.fromkeys(("folder", "every", "keep", "verbose")))
