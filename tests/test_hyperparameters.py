"""Packaged hyperparameters: the zoo reads every entry, and says what is wrong with one of yours."""

import argparse
import inspect
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from helpers import in_turn
from zoo_helpers import DISCRETE

from sb3_rlx2.sparse.summary import summarize
from sb3_rlx2.zoo import ALGORITHMS as ZOO_ALGORITHMS
from sb3_rlx2.zoo import register
from sb3_rlx2.zoo.hyperparameters import ZOO_KEYS, check_entry, check_file, hyperparameter_file, hyperparameter_folder

rl_zoo3 = pytest.importorskip("rl_zoo3")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
NOISE = {"noise_type": "normal", "noise_std": 0.1}
OF_THE_PAPER = ("rlx2_td3", "rlx2_sac")
BASELINES = {
    **{algo: ["fast", "fast20", "rigl", "set", "ss", "tiny"] for algo in OF_THE_PAPER},
    "rlx2_tqc": ["fast", "steady"],
}
FILES = [(algo, baseline) for algo in ZOO_ALGORITHMS for baseline in (None, *BASELINES.get(algo, ()))]
PAPER = {
    ("rlx2_td3", "HalfCheetah-v5"): (0.90, 0.85),
    ("rlx2_td3", "Hopper-v5"): (0.98, 0.95),
    ("rlx2_td3", "Walker2d-v5"): (0.97, 0.95),
    ("rlx2_td3", "Ant-v5"): (0.96, 0.88),
    ("rlx2_sac", "HalfCheetah-v5"): (0.90, 0.80),
    ("rlx2_sac", "Hopper-v5"): (0.98, 0.95),
    ("rlx2_sac", "Walker2d-v5"): (0.90, 0.90),
    ("rlx2_sac", "Ant-v5"): (0.90, 0.75),
}
OF_DISCRETE_ACTIONS = {"CartPole-v1", "MountainCar-v0", "LunarLander-v3", "Acrobot-v1"}
ENVIRONMENTS = {
    *("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "HumanoidStandup-v5", "Swimmer-v5"),
    *("InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5"),
    *("Pendulum-v1", "BipedalWalker-v3", "LunarLanderContinuous-v3"),
}


def entries(algo, baseline=None):
    return yaml.safe_load(Path(hyperparameter_file(algo, baseline)).read_text())


def entries_to_try():
    """All of RLx2; of the baselines, which follow from them, one for each environment, in turn."""
    chosen = [(algo, None, name) for algo in ZOO_ALGORITHMS for name in entries(algo)]
    for algo, baselines in BASELINES.items():
        chosen += [(algo, baseline, name) for name, baseline in in_turn(entries(algo, baselines[0]), baselines)]
    for algo, baseline, name in chosen:
        yield pytest.param(algo, baseline, name, id=f"{algo}-{baseline or 'rlx2'}-{name}")


def experiment(algo, baseline, env_id, folder, hyperparams):
    """The zoo's experiment, ready to learn, with these changes to the hyperparameters."""
    register()
    from rl_zoo3.exp_manager import ExperimentManager

    manager = ExperimentManager(
        argparse.Namespace(),
        algo,
        env_id,
        str(folder),
        n_timesteps=hyperparams.pop("n_timesteps"),
        eval_freq=-1,
        hyperparams=hyperparams,
        log_interval=-1,
        verbose=0,
        device="cpu",
        config=baseline,
    )
    return manager, manager.setup_experiment()[0]


@pytest.mark.parametrize("algo", OF_THE_PAPER)
def test_fast20_is_fast_with_a_fifth_of_the_weights(algo):
    fast, fast20 = entries(algo, "fast"), entries(algo, "fast20")
    assert fast.keys() == fast20.keys()
    for name, entry in fast.items():
        assert fast20[name] == {**entry, "actor_sparsity": 0.8, "critic_sparsity": 0.8}


def test_steady_is_a_fifth_of_the_weights_a_learning_rate_that_falls_and_a_horizon_that_grows():
    fast, steady = entries("rlx2_tqc", "fast"), entries("rlx2_tqc", "steady")
    assert fast.keys() == steady.keys()
    for name, entry in fast.items():
        changes = {
            "n_timesteps": min(entry["n_timesteps"], 500_000),
            "actor_sparsity": 0.8,
            "critic_sparsity": 0.8,
            "learning_rate": f"lin_{entry.get('learning_rate', 3e-4)}",
            "callback": {"sb3_rlx2.DiscountScheduleCallback": {"final_gamma": 0.997, "start": 0.6, "end": 0.9}},
        }
        assert steady[name] == {**entry, **changes}


def test_steady_is_the_method_of_the_study():
    study = yaml.safe_load((ROOT / "benchmarks" / "studies" / "robust.yml").read_text())
    method = study["methods"]["TQC, 20%, annealed, growing horizon"]["hyperparameters"]
    steady = entries("rlx2_tqc", "steady")["Hopper-v5"]
    assert study["steps"] == steady["n_timesteps"]
    rates = [entry.pop("learning_rate").removeprefix("lin_") for entry in (method, steady)]
    assert float(rates[0]) == float(rates[1])
    assert method == {name: steady[name] for name in method}


@pytest.mark.parametrize(("algo", "baseline", "name"), [*entries_to_try()])
def test_entries_load_and_step(algo, baseline, name, tmp_path, recwarn):
    env_id = name
    if name == "default":
        env_id = "FrozenLake-v1" if algo in DISCRETE else "MountainCarContinuous-v0"
    few_steps = {"n_timesteps": 6, "learning_starts": 3, "batch_size": 2, "buffer_size": 10}
    if algo in DISCRETE:
        few_steps |= {"train_freq": 1, "gradient_steps": 1}
    manager, model = experiment(algo, baseline, env_id, tmp_path, few_steps)
    manager.learn(model)
    assert type(model) is ZOO_ALGORITHMS[algo]
    assert (model.num_timesteps, model._n_updates) == (6, 3)


@pytest.mark.parametrize(("algo", "baseline"), FILES)
def test_environments(algo, baseline):
    if algo in DISCRETE:
        assert entries(algo, baseline).keys() == OF_DISCRETE_ACTIONS | {"default"}
        return
    few = {*("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5"), "Pendulum-v1"}
    assert entries(algo, baseline).keys() == (
        few if algo in ("rlx2_ddpg", "rlx2_tqc", "rlx2_crossq") else ENVIRONMENTS
    ) | {"default"}


@pytest.mark.parametrize(("algo", "of"), [("rlx2_ddpg", "rlx2_td3"), ("rlx2_tqc", "rlx2_sac")])
def test_algorithms_that_the_paper_does_not_have_take_the_hyperparameters_of_their_relatives(algo, of):
    relative = entries(of)
    assert all(entry == relative[name] for name, entry in entries(algo).items())


@pytest.mark.parametrize(("algo", "env_id"), PAPER)
def test_values_of_the_paper(algo, env_id):
    entry = entries(algo)[env_id]
    assert (entry["actor_sparsity"], entry["critic_sparsity"]) == PAPER[algo, env_id]
    assert entry["n_timesteps"] == 3_000_000
    # Everything but sparsities is as in the paper for all four, which is the algorithm's default
    defaults = {name: value.default for name, value in inspect.signature(ZOO_ALGORITHMS[algo]).parameters.items()}
    others = entry.keys() - ZOO_KEYS - {"policy", "actor_sparsity", "critic_sparsity"}
    assert {key: entry[key] for key in others} == {key: defaults[key] for key in others}


@pytest.mark.parametrize("algo", ZOO_ALGORITHMS)
def test_schedules_fit_into_the_training(algo):
    for name, entry in entries(algo).items():
        if name == "default":
            continue
        updates = entry["n_timesteps"] - entry["learning_starts"]
        if entry.get("gradient_steps", 1) > 0:
            updates *= entry.get("gradient_steps", 1) / entry.get("train_freq", 1)
        assert entry["n_steps_delay"] < updates / 5, name
        assert entry["topology_interval"] < updates / 2 / 10, f"{name}: at least ten evolutions of TD3's actor"
        assert entry["learning_starts"] < entry["buffer_min_size"] < min(entry["buffer_size"], updates), name


def test_baselines_follow_from_rlx2():
    pytest.importorskip("mujoco")
    pytest.importorskip("Box2D")
    command = [sys.executable, str(ROOT / "benchmarks" / "baselines.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("algo", OF_THE_PAPER)
@pytest.mark.parametrize("env_id", ["Hopper-v5", "Ant-v5", "Pendulum-v1"])
def test_tiny_has_as_many_weights(algo, env_id):
    algorithm = ZOO_ALGORITHMS[algo]
    sparse, tiny = entries(algo)[env_id], entries(algo, "tiny")[env_id]
    models = [
        algorithm(
            "MlpPolicy",
            gymnasium.make(env_id),
            buffer_size=10,
            **{key: entry[key] for key in entry.keys() & {"actor_sparsity", "critic_sparsity", "topology"}},
            policy_kwargs=entry.get("policy_kwargs"),
        )
        for entry in (sparse, tiny)
    ]
    for network in ("actor", "critic"):
        counts = [sum(layer.connections for layer in summarize(getattr(model, network))) for model in models]
        assert counts[1] == pytest.approx(counts[0], rel=0.03), network


def test_file_that_is_meant():
    folder = hyperparameter_folder()
    assert Path(hyperparameter_file("rlx2_td3")) == folder / "rlx2_td3.yml"
    assert Path(hyperparameter_file("rlx2_sac", "rigl")) == folder / "baselines" / "rigl_sac.yml"
    assert hyperparameter_file("rlx2_td3", "mine.yml") == "mine.yml"
    assert hyperparameter_file("rlx2_td3", "json") == "json", "a Python module"
    names = r"\(fast, fast20, rigl, set, ss, tiny\)"
    with pytest.raises(ValueError, match=rf"--conf-file rigel: .* of rlx2_td3 {names}\. Did you mean 'rigl'"):
        hyperparameter_file("rlx2_td3", "rigel")
    with pytest.raises(ValueError, match=r"--conf-file rigl: .*no baseline of rlx2_ddpg \(it has none\)$"):
        hyperparameter_file("rlx2_ddpg", "rigl")


def test_the_zoos_own_files_pass():
    register()
    for path in sorted((Path(rl_zoo3.__file__).parent / "hyperparams").glob("*.yml")):
        if path.stem in rl_zoo3.ALGOS:
            check_file(str(path), "HalfCheetah-v5")
            for name, entry in yaml.safe_load(path.read_text()).items():
                check_entry(path.stem, entry, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Hoper-v5: {n_timesteps: 10, policy: MlpPolicy}", "'Hoper-v5' is no environment. Did you mean 'Hopper-v5'?"),
        ("Hopper-v5: {n_timesteps: 10, policy: MlpPolicy", "is no valid YAML: .*line 1"),
        ("- Hopper-v5", "holds no environments"),
        ("Hopper-v5:", "Hopper-v5: hyperparameters are expected below it, not None"),
    ],
)
def test_typo_in_a_file(text, message, tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"(?s)mine.yml.*{message}"):
        check_file(str(path), "Hopper-v5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topology_intervl": 9}, "'topology_intervl' is unknown. Did you mean 'topology_interval'?"),
        ({"n_timestep": 1}, "'n_timestep' is unknown. Did you mean 'n_timesteps'?"),
        ({"qwertz": 1}, "'qwertz' is unknown$"),
        ({"device": "cpu"}, "'device' is unknown"),
        ({"policy_kwargs": "dict(net_arhc=[32])"}, "policy_kwargs: 'net_arhc' is unknown. Did you mean 'net_arch'?"),
        ({"policy_kwargs": {"conections": "random"}}, "'conections' is unknown. Did you mean 'connections'?"),
        ({"policy_kwargs": "dict(net_arch=[32]"}, r"policy_kwargs: dict\(net_arch=\[32\] is not valid Python"),
        ({"learning_rate": "1e-3"}, "learning_rate: 1e-3 is text to YAML. Write it as !!float 1e-3"),
        ({"buffer_size": 1e6}, "buffer_size: 1000000.0 is of type float, allowed is int"),
        ({"dynamic_buffer": "no"}, "dynamic_buffer: 'no' is of type str, allowed is bool"),
        ({"gamma": True}, "gamma: True is of type bool, allowed is int or float"),
        ({"gamma": float("inf")}, "gamma: inf is not allowed: it must be a finite number"),
        ({"learning_rate": float("nan")}, "learning_rate: nan is not allowed: it must be a finite number"),
        ({"learning_rate": -0.1}, "learning_rate: -0.1 is not allowed: a number above 0, or lin_ and such a number"),
        ({"learning_rate": True}, "learning_rate: True is not allowed: a number above 0"),
        ({"learning_rate": [0.1]}, r"learning_rate: \[0.1\] is not allowed: a number above 0"),
        ({"learning_rate": "exp_0.1"}, "learning_rate: 'exp_0.1' is not allowed: a number above 0, or lin_"),
        ({"learning_rate": "lin_nan"}, "learning_rate: 'lin_nan' is not allowed"),
        ({**NOISE, "noise_std": -0.5}, "noise_std: -0.5 is not allowed: it must be >= 0"),
        ({**NOISE, "noise_std": []}, r"noise_std: \[\] is of type list, allowed is int or float"),
        ({**NOISE, "noise_std": True}, "noise_std: True is of type bool, allowed is int or float"),
        ({**NOISE, "noise_type": 0.5}, "noise_type: 0.5 is of type float, allowed is str"),
        ({**NOISE, "noise_type": "gauss"}, "noise_type: 'gauss' is unknown: allowed are normal and ornstein-uhlenbeck"),
        ({**NOISE, "noise_type": None}, "noise_type: None is of type NoneType, allowed is str"),
        ({"noise_type": "normal"}, "noise_type needs noise_type and noise_std together"),
        ({"policy_kwargs": True}, "policy_kwargs: True is of type bool, allowed is dict or null"),
        ({"policy_kwargs": "[32]"}, r"policy_kwargs: \[32\] is of type list, allowed is dict or null"),
        ({"replay_buffer_kwargs": 3}, "replay_buffer_kwargs: 3 is of type int, allowed is dict or null"),
        ({"replay_buffer_class": "'HerReplayBuffer'"}, "replay_buffer_class: 'HerReplayBuffer' is of type str"),
        ({"policy": ["MlpPolicy"]}, "policy: .* is of type list, allowed is str or a class"),
        ({"n_timesteps": float("nan")}, "n_timesteps: nan is not allowed"),
        ({"n_envs": 0}, "n_envs: 0 is not allowed: it must be at least 1"),
        ({"n_envs": True}, "n_envs: True is of type bool, allowed is int"),
        ({"normalize": 3}, "normalize: 3 is of type int, allowed is bool or str or dict"),
        ({"normalize": "foo"}, "normalize: foo is not valid Python"),
        ({"normalize": "True"}, "normalize: True is not allowed: it must be a dict of arguments of VecNormalize"),
        ({"normalize": {"norm_ob": False}}, "normalize: 'norm_ob' is unknown. Did you mean 'norm_obs'?"),
        ({"monitor_kwargs": {"foo": 1}}, "monitor_kwargs: 'foo' is unknown"),
        ({"policy_kwargs": "dict(activation_fn='relu')"}, "activation_fn='relu' is not allowed: it must be a class"),
        ({"env_wrapper": 5}, "env_wrapper: 5 is of type int"),
        ({"env_wrapper": "gymnasium.wrappers.Foo"}, "env_wrapper: there is no 'Foo' in gymnasium.wrappers"),
        ({"callback": [{"gymnasium.wrappers.TimeLimi": {}}]}, "'TimeLimi' in .*. Did you mean 'TimeLimit'"),
        (
            {"callback": {"sb3_rlx2.DiscountScheduleCallback": {"final_gama": 0.997}}},
            "callback, DiscountScheduleCallback: 'final_gama' is unknown. Did you mean 'final_gamma'",
        ),
        (
            {"callback": {"sb3_rlx2.DiscountScheduleCallback": 0.997}},
            "callback, DiscountScheduleCallback: 0.997 is not allowed: it must be a dict of arguments",
        ),
        ({"callback": [{"sb3_rlx2.DiscountScheduleCallback": None}]}, "callback, .*: None is not allowed: it must be"),
        (
            {"callback": {"stable_baselines3.common.callbacks.ProgressBarCallback": {"verbose": 1}}},
            "callback, ProgressBarCallback: 'verbose' is unknown",
        ),
        (
            {"vec_env_wrapper": ["Foo"]},
            "vec_env_wrapper: 'Foo' is not allowed: it must be the name of a class with its",
        ),
    ],
)
@pytest.mark.parametrize("algo", ZOO_ALGORITHMS)
def test_typo_in_an_entry(algo, change, message):
    register()
    with pytest.raises(ValueError, match=f"^here.*{message}"):
        check_entry(algo, {"n_timesteps": 10, "policy": "MlpPolicy", **change}, "here")


