"""The trained agents that come with the package."""

import csv
from pathlib import Path

import gymnasium
import pytest

from sb3_rlx2 import trained
from sb3_rlx2.trained import load_trained, trained_agents
from sb3_rlx2.zoo.command_line import main

TABLE = Path(__file__).parents[1] / "benchmarks/results/trained_agents.csv"


def rows():
    with TABLE.open() as file:
        next(file)
        return {row["environment"]: row for row in csv.DictReader(file)}


def test_trained_agents_take_less_than_a_megabyte_and_are_those_of_the_table():
    assert sum(path.stat().st_size for path in trained.FOLDER.glob("*.npz")) < 1_000_000
    assert trained_agents() == sorted(rows())
    for name, row in rows().items():
        assert sum(len(layer.values) for layer in load_trained(name).layers) == int(row["connections"])


@pytest.mark.parametrize("name", trained_agents())
def test_a_trained_agent_earns_what_the_table_says(name):
    env = gymnasium.make(name)
    observation, _ = env.reset(seed=7)
    policy, total, is_over = load_trained(name), 0.0, False
    while not is_over:
        observation, reward, terminated, truncated, _ = env.step(policy.predict(observation)[0])
        total, is_over = total + reward, terminated or truncated
    mean, spread = float(rows()[name]["return"]), float(rows()[name]["standard_deviation"])
    assert total >= mean - 4 * spread - 0.05 * mean
    assert total > 1000


def test_enjoy_plays_a_trained_agent_and_says_what_it_earns(capsys):
    name = trained_agents()[0]
    assert main(["enjoy", "--trained", name, "--no-render", "-n", "20"]) == 0
    assert capsys.readouterr().out.startswith("return so far: ")


def test_enjoy_says_which_agents_there_are(capsys, monkeypatch):
    assert main(["enjoy", "--trained", "Hoper-v5", "--no-render"]) == 2
    message = capsys.readouterr().err
    assert all(name in message for name in trained_agents())
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert main(["enjoy", "--trained", trained_agents()[0]]) == 2
    assert "--no-render" in capsys.readouterr().err
    assert main(["enjoy", "--trained", trained_agents()[0], "-n", "0"]) == 2
    assert "-n" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["enjoy", "--help"])
    assert "--trained" in capsys.readouterr().out
