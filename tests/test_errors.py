"""Bad input and plans that are too short: said clearly, before anything is lost."""

import warnings

import numpy as np
import pytest
from helpers import ALGORITHMS, quick

from sb3_rlx2 import DynamicReplayBuffer, RLx2SAC, RLx2TD3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"actor_sparsity": 1.0}, r"actor_sparsity=1.0 .* 0 <= actor_sparsity < 1"),
        ({"critic_sparsity": -0.1}, r"critic_sparsity=-0.1 .* 0 <= critic_sparsity < 1"),
        ({"actor_sparsity": 0.99999}, r"actor_sparsity=0.99999 in \w*Actor: .*without a single connection"),
        ({"n_steps": 0}, "n_steps=0"),
        ({"n_steps_delay": -1}, "n_steps_delay=-1"),
        ({"topology": "snip"}, r"topology='snip' is unknown: allowed are \['dense', 'rigl', 'set', 'static'\]"),
        ({"topology_interval": 0}, "topology_interval=0"),
        ({"topology_end": 0}, "topology_end=0"),
        ({"drop_fraction": 1.5}, "drop_fraction=1.5"),
        ({"buffer_min_size": -1}, "buffer_min_size=-1"),
        ({"buffer_check_interval": 0}, "buffer_check_interval=0"),
        ({"buffer_distance_threshold": -0.2}, "buffer_distance_threshold=-0.2"),
        ({"engine": "quantum"}, r"engine='quantum' is not available: allowed are \['auto', 'compiled', 'torch'\]"),
        ({"optimize_memory_usage": True}, "optimize_memory_usage=True: not possible with n-step"),
        ({"replay_buffer_kwargs": {"n_steps": 5}}, r"replay_buffer_kwargs\['n_steps'\]: pass n_steps to"),
        ({"action_noise": 0.1}, "^action_noise=0.1 is not allowed: it must be an ActionNoise object, such as"),
        ({"device": "meta"}, "^device='meta' is not allowed: tensors on it hold no numbers"),
        ({"policy_kwargs": {"sparse_features_extractor": True}}, "sparse_features_extractor=True, .*no linear"),
        ({"policy_kwargs": {"actor_sparsity": 0.5}}, r"policy_kwargs\['actor_sparsity'\]: pass actor_sparsity to"),
    ],
)  # fmt: skip
def test_bad_arguments(algorithm, arguments, message):
    with pytest.raises(ValueError, match=message):
        algorithm("MlpPolicy", "Pendulum-v1", **arguments)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_discrete_actions(algorithm):
    with pytest.raises(AssertionError, match=r"only supports .*Box.* as action spaces but Discrete"):
        algorithm("MlpPolicy", "CartPole-v1")


def test_unknown_noise():
    with pytest.raises(ValueError, match="action_noise='gaussian' is unknown"):
        RLx2TD3("MlpPolicy", "Pendulum-v1", action_noise="gaussian")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nan_in_a_loss_names_loss_and_update(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology="static"))
    model.learn(60)
    model.replay_buffer.rewards[:] = np.nan
    with pytest.raises(ValueError, match=r"critic_loss is nan at update 1\d"):
        model.learn(20, reset_num_timesteps=False)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_too_short_warns_once_and_names_what_will_not_happen(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology_interval=10_000, n_steps_delay=300_000))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(60)
    ours = [str(warning.message) for warning in caught if "ends at" in str(warning.message)]
    assert ours == [
        f"{algorithm.__name__}.learn() ends at 60 environment steps: the actor's topology does not evolve "
        "(topology_interval=10000, topology_end=None); the critic's topology does not evolve "
        "(topology_interval=10000, topology_end=None); targets stay 1-step (n_steps_delay=300000)"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(10, reset_num_timesteps=False)
        algorithm("MlpPolicy", "Pendulum-v1", **quick()).learn(200)
    with pytest.warns(UserWarning, match=r"no gradient update is made \(learning_starts=50, gradient_steps=1\)"):
        algorithm("MlpPolicy", "Pendulum-v1", **quick()).learn(20)


@pytest.mark.parametrize(
    ("arguments", "steps", "message"),
    [
        # Update 20 of the critic is made at step 70, when evolution has annealed to nothing
        ({"topology": "set"}, 70, "the critic's topology does not evolve"),
        ({"topology_end": 60}, 200, r"the actor's .* \(topology_interval=20, topology_end=60\); the critic's"),
        ({"buffer_min_size": 2000}, 200, r"forgets nothing \(buffer_min_size=2000, buffer_size=2000\)"),
        ({"gradient_steps": 0}, 200, "no gradient update is made"),
    ],
)
def test_what_the_warning_foresees(arguments, steps, message):
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**arguments))
    with pytest.warns(UserWarning, match=message):
        model.learn(steps)
    if "topology" in message:
        assert model.topology_counters["critic"]["evolutions"] == 0


def test_the_warning_is_silent_where_everything_happens():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(n_steps_delay=5))
        model.learn(71)
    assert model.topology_counters["critic"]["evolutions"] == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_warning_of_sb3_about_custom_buffers(algorithm, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = algorithm("MlpPolicy", "Pendulum-v1", **quick(replay_buffer_class=DynamicReplayBuffer))
        model.save(tmp_path / "model")
        assert isinstance(algorithm.load(tmp_path / "model").replay_buffer, DynamicReplayBuffer)
        assert model.replay_buffer.n_steps == model.n_steps == 3
