"""``rlx2 train --checkpoint-every`` and ``--resume``: a training that was killed goes on in its folder."""

import csv
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import differing, everything
from zoo_helpers import SHORT, run_folder, start, train

from sb3_rlx2 import RLx2TD3
from sb3_rlx2.zoo.command_line import main

pytest.importorskip("rl_zoo3")

FLAGS = ["--eval-freq", "150", "--eval-episodes", "1", "--checkpoint-every", "80"]
NORMALIZED = ["normalize:True", "n_envs:2"]


@pytest.fixture
def cut(monkeypatch):
    """Ends a training in the midst of a step."""

    class PowerCut(BaseException):
        pass

    def at(step):
        store = RLx2TD3._store_transition

        def stored(model, *args):
            if model.num_timesteps == step:
                raise PowerCut
            store(model, *args)

        monkeypatch.setattr(RLx2TD3, "_store_transition", stored)
        return pytest.raises(PowerCut)

    return at


def resumed(folder):
    assert main(["train", "--resume", str(run_folder(folder))]) == 0
    return folder


def assert_same_end(one, other):
    first, second = run_folder(one), run_folder(other)
    models = [RLx2TD3.load(run / "Pendulum-v1.zip") for run in (first, second)]
    assert differing(*map(everything, models)) == []
    with np.load(first / "evaluations.npz") as evaluations, np.load(second / "evaluations.npz") as others:
        assert all(np.array_equal(evaluations[key], others[key]) for key in evaluations.files)
    for path in first.glob("*.monitor.csv"):
        rows = [list(csv.reader((run / path.name).open()))[2:] for run in (first, second)]
        assert [row[:2] for row in rows[0]] == [row[:2] for row in rows[1]]


@pytest.mark.parametrize("params", [[], NORMALIZED], ids=["one", "normalized"])
def test_a_run_that_was_cut_off_goes_on_to_the_same_end(params, tmp_path, cut, monkeypatch):
    steps = 450
    assert train(tmp_path / "whole", *FLAGS, steps=steps, params=params) == 0
    with cut(330):
        train(tmp_path / "cut", *FLAGS, steps=steps, params=params)
    monkeypatch.undo()
    before = sorted(path.name for path in (tmp_path / "cut" / "rlx2_td3").iterdir())
    resumed(tmp_path / "cut")
    assert sorted(path.name for path in (tmp_path / "cut" / "rlx2_td3").iterdir()) == before
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


def test_a_run_that_was_continued_from_a_model_goes_on_to_the_same_end(tmp_path, cut, monkeypatch, capsys):
    assert train(tmp_path, "--save-replay-buffer") == 0
    flags = [*FLAGS, "-i", str(run_folder(tmp_path) / "Pendulum-v1.zip")]
    assert train(tmp_path / "whole", *flags, steps=250) == 0
    with cut(230):
        train(tmp_path / "cut", *flags, steps=250)
    monkeypatch.undo()
    resumed(tmp_path / "cut")
    assert "no replay_buffer.pkl" not in capsys.readouterr().out
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


def test_a_run_that_was_moved_goes_on_where_it_is(tmp_path, cut, monkeypatch):
    assert train(tmp_path / "whole", *FLAGS, steps=450) == 0
    monkeypatch.chdir(tmp_path)
    with cut(330):
        train(Path("cut"), *FLAGS, steps=450)
    monkeypatch.undo()
    (tmp_path / "cut").rename(tmp_path / "moved")
    resumed(tmp_path / "moved")
    assert not (tmp_path / "cut").exists()
    assert_same_end(tmp_path / "whole", tmp_path / "moved")


def test_a_killed_process_goes_on(tmp_path):
    arguments = ["train", "--algo", "rlx2_td3", "--env", "Pendulum-v1", "-n", "3000", "--eval-freq", "-1", "-f", "logs"]
    process = start(*arguments, "--checkpoint-every", "500", "-params", *SHORT, cwd=tmp_path)
    run = run_folder(tmp_path / "logs")
    while len(list((run / "checkpoints").glob("checkpoint-*"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run / "Pendulum-v1.zip").exists()
    resumed(tmp_path / "logs")
    assert RLx2TD3.load(run / "Pendulum-v1.zip").num_timesteps == 3000


def contents(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_is_still_training_is_left_alone(tmp_path, capsys):
    arguments = [
        "train",
        "--algo",
        "rlx2_td3",
        "--env",
        "Pendulum-v1",
        "-n",
        "100000",
        "--eval-freq",
        "-1",
        "-f",
        "logs",
    ]
    process = start(*arguments, "--checkpoint-every", "500", "-params", *SHORT, cwd=tmp_path)
    run = run_folder(tmp_path / "logs")
    try:
        while len(list((run / "checkpoints").glob("checkpoint-*"))) < 2 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # all of its threads have stopped then
        before = contents(run)
        assert len(before[str(run / "0.monitor.csv")].splitlines()) > 2
        assert main(["train", "--resume", str(run)]) == 2
        assert contents(run) == before
    finally:
        process.kill()
        process.communicate()
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert f"{run / 'checkpoints'}: another process trains and writes its checkpoints here" in errors[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "nowhere"], "--resume nowhere: there is no checkpoint in its checkpoints"),
        (["--resume", "nowhere", "-n", "5"], "goes on as the training was begun: -n cannot be changed"),
        (["--algo", "rlx2_td3", "--checkpoint-every", "0"], "--checkpoint-every=0 is not allowed"),
        (["--algo", "rlx2_td3", "--checkpoint-every", "x"], "invalid int value: 'x'"),
        (["--algo", "rlx2_td3", "--checkpoint-every", "5", "-optimize"], "for a training, not for a search"),
        (["--algo", "ppo", "--checkpoint-every", "5"], "not for --algo ppo"),
    ],
)
def test_what_cannot_be_is_said(arguments, message, capsys):
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_flags_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    output = capsys.readouterr().out
    assert "--checkpoint-every N" in output
    assert "--resume FOLDER" in output
