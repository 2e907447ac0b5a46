"""The compiled engine in threads, forks and processes."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch as th
from helpers import ALL_COMPILED, engine_threads, environment, quick, threads_of_last_run
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_rlx2 import RLx2TD3


def fingerprint(algorithm=RLx2TD3):
    """Train shortly, on two threads in the end, and return what came out."""
    th.set_num_threads(1)  # PyTorch's own threads hang in a process that was forked after their first use
    model = algorithm("MlpPolicy", "Pendulum-v1", engine="compiled", **quick(batch_size=256))
    model.learn(90)
    with engine_threads(2):
        model.train(30, 256)
    assert threads_of_last_run(model) == 2
    return sum(parameter.double().sum().item() for parameter in model.policy.parameters())


def into_queue(queue):
    queue.put(fingerprint())


@pytest.fixture
def _threads():
    before = th.get_num_threads()
    yield
    th.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_processes(start):
    expected = fingerprint()
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    process = context.Process(target=into_queue, args=(queue,))
    process.start()
    assert queue.get(timeout=120) == expected
    process.join(timeout=60)
    assert process.exitcode == 0


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("algorithm", ALL_COMPILED)
def test_several_models_in_several_threads(algorithm):
    models = []
    for seed in range(4):
        model = algorithm("MlpPolicy", environment(algorithm), engine="compiled", **quick(batch_size=256, seed=seed))
        model.learn(60)
        models.append(model)
    with engine_threads(2), ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda model: model.train(60, 256), models))
    for model in models:
        assert threads_of_last_run(model) == 2
        assert model._n_updates == 70
        assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


def test_subprocess_environments():
    env = make_vec_env("Pendulum-v1", n_envs=2, vec_env_cls=SubprocVecEnv)
    model = RLx2TD3("MlpPolicy", env, engine="compiled", **quick(gradient_steps=-1))
    model.learn(120)
    assert model._n_updates == 70
    env.close()
