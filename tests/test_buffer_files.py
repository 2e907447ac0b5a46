"""Replay buffers that do not fit the model, or are damaged: said on load and before learning, and nothing is lost."""

import copy
import pickle
import re

import numpy as np
import pytest
from gymnasium import spaces
from helpers import ALGORITHMS, Still, quick
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv

from sb3_rlx2 import DynamicReplayBuffer, RLx2SAC, RLx2TD3
from sb3_rlx2.errors import ModelFileError

ROWS = 200


def model_for(algorithm=RLx2TD3, env="Pendulum-v1", **kwargs):
    return algorithm("MlpPolicy", env, **quick(buffer_size=ROWS, **kwargs))


def is_refused(model, buffer, path, message):
    """Whether the model says what is wrong with a buffer and in which file, and keeps its own."""
    path.write_bytes(pickle.dumps(buffer))
    own = model.replay_buffer
    with pytest.raises(ModelFileError, match=rf"{re.escape(str(path))}: the replay buffer .*{message}") as caught:
        model.load_replay_buffer(path)
    assert "\n" not in str(caught.value)
    return model.replay_buffer is own


def setting(**values):
    return lambda buffer: vars(buffer).update(values)


def changed(name, change):
    return lambda buffer: setattr(buffer, name, change(getattr(buffer, name)))


DAMAGES = [
    (setting(pos=10**9), rf"pos=1000000000: it must be in 0 <= pos < {ROWS}, its rows"),
    (setting(pos=ROWS), f"pos={ROWS}"),
    (setting(pos=-1), "pos=-1"),
    (setting(pos=3.5), r"pos=3\.5"),
    (setting(pos=True), "pos=True"),
    (setting(full="yes"), "full='yes': it must be True or False"),
    (setting(full=2), "full=2"),
    (setting(_forgotten_rows=81), "81 forgotten rows: they must be among the 80 that it has stored"),
    (setting(_forgotten_rows=-1), "-1 forgotten rows"),
    (setting(full=True, _forgotten_rows=ROWS + 1), rf"{ROWS + 1} forgotten rows"),
    (setting(buffer_size=ROWS + 1), rf"observations of shape \({ROWS}, 1, 3\), expected \({ROWS + 1}, 1, 3\)"),
    (setting(buffer_size="many"), "buffer_size='many'"),
    (setting(buffer_size=0), "buffer_size=0"),
    (setting(n_envs=2), "is for n_envs=2, and the model has n_envs=1"),
    (changed("observations", lambda a: a[:-1]), r"observations of shape \(199, 1, 3\)"),
    (changed("next_observations", lambda a: a[..., :2]), r"next_observations of shape \(200, 1, 2\)"),
    (changed("actions", lambda a: a[:, 0]), r"actions of shape \(200, 1\), expected \(200, 1, 1\)"),
    (changed("rewards", lambda a: a[:10]), r"rewards of shape \(10, 1\), expected \(200, 1\)"),
    (changed("dones", lambda a: a.astype(complex)), "dones of type complex128"),
    (changed("timeouts", lambda a: a.tolist()), "timeouts of type list"),
    (changed("noise_free_actions", lambda a: np.zeros((ROWS, 1, 2), np.float32)), r"noise_free_actions of shape"),
    (changed("observations", lambda a: a.astype(object)), "observations of type object"),
    (lambda buffer: delattr(buffer, "rewards"), "rewards of type NoneType"),
    (lambda buffer: delattr(buffer, "pos"), "pos=None"),
    (changed("rewards", lambda a: a.astype(np.float16)), "rewards of type float16"),
    (changed("actions", lambda a: a.astype(np.float64)), "actions of type float64"),
    (lambda buffer: delattr(buffer, "noise_free_actions"), "noise_free_actions of type NoneType"),
    (setting(optimize_memory_usage=True), "optimize_memory_usage=True, with next_observations"),
    (lambda buffer: delattr(buffer, "optimize_memory_usage"), "optimize_memory_usage=None, with next_observations"),
    (setting(n_envs=1.0), "n_envs=1.0: it must be a whole number"),
    (setting(action_dim=1.0), "action_dim=1.0, expected"),
    (setting(obs_shape=(4,)), r"obs_shape=\(4,\), action_dim=1, expected \(3,\), 1"),
    (setting(action_dim=7), r"obs_shape=\(3,\), action_dim=7"),
    (setting(observation_space=spaces.Box(-1, 1, (3,), np.float64)), "observation_space .* they differ in type"),
    (setting(observation_space=spaces.Discrete(3)), "observation_space .* they differ in shape"),
    (setting(action_space=spaces.Box(-1, 1, (2,), np.float32)), "action_space .* they differ in shape"),
    (setting(observation_space="a box"), "observation_space a box, .* they differ in shape"),
]


