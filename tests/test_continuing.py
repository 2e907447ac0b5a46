"""``rlx2 train -i``: a training goes on where the saved one ended."""

import math
import shutil

import numpy as np
import pytest
from gymnasium import spaces
from helpers import learner
from zoo_helpers import DISCRETE, environment, run_folder, train

from sb3_rlx2 import RLx2TD3
from sb3_rlx2.engine.networks import optimizer_of
from sb3_rlx2.sparse import TopologyEvolver
from sb3_rlx2.zoo import ALGORITHMS

pytest.importorskip("rl_zoo3")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of 60 steps of each algorithm, 20 of them random, with its replay buffer."""
    folder = tmp_path_factory.mktemp("runs")
    for algo in ALGORITHMS:
        flags = ["--save-replay-buffer", "--tensorboard-log", str(folder / "tb")]
        assert train(folder, *flags, algo=algo, params=["learning_rate:'lin_1e-3'"]) == 0
    return folder


@pytest.fixture
def evolutions(monkeypatch):
    """Environment step and drop fraction of each evolution."""
    seen = []
    evolve = TopologyEvolver._evolve

    def noted(evolver, update):
        evolve(evolver, update)
        seen.append((evolver.counters["updates"], evolver.last_evolution.drop_fraction))

    monkeypatch.setattr(TopologyEvolver, "_evolve", noted)
    return seen


def go_on(agent, folder, *flags, algo, steps=60, params=()):
    assert train(folder, "-i", str(agent), *flags, algo=algo, steps=steps, params=params) == 0
    return ALGORITHMS[algo].load(run_folder(folder, algo) / f"{environment(algo)}.zip")


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_count_of_steps_goes_on(algo, runs, tmp_path, capsys, monkeypatch):
    if algo not in DISCRETE:  # which explore by random actions
        monkeypatch.setattr(spaces.Box, "sample", lambda space: pytest.fail("a second warm-up"))
    agent = run_folder(runs, algo) / f"{environment(algo)}.zip"
    before = ALGORITHMS[algo].load(agent)
    after = go_on(agent, tmp_path, "--save-freq", "25", algo=algo, steps=50)
    assert (before.num_timesteps, after.num_timesteps) == (60, 110)
    assert (before._n_updates, after._n_updates) == (40, 90)
    assert after.topology_counters[learner(after)] == {"updates": 90, "evolutions": 3 + 4}
    assert (run_folder(tmp_path, algo) / "rl_model_85_steps.zip").is_file()
    output = capsys.readouterr().out
    assert "Loading replay buffer" in output
    assert "Continuing at step 60 of 110, with the drop fraction at 0.29" in output
    assert "no replay_buffer.pkl" not in output


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_drop_fraction_is_that_of_one_training_of_the_whole_length(algo, runs, tmp_path, evolutions):
    agent = run_folder(runs, algo) / f"{environment(algo)}.zip"
    go_on(agent, tmp_path, algo=algo)
    # Of the critic: update 50 is made after step 70, of 120, the first 20 without updates
    fraction = dict(evolutions)[50]
    assert fraction == pytest.approx(0.25 * (1 + math.cos(math.pi * (70 - 20) / (120 - 20))))


def test_a_training_that_was_interrupted_anneals_as_if_it_had_not_been(tmp_path, evolutions, monkeypatch):
    assert train(tmp_path / "whole", steps=120) == 0
    whole = sorted(evolutions)
    evolutions.clear()
    learn = RLx2TD3.train

    def interrupted(model, *args, **kwargs):
        learn(model, *args, **kwargs)
        if model.num_timesteps == 70:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RLx2TD3, "train", interrupted)
        assert train(tmp_path / "parts", "--save-replay-buffer", steps=120) == 0
    go_on(run_folder(tmp_path / "parts") / "Pendulum-v1.zip", tmp_path / "rest", algo="rlx2_td3", steps=50)
    assert len(whole) > 10
    np.testing.assert_allclose(sorted(evolutions), whole)


def test_topology_end_keeps_the_topology_of_a_finished_training(runs, tmp_path, evolutions):
    agent = run_folder(runs) / "Pendulum-v1.zip"
    go_on(agent, tmp_path, algo="rlx2_td3", params=["topology_end:60"])
    assert not evolutions


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_learning_rate_schedules_go_on(algo, runs, tmp_path):
    agent = run_folder(runs, algo) / f"{environment(algo)}.zip"
    after = go_on(agent, tmp_path, "--save-freq", "30", algo=algo, params=["learning_rate:'lin_1e-3'"])
    assert after._total_timesteps == 120
    middle = ALGORITHMS[algo].load(run_folder(tmp_path, algo) / "rl_model_90_steps.zip")
    # Saved in step 90, before its update
    optimizer = optimizer_of(middle.policy, learner(middle))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * (1 - 89 / 120))


def test_tensorboard_goes_on(runs, tmp_path):
    tensorboard = tmp_path / "tb"
    shutil.copytree(runs / "tb", tensorboard)
    agent = run_folder(runs) / "Pendulum-v1.zip"
    go_on(agent, tmp_path, "--tensorboard-log", str(tensorboard), algo="rlx2_td3")
    (run,) = tensorboard.glob("*/RLx2TD3_*")
    assert len([*run.glob("events*")]) == 2


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_without_a_replay_buffer_the_policy_collects_first(algo, runs, tmp_path, capsys, monkeypatch):
    if algo not in DISCRETE:  # which explore by random actions
        monkeypatch.setattr(spaces.Box, "sample", lambda space: pytest.fail("a second warm-up"))
    agent = tmp_path / f"{environment(algo)}.zip"
    shutil.copy(run_folder(runs, algo) / f"{environment(algo)}.zip", agent)
    after = go_on(agent, tmp_path, "--save-freq", "15", algo=algo)
    assert (after.num_timesteps, after._n_updates) == (120, 40 + 40)
    output = capsys.readouterr().out
    said = output.index(
        f"There is no replay_buffer.pkl beside {agent} (--save-replay-buffer writes one): the policy coll"
    )
    assert said < output.index("Saving to")
    assert "no update is made" not in output
    for steps in (75, 90, 105, 120):
        saved = ALGORITHMS[algo].load(run_folder(tmp_path, algo) / f"rl_model_{steps}_steps.zip")
        assert saved.gradient_steps == after.gradient_steps == 1


def test_too_few_steps_to_fill_a_replay_buffer(runs, tmp_path, capsys):
    agent = tmp_path / "Pendulum-v1.zip"
    shutil.copy(run_folder(runs) / "Pendulum-v1.zip", agent)
    assert go_on(agent, tmp_path, algo="rlx2_td3", steps=20)._n_updates == 40
    assert "So no update is made: pass a larger -n" in capsys.readouterr().out
