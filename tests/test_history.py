"""The record of a training: connections, replay buffer, policy distance."""

import numpy as np
import pytest
import torch as th
from helpers import ALGORITHMS, quick
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

import sb3_rlx2.sac
import sb3_rlx2.td3
from sb3_rlx2 import (
    DynamicBufferCallback,
    DynamicReplayBuffer,
    RLx2SAC,
    RLx2TD3,
    TopologyEvolutionCallback,
    TopologyHistory,
    TopologyHistoryCallback,
)
from sb3_rlx2.analysis.topology_history import MAX_POINTS, Series
from sb3_rlx2.sparse import sparse_layers
from sb3_rlx2.sparse.recording import TopologyRecord

SHAPES = {"a": (3, 5), "b": (4, 4)}


def some_masks(generator):
    return {name: generator.random(shape) < 0.5 for name, shape in SHAPES.items()}


@given(st.integers(3, 12), st.lists(st.integers(1, 5), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_a_record_keeps_first_and_newest_within_its_limit(limit, gaps, seed):
    generator = np.random.default_rng(seed)
    record, given_masks = TopologyRecord(SHAPES, limit), {}
    for number in np.cumsum(gaps).tolist():
        if record.wants(number):
            given_masks[number] = some_masks(generator)
            record.add(10 * number, number, number, given_masks[number])
    assert len(record) <= limit
    assert record.numbers[0] == gaps[0]
    assert record.numbers == sorted(set(record.numbers))
    assert record.numbers[-1] == max(given_masks)
    again = TopologyRecord.from_arrays(SHAPES, record.to_arrays(), limit)
    for copy in (record, again):
        assert copy.steps == [10 * number for number in record.numbers]
        for place, number in enumerate(record.numbers):
            for name in SHAPES:
                np.testing.assert_array_equal(copy.mask(name, place), given_masks[number][name])
    assert again.wants(max(record.numbers) + 1) == record.wants(max(record.numbers) + 1)


def test_records_are_spread_evenly_when_there_are_too_many():
    record = TopologyRecord(SHAPES, 8)
    masks = some_masks(np.random.default_rng(0))
    for number in range(100):
        if record.wants(number):
            record.add(number, number, number, masks)
    assert record.numbers == [0, 16, 32, 48, 64, 80, 96]


@given(st.integers(0, 2**32 - 1), st.integers(1, 10))
def test_generations_and_growth_by_brute_force(seed, count):
    generator = np.random.default_rng(seed)
    record = TopologyRecord(SHAPES)
    history = [some_masks(generator) for _ in range(count)]
    for number, masks in enumerate(history):
        record.add(number, number, number, masks)
    for name in SHAPES:
        masks = [one[name] for one in history]
        alive, grown = record.generations(name), record.grown(name)
        for t in range(count):
            assert record.connections(name)[t] == masks[t].sum() == alive[t].sum()
            np.testing.assert_array_equal(record.connections_per_input(name)[t], masks[t].sum(axis=0))
            for g in range(t + 1):
                since = np.logical_and.reduce(masks[g : t + 1])
                if g > 0:
                    since &= ~masks[g - 1]
                assert alive[t, g] == since.sum()
            assert not alive[t, t + 1 :].any()
            assert grown[t] == (0 if t == 0 else (masks[t] & ~masks[t - 1]).sum())


def test_a_series_is_bounded():
    series = Series(("step", "value"))
    for step in range(3 * MAX_POINTS):
        series.add(step, step * 2)
    assert MAX_POINTS / 2 <= len(series.rows) <= MAX_POINTS
    assert series["step"][0] == 0
    assert set(np.diff(series["step"])) == {4}
    np.testing.assert_array_equal(series["value"], 2 * series["step"])


class Spy(BaseCallback):
    """Notes the masks after every rollout, as the record should have them."""

    def __init__(self):
        super().__init__()
        self.seen = {"actor": {}, "critic": {}}

    def note(self):
        for name, noted in self.seen.items():
            number = self.model.topology_counters[name]["evolutions"]
            layers = sparse_layers(getattr(self.model, name))
            noted.setdefault(number, {key: layer.mask.numpy() for key, layer in layers.items()})

    def _on_rollout_start(self):
        self.note()

    def _on_step(self):
        return True

    def _on_training_end(self):
        self.note()


def same_as_seen(history, seen):
    for name, record in history.networks.items():
        assert record.numbers == sorted(seen[name])
        for place, number in enumerate(record.numbers):
            for key, mask in seen[name][number].items():
                np.testing.assert_array_equal(record.mask(key, place), mask)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_evolution_is_recorded(algorithm, tmp_path):
    path, spy = tmp_path / "history.npz", Spy()
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick())
    model.learn(300, callback=[spy, TopologyHistoryCallback(path, buffer_freq=30)])
    history = TopologyHistory.load(path)
    same_as_seen(history, spy.seen)
    counters = model.topology_counters
    for name, record in history.networks.items():
        assert record.numbers == list(range(counters[name]["evolutions"] + 1))
        delay = getattr(model, "policy_delay", 1) if name == "actor" else 1
        assert record.updates == [20 * number for number in record.numbers]
        assert record.steps == [0, *(50 + 20 * delay * number for number in record.numbers[1:])]
        assert sum(record.grown(layer).sum() for layer in record.shapes) > 0
    buffer = history.buffer
    assert buffer["size"][-1] == model.replay_buffer.n_transitions
    assert buffer["capacity"][-1] == model.replay_buffer.capacity
    assert buffer["n_steps"][0] == 1
    assert buffer["n_steps"][-1] == 3
    assert list(history.distances["step"]) == [50, 100, 150, 200, 250, 300]
    assert (history.distances["distance"] >= 0).all()
    assert history.distances["distance"][-1] == model.replay_buffer.last_distance


def test_a_dense_layer_has_all_its_connections(tmp_path):
    RLx2SAC("MlpPolicy", "Pendulum-v1", **quick()).learn(60, callback=TopologyHistoryCallback(tmp_path / "h.npz"))
    record = TopologyHistory.load(tmp_path / "h.npz").networks["critic"]
    assert record.mask("qf0.4", -1).all()


def test_inputs_over_time(tmp_path):
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick())
    model.learn(150, callback=TopologyHistoryCallback(tmp_path / "h.npz"))
    history = TopologyHistory.load(tmp_path / "h.npz")
    assert history.observations == ["0", "1", "2"]
    assert sorted(history.first_layers) == ["actor", "critic.qf0", "critic.qf1"]
    for part, layer in {"actor": model.actor.latent_pi[0], "critic.qf1": model.critic.qf1[0]}.items():
        counts = history.connections_per_input(part)
        assert counts.shape == (len(history.networks[part.split(".")[0]]), layer.in_features)
        np.testing.assert_array_equal(counts[-1], layer.mask.sum(dim=0))


