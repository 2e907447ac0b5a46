"""rlx2 convert writes files without pickle from those of Stable-Baselines3, and back."""

import pickle

import numpy as np
import pytest
import torch as th
from helpers import ALL, environment, quick
from stable_baselines3 import TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2 import RLx2TD3
from sb3_rlx2.common.saving.converting import convert
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.zoo.command_line import main


@pytest.fixture(scope="module")
def model():
    model = RLx2TD3("MlpPolicy", VecNormalize(make_vec_env("Pendulum-v1", 1)), **quick())
    model.learn(100)
    return model


@pytest.mark.parametrize("algorithm", ALL)
def test_a_model_is_the_same_after_two_conversions(algorithm, tmp_path, capsys):
    model = algorithm("MlpPolicy", environment(algorithm), **quick())
    model.learn(120)
    model.save(tmp_path / "a.zip")
    assert main(["convert", str(tmp_path / "a.zip"), str(tmp_path / "b.safetensors")]) == 0
    assert main(["convert", str(tmp_path / "b.safetensors"), str(tmp_path / "c.zip")]) == 0
    assert "c.zip: model, " in capsys.readouterr().out
    first, second, third = (algorithm.load(tmp_path / name) for name in ("a.zip", "b.safetensors", "c.zip"))
    for other in (second, third):
        assert vars(other).keys() == vars(first).keys()
        for name in ("topology_counters", "policy_kwargs", "train_freq", "num_timesteps", "seed"):
            assert getattr(other, name) == getattr(first, name)
        for one, another in zip(first.policy.state_dict().values(), other.policy.state_dict().values(), strict=True):
            assert th.equal(one, another)


def test_a_model_of_stable_baselines3_is_converted_back_for_it(tmp_path):
    model = TD3("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [16]}, buffer_size=10)
    model.save(tmp_path / "a.zip")
    convert(tmp_path / "a.zip", tmp_path / "b.safetensors")
    convert(tmp_path / "b.safetensors", tmp_path / "c.zip")
    observation = model.observation_space.sample()
    action = TD3.load(tmp_path / "c.zip").predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(action, model.predict(observation, deterministic=True)[0])


def test_a_buffer_is_the_same_after_two_conversions(model, tmp_path):
    model.save_replay_buffer(tmp_path / "a.pkl")
    assert convert(tmp_path / "a.pkl", tmp_path / "b.safetensors") == "replay buffer"
    assert convert(tmp_path / "b.safetensors", tmp_path / "c.pkl") == "replay buffer"
    samples = []
    for name in ("a.pkl", "b.safetensors", "c.pkl"):
        model.load_replay_buffer(tmp_path / name)
        np.random.seed(0)
        samples.append(model.replay_buffer.sample(50))
    for other in samples[1:]:
        assert all(map(th.equal, samples[0][:5], other[:5]))


def test_statistics_are_the_same_after_two_conversions(model, tmp_path):
    env = model.get_vec_normalize_env()
    env.save(str(tmp_path / "a.pkl"))
    assert convert(tmp_path / "a.pkl", tmp_path / "b.safetensors") == "VecNormalize"
    assert convert(tmp_path / "b.safetensors", tmp_path / "c.pkl") == "VecNormalize"
    loaded = VecNormalize.load(str(tmp_path / "c.pkl"), make_vec_env("Pendulum-v1", 2))
    assert repr(vars(loaded.obs_rms)) == repr(vars(env.obs_rms))
    assert repr(vars(loaded.ret_rms)) == repr(vars(env.ret_rms))


@pytest.mark.parametrize("name", ["a.zip", "a.pkl"])
def test_what_is_not_trusted_is_not_converted(name, model, tmp_path, capsys):
    (model.save if name == "a.zip" else model.save_replay_buffer)(tmp_path / name)
    assert main(["convert", "--not-trusted", str(tmp_path / name), str(tmp_path / "b.safetensors")]) == 2
    assert "is not trusted" in capsys.readouterr().err
    assert not (tmp_path / "b.safetensors").exists()


def test_what_is_nothing_to_convert_is_told_in_one_line(model, tmp_path):
    (tmp_path / "text").write_text("text")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1]))
    model.save(tmp_path / "model.zip")
    for source, target, message in [
        ("text", "b.safetensors", "holds no model, replay buffer or VecNormalize, or was cut short"),
        ("list.pkl", "b.safetensors", "holds a list, no model, replay buffer or VecNormalize"),
        ("model.zip", "b.pkl", "a model is written to a file that ends in .safetensors or .zip"),
    ]:
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / source, tmp_path / target)
        assert not (tmp_path / target).exists()
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "missing", tmp_path / "b.zip")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "model.zip").read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="cut short"):
        convert(tmp_path / "cut.zip", tmp_path / "b.safetensors")