@pytest.mark.parametrize("algo", ZOO_ALGORITHMS)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"topology_intervl": 9}, "^-params: 'topology_intervl' is unknown. Did you mean 'topology_interval'"),
        ({"gamma": True}, "^-params: gamma: True is of type bool"),
        ({"learning_rate": "1e-3"}, "^-params: learning_rate: 1e-3 is text. Write it without quotes$"),
        ({"policy_kwargs": "dict(net_arhc=[32])"}, "^-params, policy_kwargs: 'net_arhc' is unknown"),
        ({"policy_kwargs": "dict("}, r"^-params: policy_kwargs: dict\( is not valid Python"),
        ({"noise_std": 0.1}, "^-params: noise_std needs noise_type and noise_std together"),
    ],
)
def test_an_error_in_params_is_not_the_files(algo, params, message):
    register()
    with pytest.raises(ValueError, match=message):
        check_entry(algo, {"n_timesteps": 10, "policy": "MlpPolicy", **params}, "mine.yml", params)
    with pytest.raises(ValueError, match=r"^mine\.yml: 'device' is unknown"):
        check_entry(
            algo, {"n_timesteps": 10, "policy": "MlpPolicy", "gamma": 0.1, "device": "cpu"}, "mine.yml", ["gamma"]
        )


@pytest.mark.parametrize("missing", ["n_timesteps", "policy"])
def test_missing_key(missing):
    register()
    entry = {key: value for key, value in {"n_timesteps": 10, "policy": "MlpPolicy"}.items() if key != missing}
    with pytest.raises(ValueError, match=f"here: {missing} is missing"):
        check_entry("rlx2_td3", entry, "here")
