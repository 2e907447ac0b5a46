"""The parts as callbacks, with stock Stable-Baselines3 and with RLx2's own algorithms."""

import copy
import csv
import warnings

import pytest
import torch as th
from helpers import ALL, environment, quick
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

import sb3_rlx2.sac
import sb3_rlx2.td3
from sb3_rlx2 import DynamicBufferCallback, DynamicReplayBuffer, RLx2SAC, RLx2TD3, TopologyEvolutionCallback


@pytest.mark.parametrize(
    ("stock", "policy", "ours", "n_steps"),
    # SAC's n-step entropy terms are RLx2SAC's own, so n = 1 there
    [(TD3, sb3_rlx2.td3.MlpPolicy, RLx2TD3, 3), (SAC, sb3_rlx2.sac.MlpPolicy, RLx2SAC, 1)],
)
def test_the_parts_with_stock_sb3_make_the_same_run(stock, policy, ours, n_steps):
    sparsities = {"actor_sparsity": 0.8, "critic_sparsity": 0.7}
    common = {"learning_rate": 1e-3, "learning_starts": 50, "batch_size": 32, "buffer_size": 2000, "seed": 0}
    whole = ours(
        "MlpPolicy", "Pendulum-v1", **sparsities, **common, policy_kwargs={"net_arch": [32, 32]}, action_noise=None,
        topology_interval=20, n_steps=n_steps, n_steps_delay=60,
        buffer_min_size=40, buffer_check_interval=50, buffer_distance_threshold=0.0, engine="torch",
    )  # fmt: skip
    whole.learn(200)
    parts = stock(
        policy, "Pendulum-v1", **common, policy_kwargs={"net_arch": [32, 32], **sparsities},
        replay_buffer_class=DynamicReplayBuffer,
        replay_buffer_kwargs={"n_steps": n_steps, "n_steps_delay": 60, "min_size": 40},
    )  # fmt: skip
    parts.learn(200, callback=[TopologyEvolutionCallback(topology_interval=20), DynamicBufferCallback(50, 0.0)])
    assert parts.topology_counters == whole.topology_counters
    assert parts.topology_counters["critic"]["evolutions"] > 3
    assert parts.replay_buffer.n_transitions == whole.replay_buffer.n_transitions < 200
    for name, tensor in parts.policy.state_dict().items():
        assert th.equal(tensor, whole.policy.state_dict()[name]), name


@pytest.mark.parametrize("stock", [TD3, SAC])
def test_callback_counters_survive_save_and_load_with_stock_sb3(stock, tmp_path):
    policy = {TD3: sb3_rlx2.td3.MlpPolicy, SAC: sb3_rlx2.sac.MlpPolicy}[stock]
    model = stock(
        policy, "Pendulum-v1", learning_starts=10, policy_kwargs={"net_arch": [32, 32], "actor_sparsity": 0.5}
    )
    model.learn(60, callback=TopologyEvolutionCallback(topology_interval=8))
    model.save(tmp_path / "model")
    loaded = stock.load(tmp_path / "model", env=model.env)
    assert loaded.topology_counters == model.topology_counters
    loaded.learn(20, callback=TopologyEvolutionCallback(topology_interval=8), reset_num_timesteps=False)
    assert loaded.topology_counters["critic"]["updates"] == 70
    assert loaded.topology_counters["critic"]["evolutions"] == 6 + 2


@pytest.mark.parametrize("algorithm", ALL)
def test_attaching_the_callback_twice_changes_nothing(algorithm):
    runs = []
    for callbacks in (None, [TopologyEvolutionCallback(topology_interval=3), TopologyEvolutionCallback("set")]):
        model = algorithm("MlpPolicy", environment(algorithm), **quick())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.learn(100, callback=callbacks)
        model.learn(50, callback=callbacks, reset_num_timesteps=False)
        told = [warning for warning in caught if "brings topology evolution along" in str(warning.message)]
        assert len(told) == (0 if callbacks is None else 2)
        runs.append((model.topology_counters, model.get_parameters()["policy"]))
    assert runs[0][0] == runs[1][0]
    assert all(th.equal(tensor, runs[1][1][name]) for name, tensor in runs[0][1].items())


