"""A model is read into data, which NumPy alone computes, writes and reads."""

import json
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from export_helpers import (
    GREEDY,
    LARGEST,
    MODELS,
    Choice,
    Walk,
    apart,
    normalized,
    observations,
    predictions,
    quick,
    with_network,
)  # fmt: skip
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_rlx2 import RLx2CrossQ, RLx2QRDQN, RLx2SAC, RLx2TD3
from sb3_rlx2.common.observation_norm import ObservationNorm
from sb3_rlx2.export import export, numpy_files
from sb3_rlx2.export.reading import read_policy
from sb3_rlx2.export.simplification import simplified, sorted_by_connections
from sb3_rlx2.export.sparse_policy import GreedyAction, Linear, SparsePolicy, read_safetensors
from sb3_rlx2.sparse import SparseLinear

ON_A_ROBOT = """
import sys
from contextlib import suppress
for name in ("torch", "stable_baselines3", "gymnasium", "sb3_rlx2", "numba", "safetensors"):
    sys.modules[name] = None
from sparse_policy import SparsePolicy
policy = SparsePolicy.load(sys.argv[1])
action, _ = policy.predict(policy.example_observation)
print(abs(action - policy.example_action).max() < 1e-6, sys.modules.keys() & {"scipy", "pandas", "onnx"})
"""


def read(model):
    return read_policy(model, model.get_vec_normalize_env())


