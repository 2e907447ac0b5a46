"""SAC, TQC and CrossQ whose actor is updated less often than their critics."""

import math

import gymnasium as gym
import pytest
import torch as th
from helpers import GAUSSIAN, each_engine, quick
from test_engine import assert_same_run

from sb3_rlx2 import RLx2SAC, RLx2TQC
from sb3_rlx2.errors import DivergenceError


def steps_of(optimizer):
    return {int(state["step"]) for state in optimizer.state.values()}


@pytest.mark.parametrize("algorithm", [RLx2SAC, RLx2TQC])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"policy_delay": 2},
        {"policy_delay": 3, "gradient_steps": 4, "topology_interval": (30, "timesteps")},
        {"policy_delay": 4, "ent_coef": 0.1, "gradient_steps": 2},
    ],
)
def test_same_run_as_torch(algorithm, kwargs):
    model = assert_same_run(algorithm, **{"topology_interval": 16, "n_steps_delay": 40, **kwargs})
    assert model.topology_counters["actor"]["evolutions"] > 1


@pytest.mark.parametrize(("algorithm", "engine"), each_engine(GAUSSIAN))
def test_actor_and_entropy_coefficient_are_updated_every_so_many_critic_updates(algorithm, engine):
    kwargs = quick(policy_delay=3, topology="static", gradient_steps=2)
    model = algorithm("MlpPolicy", gym.make("Pendulum-v1"), engine=engine, **kwargs).learn(100)
    assert model._n_updates == 100
    assert steps_of(model.critic.optimizer) == {100}
    assert steps_of(model.actor.optimizer) == {33}
    assert steps_of(model.ent_coef_optimizer) == {33}
    assert model.topology_counters["actor"]["updates"] == 33
    assert "step" not in vars(model.actor.optimizer)


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_losses_are_logged_of_updates_that_take_a_step(engine):
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", engine=engine, **quick(policy_delay=2, learning_starts=0))
    model.learn(1)
    assert "train/critic_loss" in model.logger.name_to_value
    assert not {"train/actor_loss", "train/ent_coef_loss"} & model.logger.name_to_value.keys()
    model.learn(1, reset_num_timesteps=False)
    assert {"train/actor_loss", "train/ent_coef_loss"} <= model.logger.name_to_value.keys()


@pytest.mark.parametrize("engine", ["compiled", "torch"])
@pytest.mark.parametrize("updates", [3, 4, 5])
def test_a_divergence_leaves_the_entropy_coefficient_as_it_was(engine, updates):
    kwargs = quick(policy_delay=3, topology="static", gradient_steps=0)
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", engine=engine, **kwargs).learn(60)
    model.train(updates, 32)
    state = model.ent_coef_optimizer.state[model.log_ent_coef]
    before = [model.log_ent_coef.item(), *(entry.item() for entry in state.values())]
    # All losses are finite, and the critics' step is not
    next(iter(model.critic.optimizer.state.values()))["exp_avg"][0] = math.inf
    with pytest.raises(DivergenceError, match=f"at update {updates + 1}"):
        model.train(1, 32)
    assert [model.log_ent_coef.item(), *(entry.item() for entry in state.values())] == before
    assert model._n_updates == updates


@pytest.mark.parametrize("name", ["model.zip", "model.safetensors"])
def test_it_is_saved(name, tmp_path):
    model = RLx2SAC("MlpPolicy", gym.make("Pendulum-v1"), **quick(policy_delay=3)).learn(80)
    model.save(tmp_path / name)
    loaded = RLx2SAC.load(tmp_path / name, env=gym.make("Pendulum-v1"))
    assert loaded.policy_delay == 3
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.topology_counters["actor"]["updates"] == 40 // 3


def test_a_scheduler_that_watches_steps_keeps_watching():
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", engine="torch", **quick(policy_delay=2))
    scheduler = th.optim.lr_scheduler.LambdaLR(model.actor.optimizer, lambda _: 1.0)
    own = vars(model.actor.optimizer).get("step")
    model.learn(60)
    assert vars(model.actor.optimizer).get("step") is own
    scheduler.step()


@pytest.mark.parametrize("value", [0, 1.5])
def test_it_must_be_a_whole_number(value):
    with pytest.raises(ValueError, match=rf"policy_delay={value} is not allowed: it must be a whole number >= 1"):
        RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(policy_delay=value))
