"""Models, replay buffers and statistics in files without pickle: all of them comes back, and no code runs."""

import copy
import os
import pickle
import re

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from helpers import ALL, environment, quick
from stable_baselines3 import TD3, HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2 import DynamicReplayBuffer, RLx2SAC, RLx2TD3
from sb3_rlx2.common.saving.model_files import model_state, read_algorithm
from sb3_rlx2.common.saving.vec_normalize import load_vec_normalize, save_vec_normalize
from sb3_rlx2.errors import CheckpointMismatchError, ModelFileError
from sb3_rlx2.files import named_objects, read_state, register, write_state
from sb3_rlx2.sparse import RigL
from sb3_rlx2.version import __version__

PLAIN = {"n_steps": 1, "dynamic_buffer": False}


HAS_RUN = []


def run():
    HAS_RUN.append(1)


class Ran:
    """Unpickling it runs code."""

    def __reduce__(self):
        return run, ()


def trained(algorithm, env=None, steps=200, **kwargs):
    model = algorithm("MlpPolicy", env or environment(algorithm), **quick(**kwargs))
    model.learn(steps)
    return model


@pytest.fixture(scope="module")
def models():
    return {algorithm: trained(algorithm) for algorithm in ALL}


@pytest.fixture
def model(models):
    return models[RLx2TD3]


@pytest.fixture
def registry(monkeypatch):
    for table in ("_by_name", "_by_thing"):
        monkeypatch.setattr(named_objects, table, dict(getattr(named_objects, table)))


def same_parameters(one, other):
    def numbers(model):
        return [tensor for state in model.get_parameters().values() for tensor in leaves(state)]

    def leaves(value):
        if isinstance(value, dict):
            return [leaf for part in value.values() for leaf in leaves(part)]
        if isinstance(value, (list, tuple)):
            return [leaf for part in value for leaf in leaves(part)]
        return [value]

    return all(
        th.equal(a, b) if isinstance(a, th.Tensor) else a == b
        for a, b in zip(numbers(one), numbers(other), strict=True)
    )


def goes_on_alike(one, other, steps=150):
    """Whether two models learn the same from now on."""
    for model in (one, other):
        np.random.seed(5)
        th.manual_seed(5)
        model.env.seed(5)
        model.action_space.seed(5)
        model.learn(steps, reset_num_timesteps=False)
    return same_parameters(one, other)


def altered(path, change):
    """A file of a model whose state went through ``change``, with the checksum that fits."""
    state = read_state(path)
    change(state)
    write_state(path, state)
    return path


# --- models ---


@pytest.mark.parametrize("algorithm", ALL)
def test_a_model_goes_on_as_one_from_a_zip_does(models, algorithm, tmp_path):
    model = models[algorithm]
    model.save(tmp_path / "model.zip")
    model.save(tmp_path / "model.safetensors")
    assert read_algorithm(tmp_path / "model.safetensors") == algorithm.__name__
    from_zip, loaded = (
        algorithm.load(tmp_path / f"model.{end}", make_vec_env(environment(algorithm)))
        for end in ("zip", "safetensors")
    )
    assert vars(loaded).keys() == vars(from_zip).keys()
    for name in ("topology_counters", "num_timesteps", "_n_updates", "seed", "policy_kwargs", "train_freq", "gamma"):
        assert getattr(loaded, name) == getattr(model, name)
        assert type(getattr(loaded, name)) is type(getattr(model, name))
    assert same_parameters(loaded, model)
    for other in (from_zip, loaded):
        other.load_replay_buffer(saved_buffer(model, tmp_path / "buffer.pkl"))
    assert goes_on_alike(loaded, from_zip)


