"""What changes between two checkpoints, or between two trainings with one callback, is in the next checkpoint."""

import functools
import time
from contextlib import suppress

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import differing
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from test_budgets import GradualPruning, numbers
from test_resume import Cut, PowerCut, assert_resumes, model_of, resumed, state_of

from sb3_rlx2 import RLx2DQN, RLx2SAC, RLx2TD3, TopologyHistory, TopologyHistoryCallback, TrainingCheckpointCallback
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


def test_rows_are_written_once_unless_they_changed(tmp_path):
    model = model_of(RLx2TD3)
    model.learn(60)
    segments = BufferSegments(tmp_path)
    assert len(segments.collect(model.replay_buffer, 60)[1]) == 1
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
