"""Critics of the user's own modules: the compiled engine computes what PyTorch does, or leaves them to it."""

import operator

import pytest
import torch as th
from helpers import quick
from stable_baselines3.common.logger import Logger
from test_engine import largest_difference
from torch import nn

from sb3_rlx2 import DynamicReplayBuffer, RLx2TD3
from sb3_rlx2.sparse import sparsify


class Residual(nn.Module):
    def __init__(self, block, skip=True):
        super().__init__()
        self.block, self.skip = block, skip

    def forward(self, x):
        return x + self.block(x) if self.skip else self.block(x)


class Twice(Residual):
    def forward(self, x):
        return self.block(self.block(x))


class Added(Residual):
    def forward(self, x):
        y = self.block(x)
        y += x
        return y


class AddedUnseen(Residual):
    """What is returned is a value that another statement has changed."""

    def forward(self, x):
        y = self.block(x)
        y.add_(x)
        return y


class Iadded(Residual):
    """The first operand is read once more, changed."""

    def forward(self, x):
        y = self.block(x)
        z = operator.iadd(y, x)
        return z + y


class Idle(Residual):
    def forward(self, x):
        self.block(x)
        return x + self.block[-1](x)


class Functional(Residual):
    def forward(self, x):
        return x + self.block(nn.functional.relu(x))


class FunctionalInPlace(Residual):
    def forward(self, x):
        return x + self.block(nn.functional.relu(x, inplace=True))


def block(activation=None):
    return nn.Sequential(activation or nn.ReLU(), nn.Linear(32, 32))


MODULES = {
    "plain": (lambda: Residual(block()), "compiled"),
    "in place, and read before": (
        lambda: Residual(nn.Sequential(nn.Linear(32, 32), nn.ReLU(inplace=True))),
        "compiled",
    ),
    "in place, and read after": (lambda: Residual(block(nn.ReLU(inplace=True))), "torch"),
    "added in place": (lambda: Added(block()), "compiled"),
    "added in place to what is returned": (lambda: AddedUnseen(block()), "torch"),
    "added in place to what is read": (lambda: Iadded(block()), "torch"),
    "a function": (lambda: Functional(block()), "compiled"),
    "a function in place": (lambda: FunctionalInPlace(block()), "torch"),
    "a layer used twice": (lambda: Twice(block()), "torch"),
    "a result that nothing reads": (lambda: Idle(block()), "torch"),
}


def with_critics(model, make):
    generator = th.get_rng_state()
    th.manual_seed(2)
    for network in (model.critic, model.critic_target):
        for i in range(2):
            body = nn.Sequential(nn.Linear(4, 32), make(), nn.LayerNorm(32), nn.Linear(32, 1))
            network.q_networks[i] = sparsify(body, 0.5)
            setattr(network, f"qf{i}", network.q_networks[i])
    model.critic_target.load_state_dict(model.critic.state_dict())
    model.critic.optimizer = th.optim.Adam(model.critic.parameters(), lr=1e-2)
    th.set_rng_state(generator)


def filled(engine, make=None, **kwargs):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", engine=engine, **quick(learning_starts=200, **kwargs))
    if make is not None:
        with_critics(model, make)
    model.learn(200)
    model.set_logger(Logger(None, []))
    return model


def train(model, updates):
    model.set_random_seed(5)
    model.train(updates, 64)


@pytest.mark.parametrize("name", MODULES)
def test_updates_are_those_of_torch_whatever_a_module_does(name, capsys):
    make, engine = MODULES[name]
    ours, theirs = (filled(each, make, topology="static", verbose=1) for each in ("auto", "torch"))
    capsys.readouterr()
    for model in (ours, theirs):
        train(model, 5)
    assert (ours._engine_choice.reason is None) == (engine == "compiled")
    assert largest_difference(ours, theirs) < 1e-5


def test_a_module_that_changes_how_it_computes_is_read_again():
    ours, theirs = (filled(each, MODULES["plain"][0], topology="static") for each in ("auto", "torch"))
    for model in (ours, theirs):
        train(model, 5)
        for network in (model.critic, model.critic_target):
            for q in network.q_networks:
                q[1].skip = False
        train(model, 5)
    assert ours._engine_choice.reason is None
    assert largest_difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_both_engines_draw_the_same_random_numbers(noise):
    ours, theirs = (
        filled(each, topology="set", target_policy_noise=noise, topology_interval=2) for each in ("compiled", "torch")
    )
    states = []
    for model in (ours, theirs):
        train(model, 8)
        states.append(th.get_rng_state())
    assert th.equal(*states)
    assert largest_difference(ours, theirs) < 1e-5


def test_an_episode_that_was_cut_off_leaves_no_mark_on_what_comes_after_it():
    model = RLx2TD3(
        "MlpPolicy", "Pendulum-v1", **quick(buffer_size=4, replay_buffer_kwargs={"handle_timeout_termination": False})
    )
    buffer = model.replay_buffer
    assert isinstance(buffer, DynamicReplayBuffer)
    observation = buffer.observations[0]
    for i in range(6):
        buffer.add(observation, observation + i, buffer.actions[0], buffer.rewards[0], buffer.dones[0] + (i == 5), [{}])
        if i == 1:
            buffer.end_cut_episodes(observation - 1)
            assert buffer.timeouts[1] == 1
    assert buffer.dones[1] == 1
    assert buffer.timeouts[1] == 0
