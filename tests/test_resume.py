"""A training that was cut off and resumed ends as one that never was, bit for bit."""

import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import differing, environment, everything, quick
from stable_baselines3 import TD3, HerReplayBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_rlx2 import (
    RLx2CrossQ,
    RLx2DDPG,
    RLx2DQN,
    RLx2QRDQN,
    RLx2SAC,
    RLx2TD3,
    TopologyHistory,
    TopologyHistoryCallback,
    TrainingCheckpointCallback,
)
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.resume import has_checkpoint, register_callback, resume
from sb3_rlx2.resume.buffer_segments import row_arrays
from sb3_rlx2.resume.checkpoint_folder import TRAINING_FORMAT, CheckpointFolder
from sb3_rlx2.resume.random_states import random_states

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


class PowerCut(BaseException):
    """The end of a training at any moment."""


class Cut(BaseCallback):
    """Ends a training in the midst of a step."""

    def __init__(self, step):
        super().__init__()
        self.step, self.later = step, 10**9

    def get_state(self):
        return None

    def set_state(self, state):
        pass

    def _on_step(self):
        if self.num_timesteps >= self.step:
            raise PowerCut
        return True


register_callback(Cut, {"step": "later"})


def model_of(algorithm, env=None, **kwargs):
    return algorithm("MlpPolicy", env or environment(algorithm), **quick(**kwargs))


def state_of(model):
    """All that must be the same at the end."""
    buffer = model.replay_buffer
    held = buffer.rows_held() if hasattr(buffer, "rows_held") else np.arange(buffer.size())
    state = everything(model) if hasattr(model, "topology_counters") else dict(model.policy.state_dict())
    state |= {f"rows {name}": th.as_tensor(array[held]) for name, array in row_arrays(buffer)}
    states = random_states()
    state["torch"] = states["torch"]
    state["numpy"] = th.as_tensor(states["numpy"]["state"]["key"].astype(np.int64))
    last = model._last_obs if isinstance(model._last_obs, dict) else {"": model._last_obs}
    state |= {f"last_obs {key}": th.as_tensor(value) for key, value in last.items()}
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        state |= {"mean": th.as_tensor(normalize.obs_rms.mean), "returns": th.as_tensor(normalize.returns)}
    return state


def close(model):
    model.logger.close()
    model.env.close()


def cut_off(model, folder, callbacks=(), steps=220, cut=170, every=60, **kwargs):
    """Train, and stop in the midst of a step."""
    own = TrainingCheckpointCallback(folder, every=every)
    with pytest.raises(PowerCut):
        model.learn(steps, [*callbacks, own, Cut(cut)], **kwargs)
    own.wait()


def resumed(folder, *args, **kwargs):
    th.manual_seed(123)
    np.random.seed(123)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "callbacks differ")  # the cut is not there any more
        return resume(folder, *args, **kwargs)


def assert_resumes(make, folder, steps=220, cut=170, **kwargs):
    """What is cut off and resumed ends as what is not."""
    whole = make()
    whole.learn(steps, TrainingCheckpointCallback(folder / "whole", every=60))
    expected = state_of(whole)
    cut_off(make(), folder / "cut", steps=steps, cut=cut)
    found = resumed(folder / "cut", **kwargs)
    assert found.num_timesteps == whole.num_timesteps
    assert differing(expected, state_of(found)) == []


@pytest.mark.parametrize(
    ("algorithm", "engine"),
    [
        *((algorithm, engine) for algorithm in (RLx2TD3, RLx2SAC) for engine in ("compiled", "torch")),
        (RLx2DDPG, "auto"),
        (RLx2CrossQ, "auto"),
        (RLx2DQN, "compiled"),
        (RLx2DQN, "torch"),
        (RLx2QRDQN, "auto"),
    ],
)
def test_a_resumed_training_ends_as_one_that_was_never_stopped(algorithm, engine, tmp_path):
    assert_resumes(lambda: model_of(algorithm, engine=engine), tmp_path, callback=[])


