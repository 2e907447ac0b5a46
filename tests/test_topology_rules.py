"""A rule for each network."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import ALGORITHMS, each_engine, quick
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger

from sb3_rlx2 import RLx2SAC, RLx2TD3, TopologyEvolutionCallback
from sb3_rlx2.analysis.report import update_recipe
from sb3_rlx2.sac import MlpPolicy
from sb3_rlx2.sparse import SET, sparse_layers
from sb3_rlx2.sparse.schedules import Schedule


def connections(network):
    return [layer.indices.clone() for layer in sparse_layers(network).values()]


def have_moved(before, network):
    return not all(th.equal(a, b) for a, b in zip(before, connections(network), strict=True))


@pytest.mark.parametrize(("algorithm", "engine"), each_engine(ALGORITHMS))
@pytest.mark.parametrize(("actor", "critic"), [("static", "rigl"), (SET(), "static")])
def test_each_network_follows_its_own_rule(algorithm, engine, actor, critic):
    topology = {"actor": actor, "critic": critic}
    model = algorithm("MlpPolicy", "Pendulum-v1", engine=engine, **quick(topology=topology))
    before = {name: connections(getattr(model, name)) for name in topology}
    model.learn(140)
    for name, rule in topology.items():
        evolves = rule != "static"
        assert have_moved(before[name], getattr(model, name)) == evolves
        assert (model.topology_counters[name]["evolutions"] > 0) == evolves


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_network_may_be_dense_alone(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology={"actor": "dense", "critic": "set"}))
    assert not sparse_layers(model.actor)
    before = connections(model.critic)
    model.learn(140)
    assert have_moved(before, model.critic)


@pytest.mark.parametrize("name", ["model.zip", "model.safetensors"])
def test_rules_of_networks_are_saved(name, tmp_path):
    topology = {"actor": "static", "critic": "rigl"}
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(topology=topology)).learn(90)
    model.save(tmp_path / name)
    loaded = RLx2SAC.load(tmp_path / name, env=gym.make("Pendulum-v1"))
    assert loaded.topology == topology
    before = connections(loaded.actor)
    loaded.learn(140)
    assert not have_moved(before, loaded.actor)
    assert loaded.topology_counters["critic"]["evolutions"] > model.topology_counters["critic"]["evolutions"]


def test_a_change_of_the_dict_takes_effect():
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(topology={"actor": "static", "critic": "rigl"}))
    model.learn(90)
    before = connections(model.actor)
    model.topology["actor"] = "set"
    model.learn(140, reset_num_timesteps=False)
    assert have_moved(before, model.actor)


def test_the_callback_gives_each_network_of_a_stock_algorithm_its_rule():
    kwargs = {"actor_sparsity": 0.8, "critic_sparsity": 0.8, "net_arch": [32, 32]}
    model = SAC(MlpPolicy, "Pendulum-v1", learning_starts=50, buffer_size=500, policy_kwargs=kwargs, device="cpu")
    before = {name: connections(getattr(model, name)) for name in ("actor", "critic")}
    model.learn(140, callback=TopologyEvolutionCallback({"actor": "static", "critic": "set"}, topology_interval=20))
    assert not have_moved(before["actor"], model.actor)
    assert have_moved(before["critic"], model.critic)


def test_a_report_counts_dense_gradients_of_the_networks_that_evolve_alone():
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(topology={"actor": "static", "critic": "rigl"}))
    assert update_recipe(model).evolution_intervals == {"critic": 20}


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ({"critic": "rigl"}, r"topology={'critic': 'rigl'} is not allowed: as a dict it must have a rule for each of"),
        ({"actor": "rigl", "critic": "rigl", "q": "rigl"}, r"must have a rule for each of \['actor', 'critic'\]"),
        ({"actor": "snip", "critic": "rigl"}, r"topology\['actor'\]='snip' is unknown: allowed are \['dense', 'rigl'"),
    ],
)
def test_a_dict_must_have_a_known_rule_for_each_network(topology, message):
    with pytest.raises(ValueError, match=message):
        RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(topology=topology))


def test_a_schedule_of_ones_own_sees_no_progress_before_learning_starts():
    seen = []

    class Recording(Schedule):
        def drop_fraction(self, initial, progress):
            seen.append(progress)
            return initial

    class Rule(SET):
        schedule = Recording()

    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(topology=Rule(), topology_interval=5, topology_end=200))
    model.set_logger(Logger(None, []))
    transition = (np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    for _ in range(40):
        model.replay_buffer.add(*transition)
    model.train(10, 16)
    assert {*seen} == {0.0}
