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


def lines(run):
    return len((run / "0.monitor.csv").read_text().splitlines())


def test_ctrl_c_before_a_training_goes_on_leaves_the_files_of_its_run(tmp_path, monkeypatch, capsys):
    from sb3_rlx2.resume import resuming

    flags = ["--checkpoint-every", "100", "--save-replay-buffer"]
    assert train(tmp_path, *flags, steps=420, params=["normalize:True"]) == 0
    run = run_folder(tmp_path)
    saved = [run / "Pendulum-v1.zip", run / "replay_buffer.pkl", run / "Pendulum-v1" / "vecnormalize.pkl"]
    before = [path.read_bytes() for path in saved]

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(resuming, "restore_buffer", interrupted)
        resumed(tmp_path)
    assert "its files are as they were" in capsys.readouterr().out
    assert [path.read_bytes() for path in saved] == before
    assert lines(run) == 2 + 2
    resumed(tmp_path)
    assert RLx2TD3.load(saved[0]).num_timesteps == 420
    assert lines(run) == 2 + 2


def test_where_no_checkpoint_is_whole_the_log_of_the_run_stays(tmp_path, capsys):
    assert train(tmp_path, "--checkpoint-every", "100", steps=420) == 0
    run = run_folder(tmp_path)
    for path in (run / "checkpoints").glob("checkpoint-*"):
        path.write_bytes(path.read_bytes()[:-10])
    assert main(["train", "--resume", str(run)]) == 2
    assert "checkpoint" in capsys.readouterr().err
    assert lines(run) == 2 + 2


def test_a_finished_run_with_a_progress_bar_is_saved_again(tmp_path):
    assert train(tmp_path, "--checkpoint-every", "40", "--progress", steps=100) == 0
    model = run_folder(tmp_path) / "Pendulum-v1.zip"
    model.unlink()
    resumed(tmp_path)
    assert RLx2TD3.load(model).num_timesteps == 100


def test_objects_among_the_hyperparameters_go_on_where_their_files_are_trusted(tmp_path, cut, monkeypatch, capsys):
    params = ["policy_kwargs:dict(net_arch=[16, 16], activation_fn=nn.ELU)"]
    with cut(90):
        train(tmp_path, "--checkpoint-every", "40", steps=150, params=params)
    monkeypatch.undo()
    monkeypatch.setenv("RLX2_TRUSTED", "0")
    assert main(["train", "--resume", str(run_folder(tmp_path))]) == 2
    assert "args.yml holds pickled objects" in capsys.readouterr().err
    monkeypatch.setenv("RLX2_TRUSTED", "1")
    resumed(tmp_path)
    model = RLx2TD3.load(run_folder(tmp_path) / "Pendulum-v1.zip")
    assert (model.num_timesteps, model.policy_kwargs["activation_fn"].__name__) == (150, "ELU")


def test_a_run_has_its_own_hyperparameters_wherever_it_is_resumed(tmp_path, cut, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "my.yml").write_text("Pendulum-v1: {n_timesteps: 100, policy: MlpPolicy, n_envs: 2, gamma: 0.9}")
    monkeypatch.chdir(folder)
    assert train(Path("first"), "--save-replay-buffer", "--conf-file", "my.yml") == 0
    agent = run_folder(Path("first")) / "Pendulum-v1.zip"
    flags = ["--checkpoint-every", "40", "--conf-file", "my.yml"]
    for given in ([], ["-i", str(agent)], [f"--trained-agent={agent}"]):
        with monkeypatch.context() as patched:
            store = RLx2TD3._store_transition

            def stored(model, *args, store=store):
                if model.num_timesteps == 120:
                    raise MemoryError
                store(model, *args)

            patched.setattr(RLx2TD3, "_store_transition", stored)
            with pytest.raises(MemoryError):
                train(Path("logs"), *flags, *given, steps=160)
        run = sorted((folder / "logs" / "rlx2_td3").iterdir())[-1]
        (folder / "my.yml").rename(folder / "another.yml")
        monkeypatch.chdir(tmp_path)
        assert main(["train", "--resume", str(run)]) == 0
        model = RLx2TD3.load(run / "Pendulum-v1.zip")
        assert (model.num_timesteps, model.n_envs, model.gamma) == (220 if given else 160, 2, 0.9)
        monkeypatch.chdir(folder)
        (folder / "another.yml").rename(folder / "my.yml")


@pytest.mark.parametrize("flag", ["-optimize", "--optimize", "-opt", "--optimize-hyper"])
def test_a_search_has_no_checkpoints_however_it_is_asked_for(flag, tmp_path, capsys):
    assert train(tmp_path, "--checkpoint-every", "20", flag) == 2
    assert "not for a search" in capsys.readouterr().err


def test_stacked_observations_are_not_normalized(tmp_path, capsys):
    assert train(tmp_path, params=["normalize:True", "frame_stack:2"]) == 2
    assert "-params: frame_stack=2 is not allowed with normalize" in capsys.readouterr().err
    assert not (tmp_path / "rlx2_td3").exists()