@pytest.mark.parametrize("cut", [1, 60, 61, 219])
def test_it_does_not_matter_when_a_training_stops(cut, tmp_path):
    assert_resumes(lambda: model_of(RLx2TD3), tmp_path, cut=cut, callback=[])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"topology": "set", "buffer_size": 120},
        {"buffer_distance_threshold": 10.0, "buffer_size": 120, "topology_end": 150},
        {"train_freq": (1, "episode"), "gradient_steps": 7},
        {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1)), "train_freq": 5},
        {"topology": "dense", "optimize_memory_usage": True, "n_steps": 1, "dynamic_buffer": False, "buffer_size": 120},
        {"learning_rate": lambda progress: 1e-3 * progress},
    ],
)
def test_settings_resume(kwargs, tmp_path):
    if kwargs.get("optimize_memory_usage"):
        kwargs = {**kwargs, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    assert_resumes(lambda: model_of(RLx2TD3, **kwargs), tmp_path, callback=[])


@pytest.mark.parametrize("kwargs", [{"use_sde": True, "sde_sample_freq": 5}, {"ent_coef": 0.1}])
def test_settings_of_sac_resume(kwargs, tmp_path):
    assert_resumes(lambda: model_of(RLx2SAC, train_freq=8, engine="torch", **kwargs), tmp_path, callback=[])


class Normalized(FlattenExtractor):
    """Batch normalization, whose statistics are no parameters."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.norm = th.nn.BatchNorm1d(self.features_dim)

    def forward(self, observations):
        return self.norm(super().forward(observations))


def test_batch_normalization_resumes(tmp_path):
    policy_kwargs = {"net_arch": [16], "features_extractor_class": Normalized}
    assert_resumes(lambda: model_of(RLx2TD3, policy_kwargs=policy_kwargs), tmp_path, callback=[])


def test_hindsight_experience_replay_resumes(tmp_path):
    def env():
        return Monitor(BitFlippingEnv(n_bits=4, continuous=True, max_steps=9))

    def make():
        kwargs = {"replay_buffer_class": HerReplayBuffer, "n_steps": 1, "dynamic_buffer": False, "buffer_size": 150}
        return RLx2SAC("MultiInputPolicy", env(), **quick(**kwargs))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*truncated.*")
        assert_resumes(make, tmp_path, env=env(), callback=[])


def test_a_training_that_was_interrupted_goes_on_in_the_same_process(tmp_path):
    own = TrainingCheckpointCallback(tmp_path, every=60)
    with pytest.raises(PowerCut):
        model_of(RLx2TD3).learn(220, [own, Cut(200)])
    own.on_training_end()  # the zoo does that, whatever has happened
    assert resumed(tmp_path, callback=[]).num_timesteps == 220


def test_a_folder_may_be_moved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cut_off(model_of(RLx2TD3), Path("here"))
    Path("here").rename("there")
    monkeypatch.chdir("/")
    assert resumed(tmp_path / "there", callback=[]).num_timesteps == 220
    assert not (tmp_path / "here").exists()


def test_a_stock_algorithm_resumes(tmp_path):
    def make():
        kwargs = {"learning_starts": 50, "batch_size": 32, "policy_kwargs": {"net_arch": [32]}, "seed": 0}
        return TD3("MlpPolicy", "Pendulum-v1", buffer_size=2000, **kwargs)

    assert_resumes(make, tmp_path, callback=[])


@pytest.mark.parametrize("vectorized", [DummyVecEnv, SubprocVecEnv])
def test_normalized_environments_resume(vectorized, tmp_path):
    pytest.importorskip("mujoco")

    def make():
        kwargs = {"start_method": "fork"} if vectorized is SubprocVecEnv else {}  # it starts in no time
        env = make_vec_env("Hopper-v5", 4, seed=0, vec_env_cls=vectorized, vec_env_kwargs=kwargs)
        return model_of(RLx2TD3, VecNormalize(env))

    assert_resumes(make, tmp_path, steps=880, cut=690, callback=[])


def test_a_training_that_is_stopped_again_and_again_ends_the_same(tmp_path):
    whole = model_of(RLx2TD3)
    whole.learn(220, TrainingCheckpointCallback(tmp_path / "whole", every=20))
    expected = state_of(whole)
    cut_off(model_of(RLx2TD3), tmp_path / "cut", cut=30, every=20)
    for cut in (31, 90, 95, 155):
        with pytest.raises(PowerCut):
            resume(tmp_path / "cut", callback=[Cut(cut)])
    assert differing(expected, state_of(resumed(tmp_path / "cut", callback=[]))) == []


def contents(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("moved", [None, "moved", "copied"])
def test_callbacks_and_logs_resume(moved, tmp_path, monkeypatch):
    def run(folder, cut=None):
        env = make_vec_env("Pendulum-v1", 1, seed=0, monitor_dir=str(folder / "monitor"))
        model = model_of(RLx2TD3, env)
        model.set_logger(configure(str(folder), ["csv", "json", "log", "tensorboard"]))
        evaluation = EvalCallback(
            make_vec_env("Pendulum-v1", 1, seed=5),
            callback_after_eval=StopTrainingOnNoModelImprovement(30, verbose=0),
            eval_freq=70,
            n_eval_episodes=2,
            log_path=str(folder),
            verbose=0,
        )
        history = TopologyHistoryCallback(folder / "history.npz", buffer_freq=30, save_freq=170)
        saving = CheckpointCallback(110, str(folder / "models"))
        own = TrainingCheckpointCallback(folder / "checkpoints", every=60)
        callbacks = [evaluation, history, own, saving]
        if cut is None:
            model.learn(600, callbacks, log_interval=1)
            close(model)
            return model
        with pytest.raises(PowerCut):
            model.learn(600, [*callbacks, Cut(cut)], log_interval=1)
        own.wait()
        close(model)
        return None

    whole = run(tmp_path / "whole")
    expected = state_of(whole)
    monkeypatch.chdir(tmp_path)
    run(Path("cut"), 530)
    one, other = tmp_path / "whole", tmp_path / ("cut" if moved is None else "elsewhere/cut")
    if moved is not None:
        shutil.copytree("cut", other)
        if moved == "moved":
            shutil.rmtree("cut")
    left = contents(tmp_path / "cut")
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    found = resumed(other / "checkpoints")
    assert differing(expected, state_of(found)) == []
    close(found)
    assert not list((tmp_path / "current").iterdir())
    if moved is not None:
        assert contents(tmp_path / "cut") == left
        assert (tmp_path / "cut").exists() == (moved == "copied")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from kill_and_resume import CLOCKS, tensorboard_values
    finally:
        sys.path.remove(str(BENCHMARKS))
    for name in ("evaluations.npz", "history.npz"):
        with np.load(one / name) as first, np.load(other / name) as second:
            assert first.files == second.files
            assert all(np.array_equal(first[key], second[key]) for key in first.files), name
    assert len(tensorboard_values(one)) > 50
    assert tensorboard_values(one) == tensorboard_values(other)
    lines = [
        [json.loads(line) for line in (folder / "progress.json").read_text().splitlines()] for folder in (one, other)
    ]
    for line in (*lines[0], *lines[1]):
        for clock in CLOCKS:
            line.pop(clock, None)
    assert lines[0] == lines[1]
    rows = [(folder / "progress.csv").read_text().splitlines() for folder in (one, other)]
    assert sorted(rows[0][0].split(",")) == sorted(rows[1][0].split(","))
    assert len(rows[0]) == len(rows[1])
    episodes = [(folder / "monitor" / "0.monitor.csv").read_text().splitlines()[2:] for folder in (one, other)]
    assert [row.rpartition(",")[0] for row in episodes[0]] == [row.rpartition(",")[0] for row in episodes[1]]
    assert sorted(path.name for path in (one / "models").iterdir()) == sorted(
        path.name for path in (other / "models").iterdir()
    )


def test_callbacks_that_are_passed_write_where_they_say(tmp_path):
    def evaluating(folder):
        return EvalCallback(Monitor(gym.make("Pendulum-v1")), None, None, 1, 50, str(folder), str(folder), verbose=0)

    cut_off(model_of(RLx2TD3), tmp_path / "checkpoints", [evaluating(tmp_path / "before")])
    before = contents(tmp_path / "before")
    resumed(tmp_path / "checkpoints", callback=[evaluating(tmp_path / "after")])
    assert contents(tmp_path / "before") == before
    with np.load(tmp_path / "after" / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [50, 100, 150, 200]


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_the_folder_of_a_log_is_made_again_with_a_warning(kind, tmp_path):
    model = model_of(RLx2TD3)
    model.set_logger(configure(str(tmp_path / "logs"), [kind]))
    cut_off(model, tmp_path / "run" / "checkpoints", steps=440, cut=430, log_interval=1)
    model.logger.close()
    before = contents(tmp_path / "logs")
    shutil.rmtree(tmp_path / "logs")
    with pytest.warns(UserWarning, match=f"{re.escape(str(tmp_path / 'logs'))}, where .* of kind {kind}, is not there"):
        close(resumed(tmp_path / "run" / "checkpoints", callback=[]))
    after = contents(tmp_path / "logs")
    assert after
    assert kind == "tensorboard" or after == before


def test_a_callback_whose_state_is_in_other_objects_is_named(tmp_path):
    class Counting(BaseCallback):
        def __init__(self):
            super().__init__()
            self.counter = np.nditer([1])

        def _on_step(self):
            self.logger.record("count", self.counter)  # no plain data either
            return True

    class Saving(Counting):
        def get_state(self):
            return {"steps": self.n_calls}

    with pytest.warns(UserWarning, match=r"Counting.counter \(a nditer\): callbacks start afresh"):
        model_of(RLx2TD3).learn(10, [TrainingCheckpointCallback(tmp_path, every=4), Counting(), Saving()])
    assert has_checkpoint(tmp_path)


def test_a_finished_training_is_brought_back_without_training(tmp_path):
    model = model_of(RLx2TD3)
    model.learn(150, TrainingCheckpointCallback(tmp_path, every=60))
    expected = state_of(model)
    found = resume(tmp_path)
    assert differing(expected, state_of(found)) == []
    found.learn(10, reset_num_timesteps=False)
    assert found.num_timesteps == 160


# --- files ---


def newest(folder):
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.stem.rpartition("-")[2]))


def test_two_checkpoints_are_kept_and_what_only_older_ones_need_goes(tmp_path):
    model = model_of(RLx2TD3, buffer_size=100)
    model.learn(400, TrainingCheckpointCallback(tmp_path, every=20))
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2
    assert len(list(tmp_path.glob("rows-*"))) < 12
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path):
    model = model_of(RLx2TD3)
    model.learn(220, TrainingCheckpointCallback(tmp_path / "whole", every=60))
    expected = state_of(model)
    cut_off(model_of(RLx2TD3), tmp_path / "cut")
    path = newest(tmp_path / "cut")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{path.name}.*damaged.*going on from the checkpoint before"):
        found = resumed(tmp_path / "cut", callback=[])
    assert differing(expected, state_of(found)) == []


def test_without_a_whole_checkpoint_an_error_says_so(tmp_path):
    with pytest.raises(ModelFileError, match="there is no checkpoint"):
        resume(tmp_path)
    assert not has_checkpoint(tmp_path)
    cut_off(model_of(RLx2TD3), tmp_path / "cut")
    for path in (tmp_path / "cut").glob("checkpoint-*"):
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelFileError, match=r"cut short.*no older checkpoint that is whole"):
        resume(tmp_path / "cut")


def test_a_full_disk_leaves_the_checkpoints_before_and_training_goes_on(tmp_path, monkeypatch):
    from sb3_rlx2.resume import checkpoint_folder

    whole = checkpoint_folder.write_state

    def write_state(path, state):
        if "checkpoint-2" in str(path):
            raise OSError(28, "No space left on device")
        whole(path, state)

    monkeypatch.setattr(checkpoint_folder, "write_state", write_state)
    model = model_of(RLx2TD3)
    with pytest.warns(UserWarning, match="the checkpoint at step 120 could not be written .*No space left"):
        cut_off(model, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-0.safetensors",
        "checkpoint-1.safetensors",
    ]
    monkeypatch.undo()
    whole = model_of(RLx2TD3)
    whole.learn(220)
    assert differing(state_of(whole), state_of(resumed(tmp_path, callback=[]))) == []


def test_a_folder_with_checkpoints_is_not_written_over_by_another_training(tmp_path):
    cut_off(model_of(RLx2TD3), tmp_path)
    with pytest.raises(ValueError, match=r"has checkpoints of another training.*Give another folder"):
        model_of(RLx2TD3).learn(100, TrainingCheckpointCallback(tmp_path, every=60))


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    own = TrainingCheckpointCallback(tmp_path, every=60)
    with pytest.raises(PowerCut):
        model_of(RLx2TD3).learn(220, [own, Cut(100)])
    own.wait()
    code = f"from sb3_rlx2.resume import resume; resume({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process trains and writes its checkpoints here" in done.stderr


def is_locked(folder):
    """Whether another process would find the folder locked."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_the_lock_of_a_folder_goes_from_object_to_object_of_a_process(tmp_path):
    first, second = CheckpointFolder(tmp_path), CheckpointFolder(tmp_path)
    before = len(os.listdir("/dev/fd"))
    first.lock()
    second.lock()
    first.unlock()
    assert is_locked(tmp_path)
    second.unlock()
    assert not is_locked(tmp_path)
    with first.locked():
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    assert len(os.listdir("/dev/fd")) == before


def test_forked_workers_that_outlive_a_training_do_not_keep_its_folder_locked(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.lock()
    env = SubprocVecEnv([lambda: gym.make("Pendulum-v1")] * 2, start_method="fork")
    try:
        env.reset()  # they have started
        assert is_locked(tmp_path)
        folder.unlock()  # as the end of the process does
        assert not is_locked(tmp_path)
    finally:
        env.close()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_of_files_training_goes_on_with_a_warning(code, tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    before = len(os.listdir("/dev/fd"))
    with pytest.warns(UserWarning, match="files cannot be locked here"), CheckpointFolder(tmp_path).locked():
        pass
    assert len(os.listdir("/dev/fd")) == before
    with pytest.warns(UserWarning, match="files cannot be locked here"):
        model_of(RLx2TD3).learn(10, TrainingCheckpointCallback(tmp_path, every=4))
    assert has_checkpoint(tmp_path)


KEPT = Path(__file__).parent / "saved_trainings"


def keep_a_training(folder):
    """Write a small checkpoint that later versions must read; done once for each format."""
    kwargs = {"policy_kwargs": {"net_arch": [16]}, "buffer_size": 60, "batch_size": 4, "learning_starts": 20}
    evaluation = EvalCallback(Monitor(gym.make("Pendulum-v1")), n_eval_episodes=1, eval_freq=100, verbose=0)
    history = TopologyHistoryCallback("history.npz")
    cut_off(model_of(RLx2SAC, **kwargs), folder, [evaluation, history], steps=150, cut=130, every=50)


@pytest.mark.parametrize("format_number", range(1, TRAINING_FORMAT + 1))
def test_checkpoints_of_every_format_are_read(format_number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(KEPT / f"format_{format_number}", tmp_path / "training")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the checkpoint is of other versions")
        model = resume("training")
    assert (model.num_timesteps, model._n_updates) == (150, 130)
    assert TopologyHistory.load("history.npz").buffer["step"][-1] == 150


def test_settings_with_pickle_are_refused_where_nothing_is_trusted(tmp_path, monkeypatch):
    cut_off(model_of(RLx2TD3, learning_rate=lambda progress: 1e-3), tmp_path, cut=70)
    monkeypatch.setenv("RLX2_TRUSTED", "0")
    with pytest.raises(ModelFileError, match=r"model.zip holds pickled objects"):
        resume(tmp_path)


def test_a_checkpoint_of_a_later_version_says_so(tmp_path, monkeypatch):
    cut_off(model_of(RLx2TD3), tmp_path, cut=70)
    monkeypatch.setattr("sb3_rlx2.resume.checkpoint_folder.TRAINING_FORMAT", 0)
    with pytest.raises(ModelFileError, match=r"the training has format 1, and .* reads format 0: update sb3-rlx2"):
        resume(tmp_path)


# --- environments ---


class Walk(gym.Env):
    """All of its state is in plain attributes."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.trail = self.np_random.normal(size=2), []
        return self.position.copy(), {}

    def step(self, action):
        self.trail.append(float(action[0]))
        self.position += 0.1 * action + 0.01 * self.np_random.normal(size=2) + 0.001 * sum(self.trail[-3:])
        return self.position.copy(), -float(np.abs(self.position).sum()), False, len(self.trail) >= 40, {}


class Hidden(Walk):
    """Part of its state is in an object that is not known."""

    class Place:
        def __init__(self):
            self.value = 0.0

    def reset(self, *, seed=None, options=None):
        self.place = self.Place()
        return super().reset(seed=seed)

    def step(self, action):
        self.place.value += float(action[0])
        observation, *rest = super().step(action)
        return observation + self.place.value, *rest


def test_an_environment_of_plain_attributes_resumes(tmp_path):
    assert_resumes(lambda: model_of(RLx2TD3, Walk()), tmp_path, env=Walk(), callback=[])


def test_an_environment_that_cannot_be_saved_begins_a_new_episode_and_says_so(tmp_path):
    with pytest.warns(
        UserWarning, match="state of the environment cannot be saved, since its Hidden does not do the same"
    ):
        cut_off(model_of(RLx2TD3, Hidden()), tmp_path)
    with pytest.warns(
        UserWarning, match="begins a new episode and is no longer the same bit for bit, since its Hidden"
    ):
        model = resumed(tmp_path, Hidden(), callback=[])
    assert model.num_timesteps == 220


def test_an_environment_or_callback_that_cannot_be_made_again_must_be_passed(tmp_path):
    class Unknown(Cut):
        pass

    cut_off(model_of(RLx2TD3, Walk()), tmp_path, [Unknown(10**9)])
    with pytest.raises(
        ValueError, match=r"the environment cannot be made again, since its Walk was not made by .*pass env="
    ):
        resume(tmp_path)
    with pytest.raises(ValueError, match=r"callbacks cannot be made again, since Unknown is not known: pass callback="):
        resume(tmp_path, Walk())
    with pytest.raises(ValueError, match=r"the environment is .*, and that of the checkpoint is"):
        resumed(tmp_path, gym.wrappers.TimeLimit(Walk(), 100), callback=[])


def test_arguments_are_checked(tmp_path):
    for kwargs in ({"every": 0}, {"every": 1.5}, {"every": 10, "keep": 0}):
        with pytest.raises(ValueError, match="is not allowed"):
            TrainingCheckpointCallback(tmp_path, **kwargs)
    inside = EvalCallback(
        Monitor(gym.make("Pendulum-v1")), TrainingCheckpointCallback(tmp_path, every=10), eval_freq=1000
    )
    with pytest.raises(ValueError, match="must be in the list of callbacks itself"):
        model_of(RLx2TD3).learn(1500, CallbackList([inside]))


# --- kill -9 ---


def test_killed_trainings_end_as_those_that_were_not(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "kill_and_resume.py"), "--kills", "2", "--steps", "900"]
    command += ["--only", "RLx2TD3 compiled Pendulum-v1", "--folder", str(tmp_path), "--results", str(tmp_path / "csv")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "2 kills; 0 trainings differ" in done.stdout