def saved_buffer(model, path):
    model.save_replay_buffer(path)
    return path


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (
            RLx2TD3,
            {"learning_rate": LinearSchedule(1e-3, 1e-4, 0.5), "train_freq": (1, "episode"), "gradient_steps": -1},
        ),
        (RLx2TD3, {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.2)), "topology": RigL()}),
        (RLx2TD3, {"topology": "dense", **PLAIN, "replay_buffer_kwargs": {"handle_timeout_termination": False}}),
        (RLx2TD3, {"policy_kwargs": {"net_arch": {"pi": [16], "qf": [24, 8]}, "activation_fn": th.nn.GELU}}),
        (RLx2TD3, {"policy_kwargs": {"net_arch": [16], "optimizer_class": th.optim.AdamW}, "seed": None}),
        (
            RLx2TD3,
            {"replay_buffer_class": DynamicReplayBuffer, "replay_buffer_kwargs": {"observation_dtype": np.float64}},
        ),
        (RLx2SAC, {"ent_coef": 0.2, "target_entropy": -0.5}),
        (RLx2SAC, {"ent_coef": "auto_0.3", "use_sde": True, "sde_sample_freq": 4}),
        (RLx2SAC, {"tensorboard_log": "runs", "stats_window_size": 7}),
    ],
    ids=lambda value: "" if isinstance(value, type) else " ".join(value),
)
def test_every_setting_comes_back(algorithm, settings, tmp_path):
    model = algorithm("MlpPolicy", "Pendulum-v1", **{**quick(), **settings, "tensorboard_log": None})
    model.learn(230)
    model.tensorboard_log = settings.get("tensorboard_log")
    model.save(tmp_path / "model.safetensors")
    loaded = algorithm.load(tmp_path / "model.safetensors", trusted=False)
    given, read = model_state(model)["attributes"], model_state(loaded)["attributes"]
    assert given.keys() == read.keys()
    for name in given.keys() - {"action_space", "observation_space"}:
        assert repr(read[name]) == repr(given[name]), name
    assert loaded.action_space == model.action_space
    assert same_parameters(loaded, model)


def test_several_environments_and_their_noise_come_back(tmp_path):
    model = trained(RLx2TD3, make_vec_env("Pendulum-v1", 3))
    model.save(tmp_path / "model.safetensors")
    loaded = RLx2TD3.load(tmp_path / "model.safetensors", make_vec_env("Pendulum-v1", 3))
    assert loaded.n_envs == 3
    loaded.learn(30, reset_num_timesteps=False)


def test_open_files_and_names_without_suffix_are_found(model, tmp_path):
    model.save(tmp_path / "model.safetensors")
    assert RLx2TD3.load(tmp_path / "model").num_timesteps == model.num_timesteps
    with (tmp_path / "model.safetensors").open("rb") as file:
        assert RLx2TD3.load(file).num_timesteps == model.num_timesteps
    os.rename(tmp_path / "model.safetensors", tmp_path / "model.zip")  # the content tells what it is
    assert RLx2TD3.load(tmp_path / "model.zip").num_timesteps == model.num_timesteps


def test_parameters_are_loaded_in_place(models, tmp_path):
    models[RLx2TD3].save(tmp_path / "model.safetensors")
    other = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(seed=1))
    other.set_parameters(tmp_path / "model.safetensors", trusted=False)
    assert same_parameters(other, models[RLx2TD3])


def test_attributes_can_be_left_out(model, tmp_path):
    model.save(tmp_path / "model.safetensors", exclude=["gamma"])
    with pytest.raises(ModelFileError, match="it has no gamma"):
        RLx2TD3.load(tmp_path / "model.safetensors")
    assert RLx2TD3.load(tmp_path / "model.safetensors", gamma=0.9).gamma == 0.9


# --- what has no name ---


@pytest.mark.usefixtures("registry")
def test_a_schedule_without_a_name_is_an_error_that_names_it_and_the_file_is_what_it_was(tmp_path):
    def warm_up(progress):
        return 1e-3 * (1 - progress)

    path = tmp_path / "model.safetensors"
    RLx2TD3("MlpPolicy", "Pendulum-v1", **quick()).save(path)
    before = path.read_bytes()
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(learning_rate=warm_up))
    with pytest.raises(
        ValueError, match=r"attributes\.learning_rate is .*warm_up, .*sb3_rlx2\.files\.register\("
    ) as raised:
        model.save(path)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == before
    register(warm_up, "warm_up")
    model.save(path)
    assert RLx2TD3.load(path, trusted=False).learning_rate is warm_up


