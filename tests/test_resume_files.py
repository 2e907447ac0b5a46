"""Checkpoints while their surroundings change: states that move on, logs that go, copies of a folder."""

import shutil
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import differing
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from test_resume import close, contents, cut_off, model_of, resumed, state_of

from sb3_rlx2 import RLx2TD3, TrainingCheckpointCallback
from sb3_rlx2.resume import register_environment
from sb3_rlx2.resume.checkpoint_folder import CheckpointFolder


class Grid(gym.Env):
    """Its state changes in place."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self):
        self.grid = np.zeros(100)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.grid += 1.0
        return np.zeros(2, np.float32), 0.0, False, False, {}


def put_back(env, state):
    env.grid = state["grid"]


class Counting(BaseCallback):
    """Its state is a list that grows."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def get_state(self):
        return {"steps": self.steps}

    def set_state(self, state):
        self.steps = state["steps"]

    def _on_step(self):
        self.steps.append(self.num_timesteps)
        return True


def test_states_are_those_of_the_checkpoint_however_they_go_on(tmp_path, monkeypatch):
    register_environment(Grid, lambda env: {"grid": env.grid}, put_back)
    write, written = CheckpointFolder.write, []

    def slowly(folder, number, state, rows, keep):
        if number:
            model.env.envs[0].unwrapped.grid += 1000.0  # training goes on before anything is written
            counting.steps.append(-1)
        write(folder, number, state, rows, keep)
        saved = folder.read()
        states = [layer["state"] for env in saved["environments"]["environments"] for layer in env["layers"]]
        grids = [state["grid"] for state in states if "grid" in state]
        lists = [each["state"]["steps"] for each in saved["callbacks"].values() if "steps" in each["state"]]
        written.append((float(grids[0][0]), len(lists[0])))

    monkeypatch.setattr(CheckpointFolder, "write", slowly)
    model, counting = model_of(RLx2TD3, Grid(), engine="torch", learning_starts=1000), Counting()
    model.learn(90, [counting, TrainingCheckpointCallback(tmp_path / "checkpoints", every=30)])
    assert written[:3] == [(0.0, 0), (30.0, 30), (1060.0, 61)]


def logged(folder):
    env = make_vec_env("Pendulum-v1", 1, seed=0, monitor_dir=str(folder))
    model = model_of(RLx2TD3, env)
    model.set_logger(configure(str(folder), ["csv", "tensorboard"]))
    return model


@pytest.mark.parametrize("gone", ["0.monitor.csv", "progress.csv", "events"])
def test_a_log_that_is_removed_stops_neither_the_training_nor_its_checkpoints(gone, tmp_path):
    class Remove(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 250:
                for path in (tmp_path / "logs").glob(f"{gone}*"):
                    path.unlink()
            return True

    model = logged(tmp_path / "logs")
    own = TrainingCheckpointCallback(tmp_path / "checkpoints", every=60)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TrainingCheckpointCallback: Remove")
        model.learn(600, [own, Remove()], log_interval=1)
    close(model)
    assert CheckpointFolder(tmp_path / "checkpoints").read()["learn"]["finished"]


def test_a_model_file_that_cannot_be_written_is_a_checkpoint_less(tmp_path, monkeypatch):
    save = RLx2TD3.save

    def full(model, path, *args):
        if "model-" in str(path):
            raise OSError(28, "No space left on device")
        save(model, path, *args)

    class NewSchedule(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 100:
                self.model.lr_schedule = self.model.learning_rate = lambda remaining: 1e-4
            return True

    monkeypatch.setattr(RLx2TD3, "save", full)
    model = model_of(RLx2TD3)
    with pytest.warns(UserWarning, match=r"the checkpoint at step 1[25]0 could not be written .*No space left"):
        model.learn(150, [TrainingCheckpointCallback(tmp_path / "checkpoints", every=60), NewSchedule()])
    assert model.num_timesteps == 150


def test_a_copy_of_the_checkpoints_alone_leaves_the_logs_of_the_other_training_whole(tmp_path):
    folder = tmp_path / "run"
    model = logged(folder)
    cut_off(model, folder / "checkpoints", steps=660, cut=430, log_interval=1)
    close(model)
    shutil.copytree(folder / "checkpoints", tmp_path / "copy" / "checkpoints")
    whole = resumed(folder / "checkpoints", callback=[])
    expected = state_of(whole)
    close(whole)
    left = contents(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is not there any more: it is made again")
        copy = resumed(tmp_path / "copy" / "checkpoints", callback=[])
    assert differing(expected, state_of(copy)) == []
    close(copy)
    assert contents(folder) == left
    for name in ("progress.csv", "0.monitor.csv"):
        rows = [(place / name).read_text().splitlines() for place in (folder, tmp_path / "copy")]
        assert len(rows[0]) == len(rows[1]) > 3


def test_a_log_that_two_copies_share_is_named(tmp_path):
    model = model_of(RLx2TD3)
    model.set_logger(configure(str(tmp_path / "logs"), ["csv"]))
    cut_off(model, tmp_path / "run" / "checkpoints", steps=440, cut=430, log_interval=1)
    close(model)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with pytest.warns(
        UserWarning, match=r"progress.csv belongs to the training in .*run/checkpoints too, of which this"
    ):
        close(resumed(tmp_path / "copy" / "checkpoints", callback=[]))
