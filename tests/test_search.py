"""Searches for hyperparameters: the space, in memory, on a database that processes share, and trials that diverge."""

import pickle
import warnings

import pytest
from stable_baselines3.common.env_util import make_vec_env
from zoo_helpers import DISCRETE, environment, start, train

from sb3_rlx2 import RLx2SAC, RLx2TD3
from sb3_rlx2.zoo import ALGORITHMS, register
from sb3_rlx2.zoo.search_space import searching
from sb3_rlx2.zoo.storage import prepare_storage

optuna = pytest.importorskip("optuna")
pytest.importorskip("rl_zoo3")

SEARCH = ["-optimize", "--n-startup-trials", "1", "--n-evaluations", "1", "--eval-episodes", "1", "--no-optim-plots"]
OWN = {
    *("topology_interval", "drop_fraction"),
    *("n_steps", "n_steps_delay"),
    *("buffer_min_size", "buffer_check_interval", "buffer_distance_threshold"),
}


def densities(algo):
    """Names of what is drawn for an algorithm's sparsities."""
    return {name.replace("sparsity", "density") for name in ALGORITHMS[algo].network_sparsities.values()}


PHASES = {"offline_interval": 100, "offline_updates": 1_000}
NO_HER = {"using_her_replay_buffer": False, "her_kwargs": {}}


def sampled(algo, seed=0, *, n_timesteps=1_000_000, n_envs=1, **file):
    """Arguments for the algorithm and parameters of a trial, where the file of hyperparameters says this."""
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER

    register()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    trial.set_user_attr("n_timesteps", n_timesteps)
    with searching(file):
        return HYPERPARAMS_SAMPLER[algo](trial, 1, n_envs, NO_HER), trial.params


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("seed", range(5))
def test_every_sample_makes_a_model(algo, seed):
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER

    arguments, params = sampled(algo, seed)
    # --trial-id makes hyperparameters of the stored parameters
    noise = {"action_noise", "noise_type", "noise_std"}
    converted = {key: value for key, value in HYPERPARAMS_CONVERTER[algo](params).items() if key not in noise}
    assert converted == {key: value for key, value in arguments.items() if key not in noise}
    model = ALGORITHMS[algo]("MlpPolicy", environment(algo), buffer_size=10, **arguments)
    assert params.keys() >= OWN | densities(algo) | {"learning_rate", "net_arch"}
    for density in densities(algo):
        assert getattr(model, density.replace("density", "sparsity")) == pytest.approx(1 - params[density])
    assert model.topology_interval == params["topology_interval"]
    assert 1 <= model.n_steps <= 5


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("n_timesteps", [100, 1_000, 20_000, 300_000, 3_000_000])
@pytest.mark.parametrize("n_envs", [1, 4])
def test_every_part_takes_effect_in_a_training_of_any_length(algo, n_timesteps, n_envs):
    for seed in range(n_timesteps % 7, 30, 5):  # others for each length
        arguments, _ = sampled(algo, seed, n_timesteps=n_timesteps, n_envs=n_envs)
        env = make_vec_env(environment(algo), n_envs)
        if algo in DISCRETE:  # stock DQN warns of an interval below the number of environments
            arguments["target_update_interval"] = 100
        small = {"buffer_size": 8, "policy_kwargs": {"net_arch": [64, 64]}}
        model = ALGORITHMS[algo]("MlpPolicy", env, **{**arguments, **small})
        assert model.learning_starts <= n_timesteps / 2
        rounds = (n_timesteps - model.learning_starts) // (arguments["train_freq"] * n_envs)
        updates = rounds * model.gradient_steps
        updates_of_actor = updates // getattr(model, "policy_delay", 1)
        # An evolution at the very last update has annealed to nothing
        assert model.topology_interval < updates_of_actor
        assert model.n_steps_delay < updates
        assert model.buffer_min_size < n_timesteps
        assert model.buffer_check_interval <= max(n_timesteps / 50, 1)
        model.buffer_size = 1_000_000
        model._total_timesteps = n_timesteps
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model._warn_of_what_will_not_happen()


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize(("n_timesteps", "seed"), [(150, 0), (300, 1)])
def test_short_trials_evolve_and_reach_their_targets(algo, n_timesteps, seed):
    arguments, _ = sampled(algo, seed, n_timesteps=n_timesteps)
    half = dict.fromkeys(ALGORITHMS[algo].network_sparsities.values(), 0.5)
    tiny = {"batch_size": 8, "policy_kwargs": {"net_arch": [32, 32]}, **half}
    model = ALGORITHMS[algo]("MlpPolicy", environment(algo), **{**arguments, **tiny}, buffer_size=1000, device="cpu")
    model.learn(n_timesteps)
    assert min(counters["evolutions"] for counters in model.topology_counters.values()) > 0
    assert model.replay_buffer.n_steps_in_use == model.n_steps
    assert model.replay_buffer.last_check > 0