@pytest.mark.usefixtures("registry")
def test_a_class_that_is_not_known_where_the_model_is_loaded_is_named(tmp_path, monkeypatch):
    class Mine(RigL):
        pass

    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(topology=Mine()))
    with pytest.raises(ValueError, match=r"attributes\.topology is an object of class .*Mine"):
        model.save(tmp_path / "model.safetensors")
    with monkeypatch.context() as there:
        for table in ("_by_name", "_by_thing"):
            there.setattr(named_objects, table, dict(getattr(named_objects, table)))
        register(Mine, "my_package.Mine")
        model.save(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=r"model.safetensors: it needs 'my_package.Mine', which is not known"):
        RLx2TD3.load(tmp_path / "model.safetensors")


# --- trust ---


def test_a_file_that_is_not_trusted_is_not_unpickled(model, models, tmp_path, monkeypatch):
    odd = RLx2TD3.load(saved_model(model, tmp_path / "model.zip"))
    odd.surprise = Ran()
    odd.save(tmp_path / "model.zip")
    odd.replay_buffer.surprise = Ran()
    odd.save_replay_buffer(tmp_path / "buffer.pkl")
    (tmp_path / "statistics.pkl").write_bytes(pickle.dumps(Ran()))
    loads = [
        lambda **trust: RLx2TD3.load(tmp_path / "model.zip", **trust),
        lambda **trust: model.set_parameters(tmp_path / "model.zip", **trust),
        lambda **trust: model.load_replay_buffer(tmp_path / "buffer.pkl", **trust),
        lambda **trust: load_vec_normalize(tmp_path / "statistics.pkl", make_vec_env("Pendulum-v1"), **trust),
    ]
    buffer = model.replay_buffer
    for load in loads:
        with pytest.raises(ModelFileError, match=r"is not trusted. If you trust whoever made it, .*rlx2 convert"):
            load(trusted=False)
        monkeypatch.setenv("RLX2_TRUSTED", "0")
        with pytest.raises(ModelFileError, match="is not trusted"):
            load()
        monkeypatch.setenv("RLX2_TRUSTED", "yes")
        with pytest.raises(ValueError, match="RLX2_TRUSTED='yes' is not allowed"):
            load()
        monkeypatch.delenv("RLX2_TRUSTED")
    assert not HAS_RUN
    assert model.replay_buffer is buffer
    monkeypatch.setenv("RLX2_TRUSTED", "0")
    RLx2TD3.load(tmp_path / "model.zip", trusted=True)
    assert HAS_RUN


def saved_model(model, path):
    model.save(path)
    return path


@pytest.mark.parametrize("algorithm", ALL)
def test_files_without_pickle_are_loaded_without_trust(models, algorithm, tmp_path, monkeypatch):
    monkeypatch.setenv("RLX2_TRUSTED", "0")
    models[algorithm].save(tmp_path / "model.safetensors")
    models[algorithm].save_replay_buffer(tmp_path / "buffer.safetensors")
    loaded = algorithm.load(tmp_path / "model.safetensors")
    loaded.load_replay_buffer(tmp_path / "buffer.safetensors")
    assert loaded.replay_buffer.size() == models[algorithm].replay_buffer.size()


# --- what is refused ---


def put(name, value, part="attributes"):
    def change(state):
        state[part][name] = value

    return change


