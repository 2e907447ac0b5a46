"""Which transitions make up a batch: compiled code draws the very numbers that NumPy would."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_rlx2.common.buffers import DynamicReplayBuffer, draw
from sb3_rlx2.engine import samples
from sb3_rlx2.engine.samples import draw_samples


def drawn(held: int, n_envs: int = 1, oldest: int = 0, n_rows: int = 2**62, updates: int = 3, batch: int = 50) -> Any:
    numbers = np.full((2, updates, batch), -1)
    draw_samples(held, n_envs, oldest, n_rows, numbers)
    return numbers


def state() -> Any:
    _, key, position, *_ = cast(Any, np.random.get_state())
    return position, key.tobytes()


@pytest.mark.parametrize("n_envs", [1, 3, 4])
@pytest.mark.parametrize("held", [1, 2, 5, 256, 1000, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40])
def test_the_numbers_are_those_of_randint_and_so_is_the_random_state_after_them(held: int, n_envs: int) -> None:
    np.random.seed(3)
    ours, after = drawn(held, n_envs), state()
    np.random.seed(3)
    before = state()
    for update in range(3):
        np.testing.assert_array_equal(ours[0, update], np.random.randint(0, held, size=50))
        np.testing.assert_array_equal(ours[1, update], np.random.randint(0, n_envs, size=50))
    assert after == state()
    assert (after == before) == (held == n_envs == 1)


def test_another_global_bit_generator_is_the_one_that_is_drawn_from() -> None:
    if not hasattr(np.random, "set_bit_generator"):
        pytest.skip("this NumPy has one for ever")
    usual = cast(Any, np.random).get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(5))
        ours = drawn(1000)
        np.random.set_bit_generator(np.random.PCG64(5))
        np.testing.assert_array_equal(ours[0, 0], np.random.randint(0, 1000, size=50))
    finally:
        np.random.set_bit_generator(usual)


def test_nobody_else_can_draw_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, compiled, acquired = cast(Any, np.random).mtrand._rand._bit_generator.lock, samples._draw, []

    def draw_while_another_thread_tries(*arguments: Any) -> None:
        with ThreadPoolExecutor(1) as pool:
            acquired.append(pool.submit(lock.acquire, blocking=False).result())
        compiled(*arguments)

    monkeypatch.setattr(samples, "_draw", draw_while_another_thread_tries)
    drawn(10)
    assert acquired == [False]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lock.acquire, blocking=False).result()
        pool.submit(lock.release).result()


def test_rows_begin_with_the_oldest_one_and_go_on_at_the_first() -> None:
    np.random.seed(0)
    ours = drawn(7, oldest=8, n_rows=10)
    np.random.seed(0)
    np.testing.assert_array_equal(ours[0, 0], (np.random.randint(0, 7, size=50) + 8) % 10)
    assert {*ours[0].ravel().tolist()} == {8, 9, 0, 1, 2, 3, 4}


def test_an_empty_buffer_is_an_error() -> None:
    with pytest.raises(ValueError, match="held=0 rows"):
        drawn(0)


@pytest.mark.parametrize("forgotten", [0, 30])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_batch_has_the_transitions_that_the_buffer_itself_would_sample(n_envs: int, forgotten: int) -> None:
    box = spaces.Box(-1, 1, (1,))
    classes: list[type[ReplayBuffer]] = [DynamicReplayBuffer] if forgotten else [DynamicReplayBuffer, ReplayBuffer]
    for cls in classes:
        buffer = cls(100 * n_envs, box, box, "cpu", n_envs=n_envs)
        for step in range(130):
            observation = step + np.arange(n_envs)[:, None] / 10
            if isinstance(buffer, DynamicReplayBuffer):
                buffer.n_updates = -1
            buffer.add(observation, observation, observation, np.zeros(n_envs), np.zeros(n_envs), [{}] * n_envs)
        if forgotten:
            cast(DynamicReplayBuffer, buffer).shrink(forgotten / 100)
            cast(DynamicReplayBuffer, buffer).n_steps_delay = 10**6
        numbers = np.empty((2, 1, 40), np.int64)
        np.random.seed(1)
        draw(buffer, numbers)
        np.random.seed(1)
        sampled = buffer.sample(40).observations.numpy()
        np.testing.assert_array_equal(buffer.observations[numbers[0, 0], numbers[1, 0]], sampled)
