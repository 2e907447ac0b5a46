"""When something happens, in gradient updates or in environment steps."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import ALGORITHMS, ALL, ALL_COMPILED, each_engine, environment, in_turn, learner, quick
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_rlx2 import (
    DynamicBufferCallback,
    DynamicReplayBuffer,
    RLx2CrossQ,
    RLx2SAC,
    RLx2TD3,
    TopologyEvolutionCallback,
)
from sb3_rlx2.analysis.report import update_recipe
from sb3_rlx2.common.topology import attached_evolvers, networks
from sb3_rlx2.resume import TrainingCheckpointCallback, resume
from sb3_rlx2.sac import MlpPolicy


def in_timesteps(**kwargs):
    return quick(**{"topology_interval": (40, "timesteps"), "topology_end": 10**6, **kwargs})


class Kill(BaseCallback):
    at = 10**9

    def _on_step(self):
        if self.num_timesteps >= self.at:
            raise RuntimeError("killed")
        return True


class Steps(BaseCallback):
    """Environment steps at which each network's topology evolved, and those from which on targets are n-step."""

    def __init__(self):
        super().__init__()
        self.evolved, self.n_step, self.checks = {}, [], []

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        for name, counters in self.model.topology_counters.items():
            seen = self.evolved.setdefault(name, [])
            if counters["evolutions"] > len(seen):
                seen.append(self.num_timesteps)
                assert counters["evolutions"] == len(seen)
        self.n_step += [self.num_timesteps] if self.model.replay_buffer.n_steps_in_use > 1 else []
        self.checks.append(self.model.replay_buffer.last_check)

    _on_training_end = _on_rollout_start


@pytest.mark.parametrize(
    ("algorithm", "engine", "gradient_steps"),
    [*in_turn(each_engine(ALL), [1, 2]), *((algorithm, "compiled", 4) for algorithm in ALL_COMPILED)],
)
def test_in_environment_steps_topology_evolves_as_often_whatever_the_number_of_updates(
    algorithm, engine, gradient_steps
):
    kwargs = in_timesteps(gradient_steps=gradient_steps, policy_kwargs={"net_arch": [16, 16]})
    if algorithm is RLx2CrossQ:
        kwargs["policy_delay"] = 1  # or else the actor's first update after an interval may be later
    model = algorithm("MlpPolicy", environment(algorithm), engine=engine, **kwargs)
    steps = Steps()
    model.learn(170, callback=steps)
    for name in networks(model):
        assert steps.evolved[name] == [80, 120, 160]


@pytest.mark.parametrize(("algorithm", "engine"), each_engine(ALGORITHMS))
def test_steps_of_all_environments_count(algorithm, engine):
    env = make_vec_env("Pendulum-v1", n_envs=3)
    delay = {"n_steps_delay": (100, "timesteps"), "gradient_steps": 2}
    model = algorithm("MlpPolicy", env, engine=engine, **in_timesteps(**delay))
    steps = Steps()
    model.learn(180, callback=steps)
    assert steps.evolved["critic"] == [81, 120, 162]
    assert steps.n_step[0] == 102


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_targets_have_n_steps_from_an_environment_step_on(engine):
    model = RLx2SAC(
        "MlpPolicy", "Pendulum-v1", engine=engine, **in_timesteps(n_steps_delay=[100, "timesteps"], gradient_steps=8)
    )
    steps = Steps()
    model.learn(120, callback=steps)
    assert steps.n_step[0] == 100


def test_the_replay_buffer_may_be_checked_every_so_many_updates():
    kwargs = quick(buffer_check_interval=(100, "updates"), gradient_steps=4, learning_starts=50)
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **kwargs)
    steps = Steps()
    model.learn(130, callback=steps)
    # 4 updates after each of the steps 51, 52, ...: 100 of them after step 75, which the next step notices
    assert sorted({*steps.checks} - {-1}) == [76, 101, 126]


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_evolution_may_end_after_so_many_updates_of_a_network(engine):
    model = RLx2TD3(
        "MlpPolicy", "Pendulum-v1", engine=engine, **quick(topology_interval=10, topology_end=(35, "updates"))
    )
    model.learn(170)
    assert model.topology_counters["critic"] == {"updates": 120, "evolutions": 3}
    assert model.topology_counters["actor"] == {"updates": 60, "evolutions": 3}


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_training_goes_on_by_environment_steps(engine, tmp_path, monkeypatch):
    kwargs = in_timesteps(n_steps_delay=(100, "timesteps"), gradient_steps=4, engine=engine)
    whole = RLx2SAC("MlpPolicy", gym.make("Pendulum-v1"), **kwargs)
    whole.learn(190)
    part = RLx2SAC("MlpPolicy", gym.make("Pendulum-v1"), **kwargs)
    monkeypatch.setattr(Kill, "at", 140)
    with pytest.raises(RuntimeError, match="killed"):
        part.learn(190, callback=[TrainingCheckpointCallback(tmp_path, 120), Kill()])
    monkeypatch.undo()
    resumed = resume(tmp_path, callback=[TrainingCheckpointCallback(tmp_path, 120), Kill()])
    assert resumed.topology_counters == whole.topology_counters
    assert resumed.topology_counters["critic"]["evolutions"] == 3
    for ours, theirs in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True):
        assert th.equal(ours, theirs)