REFUSED = [
    (lambda state: state.update(kind="replay buffer"), "it holds a replay buffer, not a model"),
    (lambda state: state.update(kind=3), "it holds something else, not a model"),
    (
        lambda state: state.update(format=2),
        rf"has format 2, and sb3-rlx2 {__version__} reads format 1: update sb3-rlx2",
    ),
    (lambda state: state.update(format="1"), "format 1"),
    (lambda state: state.pop("parameters"), "parameters are missing"),
    (lambda state: state.update(attributes=[]), "attributes are missing"),
    (lambda state: state["attributes"].update({3: 4}), "no dict of names"),
    (lambda state: state["attributes"].pop("gamma"), "it has no gamma"),
    (put("checkpoint_format", 2), "format 2"),
    (put("algorithm_name", "RLx2SAC"), "is a model of RLx2SAC, not of RLx2TD3"),
    (put("tau", 5), "tau=5 is not allowed"),
    (put("train", th.nn.ReLU), "it has a value for train, which is no setting"),
    (put("_setup_model", th.nn.ReLU), "it has a value for _setup_model, which is no setting"),
    (put("__class__", th.nn.ReLU), "it has a value for __class__, which is no setting"),
    (put("policy_class", th.nn.ReLU), "cannot be loaded as RLx2TD3"),
    (put("learning_rate", th.nn.Tanh), "cannot be loaded as RLx2TD3"),
    (put("topology", [1]), "topology"),
    (put("action_noise", 3), "action_noise=3 is not allowed"),
    (put("action_space", spaces.Discrete(3)), "the action space is"),
    (put("observation_space", 3), ""),
    (put("policy_kwargs", {"net_arch": [50_000, 50_000]}), "its networks would have layers of 50000 x 50000"),
    (put("policy_kwargs", {"net_arch": {"pi": [8], "qf": [10**12]}}), "its networks would have layers of"),
    (put("policy_kwargs", {"net_arch": np.array([50_000, 50_000])}), "its networks would have layers of 50000"),
    (put("policy_kwargs", {"net_arch": [np.int64(50_000)] * 2}), "its networks would have layers of 50000"),
    (put("policy_kwargs", {"net_arch": [8], "n_critics": 10**6}), r"policy_kwargs\['n_critics'\]=1000000"),
    (put("policy_kwargs", {"net_arch": [1] * 5000}), "its policy_kwargs have 5002 numbers"),
    (lambda state: state["attributes"].update(replay_buffer_class=HerReplayBuffer, buffer_size=10**9), "HerReplay"),
    (put("observation_space", spaces.Discrete(10**12)), "its networks would have layers of"),
    (put("buffer_size", 10**15), "Unable to allocate"),
    (put("policy_class", th.zeros(1), "variables"), "policy_class is no tensor of a RLx2TD3"),
    (put("policy", {}, "parameters"), ""),
    (put("policy", 3, "parameters"), "it has no parameters or no arguments of a policy"),
    (put("critic.optimizer", {}, "parameters"), "critic.optimizer lacks its state"),
    (lambda state: state["parameters"]["policy"].popitem(), "is missing"),
    (lambda state: state["parameters"]["policy"]["actor.mu.0.values"].fill_(float("nan")), "NaN or infinite"),
    (lambda state: state["parameters"]["policy"]["actor.mu.0.indices"].fill_(3), "indices"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_is_checked_of_a_zip_is_checked_of_a_file_without_pickle(model, tmp_path, change, message):
    path = altered(saved_model(model, tmp_path / "model.safetensors"), change)
    with pytest.raises(ModelFileError, match=message or None) as raised:
        RLx2TD3.load(path, trusted=False)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_parameters_of_another_network_are_refused_in_place(model, tmp_path):
    RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(policy_kwargs={"net_arch": [8]})).save(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointMismatchError):
        model.set_parameters(tmp_path / "other.safetensors")


# --- replay buffers ---


class Goal(BitFlippingEnv):
    def __init__(self):
        super().__init__(n_bits=3, continuous=True)


def goal_model(**kwargs):
    env = make_vec_env(lambda: TimeLimit(Goal(), 10), 2)
    settings = quick(replay_buffer_class=HerReplayBuffer, **PLAIN, buffer_size=400, **kwargs)
    model = RLx2TD3("MultiInputPolicy", env, **settings)
    model.learn(180)
    return model


def buffer_model(name):
    """A model whose buffer is of this kind, and what to load it with."""
    if name == "her":
        return goal_model()
    if name == "her with infos":
        return goal_model(replay_buffer_kwargs={"copy_info_dict": True})
    settings = {
        "dynamic": {},
        "dynamic, full": {"buffer_size": 150},
        "dynamic, wrapped": {"buffer_size": 150, "buffer_min_size": 100},
        "dynamic, nothing forgotten": {"dynamic_buffer": False},
        "several environments": {"buffer_size": 151},
        "plain": PLAIN,
        "plain, full": {**PLAIN, "buffer_size": 120},
        "one observation array": {
            **PLAIN,
            "optimize_memory_usage": True,
            "replay_buffer_kwargs": {"handle_timeout_termination": False},
        },
        "steps": {**PLAIN, "replay_buffer_class": NStepReplayBuffer},
        "empty": {"learning_starts": 1000},
    }[name]
    env = make_vec_env("Pendulum-v1", 3 if name == "several environments" else 1)
    model = RLx2TD3("MlpPolicy", env, **quick(**settings))
    if name != "empty":
        model.learn(230)
    return model


BUFFERS = [
    "dynamic",
    "dynamic, full",
    "dynamic, wrapped",
    "dynamic, nothing forgotten",
    "several environments",
    "plain",
]
BUFFERS += ["plain, full", "one observation array", "steps", "her", "her with infos", "empty"]


def batches(model, count=3):
    np.random.seed(0)
    return [batch for _ in range(count) for batch in model.replay_buffer.sample(64) if batch is not None]


def tensors(batch):
    return [*batch.values()] if isinstance(batch, dict) else [batch]


@pytest.mark.parametrize("suffix", ["pkl", "safetensors"])
@pytest.mark.parametrize("name", BUFFERS)
def test_a_buffer_samples_and_goes_on_as_the_one_that_was_saved(name, suffix, tmp_path):
    model = buffer_model(name)
    before = copy.deepcopy({key: value for key, value in vars(model.replay_buffer).items() if key != "env"})
    path = saved_buffer(model, tmp_path / f"buffer.{suffix}")
    for key, value in vars(model.replay_buffer).items():
        assert key == "env" or repr(value) == repr(before[key]), key  # saving changes nothing
    own = model.replay_buffer
    expected = batches(model) if own.size() else []
    model.load_replay_buffer(path, truncate_last_traj=False)
    loaded = model.replay_buffer
    assert type(loaded) is type(own)
    assert vars(loaded).keys() == vars(own).keys()
    assert (loaded.buffer_size, loaded.pos, loaded.full, loaded.size()) == (
        own.buffer_size,
        own.pos,
        own.full,
        own.size(),
    )
    read = batches(model) if own.size() else []
    for one, other in zip(expected, read, strict=True):
        assert all(th.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
    if name.startswith("her"):
        return
    for buffer in (own, loaded):  # both fill up in the same way
        model.replay_buffer = buffer
        vars(buffer).update(num_timesteps=None)
        for number in range(200):
            shape = (buffer.n_envs, 3)
            step = np.full(shape, number % 3, np.float32)
            buffer.add(
                step, step + 1, np.zeros((buffer.n_envs, 1)), step[:, 0], np.zeros(buffer.n_envs), [{}] * buffer.n_envs
            )
    for key, array in vars(own).items():
        if isinstance(array, np.ndarray) and own.full and not getattr(own, "_forgotten_rows", 0):
            np.testing.assert_array_equal(vars(loaded)[key], array)


@pytest.mark.parametrize("suffix", ["pkl", "safetensors"])
def test_only_what_is_held_is_written(suffix, tmp_path):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(buffer_size=300_000))
    model.learn(100)
    path = saved_buffer(model, tmp_path / f"buffer.{suffix}")
    held = path.stat().st_size
    assert held < 100 * 60 + 6000
    model.replay_buffer.min_size = 0
    model.replay_buffer.shrink(0.9)
    assert saved_buffer(model, path).stat().st_size < held - 2000
    model.load_replay_buffer(path)
    assert model.replay_buffer.buffer_size == 300_000


def test_stable_baselines3_loads_the_pickle_of_its_own_buffers(tmp_path):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(**PLAIN))
    model.learn(100)
    model.save_replay_buffer(tmp_path / "buffer")
    stock = TD3("MlpPolicy", "Pendulum-v1", buffer_size=10)
    stock.load_replay_buffer(tmp_path / "buffer.pkl")
    assert type(stock.replay_buffer) is ReplayBuffer
    for name, array in vars(model.replay_buffer).items():
        if isinstance(array, np.ndarray):
            np.testing.assert_array_equal(vars(stock.replay_buffer)[name], array)
            assert vars(stock.replay_buffer)[name].flags.writeable


