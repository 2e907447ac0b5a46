"""Studies: a file, the runs that it asks for, and what becomes of them when processes are killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize
from study_helpers import write_study

from sb3_rlx2 import RLx2TD3
from sb3_rlx2.studies import evaluation, read_study, runner, training
from sb3_rlx2.studies.evaluation import Evaluator, StudyCallback
from sb3_rlx2.studies.executors import local_executor
from sb3_rlx2.studies.hyperparameters import read_entry
from sb3_rlx2.studies.model import make_environment, make_model
from sb3_rlx2.studies.progress import LINE_SECONDS, live_progress
from sb3_rlx2.studies.run import main as run_main
from sb3_rlx2.studies.run_folder import RunFolder
from sb3_rlx2.studies.runner import run_all, run_folders
from sb3_rlx2.zoo.command_line import main

pytest.importorskip("yaml")


@pytest.fixture
def study_file(tmp_path):
    return partial(write_study, tmp_path)


class NoReward(gym.RewardWrapper):
    def reward(self, reward):
        return 0.0


class RandomRewards(gym.RewardWrapper):
    """Adds random numbers of its own generator, which no seed of an episode reaches."""

    def __init__(self, env):
        super().__init__(env)
        self.random = np.random.default_rng(0)

    def reward(self, reward):
        return reward + self.random.normal()


class Ending(BaseCallback):
    """Ends the process at a step."""

    last_step: int | None = None

    def _on_step(self):
        if self.num_timesteps == self.last_step:
            raise KeyboardInterrupt
        return True


class RandomPolicy:
    def __init__(self, action_space):
        self.action_space = action_space

    def predict(self, observations, **kwargs):
        return np.stack([self.action_space.sample() for _ in observations]), None


def evaluations(folder):
    """All columns but those of the clocks."""
    return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in folder.rows()]


@pytest.mark.parametrize(
    ("algorithm", "config", "environment"),
    [
        ("rlx2_td3", None, "Pendulum-v1"),
        ("rlx2_td3", "tiny", "Pendulum-v1"),
        ("rlx2_sac", "rigl", "Pendulum-v1"),
        ("rlx2_qrdqn", None, "CartPole-v1"),
    ],
)
def test_a_packaged_entry_makes_the_model_that_the_zoo_makes(algorithm, config, environment, tmp_path):
    pytest.importorskip("rl_zoo3")
    from test_hyperparameters import experiment

    entry = read_entry(algorithm, environment, config)
    ours = make_model(algorithm, entry, make_environment(environment, entry), seed=3)
    zoos = experiment(algorithm, config, environment, tmp_path, {"n_timesteps": 100})[1]
    for name in (
        "gamma",
        "tau",
        "batch_size",
        "learning_starts",
        "topology",
        "topology_interval",
        "n_steps",
        "lr_schedule",
    ):
        mine, theirs = (getattr(model, name) for model in (ours, zoos))
        assert (mine(1.0), mine(0.5)) == (theirs(1.0), theirs(0.5)) if callable(mine) else mine == theirs
    assert repr(ours.action_noise) == repr(zoos.action_noise)
    assert [p.shape for p in ours.policy.parameters()] == [p.shape for p in zoos.policy.parameters()]


@pytest.mark.parametrize(
    "given", ["dict(net_arch=[8, 8], activation_fn=nn.ELU)", {"net_arch": [8, 8], "activation_fn": "ELU"}]
)
def test_policy_arguments_are_a_mapping_or_the_string_that_the_zoo_evaluates(given):
    model = make_model("rlx2_td3", {"policy_kwargs": given}, make_environment("Pendulum-v1", {}), seed=0)
    assert (model.policy.net_arch, model.policy.activation_fn) == ([8, 8], th.nn.ELU)


@pytest.mark.parametrize("given", ["dict([8])", "dict(net_arch=print(1))", "dict(**{})", "[8, 8]", "dict(", 3])
def test_other_strings_are_not_run_and_refused_in_one_line(given):
    with pytest.raises(ValueError, match=r"policy_kwargs: .* is not allowed: it must be a mapping") as caught:
        make_model("rlx2_td3", {"policy_kwargs": given}, make_environment("Pendulum-v1", {}), seed=0)
    assert "\n" not in str(caught.value)


def test_normalized_environments_are_evaluated_with_the_statistics_of_training_and_true_rewards():
    entry = {"normalize": True, "gamma": 0.9}
    training, evaluation = (make_environment("Pendulum-v1", entry, evaluation=value) for value in (False, True))
    assert isinstance(training, VecNormalize)
    assert training.gamma == 0.9
    assert (training.norm_reward, training.training) == (True, True)
    assert (evaluation.norm_reward, evaluation.training) == (False, False)


def test_episodes_that_a_wrapper_ends_are_evaluated_by_the_environments_own_rewards():
    wrappers = [{"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 7}}, "test_studies.NoReward"]
    env = make_environment("Pendulum-v1", {"env_wrapper": wrappers}, evaluation=True)
    returns, lengths = evaluate_policy(RandomPolicy(env.action_space), env, 3, return_episode_rewards=True)
    assert lengths == [7, 7, 7]
    assert max(returns) < 0.0
    unwrapped = make_environment("Pendulum-v1", {}, evaluation=True)
    assert evaluate_policy(RandomPolicy(env.action_space), unwrapped, 1, return_episode_rewards=True)[1] == [200]


def test_runs_in_wrappers_go_on_where_they_were_stopped(study_file, tmp_path, monkeypatch):
    wrappers = ["test_studies.RandomRewards", {"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 30}}]
    methods = {"a": {"algorithm": "rlx2_td3", "hyperparameters": {"env_wrapper": wrappers}}}
    study = read_study(study_file(methods=methods, seeds=1, checkpoint_every=50))
    whole, stopped = (run_folders(study, tmp_path / name)[0] for name in ("whole", "stopped"))
    assert run_main([str(whole.path)]) == 0

    on_step = StudyCallback._on_step

    def ends(self):
        if self.num_timesteps == 170:
            raise KeyboardInterrupt
        return on_step(self)

    with monkeypatch.context() as patched:
        patched.setattr(StudyCallback, "_on_step", ends)
        with pytest.raises(KeyboardInterrupt):
            run_main([str(stopped.path)])
    assert len(stopped.rows()) == 1
    assert run_main([str(stopped.path)]) == 0
    assert evaluations(stopped) == evaluations(whole)


def test_runs_have_the_callbacks_of_their_hyperparameters_and_go_on_with_them(study_file, tmp_path, monkeypatch):
    callback = [
        {"sb3_rlx2.DiscountScheduleCallback": {"initial_gamma": 0.98, "start": 0.4, "end": 0.8}},
        "test_studies.Ending",
    ]
    methods = {"a": {"algorithm": "rlx2_td3", "hyperparameters": {"callback": callback}}}
    study = read_study(study_file(methods=methods, seeds=1, checkpoint_every=50))
    whole, stopped = (run_folders(study, tmp_path / name)[0] for name in ("whole", "stopped"))
    assert run_main([str(whole.path)]) == 0
    assert RLx2TD3.load(whole.model, buffer_size=1).gamma == 0.997
    with monkeypatch.context() as patched:
        patched.setattr(Ending, "last_step", 170)
        with pytest.raises(KeyboardInterrupt):
            run_main([str(stopped.path)])
    assert len(stopped.rows()) == 1
    assert run_main([str(stopped.path)]) == 0
    assert evaluations(stopped) == evaluations(whole)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("sb3_rlx2.DiscountCallback", r"callback: 'sb3_rlx2.DiscountCallback' cannot be imported"),
        (
            {"sb3_rlx2.DiscountScheduleCallback": 0.997},
            r"callback: {'sb3_rlx2.Disc.*': 0.997} is not allowed: the name",
        ),
        ([{"test_studies.Ending": {}, "os.getcwd": {}}], "callback: .* is not allowed: the name of a class, or one"),
        (5, "callback: 5 is not allowed: the name of a class, or one such name with a mapping of its arguments"),
        ("os.getcwd", "callback: .* is not allowed: it must be a callback of Stable-Baselines3's kind"),
    ],
)
def test_what_is_no_callback_is_refused(study_file, tmp_path, callback, message):
    methods = {"a": {"algorithm": "rlx2_td3", "hyperparameters": {"callback": callback}}}
    (folder,) = run_folders(read_study(study_file(methods=methods, seeds=1)), tmp_path)
    with pytest.raises(ValueError, match=message):
        training.learn(folder, lambda: pytest.fail("a model was made"))


@pytest.mark.parametrize("when", ["before finished.json", "after it"])
def test_a_run_killed_as_it_ends_keeps_what_it_learned(study_file, tmp_path, monkeypatch, when):
    (folder,) = run_folders(read_study(study_file(methods={"a": {"algorithm": "rlx2_td3"}}, seeds=1)), tmp_path)
    with monkeypatch.context() as patched:

        def killed(*arguments, **kwargs):
            raise KeyboardInterrupt

        if when == "before finished.json":
            write = RunFolder.write
            patched.setattr(RunFolder, "write", lambda *args: killed() if "finished.json" in args else write(*args))
        else:
            patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run_main([str(folder.path)])
    rows = folder.rows()
    assert (len(rows), folder.checkpoints.is_dir(), folder.is_finished) == (3, True, when == "after it")
    monkeypatch.setattr("sb3_rlx2.studies.training.new_model", lambda run: pytest.fail("it begins anew"))
    assert run_main([str(folder.path)]) == 0
    assert folder.rows() == rows
    assert folder.is_finished
    assert not folder.checkpoints.exists()


def test_runs_are_made_once_with_everything_that_made_them(study_file, tmp_path):
    folders = run_folders(read_study(study_file()), tmp_path / "results")
    with local_executor(2) as executor:
        assert run_all(folders, executor) == []
    for folder in folders:
        assert [row["step"] for row in folder.rows()] == [100, 200, 300]
        assert folder.rows()[-1]["updates"] == 199
        (session,) = folder.record("sessions.json")["sessions"]
        assert (session["threads"], session["packages"]["torch"] != "") == (1, True)
        assert session["machine"]
        assert RLx2TD3.load(folder.model).num_timesteps == 300
    times = [folder.evaluations.stat().st_mtime_ns for folder in folders]
    with local_executor(2) as executor:
        run_all(folders, executor)
    assert [folder.evaluations.stat().st_mtime_ns for folder in folders] == times


@pytest.mark.parametrize("changes", [{}, {"normalize": True}])
def test_the_agent_of_the_best_evaluation_is_kept(changes, study_file, tmp_path):
    methods = {"a": {"algorithm": "rlx2_td3", "hyperparameters": {**changes, "learning_rate": 0.01}}}
    study = read_study(study_file(methods=methods, seeds=1, steps=600, evaluation={"every": 60, "episodes": 1}))
    (folder,) = run_folders(study, tmp_path)
    assert run_main([str(folder.path)]) == 0
    rows = folder.rows()
    best = max(rows, key=lambda row: row["mean_return"])
    assert best is not rows[-1], "the last one is not the best here"
    evaluator = Evaluator(folder)
    if changes:
        evaluator.env = VecNormalize.load(folder.best / "vecnormalize.pkl", evaluator.env.venv)
        evaluator.env.training = evaluator.env.norm_reward = False
    model = RLx2TD3.load(folder.best / "model.zip")
    assert model.num_timesteps == best["step"]
    mean = evaluator.evaluate(model, int(best["step"]), model._n_updates, {})
    assert mean == pytest.approx(best["mean_return"], abs=1e-3)


def test_an_evaluation_that_is_not_a_number_is_not_the_best(study_file, tmp_path, monkeypatch):
    returns = iter([np.nan, -3.0, np.nan])
    monkeypatch.setattr(evaluation, "evaluate_policy", lambda *args, **kwargs: ([next(returns)], [200]))
    (folder,) = run_folders(read_study(study_file(methods={"a": {"algorithm": "rlx2_td3"}}, seeds=1)), tmp_path)
    assert run_main([str(folder.path)]) == 0
    assert RLx2TD3.load(folder.best / "model.zip").num_timesteps == 200


def test_evaluating_leaves_the_training_as_it_is(study_file, tmp_path):
    finals = []
    for every in (50, 300):
        methods = {"SAC": {"algorithm": "rlx2_sac"}}
        study = read_study(study_file(methods=methods, seeds=1, evaluation={"every": every, "episodes": 2}))
        (folder,) = run_folders(study, tmp_path / str(every))
        assert run_main([str(folder.path)]) == 0
        finals.append(evaluations(folder)[-1])
    assert finals[0] == finals[1]


def test_a_folder_with_a_run_of_other_settings_is_refused(study_file, tmp_path):
    methods = {name: {"algorithm": "rlx2_td3"} for name in "ab"}
    first, *_, last = run_folders(read_study(study_file(methods=methods)), tmp_path)
    last.write("sessions.json", {})
    with pytest.raises(ValueError, match=r"holds a run of other settings \(steps is 300 there and 400 here\)"):
        run_folders(read_study(study_file(methods=methods, steps=400)), tmp_path)
    assert RunFolder(first.path).settings.steps == 300  # nothing is written
    assert main(["study", "status", str(study_file(steps=400, methods=methods)), "--results", str(tmp_path)]) == 2


def test_a_run_that_was_never_begun_takes_new_settings(study_file, tmp_path):
    run_folders(read_study(study_file()), tmp_path)
    for folder in run_folders(read_study(study_file(steps=400)), tmp_path):
        assert folder.settings.steps == RunFolder(folder.path).settings.steps == 400


def test_a_run_that_fails_says_why_and_those_that_need_it_are_not_made(study_file, tmp_path):
    methods = {
        "bad": {"algorithm": "rlx2_td3", "hyperparameters": {"tau": 7}},
        "next": {"algorithm": "rlx2_td3", "after": "bad"},
    }
    folders = run_folders(read_study(study_file(methods=methods, seeds=1)), tmp_path)
    with local_executor(1) as executor:
        failed = run_all(folders, executor)
    assert [folder.settings.method for folder, _ in failed] == ["bad", "next"]
    assert "tau=7" in failed[0].reason
    assert "it needs" in failed[1].reason
    assert [folder.progress().state for folder in folders] == ["failed", "waiting"]


def test_an_environment_that_ends_the_process_is_a_failure(study_file, tmp_path):
    options = {"algorithm": "rlx2_td3", "program": f"{__name__}:leave"}
    (folder,) = run_folders(read_study(study_file(methods={"a": options}, seeds=1)), tmp_path)
    assert run_main([str(folder.path)]) == 1
    assert folder.error == "SystemExit: the simulator has left"
    assert folder.progress().state == "failed"


def leave(run):
    sys.exit("the simulator has left\nfor good")


def test_runs_that_wait_for_others_keep_their_turn(study_file, tmp_path):
    methods = {"b": {"algorithm": "rlx2_td3", "after": "a"}, "a": {"algorithm": "rlx2_td3"}}
    folders = run_folders(read_study(study_file(methods=methods)), tmp_path)
    made = []

    class Now(Executor):
        def submit(self, function, path):
            made.append(path.rpartition("Pendulum-v1/")[2])
            RunFolder(Path(path)).write("finished.json", {})
            done = Future()
            done.set_result(0)
            return done

    run_all(folders, Now(), at_a_time=1)
    assert made == ["a/seed_0", "b/seed_0", "a/seed_1", "b/seed_1"]


def test_a_run_that_says_nothing_for_long_is_running_while_its_process_is_there(study_file, tmp_path):
    (folder,) = run_folders(read_study(study_file(methods={"a": {"algorithm": "rlx2_td3"}}, seeds=1)), tmp_path)
    assert folder.progress().state == "waiting"
    with folder.locked():
        assert folder.progress().state == "running"  # it has just begun
        for host, state in ((socket.gethostname(), "running"), ("elsewhere", "stopped")):
            status = {"step": 5, "steps_per_second": 1.0, "time": time.time() - 1000.0, "host": host}
            folder.write("status.json", status)
            assert folder.progress().state == state


class Ends(Executor):
    """Runs end with a status, after so many steps more each time."""

    def __init__(self, status, steps_each=0):
        self.status, self.steps_each, self.count = status, steps_each, 0

    def submit(self, function, path):
        self.count += 1
        folder, done = RunFolder(Path(path)), Future()
        step = self.steps_each * self.count
        folder.write("status.json", {"step": step, "steps_per_second": 1.0, "time": 0.0, "host": "gone"})
        if step >= folder.settings.steps:
            folder.write("finished.json", {})
        done.set_result(0 if folder.is_finished else self.status)
        return done


def test_a_run_whose_process_is_lost_again_and_again_fails_only_where_it_gets_no_further(study_file, tmp_path):
    study = read_study(study_file(methods={"a": {"algorithm": "rlx2_td3"}}, seeds=1))
    still, slow, at_once = (run_folders(study, tmp_path / name) for name in ("still", "slow", "at once"))
    (failed,) = run_all(still, executor := Ends(-9))
    assert executor.count == 5
    assert "its process ended 5 times without a step (exit status -9)" in failed.reason
    assert run_all(slow, executor := Ends(-9, steps_each=30)) == []
    assert executor.count == 10
    (failed,) = run_all(at_once, executor := Ends(1))
    assert (executor.count, "ended at once (exit status 1)" in failed.reason) == (1, True)


def test_a_run_waits_for_one_that_another_command_makes(study_file, tmp_path):
    methods = {"a": {"algorithm": "rlx2_td3"}, "b": {"algorithm": "rlx2_td3", "after": "a"}}
    needed, own = run_folders(read_study(study_file(methods=methods, seeds=1)), tmp_path)
    made = []

    class Now(Ends):
        def submit(self, function, path):
            made.append(needed.is_finished)
            return super().submit(function, path)

    with needed.locked():
        assert run_all([own], Now(0, steps_each=300), look=lambda folders: needed.write("finished.json", {})) == []
    assert made == [True]


@pytest.mark.parametrize("sign_of_life", ["prepared", "another of its runs"])
def test_a_run_waits_for_one_that_another_command_is_about_to_make(sign_of_life, study_file, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "LOOK_SECONDS", 0.01)
    methods = {"a": {"algorithm": "rlx2_td3"}, "b": {"algorithm": "rlx2_td3", "after": "a"}}
    folders = run_folders(read_study(study_file(methods=methods)), tmp_path)
    (needed, own), other = folders[:2], folders[2]
    looks = []

    def look(_):
        looks.append(time.monotonic())
        if len(looks) == 5:
            needed.write("finished.json", {})

    if sign_of_life == "prepared":
        assert run_all([own], Ends(0, steps_each=300), look) == []
    else:
        monkeypatch.setattr(runner, "PATIENCE_SECONDS", 0.0)
        with other.locked():
            assert run_all([own], Ends(0, steps_each=300), look) == []
    assert len(looks) >= 5


def test_a_run_does_not_wait_for_one_that_failed_that_nobody_prepared_or_for_ever(study_file, tmp_path, monkeypatch):
    methods = {"a": {"algorithm": "rlx2_td3"}, "b": {"algorithm": "rlx2_td3", "after": "a"}}
    needed, own = run_folders(read_study(study_file(methods=methods, seeds=1)), tmp_path)
    looks = []
    (needed.path / "error.txt").write_text("it broke\n")
    assert [folder for folder, _ in run_all([own], Ends(0), looks.append)] == [own]
    (needed.path / "error.txt").unlink()
    (needed.path / "run.json").rename(needed.path / "no.json")
    assert [folder for folder, _ in run_all([own], Ends(0), looks.append)] == [own]
    assert looks == []
    (needed.path / "no.json").rename(needed.path / "run.json")
    monkeypatch.setattr(runner, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(runner, "PATIENCE_SECONDS", 0.05)
    assert [folder for folder, _ in run_all([own], Ends(0), looks.append)] == [own]
    assert looks != []


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_run_is_seen_by_one_who_may_not_write(study_file, tmp_path, monkeypatch):
    (folder,) = run_folders(read_study(study_file(methods={"a": {"algorithm": "rlx2_td3"}}, seeds=1)), tmp_path)
    read = Path.open

    def no_writing(path, mode="r", *arguments, **kwargs):
        if mode != "r":
            raise PermissionError(path)
        return read(path, mode, *arguments, **kwargs)

    with folder.locked(), monkeypatch.context() as patched:
        patched.setattr(Path, "open", no_writing)
        assert folder.is_running
    assert not folder.is_running


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it never happened")


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_study_killed_with_its_processes_goes_on_and_ends_as_if_it_had_not_been(study_file, tmp_path, capsys):
    path = study_file(steps=3000, seeds=1, methods={"RLx2": {"algorithm": "rlx2_td3"}}, checkpoint_every=150)
    whole, killed = (run_folders(read_study(path), tmp_path / name)[0] for name in ("whole", "killed"))
    command = [sys.executable, "-m", "sb3_rlx2", "study", "run", str(path), "--results", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(killed.rows()) >= 3)
    assert killed.progress().state == "running"
    assert run_main([str(killed.path)]) == 3  # another process makes it
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: killed.progress().state == "stopped")  # the run's own process has ended with its parent
    assert 3 <= len(killed.rows()) < 30
    for folder in (whole, killed):
        assert run_main([str(folder.path)]) == 0
    assert "Goes on at step" in capsys.readouterr().out
    assert evaluations(killed) == evaluations(whole)
    seconds = [row["cpu_seconds"] for row in killed.rows()]
    assert seconds == sorted(seconds)
    for name in ("model.zip", "best/model.zip"):
        models = [RLx2TD3.load(folder.path / name) for folder in (whole, killed)]
        assert models[0].num_timesteps == models[1].num_timesteps
        states = [list(model.policy.state_dict().values()) for model in models]
        assert all(th.equal(a, b) for a, b in zip(*states, strict=True))
    assert len(killed.record("sessions.json")["sessions"]) == 2


def test_where_there_is_no_terminal_a_line_tells_of_every_change_and_now_and_then(study_file, tmp_path, capsys):
    folders = run_folders(read_study(study_file(methods={"a": {"algorithm": "rlx2_td3"}}, seeds=2)), tmp_path)
    with live_progress() as look, pytest.MonkeyPatch.context() as patched:
        for seconds, finished in ((0.0, 0), (1.0, 0), (2.0, 1), (3.0, 1), (2.0 + LINE_SECONDS, 1)):
            patched.setattr(time, "monotonic", lambda seconds=seconds: seconds)
            if finished:
                folders[0].write("finished.json", {})
            look(folders)
    lines = [line.partition("  ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["2 waiting", "1 finished, 1 waiting", "1 finished, 1 waiting"]


def test_only_the_named_methods_and_environments_are_run(study_file, tmp_path):
    study = read_study(study_file(environments=["Pendulum-v1", "MountainCarContinuous-v0"], seeds=1))

    def made(*only):
        folders = run_folders(study, tmp_path, only)
        return {(folder.settings.method, folder.settings.environment) for folder in folders}

    assert len(made()) == 4
    assert made("SS") == {("SS", "Pendulum-v1"), ("SS", "MountainCarContinuous-v0")}
    assert made("SS", "RLx2", "Pendulum-v1") == {("SS", "Pendulum-v1"), ("RLx2", "Pendulum-v1")}
    with pytest.raises(ValueError, match=r"only: 'Pendulum' is no method or environment. Did you mean 'Pendulum-v1'"):
        made("Pendulum")
    other = {"a": {"algorithm": "rlx2_td3", "environments": ["Pendulum-v1"]}, "b": {"algorithm": "rlx2_td3"}}
    environments = ["Pendulum-v1", "MountainCarContinuous-v0"]
    with pytest.raises(ValueError, match="no method among a, MountainCarContinuous-v0 is run on an environment among"):
        run_folders(
            read_study(study_file(environments=environments, methods=other)), tmp_path / "o", ("a", environments[1])
        )


def test_half_a_row_of_a_killed_process_is_no_evaluation(tmp_path):
    folder = RunFolder(tmp_path)
    folder.evaluations.write_text("step,mean_return\n100,5.0\n200,1")
    assert folder.rows() == [{"step": 100.0, "mean_return": 5.0}]


def test_the_command_line_runs_a_study_and_tells_how_far_it_is(study_file, tmp_path, capsys):
    path = study_file(seeds=1)
    assert main(["study", "status", str(path), "--results", str(tmp_path / "r")]) == 0
    assert capsys.readouterr().out == "2 not begun\n"
    assert main(["study", "run", str(path), "--results", str(tmp_path / "r"), "--jobs", "2", "--only", "RLx2"]) == 0
    main(["study", "status", str(path), "--results", str(tmp_path / "r")])
    assert "1 finished, 1 not begun" in capsys.readouterr().out
    running = RunFolder(tmp_path / "r/Pendulum-v1/RLx2/seed_0")
    (running.path / "finished.json").rename(tmp_path / "finished.json")
    running.write("status.json", {"step": 100, "steps_per_second": 5.0, "time": time.time(), "host": "another"})
    main(["study", "status", str(path), "--results", str(tmp_path / "r")])
    assert "1 running; 5 steps/s, 1 min 40 s left, 1 not begun" in capsys.readouterr().out  # 200 and 300 steps
    (tmp_path / "finished.json").rename(running.path / "finished.json")
    assert main(["study", "run", str(path), "--results", str(tmp_path / "r"), "--jobs", "2"]) == 0
    main(["study", "status", str(path), "--results", str(tmp_path / "r")])
    assert "2 finished" in capsys.readouterr().out
    settings = json.loads((tmp_path / "r/Pendulum-v1/RLx2/seed_0/run.json").read_text())["settings"]
    assert settings["hyperparameters"]["learning_starts"] == 100
    assert main(["study", "run", str(Path("missing.yml"))]) == 2
    assert "missing.yml" in capsys.readouterr().err


@pytest.fixture
def evaluators(study_file, tmp_path):
    study = read_study(study_file(methods={"a": {"algorithm": "rlx2_td3"}}, seeds=2))
    return [Evaluator(folder) for folder in run_folders(study, tmp_path / "runs")]


def test_every_evaluation_of_every_run_has_episodes_of_its_own(evaluators):
    seeds = []
    for evaluator in evaluators:
        evaluator.begin()
        seed = evaluator.env.seed
        evaluator.env.seed = lambda number, seed=seed: (seeds.append(number), seed(number))
        for step in (100, 200):
            evaluator.evaluate(RandomPolicy(evaluator.env.action_space), step, 0, {})
    assert len(seeds) == len({*seeds}) == 4


def test_evaluations_count_for_nothing_in_the_time_of_a_run(evaluators, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate_policy", lambda *_, **__: time.sleep(0.5) or ([1.0], [1]))
    evaluators[0].begin()
    evaluators[0].evaluate(None, 100, 0, {})
    assert evaluators[0].seconds.wall < 0.4
