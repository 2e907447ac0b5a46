"""A discount factor that grows while an agent learns."""

import itertools

import pytest
import torch as th
from helpers import ALL, environment, quick
from stable_baselines3 import PPO, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from test_resume import cut_off, model_of, resumed, state_of

from sb3_rlx2 import DiscountScheduleCallback, RLx2SAC, RLx2TD3


class Watching(BaseCallback):
    """Keeps the discount factors of the updates between two environment steps, by the steps before them."""

    def __init__(self):
        super().__init__()
        self.gammas = {}

    def _on_step(self):
        if self.model._n_updates > 0:
            self.gammas[self.num_timesteps - 1] = self.model.gamma, self.model.replay_buffer.gamma
        return True


def test_one_minus_gamma_shrinks_by_the_same_factor_in_each_step_between_two_shares_of_the_training():
    callback = DiscountScheduleCallback(0.9, 0.99, start=0.2, end=0.7)
    assert [callback.gamma_at(share) for share in (0.0, 0.2)] == [0.9, 0.9]
    assert [callback.gamma_at(share) for share in (0.7, 1.0, 1.1)] == [0.99, 0.99, 0.99]
    rest = [1.0 - callback.gamma_at(share) for share in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    assert [b / a for a, b in itertools.pairwise(rest)] == pytest.approx([0.1**0.2] * 5)
    assert all(0.3 <= DiscountScheduleCallback(0.3, 0.3).gamma_at(share / 100) <= 0.3 for share in range(101))
    at_once = DiscountScheduleCallback(start=0.5, end=0.5)
    assert [at_once.gamma_at(share) for share in (0.5, 0.51)] == [0.99, 0.997]


@pytest.mark.parametrize("algorithm", ALL)
def test_each_update_is_made_with_the_discount_factor_of_its_step(algorithm):
    model = algorithm("MlpPolicy", environment(algorithm), **quick(n_steps=3, n_steps_delay=60))
    schedule, watching = DiscountScheduleCallback(start=0.5, end=0.75), Watching()
    model.learn(200, callback=[watching, schedule])
    assert len(watching.gammas) > 120
    for step, gammas in watching.gammas.items():
        assert gammas == (schedule.gamma_at(step / 200),) * 2
    assert watching.gammas[100] == (0.99, 0.99)
    assert 0.99 < watching.gammas[125][0] < 0.997
    assert watching.gammas[150] == (0.997, 0.997)
    assert (model.gamma, model.replay_buffer.gamma) == (0.997, 0.997)
    # A new training begins with the first one
    watching = Watching()
    model.learn(60, callback=[watching, DiscountScheduleCallback()])
    assert watching.gammas[20] == (0.99, 0.99)


@pytest.mark.parametrize("algorithm", [RLx2TD3, RLx2SAC])
def test_both_engines_follow_it(algorithm):
    parameters = []
    for engine in ("compiled", "torch"):
        model = algorithm("MlpPolicy", "Pendulum-v1", engine=engine, **quick(gamma=0.5, n_steps=3, n_steps_delay=0))
        model.learn(160, callback=DiscountScheduleCallback(0.5, 0.99, start=0.4, end=0.6))
        parameters.append(th.cat([p.detach().flatten() for p in model.policy.parameters()]))
    th.testing.assert_close(*parameters, rtol=1e-3, atol=1e-4)
    constant = algorithm("MlpPolicy", "Pendulum-v1", **quick(gamma=0.5, n_steps=3, n_steps_delay=0))
    constant.learn(160)
    others = th.cat([p.detach().flatten() for p in constant.policy.parameters()])
    assert (parameters[0] - others).abs().max() > 2e-3


def test_stock_sb3_follows_it_and_loads_it(tmp_path):
    model = TD3("MlpPolicy", "Pendulum-v1", n_steps=3, learning_starts=20, policy_kwargs={"net_arch": [16]})
    watching = Watching()
    model.learn(100, callback=[watching, DiscountScheduleCallback(start=0.5, end=0.6)])
    assert watching.gammas[50] == (0.99, 0.99)
    assert watching.gammas[60] == watching.gammas[99] == (0.997, 0.997)
    model.save(tmp_path / "model")
    loaded = TD3.load(tmp_path / "model", env=model.env)
    assert (loaded.gamma, loaded.replay_buffer.gamma) == (0.997, 0.997)


def test_a_resumed_training_goes_on_with_the_same_discount_factors(tmp_path):
    def schedule():
        return DiscountScheduleCallback(start=0.4, end=0.9)

    whole = model_of(RLx2TD3)
    whole.learn(220, callback=schedule())
    cut_off(model_of(RLx2TD3), tmp_path, [schedule()])
    model = resumed(tmp_path)
    assert model.gamma == 0.997
    for name, value in state_of(whole).items():
        assert th.equal(th.as_tensor(value), th.as_tensor(state_of(model)[name])), name


def test_a_resumed_training_follows_the_callback_that_it_is_given(tmp_path):
    cut_off(model_of(RLx2TD3), tmp_path, [DiscountScheduleCallback()])
    assert resumed(tmp_path, callback=[DiscountScheduleCallback(final_gamma=0.999)]).gamma == 0.999


def test_a_longer_training_has_the_discount_factors_of_its_length():
    model, watching = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick()), Watching()
    model.learn(100, callback=DiscountScheduleCallback())
    model.learn(100, callback=[watching, DiscountScheduleCallback()], reset_num_timesteps=False)
    assert model.num_timesteps == 200
    assert watching.gammas[110] == (0.99, 0.99)
    assert watching.gammas[199] == (0.997, 0.997)


def test_it_is_logged(tmp_path):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(800, callback=DiscountScheduleCallback(start=0.5, end=0.75), log_interval=1)
    model.logger.close()
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    column = lines[0].split(",").index("rlx2/gamma")
    gammas = [float(line.split(",")[column]) for line in lines[1:]]
    assert gammas[0] == 0.99 < gammas[-1] == 0.997


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_gamma": -0.1}, "initial_gamma=-0.1 is not allowed"),
        ({"final_gamma": 0.98}, r"final_gamma=0.98 is not allowed: it must be a number in 0.99 <= final_gamma <= 1"),
        ({"final_gamma": 1.0}, "final_gamma=1.0 is not allowed: it must be below 1"),
        ({"start": 1.5}, "start=1.5 is not allowed"),
        ({"end": 0.5}, "end=0.5 is not allowed: it must be a number in 0.6 <= end <= 1"),
        ({"end": float("nan")}, "end=nan is not allowed"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiscountScheduleCallback(**arguments)


def test_an_algorithm_that_it_does_not_fit_is_refused_before_the_training():
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", gamma=0.98, **quick())
    with pytest.raises(ValueError, match=r"RLx2TD3 has gamma=0.98, which is not between initial_gamma=0.99 and"):
        model.learn(100, callback=DiscountScheduleCallback())
    assert model.num_timesteps == 0
    with pytest.raises(ValueError, match="works with off-policy algorithms, not PPO"):
        PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8).learn(8, callback=DiscountScheduleCallback())