def with_example(model):
    raw = observations(1)
    return replace(read(model), example_observation=raw[0], example_action=predictions(model, raw).reshape(-1))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_read_computes_what_predict_does(name):
    model = MODELS[name]()
    raw = observations()
    actions, _ = read(model).predict(raw)
    expected = predictions(model, raw)
    assert (actions.dtype, actions.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_less(apart(model, raw, actions, expected), 2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_units_that_do_not_matter_can_go_and_others_be_sorted(name):
    policy = read(MODELS[name]())
    small = sorted_by_connections(simplified(policy))
    raw = observations()
    if name in GREEDY:
        np.testing.assert_array_equal(small.predict(raw)[0], policy.predict(raw)[0])
    else:
        np.testing.assert_array_less(np.abs(small.predict(raw)[0] - policy.predict(raw)[0]) / LARGEST, 2e-7)
    assert sum(len(layer.values) for layer in small.layers) <= sum(len(layer.values) for layer in policy.layers)
    plain = {"ReLU()", "wide", "RLx2TD3", "dead units"}
    for layer in small.layers[:-1] if name in plain else ():
        assert (np.diff(layer.counts.astype(int)) >= 0).all()


def test_units_without_inputs_or_readers_are_gone():
    small = simplified(read(with_network("dead units")))
    for layer in small.layers[:-1]:
        assert layer.counts.all() or layer.n_out == 1
    for layer in small.layers[1:]:
        assert len(np.unique(layer.columns)) == layer.n_in or layer.n_in == 1


def test_one_observation_gives_one_action_and_several_give_several():
    policy = read(quick(RLx2TD3))
    raw = observations(3)
    actions, state = policy.predict(raw, "state")
    assert actions.shape == (3, 2)
    assert state == "state"
    np.testing.assert_array_equal(policy.predict(raw[1])[0], actions[1])
    with pytest.raises(ValueError, match=r"an observation of shape \(4,\): allowed are \(5,\) and \(n, 5\)"):
        policy.predict(raw[0, :4])
    with pytest.raises(ValueError, match="acts without noise"):
        policy.predict(raw, deterministic=False)


def test_many_observations_take_little_memory_and_give_what_each_alone_gives():
    generator = np.random.default_rng(0)
    present = generator.random((256, 256)) < 0.5
    present[7] = False
    rows, columns = np.nonzero(present)
    counts, bias = np.bincount(rows, minlength=256).astype(np.uint16), generator.normal(size=256).astype(np.float32)
    values = generator.normal(size=len(rows)).astype(np.float32)
    layer, x = Linear((0,), 1, 256, values, columns.astype(np.uint8), counts, bias), generator.normal(size=(2000, 256))
    tracemalloc.start()
    y = layer(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6
    for place in (0, 255, 256, 1999):
        np.testing.assert_array_equal(layer(x[place]), y[place])
    np.testing.assert_allclose(y[:300], x[:300] @ layer.dense_weight.T.astype(np.float64) + bias, atol=1e-12)


@pytest.mark.parametrize("name", GREEDY)
def test_discrete_actions_have_the_shape_and_type_of_predict(name):
    model, raw = MODELS[name](), observations(3)
    policy = read(model)
    for some in (raw, raw[0]):
        action, expected = policy.predict(some)[0], predictions(model, some)
        assert (action.shape, action.dtype) == (expected.shape, expected.dtype)
        assert (action == expected).all()


@given(st.lists(st.lists(st.sampled_from([-1.0, 0.0, 2.5]), min_size=4, max_size=4), min_size=1))
def test_of_equal_values_the_first_action_is_taken_as_torch_does(values):
    expected = th.tensor(values).argmax(dim=1)
    np.testing.assert_array_equal(GreedyAction(4)(np.array(values)), expected)


def test_the_quantiles_of_an_action_become_their_mean():
    model = quick(RLx2QRDQN, policy_kwargs={"net_arch": [64, 48], "n_quantiles": 7})
    policy, raw = read(model), observations()
    assert policy.layers[-1].n_out == 4
    with th.no_grad():
        expected = model.policy.quantile_net(th.as_tensor(raw)).mean(1)
    np.testing.assert_allclose(policy.values(raw)[policy.output], expected, rtol=1e-4, atol=1e-6)
    model.policy.quantile_net.quantile_net.append(nn.Tanh())
    refused(model, "its quantiles are not made by a linear layer")


def test_neither_the_model_nor_random_generators_are_changed_by_reading():
    model = quick(RLx2SAC)
    before, random = {k: v.clone() for k, v in model.policy.state_dict().items()}, th.get_rng_state()
    read(model)
    assert all(th.equal(value, before[key]) for key, value in model.policy.state_dict().items())
    assert th.equal(th.get_rng_state(), random)


def refused(model, *messages):
    with pytest.raises(ValueError, match="cannot be exported") as error:
        read(model)
    assert "\n" not in str(error.value)
    assert all(message in str(error.value) for message in messages), error.value


def test_what_cannot_be_exported_is_refused_in_one_line():
    class Doubling(nn.Module):
        def forward(self, x):
            return 2 * x

    refused(PPO("MlpPolicy", "CartPole-v1", device="cpu"), "a PPO cannot be exported: it has neither an actor")
    refused(quick(RLx2SAC, use_sde=True), "cannot be exported", "use_sde=True")
    model = quick(RLx2TD3)
    model.policy.actor.mu.insert(0, Doubling())
    refused(model, "the actor has a Doubling")
    model = quick(RLx2TD3)
    model.policy.actor.mu.register_forward_hook(lambda *_: None)
    refused(model, "the actor has hooks")
    model = quick(RLx2TD3)
    with th.no_grad():
        model.policy.actor.mu[0].bias[0] = th.nan
    refused(model, "NaN or infinite")
    model = quick(RLx2CrossQ)
    model.policy.actor.latent_pi.append(nn.ReLU())
    refused(model, "no linear layer reads its batch renormalization")
    for extractor in (RawAndNormalized, NormalizedAndRaw):
        refused(
            quick(RLx2TD3, policy_kwargs={"features_extractor_class": extractor}), "both as they are and normalized"
        )


class RawAndNormalized(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 5)
        self.normalized = nn.Sequential(ObservationNorm(space), nn.Linear(5, 5))
        self.raw = nn.Linear(5, 5)

    def forward(self, x):
        return self.raw(x) + self.normalized(x)


class NormalizedAndRaw(RawAndNormalized):
    def forward(self, x):
        return self.normalized(x) + self.raw(x)


def test_batch_renormalization_becomes_part_of_the_layers_that_read_it():
    model = normalized(RLx2CrossQ)
    layers = [module for module in model.actor.modules() if isinstance(module, SparseLinear)]
    exported = read(model).layers
    assert [layer.n_out for layer in exported] == [64, 48, 2]
    assert [len(layer.values) for layer in exported] == [layer.nnz for layer in layers[:3]]


def test_images_are_refused_with_the_reason():
    class Images(Walk):
        import gymnasium as gym

        observation_space = gym.spaces.Box(0, 255, (3, 36, 36), np.uint8)

        def reset(self, **kwargs):
            return np.zeros((3, 36, 36), np.uint8), {}

    model = RLx2TD3("CnnPolicy", DummyVecEnv([Images]), buffer_size=10, device="cpu")
    refused(model, "the observation space is Box(0, 255, (3, 36, 36), uint8)", "convolutions are not exported")


@pytest.mark.parametrize(
    ("space", "policy"),
    [(spaces.Discrete(6), "MlpPolicy"), (spaces.Dict({"one": spaces.Box(-1, 1, (2,))}), "MultiInputPolicy")],
)
def test_other_observations_are_refused_and_exported_once_they_are_flat(space, policy, tmp_path):
    class Other(Choice):
        observation_space = space

        def reset(self, **kwargs):
            return self.observation_space.sample(), {}

    model = DQN(policy, DummyVecEnv([Other]), buffer_size=10, device="cpu")
    refused(model, f"the observation space is {space}. Box is exported, which gymnasium.wrappers.FlattenObservation")
    flat = DQN("MlpPolicy", FlattenObservation(Other()), buffer_size=10, device="cpu")
    assert export.export(flat, tmp_path, "numpy").agreement.n_other == 0


def test_statistics_of_other_observations_are_refused():
    from stable_baselines3.common.vec_env import VecNormalize

    other = VecNormalize(DummyVecEnv([lambda: __import__("gymnasium").make("Pendulum-v1")]))
    with pytest.raises(ValueError, match="statistics for other observations than the policy's 5 dimensions"):
        read_policy(quick(RLx2TD3), other)


# --- files ---


@pytest.mark.parametrize("write", [numpy_files.write_npz, numpy_files.write_safetensors])
@pytest.mark.parametrize(
    "name", ["RLx2SAC", "RLx2QRDQN", "RLx2TD3 with VecNormalize", "residual", "wide", "GELU(approximate='none')"]
)
def test_files_bring_back_the_policy_bit_for_bit(name, write, tmp_path):
    policy = with_example(MODELS[name]())
    loaded = SparsePolicy.load(write(policy, tmp_path, "policy"))
    one, other = policy.describe(), loaded.describe()
    assert json.loads(json.dumps(one[0])) == json.loads(json.dumps(other[0]))
    for key, array in one[1].items():
        assert array.dtype == other[1][key].dtype
        np.testing.assert_array_equal(array, other[1][key])
    np.testing.assert_array_equal(policy.predict(observations())[0], loaded.predict(observations())[0])


@pytest.mark.parametrize("name", ["RLx2TD3 with VecNormalize", "RLx2DQN"])
@pytest.mark.parametrize("write", [numpy_files.write_npz, numpy_files.write_safetensors])
def test_a_robot_needs_numpy_alone(write, name, tmp_path):
    path = write(with_example(MODELS[name]()), tmp_path, "policy")
    command = [sys.executable, "-c", ON_A_ROBOT, path.name]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "True set()", result.stderr


def test_the_safetensors_library_reads_the_file(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    path = numpy_files.write_safetensors(with_example(quick(RLx2TD3)), tmp_path, "policy")
    theirs, ours = library.load_file(path), read_safetensors(path)
    assert theirs.keys() == ours.keys()
    assert all(theirs[key].dtype == ours[key].dtype and (theirs[key] == ours[key]).all() for key in ours)


@pytest.mark.parametrize("write", [numpy_files.write_npz, numpy_files.write_safetensors])
@given(data=st.data())
def test_a_damaged_file_is_an_error_of_one_kind_or_a_whole_policy(write, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    path = write(SMALL, folder, "policy")
    damaged = data.draw(st.sampled_from([file for file in folder.iterdir() if file.suffix != ".py"]))
    content = bytearray(damaged.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] = data.draw(st.integers(0, 255))
    damaged.write_bytes(content)
    with suppress(ValueError):
        SparsePolicy.load(path).predict(observations(2))


SMALL = with_example(quick(RLx2TD3, policy_kwargs={"net_arch": [8]}))


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(OSError, match=r"none\.npz"):
        SparsePolicy.load(tmp_path / "none.npz")
    path = numpy_files.write_safetensors(SMALL, tmp_path, "policy")
    described = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**described, "format": "sb3-rlx2 policy 99"}))
    with pytest.raises(ValueError, match=r"policy\.safetensors is no policy .* its format is 'sb3-rlx2 policy 99'"):
        SparsePolicy.load(path)
