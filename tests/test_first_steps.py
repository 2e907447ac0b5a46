"""Runs of a short study taken from a longer one."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from study_helpers import SHORT, write_study

from sb3_rlx2.studies import expand, read_study
from sb3_rlx2.zoo.command_line import main

pytest.importorskip("yaml")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import first_steps

FAST_EVOLUTION = {**SHORT, "topology_interval": 20}


@pytest.fixture
def study(tmp_path):
    def write(name, **changes):
        (tmp_path / name).mkdir()
        methods = {"RLx2": {"algorithm": "rlx2_td3"}}
        return write_study(tmp_path / name, **{"seeds": 1, "methods": methods, **changes})

    return write


def make(study_file, *options):
    """Make a study and its report; return the file of its finished runs."""
    out = study_file.parent / "out"
    where = [str(study_file), "--results", str(study_file.parent / "results")]
    assert main(["study", "run", *where, "--jobs", "1", *options]) == 0
    assert main(["study", "report", *where, "--out", str(out)]) == 0
    return out / "runs.jsonl"


def evaluations(runs):
    """The rows of the only run of a file, without those of the clocks."""
    (line,) = runs.read_text().splitlines()
    return [row.split(",")[:-2] for row in json.loads(line)["evaluations"].splitlines()]


def test_the_first_steps_of_a_longer_run_are_those_of_a_shorter_one(study, tmp_path, monkeypatch):
    short = partial(study, steps=200, hyperparameters={**FAST_EVOLUTION, "topology_end": 400})
    whole, made = make(study("long", steps=400, hyperparameters=FAST_EVOLUTION)), make(short("made"))
    taken, out = short("taken"), tmp_path / "first_steps.jsonl"
    monkeypatch.setattr(sys, "argv", ["first_steps.py", str(whole), str(taken), str(out)])
    first_steps.main()
    restored = make(taken, "--restore", str(out))
    assert evaluations(restored) == evaluations(made) == evaluations(whole)[: len(evaluations(made))]
    assert len(evaluations(whole)) > len(evaluations(made)) == 3
    assert json.loads(restored.read_text())["finished"]["step"] == 200
    assert json.loads(restored.read_text())["sessions"] == json.loads(whole.read_text())["sessions"]  # not made again


def settings(study, name, steps, **hyperparameters):
    (run,) = expand(read_study(study(name, steps=steps, hyperparameters={**SHORT, **hyperparameters})))
    return run


def found(longer, run):
    evaluations = "step\n100\n200\n300\n400\n"
    line = {"settings": longer.to_dict(), "sessions": {}, "finished": {"time": ""}, "evaluations": evaluations}
    return [found["evaluations"] for found in first_steps.first_steps([line], [run])]


@pytest.mark.parametrize("changes", [{"steps": 200}, {"seed": 1}, {"environment": "Ant-v5"}, {"algorithm": "rlx2_sac"}])
def test_only_longer_runs_of_the_same_settings_serve(study, changes):
    longer, run = settings(study, "long", 400), settings(study, "short", 200, topology_end=400)
    assert found(replace(longer, method="as another study calls it"), run) == ["step\n100\n200\n"]
    assert found(replace(longer, **changes), run) == []
    assert found(settings(study, "other", 400, batch_size=17), run) == []
    assert found(settings(study, "end", 400, topology_end=300), run) == []


def test_what_follows_the_length_of_a_training_does_not_serve(study):
    longer, run = settings(study, "long", 400), settings(study, "short", 200, topology_end=400)
    assert found(replace(longer, algorithm="rlx2_dqn"), replace(run, algorithm="rlx2_dqn")) == []
    longer, run = (
        replace(each, hyperparameters={**each.hyperparameters, "learning_rate": "lin_1e-3"}) for each in (longer, run)
    )
    assert found(longer, run) == []
