"""What changes between two checkpoints, or between two trainings with one callback, is in the next checkpoint."""

import functools
import shutil
import time
import warnings
from contextlib import suppress

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import differing
from stable_baselines3 import TD3, HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from test_budgets import GradualPruning, numbers
from test_resume import Cut, PowerCut, assert_resumes, cut_off, model_of, resumed, state_of

from sb3_rlx2 import RLx2DQN, RLx2SAC, RLx2TD3, TopologyHistory, TopologyHistoryCallback, TrainingCheckpointCallback
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.resume import buffer_segments, resume
from sb3_rlx2.resume.checkpoint_callback import BufferSegments
from sb3_rlx2.resume.training_state import begin_new_episodes, model_attributes, set_model_attributes


def assert_goes_on(make, trained, folder, steps, cut, reset=False):
    """A ``learn`` that comes after others with the same callback is cut off, and resumed ends as if it had not been.

    :param trained: trains a model before, with a callback
    """
    ends = []
    for name, last in (("whole", 10**9), ("cut", cut)):
        model, callback = make(), TrainingCheckpointCallback(folder / name, every=60)
        trained(model, callback)
        try:
            model.learn(steps, [callback, Cut(last)], reset_num_timesteps=reset)
        except PowerCut:
            callback.wait()
            model = resumed(folder / name, callback=[])
        ends.append(state_of(model))
    assert differing(*ends) == []


@pytest.mark.parametrize("algorithm", [RLx2TD3, RLx2DQN])
@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_a_training_whose_number_of_connections_falls_is_resumed(algorithm, engine, tmp_path):
    sparsities = {"sparsity": 0.5} if algorithm is RLx2DQN else {"actor_sparsity": 0.5, "critic_sparsity": 0.5}
    before = numbers(model_of(algorithm, **sparsities))

    def make():
        return model_of(algorithm, engine=engine, topology=GradualPruning(), **sparsities)

    assert_resumes(make, tmp_path, callback=[])
    assert sum(numbers(resumed(tmp_path / "cut", callback=[]))) < sum(before)


def test_trainings_that_count_their_steps_anew_are_resumed(tmp_path):
    def trained(model, callback):
        for _ in range(2):
            model.learn(200, callback)

    # Where the size of the buffer divides the number of steps, each training ends at the same row
    make = functools.partial(model_of, RLx2TD3, buffer_size=100, buffer_min_size=20)
    assert_goes_on(make, trained, tmp_path, steps=200, cut=170, reset=True)


@pytest.mark.parametrize("steps", [120, 130])
def test_the_end_of_an_episode_that_another_environment_cut_off_is_kept(steps, tmp_path):
    def trained(model, callback):
        model.learn(steps, callback)
        env = gym.make("Pendulum-v1")
        env.reset(seed=5)
        model.set_env(env)

    assert_goes_on(lambda: model_of(RLx2TD3), trained, tmp_path, steps=100, cut=steps + 50)


class Opaque(gym.Wrapper):
    """Has a state that cannot be saved."""

    def __init__(self, env):
        super().__init__(env)
        self.state = object()


class Marks(BaseCallback):
    """Reads which rows are the end of an episode that was cut off."""

    def __init__(self, marked):
        super().__init__()
        self.marked = marked

    def get_state(self):
        return None

    def set_state(self, state):
        pass

    def _on_step(self):
        self.marked[:] = np.flatnonzero(self.model.replay_buffer.timeouts[:, 0])
        return True


def test_ends_of_episodes_at_each_resumption_are_kept(tmp_path):
    callback = TrainingCheckpointCallback(tmp_path, every=60)
    model = model_of(RLx2TD3, Opaque(gym.make("Pendulum-v1")))
    with pytest.warns(UserWarning, match="cannot be saved"), pytest.raises(PowerCut):
        model.learn(400, [callback, Cut(150)])
    callback.wait()
    marked = []
    for cut in (210, 330, 10**9):
        marked.clear()
        own, env = TrainingCheckpointCallback(tmp_path, every=60), Opaque(gym.make("Pendulum-v1"))
        with pytest.warns(UserWarning, match="begins a new episode"), suppress(PowerCut):
            resumed(tmp_path, env, callback=[own, Cut(cut), Marks(marked)])
        own.wait()
    assert {119, 179, 299}.issubset(marked)


