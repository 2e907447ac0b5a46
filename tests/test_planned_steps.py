"""A warning before a training that names what its steps are too few for."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from helpers import ALGORITHMS, quick
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_rlx2 import RLx2SAC, RLx2TD3, TrainingCheckpointCallback
from sb3_rlx2.resume import resume


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_too_short_warns_once_and_names_what_will_not_happen(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology_interval=10_000, n_steps_delay=300_000))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(60)
    ours = [str(warning.message) for warning in caught if "ends at" in str(warning.message)]
    assert ours == [
        f"{algorithm.__name__}.learn() ends at 60 environment steps: the actor's topology does not evolve "
        "(topology_interval=10000, topology_end=None); the critic's topology does not evolve "
        "(topology_interval=10000, topology_end=None); targets stay 1-step (n_steps_delay=300000)"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(10, reset_num_timesteps=False)
        algorithm("MlpPolicy", "Pendulum-v1", **quick()).learn(200)
    with pytest.warns(UserWarning, match=r"no gradient update is made \(learning_starts=50, gradient_steps=1\)"):
        algorithm("MlpPolicy", "Pendulum-v1", **quick()).learn(20)


@pytest.mark.parametrize(
    ("arguments", "steps", "message"),
    [
        # Update 20 of the critic is made at step 70, when evolution has annealed to nothing
        ({"topology": "set"}, 70, "the critic's topology does not evolve"),
        ({"topology_end": 60}, 200, r"the actor's .* \(topology_interval=20, topology_end=60\); the critic's"),
        ({"buffer_min_size": 2000}, 200, r"forgets nothing \(buffer_min_size=2000, buffer_size=2000\)"),
        ({"gradient_steps": 0}, 200, "no gradient update is made"),
    ],
)
def test_what_the_warning_foresees(arguments, steps, message):
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**arguments))
    with pytest.warns(UserWarning, match=message):
        model.learn(steps)
    if "topology" in message:
        assert model.topology_counters["critic"]["evolutions"] == 0


def test_the_warning_is_silent_where_everything_happens():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(n_steps_delay=5))
        model.learn(71)
    assert model.topology_counters["critic"]["evolutions"] == 1


def test_a_later_part_of_a_training_warns_of_what_the_first_did_not():
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(topology_interval=1000))
    with pytest.warns(UserWarning, match="no gradient update is made"):
        model.learn(10)
    with pytest.warns(UserWarning, match=r"steps: the actor's topology does not evolve [^;]*; the critic's"):
        model.learn(100, reset_num_timesteps=False)


def test_a_training_that_begins_again_does_not_warn_of_an_evolution_that_comes():
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(topology_interval=(100, "timesteps"))).learn(200)
    before = model.topology_counters["critic"]["evolutions"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(180)
    assert model.topology_counters["critic"]["evolutions"] == before + 1


def test_updates_of_offline_phases_are_foreseen_for_the_critics_alone():
    phases = {"offline_interval": 20, "offline_updates": 200, "topology_interval": 100, "n_steps_delay": 150}
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**phases))
    with pytest.warns(UserWarning, match=r"steps: the actor's topology does not evolve [^;]*$"):
        model.learn(90)
    assert model.topology_counters["critic"]["evolutions"] > 1
    assert (model.topology_counters["actor"]["evolutions"], model.replay_buffer.n_steps_in_use) == (0, 3)


def settings_at_random(seed):
    """Settings whose clocks are in either unit, some too long for the training."""
    rng = np.random.default_rng(seed)

    def clock(low, high):
        return int(rng.integers(low, high)), rng.choice(["updates", "timesteps"]).item()

    return {
        "n_envs": int(rng.choice([1, 1, 3])),
        "steps": int(rng.integers(40, 160)),
        "learning_starts": int(rng.integers(20, 90)),
        "train_freq": int(rng.choice([1, 7])),
        "gradient_steps": int(rng.choice([-1, 1, 3])),
        "topology_interval": clock(10, 120),
        "topology_end": None if rng.random() < 0.5 else clock(40, 160),
        "n_steps_delay": clock(20, 160),
    }


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("algorithm", [RLx2SAC, RLx2TD3])
def test_it_names_exactly_what_does_not_happen(algorithm, seed):
    kwargs = settings_at_random(seed)
    n_envs, steps = kwargs.pop("n_envs"), kwargs.pop("steps")
    model = algorithm("MlpPolicy", make_vec_env("Pendulum-v1", n_envs), **quick(**kwargs))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(steps)
    said = " ".join(str(warning.message) for warning in caught if "learn() ends at" in str(warning.message))
    assert ("no gradient update" in said) == (model._n_updates == 0)
    if said:
        assert f" ends at {model.num_timesteps} environment steps: " in said
    if model._n_updates:
        for name, counters in model.topology_counters.items():
            assert (f"the {name}'s topology does not evolve" in said) == (counters["evolutions"] == 0)
        has_begun = model.replay_buffer.n_steps_in_use > 1
        begins_next = kwargs["n_steps_delay"] == (model._n_updates, "updates")
        assert ("targets stay 1-step" in said) == (begins_next or not has_begun)


def test_a_training_in_many_calls_needs_the_end_of_all():
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(topology_interval=10, n_steps_delay=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(100)
        model.learn(100, reset_num_timesteps=False)
    with pytest.warns(UserWarning, match=r"evolution is nearly over from the first of them on \(topology_end=None"):
        model.learn(100, reset_num_timesteps=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(100, reset_num_timesteps=False)  # it is said once
        model = RLx2SAC(
            "MlpPolicy", "Pendulum-v1", **quick(topology_interval=10, topology_end=400, n_steps_delay=0)
        ).learn(100)
        for _ in range(3):
            model.learn(100, reset_num_timesteps=False)


class Kill(BaseCallback):
    at = 280

    def _on_step(self):
        if self.num_timesteps == self.at:
            raise RuntimeError("killed")
        return True


def test_a_killed_training_that_goes_on_is_not_one_of_many_calls(tmp_path, monkeypatch):
    model = RLx2SAC("MlpPolicy", gym.make("Pendulum-v1"), **quick(topology_interval=10))
    with pytest.raises(RuntimeError, match="killed"):
        model.learn(300, callback=[TrainingCheckpointCallback(tmp_path, 270), Kill()])
    monkeypatch.setattr(Kill, "at", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = resume(tmp_path, callback=[TrainingCheckpointCallback(tmp_path, 270), Kill()])
    assert model.num_timesteps == 300


def test_phases_count_beside_an_update_for_each_environment_step():
    phases = {"offline_interval": 20, "offline_updates": 200, "topology_interval": 100, "n_steps_delay": 150}
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**phases, gradient_steps=-1))
    with pytest.warns(UserWarning, match=r"steps: the actor's topology does not evolve [^;]*$"):
        model.learn(90)
    assert model.topology_counters["critic"]["evolutions"] > 1


def test_the_last_update_counts():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(n_steps_delay=20)).learn(71)
    assert model._n_updates == 21


@pytest.mark.parametrize(("learning_starts", "train_freq", "end"), [(39, 1, 80), (50, 100, 110)])
def test_the_very_first_update_does_not_evolve(learning_starts, train_freq, end):
    clocks = {"topology_interval": (40, "timesteps"), "topology_end": end, "n_steps_delay": 0}
    kwargs = quick(learning_starts=learning_starts, train_freq=train_freq, **clocks)
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **kwargs)
    with pytest.warns(UserWarning, match="the actor's topology does not evolve .*; the critic's topology does not"):
        model.learn(200)
    assert model.topology_counters["critic"]["evolutions"] == 0