def test_evolution_ends_with_the_callbacks_learn_on_stock_sb3():
    model = TD3(sb3_rlx2.td3.MlpPolicy, "Pendulum-v1", learning_starts=10, policy_kwargs={"net_arch": [32, 32]})
    model.learn(50, callback=TopologyEvolutionCallback("set", topology_interval=10))
    assert model.topology_counters["critic"] == {"updates": 40, "evolutions": 3}
    model.learn(50, reset_num_timesteps=False)
    assert model.topology_counters["critic"] == {"updates": 40, "evolutions": 3}
    model.learn(50, callback=TopologyEvolutionCallback("static"), reset_num_timesteps=False)
    assert model.topology_counters["critic"] == {"updates": 90, "evolutions": 3}
    model.learn(50, callback=TopologyEvolutionCallback("rigl", topology_interval=5), reset_num_timesteps=False)
    assert model.topology_counters["critic"] == {"updates": 140, "evolutions": 3 + 9}


def test_evolution_ends_with_the_next_callbacks_learn_after_an_interruption():
    class Interrupt(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 30:
                raise KeyboardInterrupt
            return True

    model = TD3(sb3_rlx2.td3.MlpPolicy, "Pendulum-v1", learning_starts=10, policy_kwargs={"net_arch": [32, 32]})
    with pytest.raises(KeyboardInterrupt):
        model.learn(50, callback=[TopologyEvolutionCallback("set", topology_interval=5), Interrupt()])
    model.learn(30, callback=TopologyEvolutionCallback("set", topology_interval=5), reset_num_timesteps=False)
    counters = copy.deepcopy(model.topology_counters)
    model.learn(30, reset_num_timesteps=False)
    assert model.topology_counters == counters


def test_verbose_prints_a_line_per_evolution(capsys):
    model = TD3(sb3_rlx2.td3.MlpPolicy, "Pendulum-v1", learning_starts=10, policy_kwargs={"net_arch": [32, 32]})
    for gradient_steps in (1, 13):
        model.gradient_steps, before = gradient_steps, copy.deepcopy(getattr(model, "topology_counters", {}))
        model.learn(50, callback=TopologyEvolutionCallback("set", topology_interval=10, verbose=1))
        lines = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if "topology, update" in line]
        for name, counters in model.topology_counters.items():
            earlier = before.get(name, {"updates": 0, "evolutions": 0})
            due = [update for update in range(10, counters["updates"] + 1, 10) if update > earlier["updates"]]
            printed = [line for line in lines if line.startswith(name)]
            assert printed == [f"{name} topology, update {update}" for update in due][: len(printed)]
            assert len(printed) == counters["evolutions"] - earlier["evolutions"] > 0


def test_an_algorithm_that_is_told_to_prints_a_line_per_evolution_and_one_that_is_not_does_not(capsys):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(topology_interval=5, verbose=1))
    model.learn(150)
    printed = capsys.readouterr().out.count("critic topology, update")
    assert printed == model.topology_counters["critic"]["evolutions"] > 2
    with pytest.raises(KeyboardInterrupt):
        model.learn(50, callback=_interrupted, reset_num_timesteps=False)
    capsys.readouterr()
    model.verbose, printed = 0, model.topology_counters["critic"]["evolutions"]
    model.learn(100, reset_num_timesteps=False)
    assert model.topology_counters["critic"]["evolutions"] > printed
    assert "topology, update" not in capsys.readouterr().out


def _interrupted(*_):
    raise KeyboardInterrupt


def test_a_second_buffer_callback_changes_nothing():
    sizes = []
    for callback in (None, DynamicBufferCallback(50, 0.0)):
        model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
        model.learn(150, callback=callback)
        sizes.append(model.replay_buffer.n_transitions)
    assert sizes[0] == sizes[1] < 150