def test_a_save_that_is_interrupted_harms_none_that_come_later(tmp_path, monkeypatch):
    model, callback, calls = model_of(RLx2TD3), TrainingCheckpointCallback(tmp_path, every=40), []
    from sb3_rlx2.resume import checkpoint_callback

    made = checkpoint_callback.recipe_of_environments

    def interrupted(env):
        calls.append(env)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(env)

    monkeypatch.setattr(checkpoint_callback, "recipe_of_environments", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.learn(200, callback)
    with pytest.raises(PowerCut):
        model.learn(150, [callback, Cut(190)], reset_num_timesteps=False)
    callback.wait()
    assert resumed(tmp_path, callback=[]).num_timesteps == 230


def test_a_template_that_could_not_be_written_is_written_later(tmp_path, monkeypatch):
    model, callback = model_of(RLx2TD3), TrainingCheckpointCallback(tmp_path, every=40)
    with monkeypatch.context() as patched:
        patched.setattr(RLx2TD3, "save", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            model.learn(100, callback)
    with pytest.raises(PowerCut):
        model.learn(100, [callback, Cut(90)])
    callback.wait()
    assert resumed(tmp_path, callback=[]).num_timesteps == 100


def test_a_writer_that_was_never_started_is_not_waited_for(tmp_path, monkeypatch):
    model, callback = model_of(RLx2TD3), TrainingCheckpointCallback(tmp_path, every=40)
    start, calls = TrainingCheckpointCallback._begin_to_write, []

    def interrupted(self, finished):
        calls.append(finished)
        if len(calls) == 2:
            monkeypatch.setattr("threading.Thread.start", lambda thread: (_ for _ in ()).throw(KeyboardInterrupt()))
        start(self, finished)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingCheckpointCallback, "_begin_to_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.learn(100, callback)
        monkeypatch.undo()
    callback.wait()
    with pytest.raises(PowerCut):
        model.learn(100, [callback, Cut(130)], reset_num_timesteps=False)
    callback.wait()
    assert resumed(tmp_path, callback=[]).num_timesteps == 140


def changed_rate(model):
    model.learning_rate = 0.01
    model._setup_lr_schedule()


def changed_frequency(model):
    model.train_freq = 5
    model._convert_train_freq()


@pytest.mark.parametrize("change", [changed_rate, changed_frequency])
@pytest.mark.parametrize("algorithm", [RLx2TD3, RLx2SAC])
def test_settings_that_change_between_two_trainings_are_kept(change, algorithm, tmp_path):
    def trained(model, callback):
        model.learn(100, callback)
        change(model)

    assert_goes_on(lambda: model_of(algorithm), trained, tmp_path, steps=150, cut=200)


class Changes(BaseCallback):
    """Changes the learning rate in the midst of a training."""

    def get_state(self):
        return None

    def set_state(self, state):
        pass

    def _on_rollout_start(self):
        if self.num_timesteps == 90:
            changed_rate(self.model)

    def _on_step(self):
        return True


def test_settings_that_a_callback_changes_are_kept_and_what_only_older_checkpoints_need_goes(tmp_path):
    whole = model_of(RLx2TD3)
    whole.learn(220, [Changes(), TrainingCheckpointCallback(tmp_path / "whole", every=60)])
    model, callback = model_of(RLx2TD3), TrainingCheckpointCallback(tmp_path / "cut", every=60)
    with pytest.raises(PowerCut):
        model.learn(220, [Changes(), callback, Cut(200)])
    callback.wait()
    again = resumed(tmp_path / "cut", callback=[Changes()])
    assert differing(state_of(whole), state_of(again)) == []
    assert again.learning_rate == 0.01
    assert {path.name for path in (tmp_path / "cut").glob("model-*")} == {"model-2.safetensors"}


def test_a_callback_of_another_model_writes_that_ones_settings(tmp_path):
    first, second = model_of(RLx2TD3, learning_rate=1e-3), model_of(RLx2TD3, learning_rate=1e-2, train_freq=2)
    callback = TrainingCheckpointCallback(tmp_path, every=60)
    first.learn(80, callback)
    with pytest.raises(PowerCut):
        second.learn(160, [callback, Cut(130)])
    callback.wait()
    again = resumed(tmp_path, callback=[])
    assert (again.learning_rate, again.train_freq.frequency, again.num_timesteps) == (1e-2, 2, 160)


def test_infos_that_are_not_saved_are_named(tmp_path):
    env = BitFlippingEnv(n_bits=3, continuous=True)
    assert isinstance(env.observation_space, spaces.Dict)
    kwargs = {"n_steps": 1, "dynamic_buffer": False, "replay_buffer_class": HerReplayBuffer}
    for copies in (True, False):
        model = RLx2SAC(
            "MultiInputPolicy", env, learning_starts=100, device="cpu", buffer_size=500,
            replay_buffer_kwargs={"copy_info_dict": copies}, **kwargs,
        )  # fmt: skip
        callback = TrainingCheckpointCallback(tmp_path / str(copies), every=20)
        if copies:
            with pytest.warns(UserWarning, match=r"infos .* \(copy_info_dict=True\) are not saved"):
                model.learn(20, callback)
        else:
            model.learn(20, callback)


class Prioritized(ReplayBuffer):
    """Draws the transitions of highest priority, which falls each time."""

    def __init__(self, *arguments, **kwargs):
        super().__init__(*arguments, **kwargs)
        self.priorities = np.ones((self.buffer_size, self.n_envs))

    def sample(self, batch_size, env=None):
        chosen = np.argsort(-self.priorities[: self.size(), 0], kind="stable")[:batch_size]
        self.priorities[chosen] *= 0.9
        return self._get_samples(chosen, env)


class WithTree(Prioritized):
    def __init__(self, *arguments, **kwargs):
        super().__init__(*arguments, **kwargs)
        self.tree = np.nditer([1])


def prioritized(cls=Prioritized):
    return TD3(
        "MlpPolicy", make_vec_env("Pendulum-v1"), replay_buffer_class=cls, learning_starts=20, batch_size=16,
        buffer_size=200, policy_kwargs={"net_arch": [16]}, seed=0, device="cpu",
    )  # fmt: skip


def test_a_replay_buffer_of_ones_own_may_change_what_else_it_has_of_older_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(buffer_segments, "MERGED_BYTES", 0)
    monkeypatch.setattr(buffer_segments, "LARGEST_BYTES", 1000)
    assert_resumes(prioritized, tmp_path)


def test_what_is_not_kept_of_a_replay_buffer_of_ones_own_is_named(tmp_path):
    with pytest.warns(UserWarning, match=r"WithTree.tree \(a nditer\): a replay buffer begins anew"):
        prioritized(WithTree).learn(10, TrainingCheckpointCallback(tmp_path, every=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prioritized().learn(10, TrainingCheckpointCallback(tmp_path / "plain", every=4))


class Remove(BaseCallback):
    """Removes what somebody should not have."""

    def __init__(self, step, folder, pattern):
        super().__init__()
        self.step, self.folder, self.pattern = step, folder, pattern

    def _on_step(self):
        if self.num_timesteps == self.step:
            found = [self.folder] if self.pattern == "." else list(self.folder.glob(self.pattern))
            assert found
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return True


@pytest.mark.parametrize("pattern", ["model.*", "rows-*", "logs", "logs/*", "."])
def test_shared_files_that_somebody_removes_are_written_again(pattern, tmp_path, monkeypatch):
    monkeypatch.setattr(buffer_segments, "MERGED_BYTES", 0)
    folder = tmp_path / "checkpoints"

    def make(name):
        return model_of(RLx2TD3, env=Monitor(gym.make("Pendulum-v1"), str(tmp_path / name)))

    whole = make("whole")
    whole.learn(220, TrainingCheckpointCallback(tmp_path / "other", every=20))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TrainingCheckpointCallback: Remove")
        cut_off(make("cut"), folder, [Remove(95, folder, pattern)], every=20)
    found = resumed(folder, callback=[])
    assert differing(state_of(whole), state_of(found)) == []
    assert (tmp_path / "cut.monitor.csv").read_text().count("\n") == 2 + 1


def test_a_checkpoint_whose_settings_are_gone_names_them(tmp_path):
    cut_off(model_of(RLx2TD3), tmp_path)
    (path,) = tmp_path.glob("model.*")
    path.unlink()
    with pytest.raises(ModelFileError, match=rf"{path.name}: there is no such file"):
        resumed(tmp_path)


def test_a_callback_with_a_model_of_its_own_is_named(tmp_path):
    class Teaching(BaseCallback):
        def __init__(self):
            super().__init__()
            self.teacher = model_of(RLx2SAC)

        def _init_callback(self):
            self.pupil = self.model

        def _on_step(self):
            return True

    with pytest.warns(UserWarning, match=r"Teaching.teacher \(a RLx2SAC\): callbacks start afresh") as caught:
        model_of(RLx2TD3).learn(10, [TrainingCheckpointCallback(tmp_path, every=4), Teaching()])
    assert not any("pupil" in str(warning.message) for warning in caught)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the zoo leaves a temporary file open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_training_in_a_thread_of_its_own_is_refused(tmp_path):
    callbacks = pytest.importorskip("rl_zoo3.callbacks")
    parallel = callbacks.ParallelTrainCallback(gradient_steps=2)
    with pytest.raises(ValueError, match="ParallelTrainCallback trains a copy of the model in another thread"):
        model_of(RLx2SAC, train_freq=5).learn(10, [TrainingCheckpointCallback(tmp_path, every=4), parallel])


def test_rows_are_written_once_unless_they_changed(tmp_path):
    model = model_of(RLx2TD3)
    model.learn(60)
    segments = BufferSegments(tmp_path)
    (name,) = segments.collect(model.replay_buffer, 60)[1]
    (tmp_path / name).touch()
    assert segments.collect(model.replay_buffer, 60)[1] == {}
    model.replay_buffer.timeouts[59] = 1.0
    assert len(segments.collect(model.replay_buffer, 60)[1]) == 1
    assert th.is_tensor(model.actor.mu[0].values)


def test_a_history_that_went_on_with_another_frequency_is_resumed(tmp_path):
    records = []
    for name, last in (("whole", 10**9), ("cut", 330)):
        model, path = model_of(RLx2TD3), tmp_path / f"{name}.npz"
        model.learn(200, TopologyHistoryCallback(path))
        callback = TrainingCheckpointCallback(tmp_path / name, every=60)
        try:
            model.learn(200, [TopologyHistoryCallback(path, 30), callback, Cut(last)], reset_num_timesteps=False)
        except PowerCut:
            callback.wait()
            resumed(tmp_path / name)
        record = TopologyHistory.load(path).networks["critic"]
        records.append((record.numbers, record.steps, record.updates))
    assert records[0] == records[1]
    assert records[0][1][-6:] == [240, 270, 300, 330, 360, 390]


def test_correlated_noise_begins_anew_with_a_new_episode():
    model = model_of(RLx2TD3, action_noise=OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1))).learn(60)
    model.action_noise()
    assert (model.action_noise.noise_prev != 0).all()
    begin_new_episodes(model)
    assert (model.action_noise.noise_prev == 0).all()


def test_the_time_of_training_goes_on():
    model = model_of(RLx2TD3)
    set_model_attributes(model, {"model": model_attributes(model), "seconds": 100.0})
    assert (time.time_ns() - model.start_time) / 1e9 >= 100.0


def test_as_many_threads_compute_as_before(tmp_path):
    before = th.get_num_threads()
    try:
        th.set_num_threads(2)
        model_of(RLx2TD3).learn(60, TrainingCheckpointCallback(tmp_path, every=60))
        th.set_num_threads(1)
        resume(tmp_path)
        assert th.get_num_threads() == 2
    finally:
        th.set_num_threads(before)


def test_rows_that_take_several_files_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(buffer_segments, "LARGEST_BYTES", 1000)
    assert_resumes(lambda: model_of(RLx2TD3), tmp_path, callback=[])
    assert len([*tmp_path.rglob("rows-*.safetensors")]) > 5
