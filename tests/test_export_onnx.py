"""Policies in ONNX compute what ``predict`` does, and PyTorch's own ways out of Python work."""

import numpy as np
import pytest
import torch as th
from export_helpers import MODELS, Walk, observations, predictions, quick
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_rlx2 import RLx2DQN, RLx2SAC, RLx2TD3
from sb3_rlx2.export import export, onnx_files

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_onnx_computes_what_predict_does(name, sparse, tmp_path):
    report = export.export(MODELS[name](), tmp_path, "onnx", sparse=sparse, observations=observations())
    assert report.agreement.largest < 2e-6
    assert set(report.files) == {"policy.onnx"}
    assert "opset 17, checked by onnx.checker" in report.notes


def test_the_file_says_what_it_is(tmp_path):
    model = quick(RLx2SAC)
    export.export(model, tmp_path, "onnx", observations=observations())
    loaded = onnx.load(tmp_path / "policy.onnx")
    assert [(opset.domain, opset.version) for opset in loaded.opset_import] == [("", 17)]
    about = {entry.key: entry.value for entry in loaded.metadata_props}
    example = np.array(about["example_observation"].split(), np.float32)
    np.testing.assert_array_equal(example, observations()[0])
    session = runtime.InferenceSession(tmp_path / "policy.onnx")
    (action,) = session.run(None, {"observation": example[None]})
    np.testing.assert_allclose(action[0], np.array(about["example_action"].split(), np.float32), atol=1e-6)


def test_sparse_initializers_hold_the_connections_alone(tmp_path):
    model = quick(RLx2TD3, actor_sparsity=0.95, policy_kwargs={"net_arch": [256, 256]})
    dense = export.export(model, tmp_path / "dense", "onnx", observations=observations())
    sparse = export.export(model, tmp_path / "sparse", "onnx", sparse=True, observations=observations())
    loaded = onnx.load(tmp_path / "sparse" / "policy.onnx")
    held = sum(tensor.values.dims[0] for tensor in loaded.graph.sparse_initializer)
    assert held == sum(layer.nnz for layer in model.actor.modules() if hasattr(layer, "nnz"))
    assert sparse.files["policy.onnx"] < dense.files["policy.onnx"] / 4


def test_discrete_actions_are_whole_numbers(tmp_path):
    model, raw = quick(RLx2DQN), observations()
    model.export(tmp_path, "onnx", observations=raw)
    (actions,) = runtime.InferenceSession(tmp_path / "policy.onnx").run(None, {"observation": raw})
    assert (actions.shape, actions.dtype) == ((200,), np.int64)
    np.testing.assert_array_equal(actions, predictions(model, raw))


def test_spaces_of_several_dimensions_keep_their_shapes(tmp_path):
    import gymnasium as gym

    class Grid(Walk):
        observation_space = gym.spaces.Box(-1, 1, (3, 2), np.float32)
        action_space = gym.spaces.Box(-2, 2, (2, 2), np.float32)

        def reset(self, **kwargs):
            return np.zeros((3, 2), np.float32), {}

    for to in ("onnx", "numpy", "c"):
        report = quick(RLx2TD3, DummyVecEnv([Grid])).export(tmp_path, to)
        assert report.agreement.largest < 2e-6
    session = runtime.InferenceSession(tmp_path / "policy.onnx")
    (actions,) = session.run(None, {"observation": np.zeros((7, 3, 2), np.float32)})
    assert actions.shape == (7, 2, 2)


def test_without_onnxruntime_the_note_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "onnx_policy", lambda path: None)
    assert "onnxruntime is not installed" in str(quick(RLx2TD3).export(tmp_path, "onnx"))
    assert onnx_files.OPSET == 17


class Acting(th.nn.Module):
    """What an actor computes without noise, in [-1, 1]."""

    def __init__(self, actor):
        super().__init__()
        self.actor = actor

    def forward(self, observation):
        features = self.actor.features_extractor(observation)
        if hasattr(self.actor, "latent_pi"):  # of SAC
            return th.tanh(self.actor.mu(self.actor.latent_pi(features)))
        return self.actor.mu(features)


@pytest.mark.parametrize("is_dense", [False, True])
@pytest.mark.parametrize("algorithm", [RLx2TD3, RLx2SAC])
def test_torchscript_and_torch_export_take_the_actor(algorithm, is_dense):
    model = quick(algorithm)
    model = model.to_dense() if is_dense else model
    module, example = Acting(model.policy.actor).eval(), th.as_tensor(observations(3))
    with th.no_grad():
        expected = module(example)
        scaled = model.policy.scale_action(predictions(model, observations(3)))
        np.testing.assert_allclose(expected, scaled, atol=1e-6)
        for made in (th.jit.trace(module, example), th.export.export(module, (example,)).module()):
            assert th.allclose(made(example), expected, atol=1e-6)
