"""Where the networks live: device="auto" is the CPU for what the compiled engine covers, and a GPU is obeyed."""

import copy
import io

import pytest
import torch as th
from helpers import ALGORITHMS, ALL_COMPILED, environment, quick
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import get_device

from sb3_rlx2 import RLx2SAC, RLx2TD3
from sb3_rlx2.common import off_policy_algorithm
from sb3_rlx2.common.saving import algorithm

NOT_COVERED = {
    "engine": {"engine": "torch"},
    "activation": {"policy_kwargs": {"activation_fn": th.nn.Softplus}},
    "density": {"actor_sparsity": 0.1, "critic_sparsity": 0.1},
    "dense": {"topology": "dense"},
}


def arguments(**kwargs):
    return {
        name: value for name, value in quick(**copy.deepcopy(kwargs)).items() if name != "device" or "device" in kwargs
    }


def stand_in(name):
    """Tensors that are put there hold no numbers."""
    return th.device("meta") if name == "auto" else get_device(name)


@pytest.fixture
def gpu(monkeypatch):
    """As if there were a GPU. Optimizers lose their parameters on the way to the stand-in, and nothing can evolve."""
    monkeypatch.setattr(off_policy_algorithm, "evolve_topology", lambda model, settings: None)
    for module in (off_policy_algorithm, algorithm):
        monkeypatch.setattr(module, "get_device", stand_in)
        monkeypatch.setattr(module, "check_device", lambda device: None)


@pytest.fixture
def loads(monkeypatch):
    """Where SB3 was told to load models; the numbers themselves can only be loaded on the CPU here."""
    asked = []
    load = BaseAlgorithm.load.__func__

    def noting(cls, path, env, device, *args, **kwargs):
        asked.append(str(device))
        return load(cls, path, env, "cpu", *args, **kwargs)

    monkeypatch.setattr(BaseAlgorithm, "load", classmethod(noting))
    return asked


def devices(model):
    tensors = [*model.policy.parameters(), *model.policy.buffers()]
    if isinstance(model, RLx2SAC):
        tensors.append(model.log_ent_coef)
    return {tensor.device.type for tensor in tensors} | {model.device.type, model.replay_buffer.device.type}


@pytest.mark.parametrize("algorithm", ALL_COMPILED)
def test_auto_is_the_cpu_where_the_compiled_engine_covers_the_model(algorithm, monkeypatch):
    monkeypatch.setattr(th.cuda, "is_available", lambda: True)
    model = algorithm("MlpPolicy", environment(algorithm), **arguments())
    assert devices(model) == {"cpu"}
    assert model._choose_engine().reason is None
    file = io.BytesIO()
    model.save(file)
    assert devices(algorithm.load(file)) == {"cpu"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", NOT_COVERED)
def test_auto_is_the_gpu_where_it_does_not(algorithm, case, gpu, loads, tmp_path):
    model = algorithm("MlpPolicy", "Pendulum-v1", **arguments(**NOT_COVERED[case]))
    assert devices(model) == {"meta"}
    algorithm("MlpPolicy", "Pendulum-v1", **quick(**copy.deepcopy(NOT_COVERED[case]))).save(tmp_path / "model")
    algorithm.load(tmp_path / "model")
    assert loads == ["cpu", "meta"]


def test_engine_of_a_loaded_model_decides_for_its_device(gpu, loads, tmp_path):
    RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(engine="torch")).save(tmp_path / "model")
    RLx2TD3.load(tmp_path / "model")
    assert loads == ["cpu", "meta"]
    RLx2TD3.load(tmp_path / "model", engine="auto")
    assert loads == ["cpu", "meta", "cpu"]
    RLx2TD3.load(tmp_path / "model", device="cpu")
    assert loads == ["cpu", "meta", "cpu", "cpu"]


def test_the_compiled_engine_asks_for_the_cpu(gpu):
    assert devices(RLx2TD3("MlpPolicy", "Pendulum-v1", **arguments(engine="compiled"))) == {"cpu"}
    dense = RLx2TD3("MlpPolicy", "Pendulum-v1", **arguments(engine="compiled", topology="dense"))
    assert devices(dense) == {"cpu"}
    with pytest.raises(ValueError, match="engine='compiled' does not cover this RLx2TD3: the actor has a Softplus"):
        RLx2TD3("MlpPolicy", "Pendulum-v1", **arguments(engine="compiled", **NOT_COVERED["activation"]))


def test_cuda_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr(th.cuda, "is_available", lambda: True)
    asked = []
    monkeypatch.setattr(off_policy_algorithm, "check_device", lambda device: asked.append(device))
    monkeypatch.setattr(RLx2TD3, "_build", lambda self: asked.append(self.device))
    RLx2TD3("MlpPolicy", "Pendulum-v1", **arguments(device="cuda"))
    assert asked == [th.device("cuda")] * 2


@pytest.mark.parametrize("seed", [0, None])
def test_a_model_that_is_built_twice_has_the_numbers_of_one_that_is_built_once(seed, gpu, monkeypatch):
    kept = {}
    build = RLx2SAC._build

    def noting(self):
        build(self)
        kept.setdefault(len(kept), {name: tensor.clone() for name, tensor in self.policy.state_dict().items()})

    monkeypatch.setattr(RLx2SAC, "_build", noting)
    monkeypatch.setattr(th.nn.Module, "to", lambda self, device: self)
    RLx2SAC("MlpPolicy", "Pendulum-v1", **arguments(engine="torch", seed=seed))
    assert len(kept) == 2
    assert all(th.equal(tensor, kept[1][name]) for name, tensor in kept[0].items())


def test_the_choice_is_not_saved(tmp_path):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **arguments())
    model.save(tmp_path / "model")
    assert model._device_is_auto
    assert not RLx2TD3.load(tmp_path / "model", device="cpu")._device_is_auto
