"""Whatever the package writes, a full disk or a kill leaves the file that was there, and nothing else."""

import errno
import os
import random
import signal
import time

import numpy as np
import pytest
from helpers import ALL, environment, quick
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2 import RLx2TD3, TopologyHistoryCallback
from sb3_rlx2.common.saving.vec_normalize import save_vec_normalize


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    env = VecNormalize(make_vec_env("Pendulum-v1", 1))
    model = RLx2TD3("MlpPolicy", env, **quick(buffer_size=100_000))
    recording = TopologyHistoryCallback(tmp_path_factory.mktemp("history") / "history.npz")
    model.learn(100, recording)
    return model, recording.history


def draw(_model, _history, path):
    plots = pytest.importorskip("sb3_rlx2.analysis.plots.style")
    plots.save(pytest.importorskip("matplotlib.figure").Figure(), path.with_suffix(""), [path.suffix[1:]])


WRITERS = {
    "model.zip": lambda model, _, path: model.save(path),
    "model.safetensors": lambda model, _, path: model.save(path),
    "buffer.pkl": lambda model, _, path: model.save_replay_buffer(path),
    "buffer.safetensors": lambda model, _, path: model.save_replay_buffer(path),
    "statistics.pkl": lambda model, _, path: save_vec_normalize(model.get_vec_normalize_env(), path),
    "statistics.safetensors": lambda model, _, path: save_vec_normalize(model.get_vec_normalize_env(), path),
    "history.npz": lambda _, history, path: history.save(path),
    "picture.png": draw,
    "picture.svg": draw,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_file_that_was_there_and_nothing_else(name, trained, tmp_path, monkeypatch):
    path = tmp_path / name
    WRITERS[name](*trained, path)
    before = path.read_bytes()
    np.random.seed(0)

    def is_full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", is_full)
    for target in (path, tmp_path / f"new{path.suffix}"):
        with pytest.raises(OSError, match="No space left"):
            WRITERS[name](*trained, target)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["model.zip", "model.safetensors", "buffer.pkl", "buffer.safetensors"])
def test_killed_in_a_save_the_file_loads(name, trained, tmp_path):
    path = tmp_path / name
    WRITERS[name](*trained, path)
    model, wait = trained[0], random.Random(0)
    left = kills = 0
    while kills < 10 or (left == 0 and kills < 500):  # a child on a slow machine may not have begun to save
        kills += 1
        child = os.fork()
        if child == 0:
            try:
                while True:
                    WRITERS[name](*trained, path)
            finally:
                os._exit(1)
        time.sleep(wait.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        left += len(os.listdir(tmp_path)) - 1
        if name.startswith("model"):
            assert RLx2TD3.load(path, buffer_size=1).num_timesteps == model.num_timesteps
        else:
            model.load_replay_buffer(path)
    assert left > 0  # some were in the middle of a save
    WRITERS[name](*trained, path)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("algorithm", ALL)
def test_names_and_folders_are_those_of_stable_baselines3(algorithm, tmp_path):
    model = algorithm("MlpPolicy", environment(algorithm), **quick())
    with pytest.warns(UserWarning, match="does not exist. Will create it"):
        model.save(tmp_path / "new" / "model")
    (tmp_path / "new" / "folder.zip").mkdir()
    with pytest.warns(UserWarning, match="is a folder"):
        model.save(tmp_path / "new" / "folder")
    model.save(str(tmp_path / "new" / "model.v2"))
    model.save_replay_buffer(tmp_path / "new" / "buffer")
    assert sorted(os.listdir(tmp_path / "new")) == ["buffer.pkl", "folder.zip", "folder.zip_2", "model.v2", "model.zip"]
