"""A sparse agent learns: a broken method would show here."""

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_rlx2 import RLx2TD3


def test_a_90_percent_sparse_agent_solves_pendulum():
    model = RLx2TD3(
        "MlpPolicy",
        "Pendulum-v1",
        actor_sparsity=0.9,
        critic_sparsity=0.9,
        policy_kwargs={"net_arch": [128, 128]},
        learning_rate=2e-3,
        learning_starts=500,
        topology_interval=100,
        n_steps_delay=1000,
        buffer_size=100_000,
        buffer_min_size=1000,
        buffer_check_interval=500,
        seed=1,
        device="cpu",
    )
    model.learn(9000)
    mean, _ = evaluate_policy(model, make_vec_env("Pendulum-v1", seed=123), n_eval_episodes=20)
    assert mean > -300  # a random policy gets -1200, the best possible is about -150
    # All three parts took part
    assert model.topology_counters["critic"]["evolutions"] == 84
    assert model.topology_counters["actor"]["evolutions"] == 42
    assert model.replay_buffer.n_steps_in_use == 3
    assert 1000 <= model.replay_buffer.n_transitions < 9000
