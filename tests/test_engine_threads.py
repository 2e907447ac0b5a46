"""Compiled updates in several threads: bit for bit those of one, and no thread is left behind."""

import copy
import ctypes
import math
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch as th
from helpers import (
    ALL_COMPILED,
    COMPILED,
    VALUE_BASED,
    apart,
    assert_counts_agree,
    differing,
    engine_threads,
    everything,
    threads_of_last_run,
    with_transitions,
)

from sb3_rlx2 import RLx2SAC, RLx2TD3
from sb3_rlx2.common.buffers import draw
from sb3_rlx2.errors import DivergenceError

BATCH = 400
WAYS = [(RLx2TD3, 1), (RLx2TD3, 3), (RLx2SAC, 1), (RLx2SAC, 3)]


def model_of(algorithm, n_steps=3, seed=0):
    return with_transitions(
        algorithm, batch_size=BATCH, n_steps=n_steps, n_steps_delay=20, topology_interval=15, seed=seed
    )


def trained(model, threads, count=50):
    """Train and return all that came of it, the losses included."""
    with engine_threads(threads):
        model.train(count, BATCH)
        assert threads_of_last_run(model) == threads
    losses = {name: th.tensor(value) for name, value in model.logger.name_to_value.items() if name.startswith("train/")}
    return everything(model) | losses


