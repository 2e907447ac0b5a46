"""Phases between collecting in which the critics alone learn from the replay buffer."""

import gymnasium as gym
import pytest
import torch as th
from helpers import ALGORITHMS, COMPILED, each_engine, quick
from test_engine import assert_same_run

from sb3_rlx2 import RLx2SAC

PHASES = {"offline_interval": 40, "offline_updates": 70}


@pytest.mark.parametrize("algorithm", COMPILED)
def test_same_run_as_torch(algorithm):
    kwargs = {**PHASES, "topology_interval": (30, "timesteps"), "n_steps_delay": (90, "timesteps")}
    model = assert_same_run(algorithm, tolerance=2e-4, **kwargs)
    assert model._n_updates == 100 + 2 * 70  # after the steps 80 and 120


@pytest.mark.parametrize(("algorithm", "engine"), each_engine(ALGORITHMS))
def test_actor_and_entropy_coefficient_stay_while_the_critics_learn(algorithm, engine):
    kwargs = quick(offline_interval=60, offline_updates=20, topology="static")
    model = algorithm("MlpPolicy", "Pendulum-v1", engine=engine, **kwargs).learn(59)
    actor = [parameter.detach().clone() for parameter in model.actor.parameters()]
    critic = [parameter.detach().clone() for parameter in model.critic.parameters()]
    coefficient = None if getattr(model, "log_ent_coef", None) is None else model.log_ent_coef.item()
    updates, of_actor = model._n_updates, model.topology_counters["actor"]["updates"]
    model._make_updates(20, 32, offline=True)
    assert model._n_updates == updates + 20
    assert model.topology_counters["actor"]["updates"] == of_actor
    assert all(map(th.equal, actor, model.actor.parameters()))
    assert not any(map(th.equal, critic, model.critic.parameters()))
    assert coefficient is None or coefficient == model.log_ent_coef.item()
    model.train(4, 32)  # no phase is due
    assert model._n_updates == updates + 24
    assert not all(map(th.equal, actor, model.actor.parameters()))


def test_each_multiple_that_an_episode_passes_has_its_phase():
    # The first updates come after the episode that ends at step 200; those passed before it have no phase
    phases = {"offline_interval": 150, "offline_updates": 7}
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**phases, train_freq=(1, "episode"), gradient_steps=1))
    model.learn(600)
    assert model._n_updates == 3 + 7 * 3  # 300; 450 and 600


@pytest.mark.parametrize("name", ["model.zip", "model.safetensors"])
def test_a_loaded_model_has_no_phase_twice_and_misses_none(name, tmp_path):
    model = RLx2SAC("MlpPolicy", gym.make("Pendulum-v1"), **quick(**PHASES)).learn(80)
    model.save(tmp_path / name)
    loaded = RLx2SAC.load(tmp_path / name, env=gym.make("Pendulum-v1"))
    loaded.learn(39, reset_num_timesteps=False)
    assert loaded._n_updates == 30 + 70 + 39
    loaded.learn(1, reset_num_timesteps=False)
    assert loaded._n_updates == 30 + 70 + 39 + 70 + 1


def test_phases_are_made_of_whole_numbers():
    for wrong in ({"offline_interval": 0}, {"offline_updates": -1}, {"offline_interval": 1.5}):
        name = next(iter(wrong))
        with pytest.raises(
            ValueError, match=rf"{name}={wrong[name]} is not allowed: it must be a whole number >= [0-9]"
        ):
            RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**wrong))


def test_an_interval_and_a_number_of_updates_belong_together():
    for alone in ({"offline_interval": 15}, {"offline_updates": 3}):
        with pytest.raises(ValueError, match=r"is not allowed with .*: both must be given, or neither"):
            RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**alone))