def with_row(name, row, value):
    return lambda buffer: getattr(buffer, name).__setitem__(row, value)


CONTENTS = [
    (with_row("observations", 79, np.nan), "observations that are NaN or infinite"),
    (with_row("next_observations", 0, -np.inf), "next_observations that are NaN or infinite"),
    (with_row("actions", 5, np.nan), "actions that are NaN or infinite"),
    (with_row("noise_free_actions", 5, np.nan), "noise_free_actions that are NaN or infinite"),
    (with_row("rewards", 5, np.inf), "rewards that are NaN or infinite"),
    (with_row("dones", 5, 0.5), "dones that are neither 0 nor 1"),
    (with_row("timeouts", 5, -1.0), "timeouts that are neither 0 nor 1"),
    (lambda buffer: delattr(buffer, "_observation_max"), "no _observation_max"),
    (setting(_observation_max="much"), "_observation_max='much': it must be a number"),
]


@pytest.fixture(scope="module")
def filled():
    """A model whose buffer holds 80 transitions."""
    model = model_for()
    model.learn(80)
    return model


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_buffer_is_refused_and_the_model_keeps_its_own(damage, message, filled, tmp_path):
    buffer = copy.deepcopy(filled.replay_buffer)
    damage(buffer)
    assert is_refused(filled, buffer, tmp_path / "buffer.pkl", message)
    filled.train(1, 32)


@pytest.mark.parametrize(("damage", "message"), CONTENTS)
def test_a_loaded_buffer_holds_what_training_could_have_stored(damage, message, filled, tmp_path):
    buffer = copy.deepcopy(filled.replay_buffer)
    damage(buffer)
    assert is_refused(filled, buffer, tmp_path / "buffer.pkl", message)
    # Rows that hold no transition do not matter
    buffer = copy.deepcopy(filled.replay_buffer)
    with_row("observations", 80, np.nan)(buffer)
    with_row("dones", 80, np.nan)(buffer)
    (tmp_path / "buffer.pkl").write_bytes(pickle.dumps(buffer))
    filled.load_replay_buffer(tmp_path / "buffer.pkl")


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_a_damaged_buffer_is_an_error_before_an_update_reads_it(engine, damage, message, filled):
    # As a user may assign to the model's buffer, or damage it, between two updates
    filled.engine = engine
    filled.train(1, 32)
    own = filled.replay_buffer
    filled.replay_buffer = copy.deepcopy(own)
    damage(filled.replay_buffer)
    before = filled._n_updates
    with pytest.raises(ValueError, match=f"the replay buffer .*{message}"):
        filled.train(1, 32)
    with pytest.raises(ValueError, match=f"the replay buffer .*{message}"):
        filled.learn(1, reset_num_timesteps=False)
    assert filled._n_updates == before
    filled.replay_buffer = own
    filled.train(1, 32)