def test_the_run_is_the_same_with_and_without_it(tmp_path):
    runs = []
    for callback in (None, TopologyHistoryCallback(tmp_path / "h.npz", buffer_freq=1, save_freq=10)):
        model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick()).learn(150, callback=callback)
        runs.append(model.policy.state_dict())
    assert all(th.equal(tensor, runs[1][name]) for name, tensor in runs[0].items())


@pytest.mark.parametrize("history_first", [True, False])
@pytest.mark.parametrize(("stock", "policy"), [(TD3, sb3_rlx2.td3.MlpPolicy), (SAC, sb3_rlx2.sac.MlpPolicy)])
def test_with_stock_sb3(stock, policy, history_first, tmp_path):
    model = stock(
        policy, "Pendulum-v1", learning_starts=50, buffer_size=500, policy_kwargs={"net_arch": [32, 32]},
        replay_buffer_class=DynamicReplayBuffer, replay_buffer_kwargs={"n_steps": 1},
    )  # fmt: skip
    callbacks = [TopologyEvolutionCallback(topology_interval=20), DynamicBufferCallback(50, 0.0)]
    callbacks.insert(0 if history_first else 2, TopologyHistoryCallback(tmp_path / "h.npz"))
    model.learn(200, callback=callbacks)
    history = TopologyHistory.load(tmp_path / "h.npz")
    assert history.networks["critic"].numbers == list(range(model.topology_counters["critic"]["evolutions"] + 1))
    assert len(history.networks["critic"]) > 4
    # A check at the very last step comes after a record that stands before it
    assert list(history.distances["step"])[:3] == [50, 100, 150]
    assert history.distances["distance"][-1] > 0