@pytest.mark.parametrize("algo", ["rlx2_td3", "rlx2_sac", "rlx2_tqc", "rlx2_ddpg"])
def test_widths_that_simba_does_not_have_are_pruned(algo):
    drawn = set()
    for seed in range(12):
        plain, params = sampled(algo, seed)
        drawn.add(params["net_arch"])
        if params["net_arch"] == "big":
            with pytest.raises(optuna.TrialPruned, match=r"net_arch=\[400, 300\] is not allowed with SimBaPolicy"):
                sampled(algo, seed, policy="SimBaPolicy")
        else:
            arguments, _ = sampled(algo, seed, policy="SimBaPolicy")
            assert arguments["policy_kwargs"] == plain["policy_kwargs"]
    ALGORITHMS[algo]("SimBaPolicy", environment(algo), buffer_size=10, **arguments)
    assert {"medium", "big"} <= drawn


def test_topology_that_evolves_in_a_part_of_the_training():
    fixed = {"learning_starts": 1000, "topology_end": 3000}
    for seed in range(10):
        arguments, _ = sampled("rlx2_td3", seed, n_timesteps=100_000, **fixed)
        updates_of_actor = 2000 * arguments["gradient_steps"] / arguments["train_freq"] / 2
        assert arguments["topology_interval"] <= updates_of_actor / 10


def test_updates_of_offline_phases_count_for_the_delay_of_targets_alone():
    fixed = {"n_timesteps": 100_000, "learning_starts": 1000}
    for seed in range(10):
        plain, offline = (sampled("rlx2_sac", seed, **fixed, **phases)[0] for phases in ({}, PHASES))
        updates = 99_000 * plain["gradient_steps"] / plain["train_freq"]
        share = (updates + 99_000 * 1_000 / 100) / updates
        assert offline["n_steps_delay"] == pytest.approx(plain["n_steps_delay"] * share, abs=share + 1)
        assert offline["topology_interval"] == plain["topology_interval"]


def test_a_file_that_fits_keeps_its_warm_up():
    assert "learning_starts" not in sampled("rlx2_td3", n_timesteps=300_000, learning_starts=25_000)[0]
    assert sampled("rlx2_td3", n_timesteps=20_000, learning_starts=25_000)[0]["learning_starts"] <= 2000
    assert sampled("rlx2_sac", n_timesteps=1_000_000, buffer_size=1000)[0]["buffer_min_size"] <= 500


def test_a_trial_that_does_not_know_its_length():
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER

    register()
    with pytest.raises(ValueError, match="no user attribute n_timesteps"):
        HYPERPARAMS_SAMPLER["rlx2_sac"](optuna.create_study().ask(), 1, 1, NO_HER)


def test_no_noise_is_no_noise():
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER

    samples = [sampled("rlx2_td3", seed) for seed in range(20)]
    without = [(arguments, params) for arguments, params in samples if params["noise_type"] is None]
    assert 0 < len(without) < len(samples)
    for arguments, params in without:
        assert arguments["action_noise"] is None
        converted = HYPERPARAMS_CONVERTER["rlx2_td3"](params)
        assert converted["action_noise"] is None
        assert not converted.keys() & {"noise_type", "noise_std"}
    assert all(arguments["action_noise"] is not None for arguments, params in samples if params["noise_type"])


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize(
    ("file", "left_out"),
    [
        ({"n_steps": 3, "dynamic_buffer": True, "topology": "rigl"}, set()),
        ({"n_steps": 1, "topology": "rigl"}, {"n_steps", "n_steps_delay"}),
        (
            {"dynamic_buffer": False},
            {"buffer_min_size", "buffer_check_interval", "buffer_distance_threshold"},
        ),
        ({"topology": "static"}, {"topology_interval", "drop_fraction"}),
        ({"topology": {"actor": "static", "critic": "rigl"}}, set()),
        ({"topology": {"actor": "static", "critic": "dense"}}, {"topology_interval", "drop_fraction"}),
        ({"topology": "dense"}, {"topology_interval", "drop_fraction", "density"}),
    ],
)
def test_what_a_baseline_turns_off_stays_off(algo, file, left_out):
    if "density" in left_out:
        left_out = left_out - {"density"} | densities(algo)
    assert (OWN | densities(algo)) - sampled(algo, **file)[1].keys() == left_out