def system_threads():
    return set(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize(("algorithm", "n_steps"), WAYS)
def test_the_same_with_any_number_of_threads(algorithm, n_steps, threads):
    def both():
        model = model_of(algorithm, n_steps)
        twin = copy.deepcopy(model)
        ours = trained(model, threads)
        twin.set_logger(model.logger)
        twin.set_random_seed(5)
        theirs = trained(twin, 1)
        return differing(ours, theirs), ours["critic evolutions"].item(), ours["actor evolutions"].item()

    differences, *evolutions = apart(both)
    assert not differences
    assert min(evolutions) > 0


@pytest.mark.parametrize("algorithm", ALL_COMPILED)
def test_the_same_after_a_fork_of_a_process_that_has_used_threads(algorithm):
    def child(model, connection):
        connection.send({name: tensor.numpy() for name, tensor in trained(model, 3).items()})

    def parent():
        model = model_of(algorithm)
        twin = copy.deepcopy(model)
        trained(model, 3)
        ours, theirs = multiprocessing.get_context("fork").Pipe()
        process = multiprocessing.get_context("fork").Process(target=child, args=(model, theirs))
        process.start()
        forked = {name: th.tensor(array) for name, array in ours.recv().items()}
        process.join()
        stayed = trained(model, 2)
        twin.set_random_seed(5)
        trained(twin, 1)
        alone = trained(twin, 1)
        return differing(forked, alone), differing(stayed, alone), process.exitcode

    assert apart(parent) == ([], [], 0)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals")
@pytest.mark.parametrize("algorithm", ALL_COMPILED)
@pytest.mark.parametrize("delay", [0.05, 0.1, 0.2])
def test_ctrl_c_leaves_whole_updates_and_no_thread(algorithm, delay):
    def interrupted():
        model = model_of(algorithm)
        twin = copy.deepcopy(model)
        trained(twin, 2, 2)  # compiled by now
        twin = copy.deepcopy(model)
        model.set_random_seed(5)
        before = system_threads()
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with engine_threads(2), pytest.raises(KeyboardInterrupt):
            model.train(100_000, BATCH)
        left = everything(model)
        timer.join()
        assert threads_of_last_run(model) == 2
        time.sleep(0.1)  # a thread that still worked would change something
        changed = differing(everything(model), left)
        assert_counts_agree(model)
        remaining = system_threads() - before
        twin.set_random_seed(5)
        trained(twin, 1, model._n_updates)
        same = differing(left, everything(twin))
        again = []
        for each, threads in ((model, 3), (twin, 1)):
            each.set_random_seed(6)
            again.append(trained(each, threads, 40))
        return changed, remaining, same, differing(*again), model._n_updates > 40

    assert apart(interrupted) == ([], set(), [], [], True)


@pytest.mark.parametrize("algorithm", ALL_COMPILED)
@pytest.mark.parametrize("reward", [math.nan, 3e38])
def test_the_same_after_a_divergence(algorithm, reward):
    if algorithm in VALUE_BASED:
        reward = math.nan  # the gradient of Huber's loss is bounded

    def diverged():
        model = model_of(algorithm)
        twin = copy.deepcopy(model)
        results = []
        for each, threads in ((model, 3), (twin, 1)):
            each.set_random_seed(5)
            trained(each, threads, 10)
            rewards = each.replay_buffer.rewards.copy()
            each.replay_buffer.rewards[390] = reward
            with engine_threads(threads), pytest.raises(DivergenceError) as caught:
                each.train(1000, BATCH)
            assert threads_of_last_run(each) == threads
            assert_counts_agree(each)
            left = everything(each)
            each.replay_buffer.rewards[:] = rewards
            each.set_random_seed(6)
            results.append((str(caught.value), left, trained(each, threads)))
        (message, left, after), (their_message, they_left, their_after) = results
        return message == their_message, differing(left, they_left), differing(after, their_after)

    assert apart(diverged) == (True, [], [])


@pytest.mark.parametrize("algorithm", COMPILED)
def test_two_models_at_once_learn_what_they_learn_one_after_the_other(algorithm):
    def updates_of(model):
        """Repeat some updates whose random numbers are drawn already: NumPy and PyTorch have one generator for all."""
        updates = model._choose_engine().updates
        updates.read_from(model.replay_buffer, None, model.gamma)
        model._prepare_updates(updates, draw(model.replay_buffer, updates.room_for_samples(8, BATCH)))

        def run(before_first=lambda: None):
            before_first()
            counts = set()
            for _ in range(15):
                _, completed = updates.run(0, 0)
                counts.add((completed, updates.n_threads))
            return counts

        return run

    def both():
        together = [model_of(algorithm, seed=seed) for seed in (0, 1)]
        alone = copy.deepcopy(together)
        for model in (*together, *alone):
            model._update_learning_rate([model.actor.optimizer, model.critic.optimizer])
        runs = []
        for models in (together, alone):
            np.random.seed(3)
            th.manual_seed(3)
            runs.append([updates_of(model) for model in models])
        counts = []
        with engine_threads(3):
            start = threading.Barrier(2)
            workers = [threading.Thread(target=lambda run=run: counts.append(run(start.wait))) for run in runs[0]]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        assert counts == [{(8, 3)}] * 2
        with engine_threads(1):
            assert [run() for run in runs[1]] == [{(8, 1)}] * 2
        return [differing(everything(one), everything(other)) for one, other in zip(together, alone, strict=True)]

    assert apart(both) == [[], []]


def test_small_work_stays_on_one_thread():
    model = model_of(RLx2TD3)
    before = th.get_num_threads()
    th.set_num_threads(3)
    try:
        model.train(1, BATCH)
    finally:
        th.set_num_threads(before)
    assert threads_of_last_run(model) == 1


def test_where_the_system_gives_fewer_threads_the_updates_are_the_same():
    resource = pytest.importorskip("resource")
    if not hasattr(ctypes.CDLL(None), "pthread_setattr_default_np"):
        pytest.skip("the C library is not GNU's")

    def limited():
        model = model_of(RLx2TD3)
        twin = copy.deepcopy(model)
        trained(twin, 1)
        model.set_random_seed(5)
        # No memory for the stacks of further threads, which are larger than those that the C library keeps
        library, attributes = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        library.pthread_attr_init(attributes)
        library.pthread_attr_setstacksize(attributes, ctypes.c_size_t(2**30))
        library.pthread_setattr_default_np(attributes)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
        with engine_threads(3):
            model.train(50, BATCH)
        return threads_of_last_run(model), differing(everything(model), everything(twin))

    threads, differences = apart(limited)
    assert threads < 3
    assert not differences
