"""The file of a study: what it asks for, and what is wrong with it."""

from functools import partial
from pathlib import Path

import pytest
from stable_baselines3 import TD3
from study_helpers import SHORT, write_study

from sb3_rlx2.studies import expand, read_study
from sb3_rlx2.studies.algorithms import ALGORITHMS
from sb3_rlx2.studies.hyperparameters import parse_yaml

pytest.importorskip("yaml")

STUDIES = Path(__file__).parents[1] / "benchmarks" / "studies"


@pytest.fixture
def study_file(tmp_path):
    return partial(write_study, tmp_path)


def test_a_study_is_every_method_on_every_environment_with_every_seed(study_file):
    runs = expand(read_study(study_file(environments=["Pendulum-v1", "MountainCarContinuous-v0"])))
    names = [(run.seed, run.environment, run.method) for run in runs]
    first = [(0, "Pendulum-v1", "RLx2"), (5, "Pendulum-v1", "SS")]
    assert names[:2] == first  # what comes first has everything once
    assert len(names) == len(set(names)) == 6
    assert {run.steps for run in runs} == {300}
    methods = {"a": {"algorithm": "rlx2_td3", "seeds": {"Pendulum-v1": 1}}}
    runs = expand(read_study(study_file(environments=["Pendulum-v1", "MountainCarContinuous-v0"], methods=methods)))
    assert [(run.seed, run.environment) for run in runs] == [
        *((0, "Pendulum-v1"), (0, "MountainCarContinuous-v0"), (1, "MountainCarContinuous-v0")),
    ]


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yml")), ids=lambda path: path.stem)
def test_shipped_studies_have_a_full_and_a_short_form(path):
    pytest.importorskip("mujoco")
    full, quick = (expand(read_study(path, short)) for short in (False, True))
    assert {run.method for run in full} == {run.method for run in quick}
    assert sum(run.steps for run in quick) <= 40_000
    assert {run.environment for run in quick} in ({"Pendulum-v1"}, {"CartPole-v1"})  # which need no extra


