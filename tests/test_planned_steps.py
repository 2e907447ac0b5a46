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
from sb3_rlx2.sparse import SET, Budget, Schedule, TopologyRule


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


def test_a_budget_that_moves_needs_layers_that_are_sparse():
    class Falling(Budget):
        def connections(self, layers, progress):
            return {name: max(1, layer.nnz - 1) for name, layer in layers.items()}

    class Pruning(TopologyRule):
        budget = Falling()

    kwargs = quick(topology=Pruning(), topology_interval=10, actor_sparsity=0.0, critic_sparsity=0.5, n_steps_delay=0)
    with pytest.warns(UserWarning, match=r"the actor keeps all .* is sparse \(actor_sparsity=0.0\)$"):
        RLx2TD3("MlpPolicy", "Pendulum-v1", **kwargs).learn(200)


def settings_at_random(seed):
    """Settings whose clocks are in either unit, some too long for the training."""
    rng = np.random.default_rng(seed)

    def clock(low, high):
        return int(rng.integers(low, high)), rng.choice(["updates", "timesteps"]).item()

    phases = {"offline_interval": int(rng.integers(15, 60)), "offline_updates": int(rng.integers(1, 150))}
    return {
        "n_envs": int(rng.choice([1, 1, 3])),
        "calls": [(int(rng.integers(40, 160)), True), (int(rng.integers(10, 160)), bool(rng.random() < 0.3))],
        "learning_starts": int(rng.integers(20, 90)),
        "train_freq": int(rng.choice([1, 7])),
        "gradient_steps": int(rng.choice([-1, 0, 1, 3], p=[0.3, 0.1, 0.3, 0.3])),
        "topology_interval": clock(10, 120),
        "topology_end": None if rng.random() < 0.5 else clock(40, 160),
        "n_steps_delay": clock(20, 160),
        **(phases if rng.random() < 0.3 else {}),
    }


def learn_and_listen(model, steps, reset_num_timesteps):
    """What a call of ``learn`` warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(steps, reset_num_timesteps=reset_num_timesteps)
    said = " ".join(str(warning.message) for warning in caught if "learn() ends at" in str(warning.message))
    assert not said or f" ends at {model.num_timesteps} environment steps: " in said
    return said


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("algorithm", [RLx2SAC, RLx2TD3])
def test_it_names_exactly_what_does_not_happen(algorithm, seed):
    kwargs = settings_at_random(seed)
    n_envs, calls = kwargs.pop("n_envs"), kwargs.pop("calls")
    model = algorithm("MlpPolicy", make_vec_env("Pendulum-v1", n_envs), **quick(**kwargs))
    said_before, updates_before, evolutions_before = "", 0, {"actor": 0, "critic": 0}

    def check(reason, is_right, said):
        assert is_right or reason not in said
        assert not is_right or reason in said + said_before  # each is said once

    for steps, is_new in calls:
        said = learn_and_listen(model, steps, is_new)
        check("no gradient update", model._n_updates == updates_before, said)
        evolutions = {name: counters["evolutions"] for name, counters in model.topology_counters.items()}
        if model._n_updates > updates_before:
            for name in evolutions:
                if name == "actor" and "offline_interval" in kwargs and algorithm is RLx2TD3:
                    continue
                has_evolved = not is_new and evolutions_before[name] > 0
                stays = evolutions[name] == evolutions_before[name] and not has_evolved
                check(f"the {name}'s topology does not evolve", stays, said)
            begins_next = kwargs["n_steps_delay"] == (model._n_updates, "updates")
            check("targets stay 1-step", begins_next or model.replay_buffer.n_steps_in_use == 1, said)
        said_before, updates_before, evolutions_before = said_before + said, model._n_updates, evolutions


@pytest.mark.parametrize("gradient_steps", [-1, 1])
def test_where_episodes_decide_how_many_updates_there_are_nothing_is_foreseen(gradient_steps):
    kwargs = quick(train_freq=(1, "episode"), gradient_steps=gradient_steps, topology_interval=60)
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(40)
    assert (model.num_timesteps, model._n_updates > 0) == (200, True)


def test_a_buffer_of_several_environments_that_forgets_nothing():
    kwargs = quick(buffer_size=2000, buffer_min_size=1999)  # 1998 of 3 environments
    model = RLx2SAC("MlpPolicy", make_vec_env("Pendulum-v1", 3), **kwargs)
    with pytest.warns(UserWarning, match="forgets nothing"):
        model.learn(120)


def test_a_training_in_many_calls_needs_the_end_of_all():
    kwargs = quick(topology_interval=10, n_steps_delay=0)
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            model.learn(100, reset_num_timesteps=False)
    message = r"evolution is nearly over from this call's first step on \(topology_end=None"
    with pytest.warns(UserWarning, match=message):
        model.learn(100, reset_num_timesteps=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(100, reset_num_timesteps=False)  # it is said once
        model = RLx2SAC("MlpPolicy", "Pendulum-v1", **kwargs, topology_end=500)
        for _ in range(5):
            model.learn(100, reset_num_timesteps=False)


def test_what_has_not_begun_is_not_nearly_over():
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(learning_starts=90, topology_interval=5, n_steps_delay=0))
    with pytest.warns(UserWarning, match="no gradient update is made"):
        model.learn(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(40, reset_num_timesteps=False)
        model.learn(40, reset_num_timesteps=False)
    assert model.topology_counters["critic"]["evolutions"] == 5


def test_a_schedule_that_does_not_anneal_is_never_nearly_over():
    class Constant(Schedule):
        def drop_fraction(self, initial, progress):
            return initial

    class Rule(SET):
        schedule = Constant()

    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(topology=Rule(), topology_interval=10, n_steps_delay=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            model.learn(100, reset_num_timesteps=False)


class Kill(BaseCallback):
    at = 280

    def _on_step(self):
        if self.num_timesteps == self.at:
            raise RuntimeError("killed")
        return True


@pytest.mark.parametrize("clocks", [{"topology_interval": 10}, {"topology_interval": 200}, {"topology_end": 200}])
def test_a_killed_training_that_goes_on_is_silent(clocks, tmp_path, monkeypatch):
    model = RLx2SAC("MlpPolicy", gym.make("Pendulum-v1"), **quick(**clocks))
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