def test_with_a_plain_replay_buffer_and_environments_in_parallel(tmp_path):
    model = RLx2TD3("MlpPolicy", make_vec_env("Pendulum-v1", 2), **quick(n_steps=1, dynamic_buffer=False))
    model.learn(200, callback=TopologyHistoryCallback(tmp_path / "h.npz", buffer_freq=50))
    history = TopologyHistory.load(tmp_path / "h.npz")
    assert list(history.buffer["step"]) == [50, 100, 150, 200]
    # A step's own transitions come into the buffer after its callbacks
    assert list(history.buffer["size"]) == [48, 98, 148, 200]
    assert set(history.buffer["capacity"]) == {2000}
    assert history.distances.rows == []


def test_every_so_many_steps_instead_of_evolutions(tmp_path):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
    model.learn(200, callback=TopologyHistoryCallback(tmp_path / "h.npz", record_freq=40))
    history = TopologyHistory.load(tmp_path / "h.npz")
    assert history.networks["actor"].steps == history.networks["critic"].steps == [0, 40, 80, 120, 160, 200]


def test_it_goes_on_after_a_restart(tmp_path):
    path, spy = tmp_path / "history.npz", Spy()
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
    callback = TopologyHistoryCallback(path, buffer_freq=10)
    model.learn(150, callback=[spy, callback])
    model.save(tmp_path / "model")
    model.learn(60, callback=callback, reset_num_timesteps=False)  # lost with a crash, but not the file
    assert TopologyHistory.load(path).networks["critic"].steps[-1] > 150
    loaded = RLx2TD3.load(tmp_path / "model", env=model.env)
    loaded.learn(100, callback=[spy, TopologyHistoryCallback(path, buffer_freq=10)], reset_num_timesteps=False)
    history = TopologyHistory.load(path)
    same_as_seen(history, spy.seen)
    assert (np.diff(history.buffer["step"]) >= 0).all()
    assert history.buffer["step"][-1] == 250
    assert len(np.unique(history.distances["step"])) == len(history.distances.rows)


@pytest.mark.parametrize("is_new_callback", [True, False])
@pytest.mark.parametrize(("before", "after"), [(None, 50), (5, 50), (50, 5), (50, None), (5, None)])
def test_it_goes_on_with_another_frequency(before, after, is_new_callback, tmp_path):
    path = tmp_path / "history.npz"
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
    callback = TopologyHistoryCallback(path, record_freq=before)
    model.learn(300, callback=callback)
    if is_new_callback:
        callback = TopologyHistoryCallback(path, record_freq=after)
    callback.record_freq = after
    evolutions = model.topology_counters["critic"]["evolutions"]
    model.learn(300, callback=callback, reset_num_timesteps=False)
    made = model.topology_counters["critic"]["evolutions"] - evolutions if after is None else 300 // after
    record = TopologyHistory.load(path).networks["critic"]
    later = [step for step in record.steps if step > 300]
    assert later[-1] == 600 or after is None
    assert made <= len(later) <= made + 1
    assert (np.diff(record.numbers) > 0).all()
    assert (np.diff(record.steps) >= 0).all()
    layer = next(iter(sparse_layers(model.critic)))
    np.testing.assert_array_equal(record.mask(layer, -1), sparse_layers(model.critic)[layer].mask)


def test_a_new_training_writes_a_new_record(tmp_path):
    path = tmp_path / "history.npz"
    callback = TopologyHistoryCallback(path)
    for seed in (0, 1):
        model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(seed=seed)).learn(100, callback=callback)
        history = TopologyHistory.load(path)
        assert history.networks["actor"].steps[0] == 0
        layer = next(iter(sparse_layers(model.actor)))
        np.testing.assert_array_equal(history.networks["actor"].mask(layer, -1), model.actor.mu[0].mask)
    model.learn(60, callback=callback)
    assert TopologyHistory.load(path).networks["actor"].steps[0] == 0