def test_hyperparameters_are_the_packaged_ones_then_the_studys_then_the_methods(study_file):
    methods = {
        "a": {
            "algorithm": "rlx2_td3",
            "hyperparameters": {"tau": 0.5, "drop_fraction": None},
            "on": {"Pendulum-v1": {"gamma": 0.5}},
        },
        "b": {"algorithm": "rlx2_td3", "config": "rigl"},
    }
    a, b = (run.hyperparameters for run in expand(read_study(study_file(methods=methods, seeds=1))))
    assert (a["tau"], a["gamma"], a["learning_starts"], a["topology_interval"]) == (0.5, 0.5, 100, 500)
    assert "drop_fraction" not in a
    assert (b["n_steps"], b["learning_starts"], a["n_steps"]) == (1, 100, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": 2}, "'sedes' is unknown. Did you mean 'seeds'"),
        ({"environments": ["Pendulum-v9"]}, "there is no 'Pendulum-v9'. Did you mean 'Pendulum-v1'"),
        ({"steps": 0}, "steps: 0 is not allowed"),
        ({"reference": "dens"}, "reference: 'dens' is no method"),
        ({"methods": {"a": {"algorithm": "rlx2_td4"}}}, "methods, a, algorithm: 'rlx2_td4' is unknown"),
        ({"methods": {"a": {"algorithm": "rlx2_td3", "config": "rgl"}}}, "Did you mean 'rigl'"),
        ({"methods": {"a": {"algorithm": "rlx2_td3", "hyperparameters": {"n_step": 1}}}}, "Did you mean 'n_steps'"),
        (
            {"methods": {"a": {"algorithm": "rlx2_dqn", "hyperparameters": {"noise_type": "normal"}}}},
            "'noise_type' is unknown to rlx2_dqn",
        ),
        ({"methods": {"a": {"algorithm": "rlx2_td3", "after": "b"}}}, "after: 'b' is no other method"),
        ({"methods": {"a": {"algorithm": "rlx2_td3", "after": 3}}}, "methods, a, after: the name of a method"),
        ({"methods": {"a": {"algorithm": ["rlx2_td3"]}}}, "methods, a, algorithm: ['rlx2_td3'] is unknown"),
        ({"methods": {"a": {"algorithm": "rlx2_td3", "config": 3}}}, "methods, a, config: 3 is not allowed"),
        ({"methods": {"a": {"algorithm": "rlx2_td3", "on": {3: {}}}}}, "methods, a: 3 is none of the environments"),
        ({"methods": {"a": {"algorithm": "rlx2_td3", "seeds": {3: 1}}}}, "methods, a: 3 is none of the environments"),
        ({"hyperparameters": {"n_timesteps": 5}}, "n_timesteps is not allowed here: steps says how many"),
        ({"reference": ["RLx2"]}, "reference: \"['RLx2']\" is no method"),
        ({"steps": float("inf")}, "steps: inf is not allowed"),
        ({"seeds": [2**32]}, "seeds: [4294967296] is not allowed"),
        ({"published": {"Pendulum": {"RLx2": 98}}}, "published: 'Pendulum' is none of the environments"),
        ({"published": {"Pendulum-v1": 3}}, "published, Pendulum-v1: a mapping is expected"),
        ({"published": {"Pendulum-v1": {"RLx2": "98%"}}}, "published, Pendulum-v1, RLx2: a number is expected"),
        ({"methods": {"..": {"algorithm": "rlx2_td3"}}}, "methods: '..' is not allowed: a folder is named after it"),
        (
            {"methods": {name: {"algorithm": "td3"} for name in ("a b", "a/b")}},
            "methods: 'a b' and 'a/b' would share the folder a_b",
        ),
        (
            {"methods": {"a": {"algorithm": "rlx2_td3", "after": "b"}, "b": {"algorithm": "rlx2_td3", "seeds": 1}}},
            "methods, a, after: b is not run on Pendulum-v1 with seed 1",
        ),
    ],
)
def test_what_is_wrong_with_a_study_is_told_by_name(study_file, changes, message):
    path = study_file(**changes)
    with pytest.raises(ValueError, match=r"study\.yml") as error:
        expand(read_study(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


BY_HAND = """
environments: [Pendulum-v1, MountainCarContinuous-v0]
seeds: 1
steps: 9
methods:
  a: {algorithm: rlx2_td3, on: {Pendulum-v1: {gamma: 0.5}}}
quick: {environments: [Pendulum-v1], steps: 3}
"""


def test_the_example_of_the_docs_compares_methods_of_the_same_exploration_and_rates(tmp_path):
    page = (Path(__file__).parents[1] / "docs/studies.md").read_text("utf-8")
    text = page.partition("## One of your own\n\n```yaml\n")[2].partition("```")[0]
    path = tmp_path / "study.yml"
    path.write_text(text.replace("my_package:MyEnv-v0", "Pendulum-v1").replace("Hopper-v5", "CartPole-v1"))
    runs = {run.method: run.hyperparameters for run in expand(read_study(path))}
    assert runs.keys() == {"RLx2", "static", "wider", "dense"}
    assert runs["dense"]["topology"] == "dense"
    common = ("noise_type", "noise_std", "learning_rate", "learning_starts", "batch_size")
    assert {name: runs["RLx2"].get(name) for name in common} == {name: runs["dense"].get(name) for name in common}


def test_a_file_written_by_hand_may_say_what_is_for_one_environment(tmp_path):
    path = tmp_path / "study.yml"
    path.write_text(BY_HAND)  # YAML 1.1 reads this "on" as true
    pendulum, car = (run.hyperparameters for run in expand(read_study(path)))
    (quick,) = expand(read_study(path, quick=True))
    assert pendulum["gamma"] == 0.5
    assert car.get("gamma") != 0.5 != quick.hyperparameters.get("gamma")


def test_a_number_with_an_exponent_is_a_number(tmp_path):
    path = tmp_path / "study.yml"
    path.write_text(BY_HAND + "hyperparameters: {learning_rate: 3e-4, tau: 1E-2, buffer_size: 100_000}")
    run = expand(read_study(path))[0].hyperparameters
    assert [run[name] for name in ("learning_rate", "tau", "buffer_size")] == [0.0003, 0.01, 100_000]
    assert parse_yaml("[3e-4, -2.5e+3, lin_3e-4, 3e, 1.5, e5]") == [0.0003, -2500.0, "lin_3e-4", "3e", 1.5, "e5"]


def test_a_date_that_there_is_not_is_told_with_the_files_name(tmp_path):
    path = tmp_path / "study.yml"
    path.write_text("title: 2024-13-45\n" + BY_HAND)
    with pytest.raises(ValueError, match=r"study\.yml: no study can be read from this file \(month must be"):
        read_study(path)


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "study.yml"
    path.write_text(
        "environments: [Pendulum-v1]\nseeds: 1\nsteps: 9\nmethods:\n  a: {algorithm: td3}\n  a: {algorithm: sac}\n"
    )
    with pytest.raises(ValueError, match="the key 'a' is there twice"):
        read_study(path)


def test_an_environment_that_is_named_twice_has_each_run_once(study_file):
    assert len(expand(read_study(study_file(environments=["Pendulum-v1", "Pendulum-v1"])))) == 3


def test_the_short_form_leaves_out_what_an_algorithm_does_not_take_or_its_method_takes_away(study_file):
    dense = {"algorithm": "td3", "hyperparameters": dict.fromkeys(["n_steps_delay", "topology_end", "buffer_min_size"])}
    own = {"n_steps_delay": 20_000, "topology_end": 100, "tau": 0.5, **SHORT}
    quick = {"steps": 50, "hyperparameters": {"n_steps_delay": 10, "topology_interval": 5, "tau": 0.25}}
    changes = {"methods": {"RLx2": {"algorithm": "rlx2_td3"}, "dense": dense}, "seeds": 1, "hyperparameters": own}
    runs = {
        run.method: run.hyperparameters for run in expand(read_study(study_file(quick=quick, **changes), quick=True))
    }
    assert (runs["RLx2"]["n_steps_delay"], runs["RLx2"]["topology_interval"], runs["RLx2"]["tau"]) == (10, 5, 0.25)
    assert runs["dense"]["tau"] == 0.25
    assert not runs["dense"].keys() & {"n_steps_delay", "topology_interval", "topology_end"}
    wrong = {**quick, "hyperparameters": {"n_steps_dely": 10}}
    with pytest.raises(ValueError, match=r"quick, hyperparameters: 'n_steps_dely' is unknown to all methods. Did you"):
        read_study(study_file(quick=wrong, **changes), quick=True)


def test_the_short_form_of_a_study_is_short_whatever_its_methods_say(study_file):
    methods = {"a": {"algorithm": "rlx2_td3", "steps": 900, "seeds": 7, "hyperparameters": {"tau": 0.5, "gamma": 0.5}}}
    quick = {"environments": ["MountainCarContinuous-v0"], "seeds": 1, "steps": 50, "hyperparameters": {"tau": 0.25}}
    path = study_file(methods=methods, quick=quick)
    (run,) = expand(read_study(path, quick=True))
    assert (run.environment, run.steps, run.hyperparameters["tau"], run.hyperparameters["gamma"]) == (
        *("MountainCarContinuous-v0", 50),
        *(0.25, 0.5),
    )
    assert read_study(path, quick=True).name == "study-quick"
    assert len(expand(read_study(path))) == 7
    with pytest.raises(ValueError, match="no short form"):
        read_study(study_file(), quick=True)


def test_names_of_algorithms_are_those_of_the_zoo():
    zoo = pytest.importorskip("sb3_rlx2.zoo")
    assert {name: cls for name, cls in ALGORITHMS.items() if name.startswith("rlx2_")} == dict(zoo.ALGORITHMS)
    assert ALGORITHMS["td3"] is TD3