def test_counters_and_arrays_that_are_changed_in_place_are_noticed(filled):
    buffer = filled.replay_buffer
    filled.engine = "compiled"
    for name, value in (("pos", 10**9), ("_forgotten_rows", 100), ("full", 1)):
        own = getattr(buffer, name)
        filled.train(1, 32)
        setattr(buffer, name, value)
        with pytest.raises(ValueError, match="the replay buffer has"):
            filled.train(1, 32)
        setattr(buffer, name, own)
    own = buffer.rewards
    buffer.rewards = own.astype(">f4")  # a pickle puts bytes into this machine's order
    with pytest.raises(ValueError, match="rewards of type >f4"):
        filled.train(1, 32)
    buffer.rewards = own
    buffer.actions.resize((1, ROWS, 1), refcheck=False)
    with pytest.raises(ValueError, match=r"actions of shape \(1, 200, 1\)"):
        filled.train(1, 32)
    buffer.actions.resize((ROWS, 1, 1), refcheck=False)
    filled.train(1, 32)


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_buffer_of_another_environment_is_refused(algorithm, engine, tmp_path):
    hopper, cheetah = (model_for(algorithm, env, engine=engine) for env in ("Hopper-v5", "HalfCheetah-v5"))
    for model in (hopper, cheetah):
        model.learn(60)
    message = r"has the observation_space .* they differ in shape"
    assert is_refused(hopper, cheetah.replay_buffer, tmp_path / "buffer.pkl", message)
    assert is_refused(cheetah, hopper.replay_buffer, tmp_path / "buffer.pkl", message)
    hopper.replay_buffer = cheetah.replay_buffer
    with pytest.raises(ValueError, match=message):
        hopper.train(1, 32)
    with pytest.raises(ValueError, match=message):
        hopper.learn(1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_sound_buffer_is_loaded_whatever_its_size_and_what_it_has_forgotten(algorithm, tmp_path):
    large = model_for(algorithm, env="HalfCheetah-v5")
    large.learn(250)
    large.replay_buffer.shrink(0.5)
    large.save_replay_buffer(tmp_path / "buffer.pkl")
    small = algorithm("MlpPolicy", "HalfCheetah-v5", **quick(buffer_size=100))
    small.load_replay_buffer(tmp_path / "buffer.pkl")
    buffer = small.replay_buffer
    assert (buffer.full, buffer.pos, buffer.n_transitions) == (True, 50, large.replay_buffer.n_transitions)
    small.learn(60)
    assert small._n_updates > 0


DICT = spaces.Dict(
    {"image": spaces.Box(0, 255, (2, 2), np.uint8), "number": spaces.Discrete(4), "vector": spaces.Box(-1, 1, (2,))}
)


def test_buffers_of_dict_observations_are_checked_key_by_key(tmp_path):
    kwargs = quick(buffer_size=ROWS, n_steps=1, dynamic_buffer=False)
    model = RLx2TD3("MultiInputPolicy", Still(DICT, spaces.Box(-1, 1, (1,))), **kwargs)
    model.learn(60)
    model.save_replay_buffer(tmp_path / "sound.pkl")
    model.load_replay_buffer(tmp_path / "sound.pkl")
    model.train(1, 32)

    def damaged(change):
        buffer = copy.deepcopy(model.replay_buffer)
        change(buffer)
        return buffer

    def put(name, key, value):
        return lambda buffer: getattr(buffer, name).__setitem__(key, value)

    other = spaces.Dict({**DICT.spaces, "number": spaces.Discrete(5)})
    for change, message in (
        (put("observations", "vector", np.zeros((ROWS, 1, 3), np.float32)), r"observations\['vector'\] of shape"),
        (put("next_observations", "number", np.zeros((ROWS, 1, 1))), r"next_observations\['number'\] of type float64"),
        (lambda buffer: buffer.observations.pop("image"), r"other observations than \['image', 'number', 'vector'\]"),
        (setting(observation_space=other), "they differ in size"),
        (setting(observation_space=spaces.Dict({})), "they differ in their keys"),
        (setting(pos=10**9), "pos=1000000000"),
    ):
        assert is_refused(model, damaged(change), tmp_path / "damaged.pkl", message)


def test_her_buffers_are_checked(tmp_path):
    kwargs = quick(buffer_size=ROWS, n_steps=1, dynamic_buffer=False, replay_buffer_class=HerReplayBuffer)
    model = RLx2SAC("MultiInputPolicy", BitFlippingEnv(n_bits=4, continuous=True), **kwargs)
    model.learn(60)
    model.save_replay_buffer(tmp_path / "sound.pkl")
    model.load_replay_buffer(tmp_path / "sound.pkl", truncate_last_traj=False)
    model.train(1, 32)
    buffer = copy.deepcopy(model.replay_buffer)
    buffer.ep_length = buffer.ep_length[:10]
    (tmp_path / "damaged.pkl").write_bytes(pickle.dumps(buffer))
    own = model.replay_buffer
    with pytest.raises(ModelFileError, match=r"damaged\.pkl: the replay buffer has ep_length of shape \(10, 1\)"):
        model.load_replay_buffer(tmp_path / "damaged.pkl", truncate_last_traj=False)
    assert model.replay_buffer is own


class CompressedBuffer(ReplayBuffer):
    """Stores observations in a way of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.observations = np.zeros((3, 3), np.float16)


def test_a_buffer_class_that_stores_in_its_own_way_is_loaded(tmp_path):
    model = model_for(n_steps=1, dynamic_buffer=False, replay_buffer_class=CompressedBuffer)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert type(model.replay_buffer) is CompressedBuffer
    assert not isinstance(model.replay_buffer, DynamicReplayBuffer)