@pytest.mark.parametrize(("algo", "n_trials"), [("rlx2_td3", 2), ("rlx2_tqc", 1), ("rlx2_qrdqn", 1)])
def test_in_memory(algo, n_trials, tmp_path):
    assert train(tmp_path, *SEARCH, "--n-trials", str(n_trials), algo=algo, steps=40) == 0
    study = pickle.loads(next((tmp_path / algo).glob("report_*.pkl")).read_bytes())
    assert len(study.trials) == n_trials
    assert study.best_trial.params.keys() >= OWN | densities(algo)
    assert study.best_trial.user_attrs["n_timesteps"] == 40


def test_diverging_trials_are_pruned(tmp_path, monkeypatch, capsys):
    learn = RLx2TD3.learn

    def diverging(model, *args, **kwargs):
        learning_rate = kwargs["callback"][0].trial.number
        model.lr_schedule = lambda _: float("nan") if learning_rate == 0 else 1e-3
        return learn(model, *args, **kwargs)

    monkeypatch.setattr(RLx2TD3, "learn", diverging)
    assert train(tmp_path, *SEARCH, "--n-trials", "2", steps=60) == 0
    study = pickle.loads(next((tmp_path / "rlx2_td3").glob("report_*.pkl")).read_bytes())
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "COMPLETE"]
    assert "training has diverged" in capsys.readouterr().out


def test_processes_share_a_database(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    arguments = ["--algo", "rlx2_sac", "--env", "Pendulum-v1", "-n", "30", "-f", tmp_path, "--storage", storage]
    flags = [*SEARCH, "--study-name", "shared", "--n-trials", "1", "-params", "learning_starts:20", "buffer_size:100"]
    processes = [start("train", *arguments, "--seed", seed, *flags, cwd=tmp_path) for seed in (1, 2)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    study = optuna.load_study(storage=storage, study_name="shared")
    assert len(study.trials) == 2
    assert {trial.state.name for trial in study.trials} <= {"COMPLETE", "PRUNED"}

    # A trial's hyperparameters, from the database
    number = 1  # the zoo takes no 0
    trial = ["--storage", storage, "--study-name", "shared", "--trial-id", str(number)]
    assert train(tmp_path, *trial, algo="rlx2_sac", steps=30) == 0
    (saved,) = (tmp_path / "rlx2_sac").glob("Pendulum-v1_*/Pendulum-v1.zip")  # two searches may share a folder
    model = RLx2SAC.load(saved)
    assert model.drop_fraction == study.trials[number].params["drop_fraction"]


def test_a_study_that_goes_on_searches_for_what_the_command_of_today_leaves_open(tmp_path):
    storage = ["--storage", f"sqlite:///{tmp_path}/study.db", "--study-name", "one", "--n-trials", "2"]
    assert train(tmp_path, *SEARCH, *storage, steps=40, params=["n_steps:3"]) == 0
    assert train(tmp_path, *SEARCH, *storage, steps=40, params=["n_steps:1", "dynamic_buffer:False"]) == 0
    trials = optuna.load_study(storage=storage[1], study_name="one").trials
    assert ["n_steps" in trial.params for trial in trials] == [True, True, False, False]
    assert ["buffer_min_size" in trial.params for trial in trials] == [True, True, False, False]


def test_storage_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_rlx2.zoo.storage.PAUSE", 0.0)
    for url in ("nothing", f"sqlite:///{tmp_path}/no/such/folder/study.db"):
        with pytest.raises(ValueError, match=f"--storage {url} cannot be used"):
            prepare_storage(url)
