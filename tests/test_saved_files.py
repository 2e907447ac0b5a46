"""Files of every version are loaded by this one, and those of a newer format say so."""

import json
import pickle
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from helpers import ALGORITHMS
from stable_baselines3.common.env_util import make_vec_env

import sb3_rlx2
from sb3_rlx2 import RLx2TD3, TopologyHistory
from sb3_rlx2.common import buffers
from sb3_rlx2.common.saving import model_files, replay_buffers, vec_normalize
from sb3_rlx2.common.saving.vec_normalize import load_vec_normalize, save_vec_normalize
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.files import states

FOLDER = Path(__file__).parent / "saved_files"
FILES = sorted(path for path in FOLDER.glob("*/*") if path.suffix != ".json")
OBSERVATIONS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def expected(path):
    return json.loads((path.parent / "expected.json").read_text())


def files(stem):
    """Files of a name; pickles of NumPy 2 are not for NumPy 1."""
    return [
        pytest.param(path, id=f"{path.parent.name}/{path.name}")
        for path in FILES
        if path.stem == stem and not (path.suffix in (".zip", ".pkl") and version("numpy") < "2")
    ]


def test_there_are_files_of_each_kind_for_each_algorithm():
    for folder in FOLDER.iterdir():
        if folder.is_dir():
            names = {path.name for path in folder.iterdir()}
            stems = [name[: -len(".zip")] for name in names if name.endswith(".zip")]
            assert {"RLx2TD3", "RLx2SAC", "RLx2DDPG", "RLx2TQC", "RLx2CrossQ"} <= set(stems)
            assert names >= {f"{stem}.safetensors" for stem in [*stems, "buffer", "statistics"]}
            assert names >= {"buffer.pkl", "statistics.pkl", "history.npz", "expected.json"}
    assert sum(path.stat().st_size for path in FOLDER.glob("*/*")) < 350_000


@pytest.mark.parametrize(
    ("algorithm", "path"),
    [(algorithm, path.values[0]) for algorithm in ALGORITHMS for path in files(algorithm.__name__)],
    ids=lambda value: f"{value.parent.name}/{value.name}" if isinstance(value, Path) else "",
)
def test_models_of_every_version_predict_what_they_did_and_go_on(algorithm, path):
    trusted = path.suffix != ".safetensors"
    model = algorithm.load(path, make_vec_env("Pendulum-v1"), trusted=trusted)
    actions, _ = model.predict(OBSERVATIONS, deterministic=True)
    np.testing.assert_allclose(actions, expected(path)[algorithm.__name__], rtol=1e-4, atol=1e-5)
    assert model.topology_counters["critic"] == {"updates": 60, "evolutions": 5}
    model.learn(30, reset_num_timesteps=False)
    assert model._n_updates == 90


@pytest.mark.parametrize("path", files("buffer"))
def test_replay_buffers_of_every_version_hold_what_they_did(path):
    model = RLx2TD3.load(path.with_name("RLx2TD3.safetensors"), make_vec_env("Pendulum-v1"))
    model.load_replay_buffer(path, trusted=path.suffix != ".safetensors")
    buffer = model.replay_buffer
    np.testing.assert_array_equal(buffer.rewards[buffer.rows_held()], np.float32(expected(path)["rewards"]))
    assert buffer.buffer_size == 60


@pytest.mark.parametrize("path", files("statistics"))
def test_statistics_of_every_version_are_what_they_were(path):
    env = load_vec_normalize(path, make_vec_env("Pendulum-v1"), trusted=path.suffix != ".safetensors")
    np.testing.assert_array_equal(env.obs_rms.mean, expected(path)["mean"])


@pytest.mark.parametrize("path", files("history"))
def test_histories_of_every_version_are_read(path):
    assert len(TopologyHistory.load(path).networks["actor"].steps) > 0


def test_a_newer_format_says_so(tmp_path, monkeypatch):
    model = RLx2TD3.load(FOLDER / "0.1.0" / "RLx2TD3.safetensors", make_vec_env("Pendulum-v1"))
    env = load_vec_normalize(FOLDER / "0.1.0" / "statistics.safetensors", make_vec_env("Pendulum-v1"))
    history = TopologyHistory.load(FOLDER / "0.1.0" / "history.npz")
    with monkeypatch.context() as newer:
        newer.setattr(model, "checkpoint_format", 2)
        for module in (model_files, replay_buffers, vec_normalize, sb3_rlx2.analysis.topology_history):
            newer.setattr(module, "CHECKPOINT_FORMAT" if module is model_files else "FORMAT", 2)
        newer.setattr(buffers, "BUFFER_FORMAT", 2)
        model.save(tmp_path / "model.zip")
        model.save(tmp_path / "model.safetensors")
        model.save_replay_buffer(tmp_path / "buffer.pkl")
        model.save_replay_buffer(tmp_path / "buffer.safetensors")
        save_vec_normalize(env, tmp_path / "statistics.safetensors")
        history.save(tmp_path / "history.npz")
    loads = {
        "model.zip": RLx2TD3.load,
        "model.safetensors": RLx2TD3.load,
        "buffer.pkl": model.load_replay_buffer,
        "buffer.safetensors": model.load_replay_buffer,
        "statistics.safetensors": lambda path: load_vec_normalize(path, make_vec_env("Pendulum-v1")),
        "history.npz": TopologyHistory.load,
    }
    for name, load in loads.items():
        with pytest.raises(ValueError, match=rf"{name}.* format 2.*: update sb3-rlx2"):
            load(tmp_path / name)
    with monkeypatch.context() as newer:
        newer.setattr(states, "STATE_FORMAT", 2)
        model.save(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"model.safetensors.* format '2'.*: update sb3-rlx2"):
        RLx2TD3.load(tmp_path / "model.safetensors")


def test_a_buffer_that_was_pickled_before_there_was_a_format_is_loaded(tmp_path):
    model = RLx2TD3.load(FOLDER / "0.1.0" / "RLx2TD3.safetensors", make_vec_env("Pendulum-v1"))
    state = model.replay_buffer.__getstate__()
    del state["buffer_format"]
    copied = buffers.DynamicReplayBuffer.__new__(buffers.DynamicReplayBuffer)
    copied.__setstate__(state)
    assert vars(copied).keys() == vars(model.replay_buffer).keys()
    (tmp_path / "buffer.pkl").write_bytes(pickle.dumps(copied))
    model.load_replay_buffer(tmp_path / "buffer.pkl")