def test_another_models_record_is_refused(tmp_path):
    path = tmp_path / "history.npz"
    RLx2TD3("MlpPolicy", "Pendulum-v1", **quick()).learn(60, callback=TopologyHistoryCallback(path))
    other = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(policy_kwargs={"net_arch": [16, 16]})).learn(60)
    with pytest.raises(ValueError, match="a model with other layers: give another path"):
        other.learn(60, callback=TopologyHistoryCallback(path), reset_num_timesteps=False)


def test_where_it_writes_by_itself(tmp_path, monkeypatch):
    env = make_vec_env("Pendulum-v1")

    def written(*others):
        model = RLx2TD3("MlpPolicy", env, **quick())
        model.set_logger(configure(str(tmp_path / "logger"), ["csv"]))
        callback = TopologyHistoryCallback()
        model.learn(55, callback=[callback, *others])
        model.logger.close()
        assert callback.path.exists()
        return callback.path

    assert written() == tmp_path / "logger" / "topology_history.npz"
    checkpoints = CheckpointCallback(1000, str(tmp_path / "checkpoints"))
    assert written(checkpoints) == tmp_path / "checkpoints" / "topology_history.npz"
    evaluation = EvalCallback(
        env, log_path=str(tmp_path / "evaluated"), eval_freq=1000, callback_after_eval=checkpoints
    )
    assert written(evaluation) == tmp_path / "evaluated" / "topology_history.npz"


def test_as_a_callback_entry_of_the_zoos_yaml(tmp_path):
    utils = pytest.importorskip("rl_zoo3.utils")
    entry = {"sb3_rlx2.TopologyHistoryCallback": {"path": str(tmp_path / "h.npz"), "max_records": 3}}
    (callback,) = utils.get_callback_list({"callback": [entry]})
    RLx2TD3("MlpPolicy", "Pendulum-v1", **quick()).learn(200, callback=callback)
    assert len(TopologyHistory.load(tmp_path / "h.npz").networks["critic"]) == 3


def test_the_file_is_small(tmp_path):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(policy_kwargs={"net_arch": [256, 256]}, topology_interval=5))
    model.learn(100, callback=TopologyHistoryCallback(tmp_path / "h.npz"))
    records = len(TopologyHistory.load(tmp_path / "h.npz").networks["critic"])
    assert records == 10
    bits = sum(layer.in_features * layer.out_features for layer in sparse_layers(model.policy.critic).values())
    assert (tmp_path / "h.npz").stat().st_size < records * bits / 8


def test_what_is_no_history_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        TopologyHistory.load(tmp_path / "nowhere.npz")
    RLx2TD3("MlpPolicy", "Pendulum-v1", **quick()).learn(60, callback=TopologyHistoryCallback(tmp_path / "h.npz"))
    whole = (tmp_path / "h.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", timesteps=np.arange(3))
    for name in ("cut.npz", "text.npz", "other.npz"):
        with pytest.raises(ValueError, match=f"{name}: not a topology history, or one that was cut short"):
            TopologyHistory.load(tmp_path / name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "h.npz"
    RLx2TD3("MlpPolicy", "Pendulum-v1", **quick()).learn(60, callback=TopologyHistoryCallback(path))
    return path


@given(data=st.data())
def test_a_damaged_history_is_an_error_of_one_kind_or_a_history(data, whole):
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = whole.with_name("damaged.npz")
    damaged.write_bytes(content)
    message = ""
    try:
        TopologyHistory.load(damaged)
    except ValueError as error:
        message = str(error)
    assert not message or (message.startswith(f"{damaged}: ") and "\n" not in message)


@pytest.mark.parametrize(
    ("argument", "value"), [("record_freq", 0), ("buffer_freq", 0), ("save_freq", -1), ("max_records", 2)]
)
def test_arguments_are_checked(argument, value):
    with pytest.raises(ValueError, match=f"{argument}={value} is not allowed"):
        TopologyHistoryCallback(**{argument: value})


def test_algorithms_that_are_not_off_policy_are_refused():
    from stable_baselines3 import PPO

    with pytest.raises(ValueError, match="not PPO"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16).learn(10, callback=TopologyHistoryCallback())