@pytest.mark.parametrize("name", ["model.zip", "model.safetensors"])
@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_a_loaded_model_does_not_evolve_twice_at_a_step(name, engine, tmp_path):
    model = RLx2SAC("MlpPolicy", gym.make("Pendulum-v1"), engine=engine, **in_timesteps())
    model.learn(80)
    assert model.topology_counters["critic"]["evolutions"] == 1
    model.save(tmp_path / name)
    loaded = RLx2SAC.load(tmp_path / name, env=gym.make("Pendulum-v1"))
    loaded.learn(39, reset_num_timesteps=False)
    assert loaded.topology_counters["critic"]["evolutions"] == 1
    loaded.learn(1, reset_num_timesteps=False)
    assert loaded.topology_counters["critic"]["evolutions"] == 2


def test_after_a_new_start_environment_steps_count_from_zero():
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **in_timesteps()).learn(90)
    steps = Steps()
    before = model.topology_counters["critic"]["evolutions"]
    steps.evolved = {name: [0] * before for name in ("actor", "critic")}
    model.learn(90, callback=steps)
    assert steps.evolved["critic"][before:] == [80]


def test_clocks_of_stock_algorithms_count_environment_steps_too():
    model = SAC(
        MlpPolicy, "Pendulum-v1", learning_starts=50, gradient_steps=4, device="cpu", seed=0,
        policy_kwargs={"actor_sparsity": 0.8, "critic_sparsity": 0.8, "net_arch": [32, 32]},
        replay_buffer_class=DynamicReplayBuffer, buffer_size=500,
        replay_buffer_kwargs={"n_steps": 3, "n_steps_delay": (100, "timesteps")},
    )  # fmt: skip
    steps = Steps()
    callback = [TopologyEvolutionCallback("rigl", (40, "timesteps"), 10**6), DynamicBufferCallback(), steps]
    model.learn(130, callback=callback)
    assert steps.evolved["critic"] == [80, 120]
    assert steps.n_step[0] == 100


def test_a_plain_number_stands_for_the_unit_that_it_always_had():
    runs = []
    for clocks in (
        {"topology_interval": 20, "topology_end": 150, "n_steps_delay": 60, "buffer_check_interval": 50},
        {
            "topology_interval": (20, "updates"),
            "topology_end": (150, "timesteps"),
            "n_steps_delay": (60, "updates"),
            "buffer_check_interval": (50, "timesteps"),
        },
    ):
        runs.append(RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**clocks)).learn(170))
    for ours, theirs in zip(runs[0].policy.parameters(), runs[1].policy.parameters(), strict=True):
        assert th.equal(ours, theirs)
    assert runs[0].topology_counters == runs[1].topology_counters


def test_a_report_spreads_dense_gradients_over_the_updates_of_so_many_environment_steps():
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(topology_interval=(1000, "timesteps"), gradient_steps=8))
    assert update_recipe(model).evolution_intervals == {"actor": 4000, "critic": 8000}


def test_what_will_not_happen_is_named_in_either_unit():
    kwargs = {"topology_interval": (500, "timesteps"), "n_steps_delay": (400, "timesteps"), "gradient_steps": 8}
    with pytest.warns(UserWarning, match=r"actor's topology does not evolve \(topology_interval=\(500, 'timesteps'\)"):
        RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**kwargs)).learn(60)
    kwargs |= {"topology_interval": (50, "timesteps")}
    with pytest.warns(UserWarning, match=r"steps: targets stay 1-step \(n_steps_delay=\(400, 'timesteps'\)\)$"):
        RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**kwargs)).learn(120)


@pytest.mark.parametrize("name", ["topology_interval", "topology_end", "n_steps_delay", "buffer_check_interval"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            (10, "steps"),
            r"=\(10, 'steps'\) is not allowed: it must be a whole number of (updates|timesteps), or ",
        ),
        ((10,), r"=\(10,\) is not allowed"),
        ((-1, "timesteps"), r"\[0\]=-1 is not allowed: it must be a whole number >= "),
        ("10", r"='10' is not allowed: it must be a whole number >= "),
    ],
)
def test_an_unknown_unit_is_an_error_that_names_argument_and_value(name, value, message):
    with pytest.raises(ValueError, match=name + message):
        RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**{name: value}))


def test_an_evolver_without_a_clock_of_its_own_has_no_reading():
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **in_timesteps()).learn(90)
    model.topology_interval = 20
    model.learn(10, reset_num_timesteps=False)
    assert set(model.topology_counters[learner(model)]) == {"updates", "evolutions"}
    assert np.isfinite([evolver.steps_until_due for evolver in attached_evolvers(model).values()]).all()
