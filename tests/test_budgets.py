"""Rules whose layers gain or lose connections, with the evolver as it is."""

import copy
import warnings

import gymnasium as gym
import pytest
import torch as th
from helpers import ALL, each_engine, environment, in_turn, quick, targets_follow
from test_engine import assert_same_run

from sb3_rlx2 import RLx2DQN, RLx2QRDQN, RLx2SAC, RLx2TD3
from sb3_rlx2.common.topology import network_density, networks
from sb3_rlx2.errors import CheckpointMismatchError
from sb3_rlx2.files import register
from sb3_rlx2.sparse import SET, Budget, RigL, Schedule, SparseLinear, TopologyRule, relocate, sparse_layers
from sb3_rlx2.sparse.reachability import unreachable_outputs
from sb3_rlx2.sparse.rules import next_connections


class Nothing(Schedule):
    def drop_fraction(self, initial, progress):
        return 0.0


class To(Budget):
    """From what a layer has to a share of its weights, by a cube."""

    def __init__(self, last):
        self.last = last

    def connections(self, layers, progress):
        numbers = {}
        for name, layer in layers.items():
            last = max(round(self.last * layer.in_features * layer.out_features), layer.out_features)
            numbers[name] = round(last + (layer.nnz - last) * (1 - progress) ** 3)
        return numbers


class GradualPruning(TopologyRule):
    schedule, budget = Nothing(), To(0.1)


class Growing(SET):
    schedule, budget = Nothing(), To(0.9)


class RigLThatFalls(RigL):
    budget = To(0.1)


for rule in (GradualPruning, Growing, RigLThatFalls):
    register(rule, f"test_budgets.{rule.__name__}")


def numbers(model):
    return [layer.nnz for network in networks(model).values() for layer in sparse_layers(network).values()]


@pytest.mark.parametrize(
    ("algorithm", "engine", "rule"), in_turn(each_engine(ALL), [GradualPruning(), Growing(), RigLThatFalls()])
)
def test_layers_follow_the_budget_and_everything_follows_them(algorithm, engine, rule):
    sign = 1 if isinstance(rule, Growing) else -1
    sparsities = dict.fromkeys(algorithm.network_sparsities.values(), 0.5)
    kwargs = quick(topology=rule, gradient_steps=2, **sparsities)
    model = algorithm("MlpPolicy", environment(algorithm), engine=engine, **kwargs)
    before = numbers(model)
    model.learn(120)
    after = numbers(model)
    assert sum(before) * sign < sum(after) * sign
    assert all(a * sign <= b * sign for a, b in zip(before, after, strict=True))
    assert targets_follow(model)
    optimizers = [network.optimizer for network in networks(model).values() if hasattr(network, "optimizer")]
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            assert state["exp_avg"].shape == parameter.shape


@pytest.mark.parametrize("rule", [GradualPruning(), Growing()])
def test_the_density_that_is_logged_follows_the_budget(rule):
    model = RLx2DQN("MlpPolicy", "CartPole-v1", **quick(topology=rule, sparsity=0.5))
    logged = []

    def note(locals_, _):
        if locals_["dones"][0]:  # our own callbacks, which record, go before
            logged.append((model.logger.name_to_value["rlx2/q_net_density"], network_density(model.q_net)))
        return True

    model.learn(160, callback=note)
    assert all(density == now for density, now in logged)
    assert len({density for density, _ in logged}) > 2


@pytest.mark.parametrize("rule", [GradualPruning, RigLThatFalls])
def test_both_engines_compute_the_same(rule):
    kwargs = {"actor_sparsity": 0.5, "critic_sparsity": 0.5, "gradient_steps": 3, "topology_interval": 25}
    model = assert_same_run(RLx2TD3, topology=rule(), **kwargs)
    assert model.topology_counters["actor"]["evolutions"] > 2


@pytest.mark.parametrize("name", ["model.zip", "model.safetensors"])
def test_a_model_whose_budget_has_moved_is_saved_and_goes_on(name, tmp_path):
    kwargs = quick(topology={"actor": "static", "critic": GradualPruning()}, actor_sparsity=0.5, critic_sparsity=0.5)
    model = RLx2SAC("MlpPolicy", gym.make("Pendulum-v1"), **kwargs).learn(150)
    model.save(tmp_path / name)
    loaded = RLx2SAC.load(tmp_path / name, env=gym.make("Pendulum-v1"))
    assert numbers(loaded) == numbers(model)
    for ours, theirs in zip(loaded.policy.parameters(), model.policy.parameters(), strict=True):
        assert th.equal(ours, theirs)
    loaded.learn(60, reset_num_timesteps=False)
    assert targets_follow(loaded)