def test_updates_are_counted_once_after_an_interruption_and_with_two_callbacks():
    model = TD3(
        sb3_rlx2.td3.MlpPolicy, "Pendulum-v1", learning_starts=20, device="cpu", train_freq=(1, "episode"),
        gradient_steps=-1, replay_buffer_class=DynamicReplayBuffer,
    )  # fmt: skip

    class Interrupt(BaseCallback):
        def _on_step(self):
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            model.learn(50, callback=[DynamicBufferCallback(), Interrupt()])
    model.learn(400, callback=[DynamicBufferCallback(), DynamicBufferCallback()])
    assert model.replay_buffer.n_updates == model._n_updates > 0
    counted = []
    model.critic.optimizer.register_step_pre_hook(lambda *_: counted.append(model.replay_buffer.n_updates))
    model.learn(200, callback=[DynamicBufferCallback(), DynamicBufferCallback()], reset_num_timesteps=False)
    assert counted == [*range(counted[0], counted[0] + len(counted))]


def test_a_compiled_policy_of_a_stock_algorithm_has_a_dynamic_buffer_too():
    model = TD3(
        sb3_rlx2.td3.MlpPolicy, "Pendulum-v1", learning_starts=20, device="cpu", replay_buffer_class=DynamicReplayBuffer
    )
    model.policy = th.compile(model.policy, backend="eager")
    model.learn(40, callback=DynamicBufferCallback())
    assert model.replay_buffer.n_updates == 20


def test_stock_sb3_with_another_gamma_than_the_buffers_is_refused():
    model = TD3("MlpPolicy", "Pendulum-v1", gamma=0.9, replay_buffer_class=DynamicReplayBuffer, buffer_size=100)
    with pytest.raises(ValueError, match=r"gamma=0.99 differs from .* gamma=0.9: pass replay_buffer_kwargs="):
        model.learn(10, callback=DynamicBufferCallback())


def test_callbacks_refuse_what_they_cannot_work_with():
    dense = TD3("MlpPolicy", "Pendulum-v1")
    with pytest.raises(ValueError, match="no sparse layer"):
        dense.learn(10, callback=TopologyEvolutionCallback())
    with pytest.raises(ValueError, match="replay_buffer_class=DynamicReplayBuffer, not ReplayBuffer"):
        dense.learn(10, callback=DynamicBufferCallback())
    with pytest.raises(ValueError, match="topology_interval=0"):
        TopologyEvolutionCallback(topology_interval=0)
    with pytest.raises(ValueError, match="buffer_distance_threshold=-1"):
        DynamicBufferCallback(buffer_distance_threshold=-1)


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_each_log_has_the_numbers_of_its_own_step(algorithm, n_envs, tmp_path):
    env = make_vec_env(environment(algorithm), n_envs, env_kwargs={"max_episode_steps": 60})
    model = algorithm("MlpPolicy", env, **quick(buffer_distance_threshold=10.0))  # nothing is forgotten
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(150 * n_envs, log_interval=1)
    model.logger.close()
    with (tmp_path / "progress.csv").open() as file:
        logs = [log for log in csv.DictReader(file) if log["rlx2/buffer_size"]]  # the first of those of a step
    assert len(logs) >= 2
    for log in logs:
        # What the step that ends the episode brings is stored after the callbacks
        assert float(log["rlx2/buffer_size"]) == float(log["time/total_timesteps"]) - n_envs
        assert all(float(log[f"rlx2/{network}_density"]) > 0 for network in model.network_sparsities)
    assert model.logger.name_to_value["rlx2/buffer_size"] == model.replay_buffer.n_transitions


def test_the_buffer_forgets_only_where_the_policy_has_moved_by_more_than_the_threshold(monkeypatch):
    monkeypatch.setattr("sb3_rlx2.common.callbacks.policy_distance", lambda *_, **__: 0.2)
    held = {}
    for threshold in (0.2, 0.19):
        model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(buffer_distance_threshold=threshold)).learn(120)
        held[threshold] = model.replay_buffer.n_transitions
    assert held[0.2] == 120 > held[0.19]


def test_a_check_that_an_earlier_call_of_learn_made_is_not_made_again():
    kwargs = quick(buffer_check_interval=(100, "updates"), gradient_steps=4)
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **kwargs).learn(130)
    assert (model._n_updates, model.replay_buffer.last_check > 0) == (320, True)
    model.learn(10, reset_num_timesteps=False)  # 360 updates: no multiple of 100 is passed
    assert model.replay_buffer.last_check == -1