def test_a_buffer_that_was_pickled_whole_is_loaded(tmp_path, model):
    (tmp_path / "buffer.pkl").write_bytes(pickle.dumps(model.replay_buffer))
    expected = batches(model)
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert all(map(th.equal, batches(model), expected))


def test_a_buffer_of_an_unknown_class_is_pickled_whole_and_not_written_without_pickle(tmp_path):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(**PLAIN, replay_buffer_class=Own))
    with pytest.raises(ValueError, match=r"a Own is not saved without pickle"):
        model.save_replay_buffer(tmp_path / "buffer.safetensors")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert not list(tmp_path.glob("*.safetensors"))


class Own(ReplayBuffer):
    pass


def test_without_a_buffer_there_is_nothing_to_save(model, tmp_path):
    other = RLx2TD3.load(saved_model(model, tmp_path / "model.zip"))
    other.replay_buffer = None
    with pytest.raises(ValueError, match="no replay buffer to save"):
        other.save_replay_buffer(tmp_path / "buffer.pkl")


def in_buffer(name, value):
    return put(name, value)


REFUSED_BUFFERS = [
    (lambda state: state.update(kind="model"), "it holds a model, not a replay buffer"),
    (lambda state: state.update(format=7), "format 7"),
    (lambda state: state.update({"class": th.nn.ReLU}), "which is no replay buffer"),
    (lambda state: state.update({"class": "ReplayBuffer"}), "which is no replay buffer"),
    (lambda state: state.pop("arrays"), ""),
    (put("sample", 1), "it has a value for sample, which is no setting"),
    (put("observations", 1), "it has a value for observations, which is no setting"),
    (put("__class__", 1), "it has a value for __class__, which is no setting"),
    (put("pos", -1), "pos=-1"),
    (put("pos", 150), "it has the rows"),
    (put("buffer_size", 10**15), "more than the memory of this machine"),
    (put("buffer_size", 1.5), "buffer_size=1.5"),
    (put("n_envs", 4), "n_envs=4"),
    (put("_forgotten_rows", 3), "it has the rows"),
    (put("observation_space", spaces.Box(-1, 1, (4,))), "observation_space"),
    (put("rewards", [np.ones((1, 1), np.float32)], "arrays"), ""),
    (put("rewards", [], "arrays"), "something else than arrays"),
    (put("rewards", [np.ones((0, 2**50), np.float32)], "arrays"), "more than the memory"),
    (lambda state: state["arrays"]["rewards"][0].fill(np.nan), "rewards that are NaN"),
    (lambda state: state["attributes"].pop("last_check"), "has no last_check"),
    (lambda state: state["arrays"].pop("actions"), ""),
]