@pytest.mark.parametrize("name", ["model.zip", "model.safetensors"])
@pytest.mark.parametrize("topology", ["static", "rigl", {"actor": "static", "critic": "set"}])
def test_a_model_whose_budget_has_moved_goes_on_by_another_rule(name, topology, tmp_path):
    model = RLx2SAC("MlpPolicy", gym.make("Pendulum-v1"), **quick(topology=GradualPruning())).learn(150)
    model.save(tmp_path / name)
    loaded = RLx2SAC.load(tmp_path / name, env=gym.make("Pendulum-v1"), topology=topology)
    assert loaded.topology == topology
    assert numbers(loaded) == numbers(model)
    loaded.learn(60, reset_num_timesteps=False)
    assert numbers(loaded) == numbers(model)
    for other in ("dense", {"actor": "dense", "critic": "rigl"}):
        with pytest.raises(CheckpointMismatchError, match="do not fit this RLx2SAC"):
            RLx2SAC.load(tmp_path / name, topology=other)


@pytest.mark.parametrize("damage", ["missing", "not a number"])
def test_parameters_that_do_not_fit_leave_a_model_whose_budget_moves_as_it_is(damage):
    kwargs = quick(topology=GradualPruning(), actor_sparsity=0.5, critic_sparsity=0.5)
    model, other = (RLx2SAC("MlpPolicy", "Pendulum-v1", **kwargs).learn(steps) for steps in (90, 150))
    assert numbers(model) != numbers(other)
    params = copy.deepcopy(other.get_parameters())
    if damage == "missing":
        del params["critic.optimizer"]
    else:
        params["policy"]["actor.mu.bias"][:] = float("nan")
    before = copy.deepcopy(model.get_parameters())
    with pytest.raises(CheckpointMismatchError):
        model.set_parameters(params)
    for name, ours in model.get_parameters().items():
        th.testing.assert_close(ours, before[name], rtol=0, atol=0)
    assert targets_follow(model)
    model.set_parameters(other.get_parameters())
    assert numbers(model) == numbers(other)


def test_the_weakest_go_and_no_output_loses_its_last_path():
    kwargs = quick(topology=GradualPruning(), actor_sparsity=0.5, critic_sparsity=0.5)
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **kwargs).learn(200)
    stages = [[layer] for layer in (model.critic.q_networks[0][i] for i in (0, 2, 4))]
    assert not any(unreachable.any() for unreachable in unreachable_outputs(stages))


@pytest.mark.parametrize("count", [1, 5, 20, 29])
def test_a_layer_gets_as_many_connections_as_the_budget_says(count):
    th.manual_seed(0)
    layer = SparseLinear(5, 6, 20)
    values = dict(zip(layer.indices.tolist(), layer.values.tolist(), strict=True))
    optimizer = th.optim.Adam(layer.parameters())
    layer(th.randn(4, 5)).square().sum().backward()
    optimizer.step()
    values = dict(zip(layer.indices.tolist(), layer.values.tolist(), strict=True))
    twin = copy.deepcopy(layer)
    exchange = next_connections(layer, "set", 0.0, count)
    change = relocate(layer, exchange.indices, mirrors=[twin], optimizers=[optimizer])
    assert layer.nnz == twin.nnz == count
    assert change == (max(20 - count, 0), max(count - 20, 0))
    kept = sorted(values, key=lambda place: abs(values[place]))[-min(count, 20) :]
    assert {place for place in layer.indices.tolist() if place in values} == {*kept}
    for place, value in zip(layer.indices.tolist(), layer.values.tolist(), strict=True):
        assert value == values.get(place, 0.0)
    optimizer.zero_grad()
    layer(th.randn(4, 5)).square().sum().backward()
    optimizer.step()
    assert optimizer.state[layer.values]["exp_avg"].shape == (count,)


class TooMany(Budget):
    def connections(self, layers, progress):
        return dict.fromkeys(layers, 10**6)


class Wrong(SET):
    budget = TooMany()


class One(Budget):
    def connections(self, layers, progress):
        return dict.fromkeys(layers, 1)


class ToOne(SET):
    budget = One()


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_a_budget_that_cuts_outputs_off_is_an_error_that_leaves_all_as_it_was(engine):
    model = RLx2QRDQN("MlpPolicy", "CartPole-v1", engine=engine, **quick(topology=ToOne()))
    before = numbers(model)
    with pytest.raises(ValueError, match=r"budget leaves \d+ of 400 outputs without a path from any input"):
        model.learn(150)
    assert numbers(model) == before
    assert model.topology_counters["quantile_net"]["evolutions"] == 0


def test_nothing_is_foretold_of_rules_with_a_schedule_or_a_budget_of_their_own():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rule in (GradualPruning(), RigLThatFalls()):
            few = {"net_arch": [8, 8]}
            kwargs = quick(topology=rule, policy_kwargs=few, n_steps_delay=5)
            model = RLx2SAC("MlpPolicy", "Pendulum-v1", **kwargs).learn(71)
            assert model.topology_counters["critic"]["evolutions"] == 1


def test_a_budget_that_cannot_be_is_an_error_that_names_the_layer():
    with pytest.raises(ValueError, match=r"budget\['.*'\]=1000000 is not allowed: the layer has \d+ weights"):
        RLx2SAC("MlpPolicy", "Pendulum-v1", engine="torch", **quick(topology=Wrong())).learn(100)