@pytest.mark.parametrize(("change", "message"), REFUSED_BUFFERS)
def test_what_no_buffer_of_the_model_can_be_is_refused(model, tmp_path, change, message):
    path = altered(saved_buffer(model, tmp_path / "buffer.safetensors"), change)
    own = model.replay_buffer
    with pytest.raises(ModelFileError, match=message or None) as raised:
        model.load_replay_buffer(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert model.replay_buffer is own


# --- VecNormalize ---


def normalized(env="Pendulum-v1", **kwargs):
    env = VecNormalize(make_vec_env(env, 2), **kwargs)
    env.reset()
    for _ in range(20):
        env.step(np.stack([env.action_space.sample() for _ in range(2)]))
    return env


@pytest.mark.parametrize("suffix", ["pkl", "safetensors"])
@pytest.mark.parametrize(
    ("env", "kwargs"),
    [
        ("Pendulum-v1", {"gamma": 0.9, "clip_obs": 5.0}),
        ("Pendulum-v1", {"norm_obs": False, "training": False}),
        (Goal, {"norm_obs_keys": ["observation"], "norm_reward": False}),
    ],
)
def test_statistics_come_back(env, kwargs, suffix, tmp_path):
    if env is Goal:
        kwargs = {"norm_obs": False} if not isinstance(Goal().observation_space["observation"], spaces.Box) else kwargs
    before = normalized(env, **kwargs)
    save_vec_normalize(before, tmp_path / f"statistics.{suffix}")
    loaded = load_vec_normalize(tmp_path / f"statistics.{suffix}", make_vec_env(env, 3))
    assert loaded.num_envs == 3
    assert vars(loaded).keys() >= vars(before).keys() - {"old_obs"}
    for name in ("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys"):
        assert getattr(loaded, name) == getattr(before, name)
    for name in ("ret_rms", "obs_rms"):
        if hasattr(before, name):
            assert repr(statistics(getattr(loaded, name))) == repr(statistics(getattr(before, name)))
    loaded.reset()
    loaded.step(np.stack([loaded.action_space.sample() for _ in range(3)]))


def statistics(value):
    return {key: vars(part) for key, part in value.items()} if isinstance(value, dict) else vars(value)


def test_stable_baselines3_loads_the_pickle_of_statistics(tmp_path):
    save_vec_normalize(normalized(), tmp_path / "statistics")
    assert VecNormalize.load(str(tmp_path / "statistics.pkl"), make_vec_env("Pendulum-v1")).num_envs == 1


REFUSED_STATISTICS = [
    (lambda state: state.update(kind="model"), "it holds a model, not a VecNormalize"),
    (lambda state: state.update(format=2), "format 2"),
    (lambda state: state.update(observation_space=3), "it has no spaces"),
    (lambda state: state.update(obs_rms=3), "its obs_rms is a int"),
    (lambda state: state.update(gamma="a"), ""),
    (lambda state: state.pop("ret_rms"), ""),
    (lambda state: vars(state["obs_rms"]).update(var=np.full(3, -1.0)), "negative variance"),
    (lambda state: vars(state["obs_rms"]).update(mean=np.full(3, np.nan)), r"obs_rms.mean is not \(3,\) finite"),
    (lambda state: vars(state["obs_rms"]).update(mean=np.zeros(4)), r"obs_rms.mean is not \(3,\) finite"),
    (lambda state: vars(state["ret_rms"]).update(count=0), "no count"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED_STATISTICS)
def test_what_no_statistics_can_be_is_refused(tmp_path, change, message):
    path = tmp_path / "statistics.safetensors"
    save_vec_normalize(normalized(), path)
    altered(path, change)
    with pytest.raises(ModelFileError, match=re.escape(str(path))) as raised:
        load_vec_normalize(path, make_vec_env("Pendulum-v1"))
    assert re.search(message, str(raised.value))


@pytest.mark.parametrize("suffix", ["pkl", "safetensors"])
def test_statistics_of_other_spaces_are_refused(tmp_path, suffix):
    save_vec_normalize(normalized(), tmp_path / f"statistics.{suffix}")
    with pytest.raises(ModelFileError, match="statistics"):
        load_vec_normalize(tmp_path / f"statistics.{suffix}", make_vec_env("MountainCarContinuous-v0"))
